"""Evidence from end to end, on a CPU: real processes, real limits, and what is there afterwards."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.evidence import gather, page, plan, record
from bench.evidence.outcomes import Outcomes
from bench.evidence.parts import Suite
from bench.journal import FILE_NAME, read
from bench.report.frame import cell_frame
from bench.trial import Status, rate_text
from tests.commands import main
from tests.harness import REPOSITORY, Clock, CommandLine, lines_of, wait_until
from tests.training import CPU, fastest
from unet.variant import MemoryFormat, Optimizer, Variant


def evidence(arguments: list[str | Path], **environ: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "bench", "evidence", *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


# The rehearsal: the parts that a GPU machine will see, tiny.


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evidence") / "rehearsal"
    # Compiled cells are rows that say why not: compiling has tests of its own.
    done = evidence(["rehearsal", "--out", folder, "--minutes", "60"], TORCH_COMPILE_DISABLE="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Not complete" not in done.stdout
    return folder


@pytest.mark.precision
def test_every_part_of_the_rehearsal_comes_to_its_end(rehearsed: Path) -> None:
    parts = plan.load("rehearsal").parts
    ended = [(line["name"], line["outcome"]) for line in record.read(rehearsed, "part")]
    assert ended == [(part.name, "done") for part in parts]
    assert all(part.left(rehearsed) == 0 for part in parts)


def test_it_fits_into_a_few_small_files(rehearsed: Path) -> None:
    files = [path for path in rehearsed.rglob("*") if path.is_file()]
    assert {path.parent for path in files} == {rehearsed}
    assert len(files) <= 8
    assert all(path.stat().st_size < 2**20 for path in files)


def test_the_gpus_tests_are_found_and_skipped_where_there_is_none(rehearsed: Path) -> None:
    found = Outcomes.read(rehearsed, "tests")
    assert found.selected is not None
    assert len(found.selected) > 80
    assert any("test_budget.py" in name for name in found.selected)
    assert {line["outcome"] for line in found.lines.values()} == {"skipped"}
    assert {line["detail"] for line in found.lines.values()} == {"needs a CUDA device"}


def test_the_kernel_was_timed_and_shown(rehearsed: Path) -> None:
    (found,) = record.read(rehearsed, "kernels")
    assert [len(case["seconds"]["unet-bench"]) for case in found["found"]["cases"]] == [1, 1]
    assert "| training batch | scikit-image |" in (rehearsed / page.FILE_NAME).read_text()


def test_the_budget_was_enforced_and_the_refusal_told(rehearsed: Path) -> None:
    (found,) = record.read(rehearsed, "budget")
    assert found["budget_bytes"] == 2**30
    assert found["refused"]
    assert found["recognized"]
    assert found["recovered"]
    assert 0.5 * 2**30 < found["taken_bytes"] < found["process_bytes"] <= 1.1 * 2**30


@pytest.mark.precision
def test_all_sweeps_share_one_journal_and_no_cell_is_measured_twice(rehearsed: Path) -> None:
    lines = lines_of(rehearsed)
    keys = [json.loads(line)["key"] for line in lines]
    assert len(set(keys)) == len(keys)
    rows = read(rehearsed)
    eager = [row for row in rows if row.result.status is Status.OK]
    labels = {row.trial.label for row in eager}
    # Of the ladder, then of the largest batch, whose plain batch 4 the ladder has.
    reduced = Variant(fastest(CPU), MemoryFormat.CHANNELS_LAST, Optimizer.FUSED)
    assert {"fp32 b4", f"{reduced.name} b4", "fp32 b8", "fp32 b16"} <= labels
    reasons = {row.result.reason for row in rows if row.trial.axes["compile"] != "eager"}
    assert any("TORCH_COMPILE_DISABLE" in str(reason) for reason in reasons)


@pytest.mark.precision
def test_the_fastest_of_the_ladder_climbs_beside_the_seeds_setup(rehearsed: Path) -> None:
    ladder, largest = (
        part for part in plan.load("rehearsal").parts if part.name in ("ladder", "largest-batch")
    )
    rows = read(rehearsed)
    own = {row.trial.key: row for row in rows}
    climbed = {own[key].trial.variant for key in largest.keys(rows)}  # type: ignore[attr-defined]
    cells = cell_frame(ladder.rows(rows)).to_dict("records")  # type: ignore[attr-defined]
    rates = {
        cell["variant"]: cell["images_per_s"]
        for cell in cells
        if cell["status"] == Status.OK and not cell["flags"]
    }
    # On a machine that was busy all the time nothing is called the fastest.
    assert climbed == {"fp32", max(rates, key=lambda name: rates[name], default="fp32")}


def test_the_page_has_a_section_for_each_part_and_the_figures_of_the_rows(
    rehearsed: Path,
) -> None:
    text = (rehearsed / page.FILE_NAME).read_text()
    plain = text.replace("*", "")
    sections = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert sections == ["machine", *(part.name for part in plan.load("rehearsal").parts)]
    for row in read(rehearsed):
        if row.trial.batch_size == 4 and row.result.status is Status.OK:
            assert f"| {row.trial.variant} | {rate_text(row.result.images_per_s)} |" in plain
    assert f"| torch | {read(rehearsed)[0].environment['torch']} |" in text
    assert re.search(r"\| doctor.compiler \| (fine|disturbs) ", text)
    assert "not measured" in text


def test_what_is_there_is_not_done_again(rehearsed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "came back"  # as from another machine: a copy
    shutil.copytree(rehearsed, folder)
    before = lines_of(folder)
    done = evidence(["rehearsal", "--out", folder], TORCH_COMPILE_DISABLE="1")
    assert done.returncode == 0, done.stderr
    assert lines_of(folder) == before
    assert record.read(folder, "part") == record.read(rehearsed, "part")
    assert len(record.read(folder, "machine")) == 2


def test_another_machines_evidence_is_refused_and_left_as_it_is(
    rehearsed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    shutil.copytree(rehearsed, folder)
    path = folder / record.FILE_NAME
    found = read(rehearsed)[0].environment["torch"]
    path.write_text(path.read_text().replace(f'"torch": "{found}"', '"torch": "1.0"'))
    before = path.read_bytes(), (folder / page.FILE_NAME).read_bytes()
    done = evidence(["rehearsal", "--out", folder])
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"environment.torch is '1.0' there and '{found}' here" in done.stderr
    assert (path.read_bytes(), (folder / page.FILE_NAME).read_bytes()) == before


# The limit, and going on after it.

TESTS = """
import os, time
from pathlib import Path
import pytest

here = Path(__file__).parent

def note(name):
    with (here / "ran").open("a") as file:
        file.write(name + "\\n")

def test_hangs_at_first():
    note("hangs")
    while not (here / "go").exists():
        time.sleep(0.1)

def test_passes():
    note("passes")

def test_fails():
    note("fails")
    assert 1 + 1 == 3

def test_is_skipped():
    pytest.skip("for a reason")
"""

PLAN = """
device = "cpu"
budget = "1GiB"

[set]
samples = 64
warmup_steps = 1
measured_steps = 4
sleep_ms = 250

[[part]]
kind = "tests"
minutes = 1
paths = ["{folder}"]
last = ["hangs"]

[[part]]
kind = "sweep"
name = "toys"
minutes = 2
preset = "{folder}/toy.toml"
"""


def write_plan(folder: Path, **changes: str) -> Path:
    folder.mkdir()
    (folder / "test_own.py").write_text(TESTS)
    (folder / "toy.toml").write_text(
        'workload = "tests.toy:TOY"\nvariants = ["none", "none+sweet", "nan"]\nbatch_size = 4\n'
    )
    text = PLAN.format(folder=folder)
    for old, new in changes.items():
        text = re.sub(f"^{old} = .*$", f"{old} = {new}", text, flags=re.MULTILINE)
    path = folder / "own.toml"
    path.write_text(text)
    return path


def ran(folder: Path) -> Counter[str]:
    path = folder / "ran"
    return Counter(path.read_text().split() if path.exists() else [])


class LimitedClock(Clock):
    """The time of one part is up when its test hangs, and that of all when there is a row."""

    def __init__(self, own: Path, out: Path) -> None:
        super().__init__()
        self._own, self._out = own, out

    def monotonic(self) -> float:
        if lines_of(self._out):
            self.ahead_s = 3600
        elif "hangs" in ran(self._own):
            self.ahead_s = 1200
        return super().monotonic()


def test_it_ends_within_its_limit_and_goes_on_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own, out = tmp_path / "own", tmp_path / "out"
    path = write_plan(own)
    with monkeypatch.context() as patch:
        patch.setattr(gather, "time", LimitedClock(own, out))
        code, told, error = main(
            ["evidence", str(path), "--out", str(out), "--minutes", "60"], capsys
        )
    assert code == 1, told + error  # one test has failed
    assert "Not complete. To go on: the same command with --out " in told
    found = Outcomes.read(out, "tests")
    assert [name.rpartition("::")[2] for name in found.missing] == ["test_hangs_at_first"]
    outcomes = {name.rpartition("::")[2]: line for name, line in found.lines.items()}
    assert {name: line["outcome"] for name, line in outcomes.items()} == {
        "test_passes": "passed",
        "test_fails": "failed",
        "test_is_skipped": "skipped",
    }
    assert "1 + 1" in outcomes["test_fails"]["detail"]
    assert outcomes["test_is_skipped"]["detail"] == "for a reason"
    ended = {line["name"]: line["outcome"] for line in record.read(out, "part")}
    assert ended == {"tests": "out of time", "toys": "out of time"}
    text = (out / page.FILE_NAME).read_text()
    assert "1 passed, 1 failed, 1 skipped, 1 not run." in text
    before = lines_of(out)
    finished = {row.trial.key for row in read(out) if row.result.status is not Status.INTERRUPTED}
    assert finished

    assert ran(own)["hangs"] == 1
    (own / "go").touch()
    done = evidence([path, "--out", out, "--minutes", "60"])
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Not complete" not in done.stdout
    assert ran(own) == {"passes": 1, "fails": 1, "hangs": 2}
    after = lines_of(out)
    assert after[: len(before)] == before
    assert not finished & {json.loads(line)["key"] for line in after[len(before) :]}
    assert {row.trial.variant: row.result.status.value for row in read(out)} == {
        "none": "ok",
        "none+sweet": "ok",
        "nan": "diverged",
    }
    assert "test_own.py::test_fails" in (out / page.FILE_NAME).read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_end_from_outside_leaves_no_process_and_what_was_found(
    tmp_path: Path, number: signal.Signals
) -> None:
    path, out = write_plan(tmp_path / "own"), tmp_path / "out"
    command = CommandLine("evidence", path, "--out", out, "--minutes", "60")
    wait_until(lambda: "hangs" in ran(tmp_path / "own"))
    command.send(number)
    code, output = command.wait()
    assert code == (-number if number is signal.SIGKILL else 130)
    wait_until(lambda: not command.processes())
    assert len(Outcomes.read(out, "tests").lines) == 3
    if number is not signal.SIGKILL:
        assert output.endswith("unet-bench: interrupted\n")
        (line,) = record.read(out, "part")
        assert (line["outcome"], line["reason"]) == ("out of time", "interrupted")
        assert "1 not run." in (out / page.FILE_NAME).read_text()


def test_a_part_that_breaks_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    path, out = write_plan(tmp_path / "own", sleep_ms="1"), tmp_path / "out"
    (tmp_path / "own" / "test_own.py").write_text("raise SystemError('no tests today')\n")
    done = evidence([path, "--out", out, "--minutes", "60"])
    assert done.returncode == 1
    ended = {line["name"]: line["outcome"] for line in record.read(out, "part")}
    assert ended["toys"] == "done"
    assert "no tests today" in (out / page.FILE_NAME).read_text()


DYING = """
import os
import pytest

def test_before():
    pass

@pytest.mark.parametrize("how", ["abort", "exit"])
def test_ends_the_process(how):
    os.abort() if how == "abort" else os._exit(3)

def test_after():
    pass
"""


def test_a_test_that_ends_the_process_has_failed_and_the_others_are_run(tmp_path: Path) -> None:
    path, out = write_plan(tmp_path / "own", sleep_ms="1"), tmp_path / "out"
    (tmp_path / "own" / "test_own.py").write_text(DYING)
    done = evidence([path, "--out", out, "--minutes", "60"])
    assert done.returncode == 1
    lines = Outcomes.read(out, "tests").lines
    found = {
        name.rpartition("::")[2]: (line["outcome"], line["detail"]) for name, line in lines.items()
    }
    assert found == {
        "test_before": ("passed", ""),
        "test_ends_the_process[abort]": ("failed", "the process ended in it: killed by SIGABRT"),
        "test_ends_the_process[exit]": ("failed", "the process ended in it: exit code 3"),
        "test_after": ("passed", ""),
    }
    assert "Not complete" not in done.stdout


ENDLESS = """
import os, signal
from pathlib import Path

def test_prints_for_ever_and_will_not_be_stopped(capfd):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Path(__file__).with_name("ran").write_text("hangs")
    with capfd.disabled():
        while True:
            os.write(1, b"x" * 65536 + END)
"""


@pytest.mark.parametrize("end", [b"", bytes([255, 10])])
def test_what_ignores_the_end_of_its_time_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: bytes
) -> None:
    own, out = tmp_path / "own", tmp_path / "out"
    path = write_plan(own)
    (own / "test_own.py").write_text(ENDLESS.replace("END", repr(end)))
    monkeypatch.setattr(gather, "GRACE_S", 1.0)
    monkeypatch.setattr(gather, "time", LimitedClock(own, out))
    suite = next(part for part in plan.load(str(path)).parts if isinstance(part, Suite))
    out.mkdir()
    found = gather.gather(
        plan.Plan("own", "cpu", (suite,)), out, 1200, lambda _: None, lambda: None
    )
    assert found == {"tests": gather.Outcome.OUT_OF_TIME}
    assert (out / gather.LOG_NAME).stat().st_size < 2 * gather.TOLD_CHARACTERS
    assert [name.rpartition("::")[2] for name in Outcomes.read(out, "tests").cut_off] == [
        "test_prints_for_ever_and_will_not_be_stopped"
    ]


def test_two_commands_do_not_write_into_one_folder(tmp_path: Path) -> None:
    path, out = write_plan(tmp_path / "own"), tmp_path / "out"
    with record.locked(out):
        done = evidence([path, "--out", out])
    assert done.returncode == 2
    assert done.stderr == f"unet-bench: --out {out}: another command is at work there\n"


def test_a_device_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    count = torch.cuda.device_count()
    path, out = write_plan(tmp_path / "own", device=f'"cuda:{count}"'), tmp_path / "out"
    done = evidence([path, "--out", out])
    assert done.returncode == 2
    assert done.stderr.startswith(f"unet-bench: --device cuda:{count}: ")
    assert done.stderr.count("\n") == 1
    assert not (out / FILE_NAME).exists()


# What a folder cannot hold.


def test_a_torn_line_is_passed_over_and_the_next_one_is_whole(tmp_path: Path) -> None:
    record.append(tmp_path, "test", number=1)
    path = tmp_path / record.FILE_NAME
    path.write_bytes(path.read_bytes() + b'{"schema": 1, "kind": "te')
    record.append(tmp_path, "test", number=2)
    assert [line["number"] for line in record.read(tmp_path, "test")] == [1, 2]


@pytest.mark.parametrize("line", ["null", "[]", "{}"])
def test_a_line_that_is_none_is_refused(line: str, tmp_path: Path) -> None:
    (tmp_path / record.FILE_NAME).write_text(f"{line}\n")
    with pytest.raises(ValueError, match=r"evidence.jsonl, line 1: schema None: expected 1$"):
        record.read(tmp_path, "test")


def test_lines_of_another_schema_are_refused(tmp_path: Path) -> None:
    (tmp_path / record.FILE_NAME).write_text('{"schema": 2, "kind": "test"}\n')
    with pytest.raises(ValueError, match=r"evidence.jsonl, line 1: schema 2: expected 1$"):
        record.read(tmp_path, "test")


def test_outcomes_of_other_code_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line: dict[str, Any] = {"part": "tests", "source": "now"}
    monkeypatch.setattr("bench.evidence.outcomes.source", lambda: "now")
    record.append(tmp_path, "selected", **line, tests=["a", "b"])
    record.append(tmp_path, "test", **line, test="a", outcome="failed")
    record.append(tmp_path, "test", **line, test="a", outcome="passed")
    found = Outcomes.read(tmp_path, "tests")
    assert (found.selected, found.missing, found.failed) == (["a", "b"], ["b"], [])
    assert Outcomes.read(tmp_path, "other").selected is None
    monkeypatch.setattr("bench.evidence.outcomes.source", lambda: "later")
    assert Outcomes.read(tmp_path, "tests") == Outcomes(None, {}, [])
