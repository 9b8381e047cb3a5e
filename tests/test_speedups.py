"""Cells against each other: intervals, marks, and what is called fastest."""

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest

from bench.report.frame import cell_frame
from bench.report.tables import verdict
from tests.report_rows import NEAR, at_minutes, cells, in_rounds, notes_of, texts, timed, view


def test_ratios_have_intervals_from_three_rounds_on() -> None:
    for rounds in (1, 2, 3, 10):
        rows = in_rounds("fp32", 4, 100, NEAR[:rounds]) + in_rounds("bf16", 4, 150, NEAR[:rounds])
        plain, fast = texts(*rows)
        assert ("interval" in fast) is ("±%" in fast) is (rounds >= 3)
    assert plain["interval"] == "-"  # itself is no comparison
    assert fast["speedup"] == "1.50x"
    assert fast["interval"] == "[1.50, 1.50]"
    assert 0.1 < float(fast["±%"]) < 0.3
    (_, cell) = cells(*rows)
    assert cell["images_per_s_low"] < cell["images_per_s"] < cell["images_per_s_high"]
    assert list(json.loads(cell["rates"])) == [str(number) for number in range(10)]


WILD = (1, 1.3, 0.7, 1.2, 0.8, 1.1, 0.9, 1, 1.4, 0.6)


@pytest.mark.parametrize(
    ("shape", "rate", "text"),
    [
        (NEAR[::-1], 100.1, "=1.00x"),
        (WILD, 105, "~1.02x"),
        (NEAR[::-1], 130, "1.30x"),
        (NEAR[::-1], 80, "0.80x"),
    ],
)
def test_what_is_not_shown_to_be_a_difference_is_marked(
    shape: Sequence[float], rate: float, text: str
) -> None:
    rows = in_rounds("fp32", 4, 100) + in_rounds("bf16", 4, rate, shape)
    assert texts(*rows)[1]["speedup"] == text
    told = " ".join(notes_of(rows))
    assert ("~: not shown to be a difference" in told) is text.startswith("~")
    assert ("=: shown to lie within 2 %" in told) is text.startswith("=")


def test_the_fastest_is_not_called_faster_than_what_it_is_not_shown_to_beat() -> None:
    rows = [
        *in_rounds("fp32", 4, 100),
        *in_rounds("bf16", 4, 150),
        *in_rounds("tf32", 4, 149, WILD),
    ]
    assert verdict(cell_frame(rows)).endswith("; not shown to be faster than tf32 b4.")
    assert "not shown" not in verdict(cell_frame(rows[:20]))


def test_a_ratio_is_taken_within_each_round() -> None:
    storm = [0.5, 0.9, 1.2, 0.6, 1.0]
    rows = in_rounds("fp32", 4, 100, storm) + in_rounds("bf16", 4, 150, storm)
    del rows[2]  # plain's third round
    (_, cell) = cells(*rows)
    assert cell["speedup"] == pytest.approx(1.5)
    assert cell["speedup_rounds"] == 4
    assert cell["speedup_high"] / cell["speedup_low"] == pytest.approx(1)


def test_what_had_not_settled_is_told() -> None:
    rows = in_rounds("fp32", 4, 100, NEAR[:2])
    assert not any("settled" in note for note in notes_of(rows))
    restless = replace(rows[1], result=replace(rows[1].result, settled=False))
    calm = replace(rows[0], result=replace(rows[0].result, settled=True))
    assert [cell["settled"] for cell in cells(calm, restless)] == [False]
    assert any(
        note.startswith("fp32 b4: warm-up ended at its cap") and "in 1 of 2 rounds" in note
        for note in notes_of([calm, restless])
    )


def test_speed_ups_are_only_judged_of_cells_measured_in_turn() -> None:
    plain = at_minutes(in_rounds("fp32", 4, 100), 0, 2)
    (_, turns) = cells(*plain, *at_minutes(in_rounds("bf16", 4, 150), 1, 2))
    assert turns["speedup_verdict"] == "faster"
    (_, later) = cells(*plain, *at_minutes(in_rounds("bf16", 4, 150), 500, 2))
    assert (later["speedup_verdict"], later["speedup_why"]) == (
        "inconclusive",
        "not measured in turn",
    )
    assert later["speedup"] == pytest.approx(1.5)


def test_a_flagged_cell_has_no_verdict() -> None:
    rows = in_rounds("fp32", 4, 100) + in_rounds(
        "fp32+compile", 4, 150, first_s=1.0, cold_s=9.0, found={"in_window": 1}
    )
    (_, flagged) = cells(*rows)
    assert (flagged["speedup_verdict"], flagged["speedup_why"]) == ("inconclusive", "flagged")


def test_cells_that_share_no_round_are_not_compared() -> None:
    rows = in_rounds("fp32", 4, 100, NEAR[:1]) + in_rounds("bf16", 4, 150, NEAR[:2])[1:]
    (_, cell) = cells(*rows)
    assert cell["speedup"] != cell["speedup"]  # not a number
    assert "at the same batch" not in verdict(cell_frame(rows))
    assert "nothing can be said" in view("amp", *rows).verdict


def test_seeds_are_taken_together_to_tell_the_fastest() -> None:
    rates = {"fp32": (100, 100, 100, 100, 130), "bf16": (120, 121, 119, 120, 120)}
    rows = [
        timed(variant, 4, rate, seed=seed, final_mse=80.0 + seed)
        for seed in range(5)
        for variant, rate in ((name, found[seed]) for name, found in rates.items())
    ]
    frame = cell_frame(rows)
    assert [(cell["variant"], cell["seed"]) for cell in cells(*rows) if cell["fastest"]] == [
        ("bf16", 0)
    ]
    assert verdict(frame).startswith(
        "Fastest here: bf16 at batch 4 with 120.0 images/s over 5 seeds, in 2.00 of 8 GiB, to a "
        "final MSE of 82.0 (plain: 82.0)"
    )
    assert "not shown to be faster than fp32 b4" in verdict(frame)
