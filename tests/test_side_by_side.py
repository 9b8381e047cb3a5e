"""Ways of the same thing, timed in turn; and the command that does so with the Lab kernel."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from io import BytesIO
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch

from bench import kernel_times
from bench.runner import Probe, Runner
from bench.side_by_side import LEAST_S, in_turn, measure
from kernels.peers import Case, Work, case
from tests.commands import main
from tests.harness import REPOSITORY

CPU = torch.device("cpu")


@pytest.fixture
def took(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Has a call take so many seconds by the clock that it is timed with."""
    now_s = 0.0

    def take(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds

    clock = SimpleNamespace(perf_counter=lambda: now_s)
    monkeypatch.setattr("bench.side_by_side.time", clock)
    return take


def test_every_way_is_measured_once_a_round_and_every_second_round_runs_backwards(
    took: Callable[[float], None],
) -> None:
    order: list[str] = []

    def call(name: str) -> None:
        order.append(name)
        took(LEAST_S)  # so that one call is a measurement

    calls = {name: lambda name=name: call(name) for name in "abc"}
    seconds = in_turn(calls, 4, CPU, {})
    tried = 2 * 3  # to see how long they take
    assert "".join(order)[tried:] == "abccbaabccba"
    assert seconds == {name: pytest.approx([LEAST_S] * 4) for name in "abc"}


def test_what_is_quick_is_repeated_and_told_for_one_call(took: Callable[[float], None]) -> None:
    order: list[str] = []

    def quick() -> None:
        order.append("quick")
        took(LEAST_S / 10)

    def slow() -> None:
        order.append("slow")
        took(LEAST_S)

    seconds = in_turn({"quick": quick, "slow": slow}, 1, CPU, {})
    runs = [len(list(group)) for name, group in groupby(order[4:]) if name == "quick"]
    assert runs == [10]
    assert seconds["quick"] == pytest.approx([LEAST_S / 10])
    assert seconds["slow"] == pytest.approx([LEAST_S])


def a_case(**calls: Callable[[], Any]) -> Case:
    """Whose ways give how far off they are."""
    around = {"ours": lambda: 0.0, **calls, "copy": lambda: None}
    return Case("made up", around, float, lambda ways: ", ".join(ways), 10**6)


def measured(case: Case) -> dict[str, Any]:
    pipe = BytesIO()
    with mock.patch("bench.side_by_side.load_object", return_value=lambda device: [case]):
        measure({"cases": "", "device": "cpu", "rounds": 2}, pipe)
    return dict(json.loads(pipe.getvalue()))


def test_whatever_a_peer_does_ends_nothing() -> None:
    count = iter(range(10**9))

    def later() -> float:
        if next(count) > 3:
            raise RuntimeError("tired")
        time.sleep(LEAST_S)  # so that it is called once a measurement
        return 0.25

    def never() -> float:
        raise KeyError("x")

    (found,) = measured(a_case(fine=lambda: 0.5, later=later, never=never))["cases"]
    assert found["failed"] == {"later": "RuntimeError: tired", "never": "KeyError: 'x'"}
    assert {way: len(seconds) for way, seconds in found["seconds"].items()} == {
        "ours": 2,
        "fine": 2,
        "copy": 2,
    }
    assert found["errors"] == {"ours": 0.0, "fine": 0.5, "copy": None}
    assert found["note"] == "ours, fine, copy"


def test_without_ours_there_is_nothing_to_tell() -> None:
    def broken() -> float:
        raise RuntimeError("no such\nkernel")

    assert measured(a_case(ours=broken)) == {"error": "made up, ours: RuntimeError: no such"}


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("dtype", "pixel_bytes", "off"), [(torch.float32, 15, 1e-3), (torch.float16, 9, 0.06)]
)
def test_all_do_the_same_work(
    dtype: torch.dtype, pixel_bytes: int, off: float, device: str
) -> None:
    asked = case("small", Work((2, 8, 12), dtype), torch.device(device))
    *ways, copy = asked.calls
    for way in ways:
        lightness, ab = asked.calls[way]()
        assert (lightness.shape, ab.shape) == ((2, 1, 8, 12), (2, 2, 8, 12))
        assert lightness.dtype == ab.dtype == dtype
        assert lightness.is_contiguous()
        assert ab.is_contiguous()
        assert 0 < asked.error((lightness, ab)) < (1 if way == "OpenCV float" else off)
    assert asked.pixels == 192
    assert 2 * asked.calls[copy]().numel() == 192 * pixel_bytes
    lightness[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="off by nan"):
        asked.error((lightness, ab))


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
    page = kernel_times.page(kernel_times.read(kept), "here")
    failed = page.frame[page.frame["by"] == "kornia"]
    assert list(failed["reason"]) == ["RuntimeError: no colours"] * 2
    assert failed["mpixel_per_s"].isna().all()
    assert "| training batch | kornia | not measured | - | - | - |" in page.to_markdown()
    assert "training batch, kornia: RuntimeError: no colours" in page.notes
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
    told = {"schema": 1, "at": "", "environment": {}, "cases": []}
    for text, expected in (
        (None, "expected a kernels.json in it"),
        ("[]", "of schema 1"),
        ("{", "of schema 1"),
        ('{"schema": 1}', "as `kernels` writes it: KeyError 'cases'"),
        (json.dumps(told), "as `kernels` writes it: KeyError 'device_name'"),
    ):
        if text:
            (tmp_path / "kernels.json").write_text(text)
        code, _, error = main(["report", str(tmp_path), "--view", "kernels"], capsys)
        assert code == 2
        assert expected in error
        assert error.count("\n") == 1


@pytest.mark.parametrize("inside", ["a file", "nothing/below"])
def test_a_folder_that_cannot_be_made_is_told_before_anything_is_measured(
    inside: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernel_times, "measure", None)
    (tmp_path / "a file").touch()
    (tmp_path / "nothing").touch()
    code, _, error = main(["kernels", f"--out={tmp_path / inside}"], capsys)
    assert code == 2
    assert error.startswith(f"unet-bench: --out {tmp_path / inside}: ")
    assert error.count("\n") == 1


def test_what_is_to_be_known_of_the_device_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Probe("cpu", {}, "a GPU, but no driver", 0)
    monkeypatch.setattr(Runner, "probe", lambda self, device: found)
    monkeypatch.setattr(Runner, "ask", lambda self, entry, request: {"cases": [request]})
    notes: list[str] = []
    record = kernel_times.measure("x:y", "auto", 3, [], notes.append)
    assert notes == [found.note]
    assert record["cases"] == [{"cases": "kernels.peers:cases", "device": "cpu", "rounds": 3}]


def test_without_a_compiler_the_reference_is_not_passed_off_as_the_kernel(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    code, out, error = main(["kernels", "--device", "cpu", "--rounds", "1"], capsys)
    assert (code, out) == (2, "")
    assert "could not be compiled and kept: 'no-such-compiler' (CXX): no such" in error


def test_no_rounds_are_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, error = main(["kernels", "--rounds", "0"], capsys)
    assert code == 2
    assert "--rounds '0': expected a whole number from 1 on" in error
