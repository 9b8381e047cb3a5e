"""The view of largest batches."""

from collections.abc import Mapping

from bench.journal import Row
from bench.report.max_batch import max_batch
from bench.report.page import Page
from bench.search import MEMORY, Certificate
from bench.trial import Status
from tests.report_rows import GIB, bad, cells, failed, measured, page_texts, row, trial


def rounds(
    variant: str, batch_size: int, rate: float, peak_gib: float, number: int = 2
) -> list[Row]:
    memory = {
        "peak_bytes": int(peak_gib * GIB),
        "first_step_peak_bytes": GIB,
        "predicted_bytes": int((peak_gib - 0.1) * GIB),
        "predicted_first_step_bytes": GIB,
        "predicted_baseline_bytes": GIB // 2,
        "predicted_is_bound": False,
    }
    return [
        row(trial(variant, batch_size, round=place), measured(rate, batch_size, memory=memory))
        for place in range(number)
    ]


ROWS = [
    *rounds("fp32", 16, 10.0, 5.9),
    *rounds("fp32", 21, 11.0, 7.4),
    *rounds("fp32", 22, 11.0, 7.7, number=1),
    *rounds("bf16+channels_last", 40, 30.0, 7.5),
    bad("bf16+channels_last", 48, Status.OOM),
    bad("bf16", 4, Status.CRASH),
]


FOUND = {
    "fp32": Certificate(21, MEMORY),
    "bf16+channels_last": Certificate(40, "training set"),
    "bf16": Certificate(0, "at batch 4 crash: for a reason"),
    "tf32": Certificate(0, MEMORY),  # without a row
}


def page_of(found: Mapping[str, Certificate], *rows: Row) -> Page:
    return max_batch(cells(*rows), found)


def test_the_certified_batches_and_why_they_are_no_larger() -> None:
    page = page_of(FOUND, *ROWS)
    plain, fast, none = page_texts(page)
    assert plain["variant"] == "fp32"
    assert plain["batch"] == "21"
    assert plain["peak GiB"] == "7.40"
    assert plain["limited by"] == "memory"
    assert plain["next"] == "22: 7.70 GiB, too close"
    assert fast["batch"] == "40"
    assert fast["vs seed"] == "~3.00x"
    assert fast["predicted GiB"] == "7.40"
    assert fast["limited by"] == "training set"
    assert fast["next"] == "48: oom"
    assert none["batch"] == "not measured"
    assert none["images/s"] == "-"
    assert none["limited by"] == "at batch 4 crash: for a reason"
    assert page.bold == [True, True, False]


def test_the_sentence_explains_the_half_empty_card() -> None:
    assert page_of(FOUND, *ROWS).verdict == (
        "Within 8 GiB: the power of two 32 needs 10.60 (predicted), 16 fills 5.90; "
        "fp32 fits at 21; with bf16+channels_last 40, at ~3.00x the images/s of the seed's setup."
    )


def test_where_nothing_is_certified_that_is_said() -> None:
    page = page_of({"fp32": Certificate(0, MEMORY)}, *rounds("fp32", 16, 10.0, 5.9, number=1))
    assert page.verdict == "No batch is certified."
    assert page.bold == [False]


def test_a_batch_that_frames_limit_is_not_explained_by_memory() -> None:
    page = page_of({"fp32": Certificate(21, "training set")}, *ROWS)
    assert page.verdict == "Within 8 GiB: fp32 fits at 21, limited by training set."


def test_the_seed_s_setup_is_that_of_every_other_report() -> None:
    rows = [
        *rounds("fp32", 8, 9.0, 3.0),
        *ROWS,
        row(trial("fp32", 16, round=2), failed(Status.OOM)),
    ]
    assert {cell["seed_batch_size"] for cell in cells(*rows)} == {8}
    page = page_of(FOUND, *rows)
    assert "the power of two 16 needs" in page.verdict
    assert "8 fills 3.00" in page.verdict
    assert page_texts(page)[1]["vs seed"] == "~3.33x"
