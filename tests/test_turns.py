"""Measured in turn: which trials are paired, and what is one observation."""

from collections.abc import Sequence

import pytest

from bench.journal import Row
from bench.report.compare import compare
from bench.report.contrast import Rates, turns
from bench.report.sides import Side
from bench.trial import Status
from tests.comparing import OTHER, in_seeds_by_turns, lines, only
from tests.report_rows import at_minutes, failed, in_rounds, of_today, page_lines


@pytest.mark.parametrize(
    ("moments", "drift", "word"),
    [
        ((0, 2, 1, 2), None, "faster"),
        ((1, 2, 0, 2), None, "faster"),
        ((0, 1, 10, 1), None, "inconclusive"),
        ((10, 1, 0, 1), None, "inconclusive"),
        ((0, 1, 5, 1), None, "inconclusive"),  # they overlap, but are not in turn
        ((0, 3, 7, 3), None, "inconclusive"),
        ((0, 1, 10, 1), 0.1, "faster"),
        ((0, 1, 10, 1), 0.3, "inconclusive"),
    ],
)
def test_speed_is_only_judged_in_turn_or_beyond_the_drift_that_the_user_knows_of(
    moments: tuple[int, int, int, int], drift: float | None, word: str
) -> None:
    first, step, other_first, other_step = moments
    found = compare(
        Side("A", at_minutes(in_rounds("fp32", 4, 100), first, step)),
        Side("B", at_minutes(in_rounds("fp32", 4, 120, OTHER), other_first, other_step)),
        0.02,
        drift,
    )
    (line,) = page_lines(found.page)
    assert line["ratio_verdict"] == word
    assert line["memory_ratio_verdict"] == "same"  # which no drift changes
    assert any("in turn" in note for note in found.page.notes) is (moments[2] > 1 or first > 1)


def test_what_begins_in_the_same_second_is_not_between() -> None:
    # A trial of half a second; times are told in whole ones.
    rates: Rates = {(0,): (1.0, "10:00:01"), (1,): (1.0, "10:00:02")}
    others: Rates = {(0,): (1.0, "10:00:02"), (1,): (1.0, "10:00:03")}
    assert turns(rates, others) == [[(0,)], [(1,)]]
    assert turns(others, rates) == [[(0,)], [(1,)]]


def test_a_round_that_was_measured_again_later_does_not_count() -> None:
    there = at_minutes(in_rounds("fp32", 4, 100), 0, 2)
    here = at_minutes(in_rounds("fp32", 4, 120, OTHER), 1, 2)
    here[3] = at_minutes(here[3:4], 500)[0]
    found = compare(Side("A", there), Side("B", here), 0.02)
    (line,) = page_lines(found.page)
    assert (line["ratio_verdict"], line["ratio_rounds"]) == ("faster", 9)
    assert line["memory_ratio_rounds"] == 10
    assert any(
        "1 of 10 pairs of trials were not measured in turn" in note for note in found.page.notes
    )


def in_turn(
    there: Sequence[Row], here: Sequence[Row], first: int = 0
) -> tuple[list[Row], list[Row]]:
    """Both sides, begun minute by minute, one round of each after the other."""
    return at_minutes(there, first, 2), at_minutes(here, first + 1, 2)


def test_seeds_do_not_hide_that_one_side_ran_after_the_other() -> None:
    there = [row for k in range(10) for row in in_rounds("fp32", 4, 100 + k / 10, [1], seed=k)]
    here = [row for k in range(10) for row in in_rounds("fp32", 4, 120, [1], seed=k)]
    line = only(at_minutes(there, 0), at_minutes(here, 100))
    assert (line["ratio_rounds"], line["ratio_why"]) == (10, "not measured in turn")
    turns = in_turn(there, here)
    assert only(turns[0], turns[1])["ratio_verdict"] == "faster"


def test_the_seeds_of_one_turn_are_one_observation() -> None:
    there, here = in_seeds_by_turns(80, 6)
    line = only(there, here)
    assert (line["ratio_verdict"], line["ratio_rounds"]) == ("slower", 6)
    assert line["ratio"] == pytest.approx(0.8, rel=0.01)
    assert line["memory_ratio_rounds"] == 30  # which no drift changes


def test_what_a_turn_does_to_all_seeds_alike_is_not_taken_for_many_observations() -> None:
    """By single pairs, 30 of them, the interval would leave 1 out."""
    common = (1.05, 0.99, 1.04, 0.98, 1.06, 1.0)
    line = only(*in_seeds_by_turns(100, 6, common=common))
    assert line["ratio_verdict"] == "inconclusive"
    assert line["ratio_low"] < 1 < line["ratio_high"]


def test_seeds_measured_in_turn_one_by_one_are_observations_each() -> None:
    there = [row for k in range(5) for row in in_rounds("fp32", 4, 100 + k / 10, [1], seed=k)]
    here = [row for k in range(5) for row in in_rounds("fp32", 4, 80, [1], seed=k)]
    line = only(*in_turn(there, here))
    assert (line["ratio_verdict"], line["ratio_rounds"]) == ("slower", 5)


def test_a_seed_of_another_round_between_two_trials_leaves_them_out() -> None:
    there, here = in_seeds_by_turns(80, 6)
    here[2] = at_minutes([here[2]], 500)[0]  # seed 2 of round 0
    found = compare(Side("A", there), Side("B", here), 0.02)
    (line,) = page_lines(found.page)
    assert (line["ratio_verdict"], line["ratio_rounds"]) == ("slower", 6)
    assert any("1 of 30 pairs of trials were not" in note for note in found.page.notes)


def test_a_folder_that_was_extended_in_turn_was_measured_in_turn() -> None:
    sides = in_turn(in_rounds("fp32", 4, 100), in_rounds("fp32", 4, 120, OTHER))
    more = in_turn(in_rounds("fp32", 8, 100), in_rounds("fp32", 8, 120, OTHER), 100)
    implied = of_today("fp32", 64, failed(Status.IMPLIED_OOM))  # never ran, so never began
    there, here = ([*sides[k], *more[k], implied] for k in (0, 1))
    found = lines(there, here)
    assert [line["ratio_verdict"] for line in found[:2]] == ["faster", "faster"]
    assert [line["ratio_rounds"] for line in found[:2]] == [10, 10]
    assert found[2]["here_status"] == "implied_oom"
