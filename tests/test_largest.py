from typing import Any

import pytest

from bench.report.frame import cell_frame
from bench.trial import Status
from tests.report_rows import failed, of_today, page_lines, page_texts, timed, view

NAME = "largest-batch"


def oom(variant: str, batch_size: int) -> Any:
    return of_today(variant, batch_size, failed(Status.OOM))


def implied(variant: str, batch_size: int) -> Any:
    return of_today(variant, batch_size, failed(Status.IMPLIED_OOM))


def test_each_variant_has_its_largest_batch_and_what_the_next_one_came_to() -> None:
    rows = [
        timed("fp32", 16, 100),
        oom("fp32", 32),
        implied("fp32", 64),
        timed("bf16", 16, 150),
        timed("bf16", 32, 160),
        oom("bf16", 64),
    ]
    page = view(NAME, *rows)
    shown = [
        (text["variant"], text["largest batch"], text["images/s"], text["vs seed"], text["next"])
        for text in page_texts(page)
    ]
    assert shown == [
        ("fp32", "16", "100.0", "1.00x", "32: oom"),
        ("bf16", "32", "160.0", "~1.60x", "64: oom"),
    ]
    assert page.bold == [False, True]
    assert page.verdict == (
        "Within 8 GiB here, fp32 has room for batch 16 (25 % of the budget); bf16 has room for "
        "batch 32 (25 % of the budget), at ~1.60x the seed's images/s."
    )
    assert {line["budget_gib"] for line in page_lines(page)} == {8}


@pytest.mark.parametrize("after", [[], [timed("fp32", 24, 100)], [oom("fp32", 64)]])
def test_where_the_next_power_of_two_is_not_known_it_is_at_least_so_much(after: list[Any]) -> None:
    page = view(NAME, timed("fp32", 16, 100), *after)
    assert "fp32 has room for at least batch 16 (25 % of the budget)." in page.verdict


def test_a_crash_beyond_is_no_edge() -> None:
    page = view(NAME, timed("fp32", 16, 9), of_today("fp32", 32, failed(Status.CRASH)))
    assert "at least batch 16" in page.verdict
    assert page_texts(page)[0]["next"] == "32: crash"


def test_batches_that_are_no_powers_of_two_are_left_out() -> None:
    page = view(NAME, timed("fp32", 16, 100), timed("fp32", 24, 200))
    assert page_texts(page)[0]["largest batch"] == "16"
    with pytest.raises(ValueError, match=r"^--view largest-batch: expected batch sizes that"):
        view(NAME, timed("fp32", 24, 200))


def test_a_variant_for_which_nothing_fits_is_a_line_without_figures() -> None:
    page = view(NAME, oom("fp32", 16), timed("bf16", 16, 150))
    text = page_texts(page)[0]
    assert (text["largest batch"], text["images/s"], text["next"]) == (
        "not measured",
        "-",
        "16: oom",
    )
    assert page.verdict.startswith("Within 8 GiB here, bf16 has room for at least batch 16 (")
    nothing = view(NAME, oom("fp32", 16))
    assert nothing.verdict.startswith("Nothing is known of the largest batch here")
    assert nothing.bold == [False]


def test_a_flagged_row_is_shown_and_never_the_best() -> None:
    flagged = timed("fp32+compile", 32, 999, found={"in_window": 1})
    page = view(NAME, timed("fp32", 16, 100), flagged)
    assert page.bold == [True, False]
    assert "fp32+compile" not in page.verdict
    assert any(note.startswith("fp32+compile b32: flagged") for note in page.notes)


def test_settings_and_seeds_stand_apart() -> None:
    rows = [timed("fp32", 16, 100, seed=seed) for seed in (0, 1)]
    assert [text["seed"] for text in page_texts(view(NAME, *rows))] == ["0", "1"]
    assert len(cell_frame(rows)) == 2
