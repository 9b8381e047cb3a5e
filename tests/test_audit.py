"""The audit of the budget, as the program that it is."""

import json
import subprocess
import sys

from tests.harness import REPOSITORY

GIB = 2**30


def audit(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "bench.evidence.audit", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_memory_is_refused_at_the_budget_and_there_again_after() -> None:
    done = audit("cpu", "", f"{4 * GIB}", "768MiB")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["budget_bytes"] == 768 * 2**20
    assert (found["refused"], found["recognized"], found["recovered"]) == (True, True, True)
    assert "\n" not in found["message"]
    taken = found["taken_bytes"]
    assert 128 * 2**20 < taken < found["process_bytes"] - found["baseline_bytes"] + 2**24
    assert found["process_bytes"] <= 1.1 * found["budget_bytes"]


def test_where_nothing_is_asked_for_the_default_holds_and_no_more_than_is_free() -> None:
    found = json.loads(audit("cpu", "", f"{GIB + 7}", "").stdout)
    assert found["budget_bytes"] == GIB


def test_a_budget_that_the_process_alone_exceeds_is_told_in_one_line() -> None:
    done = audit("cpu", "", f"{4 * GIB}", "16MiB")
    assert done.returncode == 1
    assert done.stderr.startswith("budget 16 MiB: a trial's process needs ")
    assert done.stderr.count("\n") == 1
