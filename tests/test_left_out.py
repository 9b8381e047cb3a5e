"""What a sweep leaves out: for want of time, of support by the device, or of samples."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import journal, sweep
from bench.environment import describe_device
from bench.journal import Row
from bench.runner import Runner
from bench.trial import Status, TrialResult
from tests.harness import Recorder, lines_of, toy_plan


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left out is decided here: no process is needed to see it."""
    answers = {
        "bench.worker:probe": {"environment": describe_device("cpu")},
        "bench.worker:check_budget": {"context_bytes": 0},
        "bench.worker:unsupported": {"reasons": {}},
    }
    result = TrialResult(Status.DIVERGED, "for a reason", duration_s=0.1)
    monkeypatch.setattr(Runner, "ask", lambda self, entry, request: copy.deepcopy(answers[entry]))
    monkeypatch.setattr(Runner, "run", lambda self, *asked, **told: result)


# Time.

SIX: dict[str, Any] = {"variants": ["none", "none+sweet"], "batch_size": [8, 2, 4]}
IN_ORDER = [f"{variant} b{batch}" for batch in (8, 2, 4) for variant in ("none", "none+sweet")]


class TenSecondsARow(Recorder):
    """A recorder by whose clock each row takes ten seconds."""

    now_s = 1000.0

    def row(self, row: Row) -> None:
        super().row(row)
        self.now_s += 10


def swept(
    folder: Path, monkeypatch: pytest.MonkeyPatch, estimate_s: float | None = 10.0, **values: Any
) -> TenSecondsARow:
    """A sweep by the recorder's clock, in which every trial is expected to take `estimate_s`."""
    recorder = TenSecondsARow()
    clock = SimpleNamespace(monotonic=lambda: recorder.now_s)
    monkeypatch.setattr(sweep, "time", clock)
    if estimate_s is not None:
        monkeypatch.setattr(sweep, "estimate_s", lambda trial, rows: estimate_s)
    assert sweep.run(toy_plan(folder, **SIX, **values), recorder)
    return recorder


@pytest.mark.usefixtures("_quick")
def test_a_sweep_with_a_time_limit_ends_in_time_and_goes_on_by_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    ran: list[str] = []
    notes: list[list[str]] = []
    while len(ran) < len(IN_ORDER):
        recorder = swept(folder, monkeypatch, time_limit_s=25)
        assert recorder.rows
        assert recorder.now_s - 1000 < 25
        assert recorder.began == (6, len(ran))
        ran += recorder.ran()
        notes.append(recorder.notes)
    assert ran == IN_ORDER  # those that come first have been measured first
    assert [row.trial.label for row in journal.read(folder)] == IN_ORDER
    assert notes == [
        [
            f"{left} of 6 trials are not measured: the time limit of 25 s leaves no room for them. "
            f"To go on: the same command with --out {folder}"
        ]
        for left in (4, 2)
    ] + [[]]


@pytest.mark.usefixtures("_quick")
def test_no_limit_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = swept(tmp_path / "out", monkeypatch, estimate_s=1e9)
    assert recorder.ran() == IN_ORDER
    assert recorder.notes == []


@pytest.mark.usefixtures("_quick")
def test_what_is_expected_of_a_trial_is_what_its_like_has_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trials of a tenth of a second fit into the last five of 15, though rows take ten."""
    recorder = swept(tmp_path / "out", monkeypatch, estimate_s=None, time_limit_s=15)
    assert recorder.ran() == IN_ORDER[:2]
    rows = recorder.rows
    assert all(row.result.duration_s is not None and row.result.duration_s < 5 for row in rows)


# Variants that the device cannot do.

MIXED: dict[str, Any] = {
    "variants": ["none", "unsupported", "none+sweet", "unsupported+sweet"],
    "batch_size": [4],
}


def test_what_is_not_supported_is_left_out_with_a_note_where_asked(tmp_path: Path) -> None:
    recorder = Recorder()
    assert sweep.run(toy_plan(tmp_path / "out", **MIXED, unsupported="skip"), recorder)
    assert recorder.began == (2, 0)
    assert recorder.ran() == ["none b4", "none+sweet b4"]
    assert recorder.notes == ["Variants left out: 2 of 4: cpu cannot do this."]


def test_a_sweep_of_nothing_that_is_supported_is_a_mistake(tmp_path: Path) -> None:
    values: dict[str, Any] = MIXED | {
        "variants": ["unsupported", "unsupported+sweet"],
        "unsupported": "skip",
    }
    recorder = Recorder()
    expected = "^unsupported 'skip': cpu can do none of the variants: cpu cannot do this$"
    with pytest.raises(ValueError, match=expected):
        sweep.run(toy_plan(tmp_path / "out", **values), recorder)
    assert recorder.rows == []
    assert not (tmp_path / "out").exists()


# Samples that turn out to be unreadable.


@pytest.mark.usefixtures("_quick")
def test_a_batch_larger_than_what_the_data_has_left_is_refused_before_anything_is_measured(
    tmp_path: Path,
) -> None:
    values: dict[str, Any] = {"lost": 60, "batch_size": [2, 8], "measured_steps": 2}
    recorder = Recorder()
    with pytest.raises(ValueError, match=r"^batch_size 8: the training set has only 4 samples$"):
        sweep.run(toy_plan(tmp_path / "out", **values), recorder)
    assert recorder.began is None
    assert recorder.notes == ["60 samples cannot be read."]
    assert lines_of(tmp_path / "out") == []


@pytest.mark.usefixtures("_quick")
def test_the_notes_of_the_data_are_told_once(tmp_path: Path) -> None:
    recorder = Recorder()
    values: dict[str, Any] = {"lost": 2, "sleep_ms": [1, 2], "batch_size": [4]}
    assert sweep.run(toy_plan(tmp_path / "out", **values), recorder)
    assert recorder.notes == ["2 samples cannot be read."]
    assert {row.workload["train_size"] for row in recorder.rows} == {62}
    assert len(recorder.rows) == 2


def test_what_was_not_supported_is_asked_again_and_written_once(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path / "out", variants=["none", "unsupported"], batch_size=[4])
    assert sweep.run(plan, Recorder())
    before = lines_of(tmp_path / "out")
    again = Recorder()
    assert sweep.run(plan, again)
    assert (again.began, again.ran()) == ((2, 1), ["unsupported b4"])
    assert lines_of(tmp_path / "out") == before
