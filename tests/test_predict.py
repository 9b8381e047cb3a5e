"""Predicted memory: as figures, in a plan, and in a sweep, beside what was measured."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import journal, sweep
from bench.predict import Prediction, Predictor, experiment
from bench.report.frame import cell_frame
from bench.report.predicted import predicted
from bench.runner import Runner
from tests.commands import main
from tests.harness import CommandLine, Recorder, toy_plan, toy_trial
from tests.toy import Toy

GIB = 2**30
MIB = 2**20


def prediction(**changes: Any) -> Prediction:
    fields: dict[str, Any] = {
        "steady": [
            {"parameters": (100 * MIB, 0), "temporary": (50 * MIB, 1 * MIB)},
            {"parameters": (100 * MIB, 0), "activations of down.0": (0, 5 * MIB)},
        ],
        "first_step": [{"parameters": (100 * MIB, 0), "temporary": (0, 6 * MIB)}],
        "resident": {"parameters": (100 * MIB, 0), "batch": (0, MIB)},
        "process_bytes": 10 * MIB,
        "is_bound": False,
        "check_error": 0.0,
    }
    return Prediction(**(fields | changes))


@pytest.mark.parametrize(
    ("size", "steady", "first"), [(1, 161, 116), (10, 170, 170), (20, 210, 230), (100, 610, 710)]
)
def test_the_peak_is_that_of_the_moment_that_takes_most(size: int, steady: int, first: int) -> None:
    asked = prediction()
    assert asked.steady_bytes(size) == steady * MIB
    assert asked.first_step_bytes(size) == first * MIB
    assert asked.peak_bytes(size) == max(steady, first) * MIB
    assert sum(asked.breakdown(size).values()) == (steady - 10) * MIB


@pytest.mark.parametrize(("budget", "largest"), [(115, 0), (161, 1), (230, 20), (710, 100)])
def test_the_largest_batch_is_the_last_whose_peak_is_within_the_budget(
    budget: int, largest: int
) -> None:
    assert prediction().largest(budget * MIB, 1000) == largest
    assert prediction().largest(budget * MIB, 7) == min(7, largest)


def test_a_gpu_has_no_baseline() -> None:
    assert prediction().baseline_bytes == 111 * MIB
    assert prediction(process_bytes=0).baseline_bytes == 0


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Runner(Toy.task, 60) as runner:
        yield runner


def test_what_cannot_be_traced_is_told_and_the_rest_predicted(runner: Runner) -> None:
    notes: list[str] = []
    trials = [toy_trial(variant=name, axes=Toy().parse_variant(name)) for name in ("none", "raise")]
    found = Predictor(runner, Toy(), "cuda").of_trials(trials, notes.append)
    assert set(found) == {experiment(trials[0])}
    assert notes == [
        "Not predicted: raise: cannot be traced: RuntimeError: the task is broken in two lines."
    ]


def test_a_prediction_that_is_off_at_the_largest_batch_is_told(runner: Runner) -> None:
    notes: list[str] = []
    trial = toy_trial(
        variant="oom", axes=Toy().parse_variant("oom"), settings={**Toy.settings, "oom_from": 9}
    )
    Predictor(runner, Toy(), "cuda").of_trials([replace(trial, batch_size=16)], notes.append)
    assert notes == ["Predicted as linear in the batch, which is off by -100.0 % at batch 16: oom."]


def test_cells_that_are_not_expected_to_fit_come_last_and_are_not_left_out(tmp_path: Path) -> None:
    asked = toy_plan(tmp_path / "out", variants=["oom", "none"], rounds=2, batch_size=[4, 8])
    recorder = Recorder()
    assert sweep.run(replace(asked, predict=True), recorder)
    order = [row.trial.label for row in recorder.rows]
    assert order == [
        *("none b4", "none b8", "oom b4", "oom b8"),
        *("none b4 round 1", "none b8 round 1", "oom b4 round 1", "oom b8 round 1"),
    ]
    memory = recorder.rows[2].result.memory
    assert int(memory["predicted_bytes"] or 0) > 2**40
    assert memory["predicted_is_bound"] is False


def test_the_plan_tells_what_memory_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "--predict", "--device", "cuda", "--set", "batch_size=4,16", "--json"]
    words += [
        "--set",
        "variants=fp32,bf16,bf16+compile+lean",
        "--set",
        "image_size=256",
        "--set",
        "width=64",
    ]
    code, out, _ = main(words, capsys)
    assert code == 0
    told = {
        f"{cell['variant']} b{cell['batch_size']}": cell["predicted"]
        for cell in map(json.loads, out.splitlines())
    }
    assert len(told) == 6
    for cell in told.values():
        assert sum(cell["steady_breakdown_bytes"].values()) == pytest.approx(
            cell["steady_bytes"], abs=20
        )
        assert cell["process_bytes"] == cell["check_error"] == 0
    # Nobody knows what a compiler keeps; but no more than the eager form, nothing made again.
    assert told["bf16+compile+lean b16"] == told["bf16 b16"] | {"is_bound": True}
    assert 5.5 * GIB < told["fp32 b16"]["peak_bytes"] < 6.5 * GIB
    assert 3 * GIB < told["bf16 b16"]["peak_bytes"] < 3.6 * GIB


def test_the_table_of_predictions_names_the_bound_and_the_process() -> None:
    trial = toy_trial(batch_size=20, budget_bytes=GIB // 4)
    page = predicted([trial], {experiment(trial): prediction(is_bound=True)})
    texts = {" ".join(title.split()): column[0] for title, column in page.columns.items()}
    assert texts["peak GiB"] == "≤0.22"
    assert texts["process"] == "0.01"
    assert texts["activations"] == "0.10"
    assert texts["most activations in"] == "down.0 0.10"
    assert texts["fits"] == "yes"
    assert page.verdict == "The largest batch that is expected to fit 256 MiB here: none 24."
    assert any(note.startswith("Process: ") for note in page.notes)


def test_a_sweep_puts_the_prediction_beside_what_it_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The C library keeps what was freed for later; told not to, memory is what lives."""
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1048576")
    words = ["variants=fp32+lean", "image_size=64", "width=16", "batch_size=64", "frames=120"]
    words += ["samples=128", "warmup_steps=0", "measured_steps=1"]
    sets = [part for word in words for part in ("--set", word)]
    words = ["sweep", "--predict", *sets, "--device", "cpu"]
    code, output = CommandLine(*words, "--out", tmp_path).wait()
    assert code == 0, output
    frame = cell_frame(journal.read(tmp_path))
    assert set(frame["malloc"]) == {"MALLOC_MMAP_THRESHOLD_=1048576"}
    assert frame["growth_gib"].min() > 0.1
    # A tenth, and the memory of libraries that is in no trace.
    off_gib = (frame["predicted_memory_gib"] - frame["peak_memory_gib"]).abs()
    assert (off_gib < 0.1 * frame["growth_gib"] + 0.02).all()
