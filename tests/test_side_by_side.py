"""Ways of the same thing, timed in turn; and the command that does so with the Lab kernel."""

import json
import os
import subprocess
import sys
import time
from itertools import groupby
from pathlib import Path

import pytest
import torch

from bench import kernel_times
from bench.side_by_side import LEAST_S, in_turn
from tests.commands import main
from tests.harness import REPOSITORY

CPU = torch.device("cpu")


def test_every_way_is_measured_once_a_round_and_every_second_round_runs_backwards() -> None:
    order: list[str] = []

    def call(name: str) -> None:
        order.append(name)
        time.sleep(LEAST_S)  # so that one call is a measurement

    calls = {name: lambda name=name: call(name) for name in "abc"}
    seconds = in_turn(calls, 4, CPU)
    tried = 2 * 3  # to see how long they take
    assert "".join(order)[tried:] == "abccbaabccba"
    assert {name: len(values) for name, values in seconds.items()} == dict.fromkeys("abc", 4)
    assert all(value >= LEAST_S for values in seconds.values() for value in values)


def test_what_is_quick_is_repeated_and_told_for_one_call() -> None:
    order: list[str] = []

    def quick() -> None:
        order.append("quick")
        time.sleep(LEAST_S / 10)

    def slow() -> None:
        order.append("slow")
        time.sleep(LEAST_S)

    seconds = in_turn({"quick": quick, "slow": slow}, 1, CPU)
    runs = [len(list(group)) for name, group in groupby(order[4:]) if name == "quick"]
    assert runs[0] > 1
    assert seconds["quick"][0] < seconds["slow"][0] / 2


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the command found, beside a kornia that can do nothing."""
    folder = tmp_path_factory.mktemp("kernels")
    (folder / "kornia").mkdir()
    (folder / "kornia" / "__init__.py").write_text("__version__ = '0.0'\n")
    (folder / "kornia" / "color.py").write_text("raise RuntimeError('no colours\\ntoday')\n")
    arguments = ["kernels", "--device=cpu", "--rounds=2", f"--out={folder / 'out'}", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        env={**os.environ, "PYTHONPATH": str(folder)},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (folder / "out" / "printed.json").write_text(done.stdout)
    return folder / "out"


@pytest.mark.parametrize("case", ["training batch", "1080p"])
def test_the_command_holds_the_kernel_against_its_peers(case: str, kept: Path) -> None:
    lines = json.loads((kept / "printed.json").read_text())["table"]
    own = {line["by"]: line for line in lines if line["case"] == case}
    assert {"unet-bench", "reference", "scikit-image", "copy", "kornia"} <= own.keys()
    assert own["unet-bench"]["ratio"] == 1
    assert own["copy"]["copy_percent"] == 100
    assert own["copy"]["max_error"] is None
    assert 0 < own["unet-bench"]["max_error"] < 1e-3
    for line in own.values():
        if not line["reason"]:
            assert line["ratio"] * line["mpixel_per_s"] == pytest.approx(
                own["unet-bench"]["mpixel_per_s"]
            )


def test_a_peer_that_fails_is_a_line_that_says_why(kept: Path) -> None:
    page = kernel_times.page(kernel_times.read(kept))
    failed = page.frame[page.frame["by"] == "kornia"]
    assert list(failed["reason"]) == ["no colours"] * 2
    assert failed["mpixel_per_s"].isna().all()
    assert "| training batch | kornia | not measured | - | - | - |" in page.to_markdown()
    assert "training batch, kornia: no colours" in page.notes
    assert "kornia" not in page.verdict


def test_what_was_kept_is_shown_again(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = json.loads((kept / "printed.json").read_text())
    code, out, _ = main(["report", str(kept), "--view", "kernels", "--format", "json"], capsys)
    assert code == 0
    assert json.loads(out) == printed.pop("table")
    assert kernel_times.read(kept) == printed
    assert printed["environment"]["command"].startswith("unet-bench kernels --device=cpu")


def test_a_folder_that_holds_such_a_record_is_not_written_again(
    kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, error = main(["kernels", f"--out={kept}"], capsys)
    assert code == 2
    assert "it holds a kernels.json already" in error


def test_a_folder_without_such_a_record_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for text, expected in ((None, "expected a kernels.json in it"), ("[]", "of schema 1")):
        if text:
            (tmp_path / "kernels.json").write_text(text)
        code, _, error = main(["report", str(tmp_path), "--view", "kernels"], capsys)
        assert code == 2
        assert expected in error


def test_without_a_compiler_the_reference_is_not_passed_off_as_the_kernel(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    code, out, error = main(["kernels", "--device", "cpu", "--rounds", "1"], capsys)
    assert (code, out) == (2, "")
    assert "the Lab kernel of a CPU needs a C++ compiler" in error.splitlines()[-1]


def test_no_rounds_are_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, error = main(["kernels", "--rounds", "0"], capsys)
    assert code == 2
    assert "--rounds '0': expected a whole number from 1 on" in error
