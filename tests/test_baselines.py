"""Baselines: predictions without training, which quality is held against."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from bench import sweep
from bench.journal import FILE_NAME, Row, read
from bench.report.configurations import configurations
from bench.report.frame import cell_frame
from bench.report.tables import folder_page
from bench.trial import Status
from tests.harness import Recorder, toy_plan
from tests.report_rows import (
    WORKLOAD,
    WORKLOAD_BASELINES,
    absent,
    bad,
    cells,
    good,
    measured,
    notes_of,
    quality,
    rendered,
    row,
    texts,
    trial,
)
from tests.toy import TOY as TOY_WORKLOAD
from unet.workload import COLORIZATION


def described(baselines: Mapping[str, str] | None, **figures: float) -> list[Row]:
    """A good and a bad row of a workload with these baselines."""
    workload = {"name": "w", "plain": "fp32"} | (
        {} if baselines is None else {"baselines": baselines}
    )
    result = measured(quality={"final_mse": 100.0, **figures})
    found = [row(trial(), result), bad("bf16", 4, Status.OOM)]
    return [replace(each, workload=workload) for each in found]


def test_baselines_are_the_workloads_own() -> None:
    words = {"last_mse": "yesterday", "zero_mse": "zero", "odd_mse": "a coin"}
    rows = described(words, last_mse=50.0, zero_mse=0.0, odd_mse=400.0)
    first, second = texts(*rows)
    assert list(first)[-5:] == ["MSE", "vs yesterday", "vs zero", "vs a coin", "status"]
    assert [first["vs yesterday"], first["vs a coin"]] == ["2.00x", "0.25x"]
    assert first["vs zero"] == "-"  # to nothing there is no ratio
    assert {second["vs yesterday"], second["vs zero"], second["vs a coin"]} == {"-"}
    assert "MSE without training: 50.0 for yesterday, 0.0 for zero, 400.0 for a coin." in notes_of(
        rows
    )
    assert cells(*rows)[0]["last_mse"] == 50.0
    assert absent(cells(*rows)[1]["last_mse"])


BASELINES = {"first_mse": "first", "second_mse": "second", "third_mse": "third"}


@pytest.mark.parametrize(
    ("figures", "order"),
    [
        ((1.0, 2.0, 3.0), ("second", "third", "first")),
        ((3.0, 1.0, 2.0), ("first", "third", "second")),
        ((3.0, 2.0, 1.0), ("first", "second", "third")),
    ],
)
def test_of_several_baselines_the_best_is_left_out_last(
    figures: tuple[float, ...], order: tuple[str, ...]
) -> None:
    rows = described(BASELINES, **dict(zip(BASELINES, figures, strict=True)))
    text = " ".join(rendered(cell_frame(rows), 60).split())
    _, _, hidden = text.partition("not shown for lack of width: ")
    found = re.findall("vs (first|second|third)", hidden)
    assert tuple(found) == order
    assert hidden.index("vs seed") < hidden.index(f"vs {order[-1]}")


@pytest.mark.parametrize(
    ("figures", "best"),
    [
        ({"first_mse": 90.0, "second_mse": 110.0}, "first"),
        ({"first_mse": 110.0, "second_mse": 90.0}, "second"),
        ({"first_mse": 110.0, "second_mse": 120.0}, None),
        ({"first_mse": 110.0, "second_mse": 100.0}, "second"),  # as good is no better
        ({"first_mse": 0.0, "second_mse": 0.0, "third_mse": 1.0}, "first"),
        ({"second_mse": 90.0}, "second"),  # the first is not known
        ({}, None),
    ],
)
def test_the_best_baseline_is_the_one_to_beat(
    figures: Mapping[str, float], best: str | None
) -> None:
    rows = described(BASELINES, **figures)  # whose MSE is 100
    told = [note for note in notes_of(rows) if "No better" in note]
    assert [note.startswith(f"No better than {best} ") for note in told] == [True] * bool(best)
    perfect = 0.0 in figures.values()
    assert ["too short a run" not in note for note in told] == [perfect] * bool(best)
    (one, *_) = configurations(rows, cells(*rows))
    assert one.baseline == best


def test_every_row_is_held_against_its_own_best_baseline() -> None:
    one, _ = described(BASELINES, first_mse=90.0, second_mse=110.0)
    (other, _) = described(BASELINES, first_mse=110.0, second_mse=90.0)
    other = replace(other, trial=replace(other.trial, batch_size=8))
    told = [note for note in notes_of([one, other]) if "No better" in note]
    assert [note.rpartition(": ")[2] for note in told] == ["fp32 b4.", "fp32 b8."]


def test_what_is_to_know_of_the_data_stands_under_the_table(tmp_path: Path) -> None:
    notes = ["Frames without colour: 12 of 221."]
    rows = [
        replace(good("fp32", 4, 10.0), workload=WORKLOAD | {"notes": notes}),
        replace(good("bf16", 4, 10.0), workload=WORKLOAD | {"notes": notes}),
        good("fp32", 8, 10.0),  # of old
    ]
    (tmp_path / FILE_NAME).write_text("".join(each.to_line() for each in rows))
    assert folder_page(read(tmp_path), tmp_path).notes.count(notes[0]) == 1


@pytest.mark.parametrize("baselines", [None, {}], ids=["a row of old", "none"])
def test_a_workload_without_baselines_shows_none(baselines: Mapping[str, str] | None) -> None:
    rows = described(baselines)
    (text, _) = texts(*rows)
    assert [title for title in text if title.startswith("vs ")] == ["vs seed"]
    assert text["MSE"] == "100.0"
    assert not any("without training" in note for note in notes_of(rows))
    assert rendered(cell_frame(rows), 40)


def test_baselines_that_were_never_measured_have_columns_but_no_note() -> None:
    rows = [bad("fp32", 4, Status.OOM)]
    assert texts(*rows)[0]["vs grey"] == "-"
    assert not any("without training" in note for note in notes_of(rows))


def test_baselines_travel_from_the_workload_through_the_journal_to_the_table(
    tmp_path: Path,
) -> None:
    heard = Recorder()
    assert sweep.run(toy_plan(tmp_path / "out", batch_size=4), heard)
    (found,) = heard.rows
    assert found.workload["baselines"] == TOY_WORKLOAD.baselines
    (text,) = texts(*read(tmp_path / "out"))
    assert {"vs a good guess", "vs a bad guess"} <= set(text)


def test_colorizations_baselines_are_named_in_order() -> None:
    assert list(COLORIZATION.baselines.items()) == list(WORKLOAD_BASELINES.items())


def test_rows_that_learnt_nothing_are_told() -> None:
    rows = [
        row(trial(batch_size=size), measured(quality=quality(final_mse)))
        for size, final_mse in ((4, 199.9), (8, 200.0), (16, 250.0))
    ]
    (told,) = [note for note in notes_of(rows) if "No better" in note]
    assert told.startswith("No better than mean colour")
    assert told.endswith(": fp32 b8, fp32 b16.")
    assert not any("No better" in note for note in notes_of(rows[:1]))
