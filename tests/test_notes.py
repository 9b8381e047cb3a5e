from typing import Any

import pytest

from bench.report.frame import cell_frame
from bench.report.page import Page
from bench.report.tables import notes, page
from bench.trial import Status, TrialResult
from tests.report_rows import (
    CUDA,
    NEAR,
    SETTINGS,
    absent,
    bad,
    cells,
    failed,
    good,
    in_rounds,
    measured,
    notes_of,
    of_today,
    row,
    timed,
    trial,
)


def test_hundreds_of_cells_that_failed_for_one_reason_share_a_line() -> None:
    names = ["bf16", "tf32", "bf16+channels_last", "tf32+channels_last", "fp32+compile"]
    result = failed(Status.UNSUPPORTED, "this device cannot")
    rows = [of_today(name, batch, result) for batch in range(1, 61) for name in names]
    found = notes(cell_frame([timed("fp32", 4, 10.0), *rows]))
    told = [note for note in found if "unsupported" in note]
    assert told == [
        "bf16, tf32, bf16+channels_last and 2 more variants (300 cells): "
        "unsupported: this device cannot"
    ]


def test_a_few_cells_are_named_one_by_one() -> None:
    rows = [good("fp32", 4, 10.0), *(bad("bf16", size, Status.CRASH) for size in (4, 8, 16))]
    assert "bf16 b4, bf16 b8, bf16 b16: crash: for a reason" in notes(cell_frame(rows))


def test_many_cells_of_few_variants_are_told_without_more() -> None:
    rows = [bad("bf16", size, Status.CRASH) for size in (1, 2, 4, 8)]
    assert "bf16 (4 cells): crash: for a reason" in notes(cell_frame(rows))


def test_other_reasons_and_other_statuses_have_their_own_lines() -> None:
    rows = [
        bad("fp32", 4, Status.CRASH),
        bad("bf16", 4, Status.TIMEOUT),
        row(trial("bf16", 8), failed(Status.CRASH, "for another")),
    ]
    assert notes(cell_frame(rows))[-3:] == [
        "fp32 b4: crash: for a reason",
        "bf16 b4: timeout: for a reason",
        "bf16 b8: crash: for another",
    ]


def test_cells_that_share_a_line_are_told_apart_by_their_settings() -> None:
    sizes = [{**SETTINGS, "image_size": size} for size in (32, 64)]
    rows = [bad("fp32", 4, Status.OOM, settings=settings) for settings in sizes]
    expected = "fp32 b4 at image_size 32, fp32 b4 at image_size 64: oom: for a reason"
    assert expected in notes(cell_frame(rows))


def test_reasons_of_graph_breaks_are_shortened_and_the_first_few_told() -> None:
    reasons = ["x" * 500, "b", "c", "d", "e"]
    found = notes(cell_frame([timed("fp32+compile", 4, 10.0, found={"graph_breaks": reasons})]))
    told = [note for note in found if "graph break" in note]
    assert len(told) == 4
    assert len(told[0]) < 200
    assert told[-1] == "Reasons for a graph break that are only in the journal: 2."


def test_a_page_has_the_notes_of_its_table() -> None:
    frame = cell_frame([good("fp32", 4, 10.0), bad("bf16", 4, Status.OOM)])
    found = page(frame)
    assert isinstance(found, Page)
    assert found.notes == notes(frame)


# Of the machine and of care.


def test_a_bigger_card_that_was_capped_is_told() -> None:
    rows = [
        row(trial(device="cuda"), TrialResult(Status.CRASH, "early")),
        row(trial(device="cuda", round=1), measured(memory=CUDA)),
        row(trial("bf16", device="cuda"), measured(memory=CUDA)),
    ]
    assert [cell["memory_mode"] for cell in cells(*rows)] == ["emulated", "emulated"]
    told = [note for note in notes_of(rows) if "emulated" in note]
    assert told == ["Budget emulated: a card of 79.1 GiB capped to 8 GiB."]


@pytest.mark.parametrize("memory", [CUDA | {"mode": "native"}, {}], ids=["native", "unknown"])
def test_a_card_of_the_budgets_size_is_not_called_emulated(memory: dict[str, Any]) -> None:
    rows = [row(trial(device="cuda"), measured(memory=memory))]
    (cell,) = cells(*rows)
    assert absent(cell["memory_mode"]) if not memory else cell["memory_mode"] == "native"
    assert not any("emulated" in note for note in notes_of(rows))


def test_environment_variables_that_change_results_are_told() -> None:
    told = row(trial(), measured(), variables="OMP_NUM_THREADS=1", power_limit_w=220)
    (cell,) = cells(told)
    assert (cell["variables"], cell["power_limit_w"]) == ("OMP_NUM_THREADS=1", 220)
    assert [note for note in notes_of([told]) if "OMP_NUM_THREADS=1" in note]
    assert not [note for note in notes_of([row(trial(), measured())]) if "variables" in note]


def test_commits_of_all_rounds_are_told() -> None:
    rows = [
        row(trial(round=0), measured(), commit="def"),
        row(trial(round=1), measured(), commit="abc"),
        row(trial(round=2), measured(), commit="def"),
    ]
    assert cells(*rows)[0]["commit"] == "def,abc"
    assert "Rows come from several commits: abc, def." in notes_of(rows)
    assert not any("commits" in note for note in notes_of(rows[:1]))


@pytest.mark.parametrize("dirty", [False, True])
def test_uncommitted_changes_in_any_round_are_told_once(dirty: bool) -> None:
    rows = [
        *(row(trial(name, round=0), measured()) for name in ("fp32", "bf16")),
        *(row(trial(name, round=1), measured(), dirty=dirty) for name in ("fp32", "bf16")),
    ]
    assert [cell["dirty"] for cell in cells(*rows)] == [dirty, dirty]
    assert notes_of(rows).count("Measured with uncommitted changes.") == int(dirty)


def test_rows_from_outside_git_are_no_trouble() -> None:
    outside = [row(trial(round=number), measured(), commit=None, dirty=None) for number in range(2)]
    (cell,) = cells(*outside)
    assert absent(cell["commit"])
    assert absent(cell["dirty"])
    assert not any("commit" in note for note in notes_of(outside))
    mixed = [*outside, row(trial(round=2), measured(), dirty=True)]
    assert cells(*mixed)[0]["commit"] == "outside git,abc"
    assert cells(*mixed)[0]["dirty"] is True
    assert "Rows come from several commits: abc, outside git." in notes_of(mixed)


def test_few_rounds_are_warned_of_and_enough_are_not() -> None:
    for rounds in (1, 4, 5, 10):
        rows = in_rounds("fp32", 4, 100, NEAR[:rounds]) + in_rounds("bf16", 4, 200, NEAR[:rounds])
        warned = [note for note in notes_of(rows) if "are needed" in note]
        assert len(warned) == (rounds < 5)
        assert all(note.startswith("~: ") and f"{rounds} round" in note for note in warned)


def test_a_row_measured_beside_something_else_is_told() -> None:
    quiet, busy = good("fp32", 4, 8.0), good("bf16", 4, 9.0)
    for asked, last_s in ((quiet, 0.5), (busy, 3.5)):
        first, end = asked.result.window
        asked.result.step_phase_s[first:end] = [
            [0.0, step_s, 0.0, 0.0] for step_s in (0.5, 0.5, last_s)
        ]
    frame = cell_frame([quiet, busy])
    told = [note for note in notes(frame) if note.startswith("bf16 b4")]
    assert told == [
        "bf16 b4: steps took 3.0x their median on average: something else ran beside it.",
        "bf16 b4: flagged, and nothing is concluded from it: the machine was busy.",
    ]
    assert list(frame["fastest"]) == [True, False]  # though 9 is more than 8


def test_a_plain_row_measured_beside_something_else_is_no_reference() -> None:
    plain, other = good("fp32", 4, 8.0), good("bf16", 4, 9.0)
    first, end = plain.result.window
    plain.result.step_phase_s[first:end] = [[0.0, step_s, 0.0, 0.0] for step_s in (0.5, 0.5, 3.5)]
    assert cell_frame([plain, other])["speedup"].isna().all()
