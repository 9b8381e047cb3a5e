"""The view of largest batches."""

import pytest

from bench.journal import Row
from bench.trial import Status
from tests.report_rows import GIB, bad, measured, page_texts, row, trial, view

NAME = "max-batch"


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


def test_each_variants_largest_batch_that_ended_well_twice() -> None:
    page = view(NAME, *ROWS)
    plain, fast, none = page_texts(page)
    assert plain["variant"] == "fp32"
    assert plain["batch"] == "21"
    assert plain["peak GiB"] == "7.40"
    assert plain["next"] == "22: 7.70 GiB"
    assert fast["batch"] == "40"
    assert fast["vs seed"] == "~3.00x"
    assert fast["predicted GiB"] == "7.40"
    assert fast["next"] == "48: oom"
    assert none["batch"] == "not measured"
    assert none["images/s"] == "-"


def test_the_sentence_explains_the_half_empty_card() -> None:
    assert view(NAME, *ROWS).verdict == (
        "Within 8 GiB here: the power of two 32 needs 10.60 (predicted), 16 fills 5.90; "
        "fp32 fits at 21; with bf16+channels_last 40, at ~3.00x the images/s of the seed's setup."
    )


def test_a_lone_probe_certifies_nothing() -> None:
    page = view(NAME, *rounds("fp32", 16, 10.0, 5.9, number=1))
    assert page.verdict == "No batch is certified here."
    assert page.bold == [False]


def test_without_the_plain_variant_the_others_are_told() -> None:
    page = view(NAME, *rounds("bf16", 16, 10.0, 5.9))
    assert page.verdict == "Within 8 GiB here: with bf16 16."


@pytest.mark.parametrize("size", [16, 32])
def test_a_power_of_two_needs_no_explanation(size: int) -> None:
    page = view(NAME, *rounds("fp32", size, 10.0, 5.9))
    assert page.verdict == f"Within 8 GiB here: fp32 fits at {size}."
