from bench.report.frame import cell_frame
from bench.report.page import Page
from bench.report.tables import notes, page
from bench.trial import Status
from tests.report_rows import SETTINGS, bad, failed, good, of_today, row, timed, trial


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
