"""Cells against each other: intervals, marks, and what is called fastest."""

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest

from bench.journal import Row
from bench.report.frame import cell_frame
from bench.report.speedups import compared_rates
from bench.report.tables import verdict
from bench.trial import Status
from tests.report_rows import (
    NEAR,
    SLOWED,
    at_minutes,
    bad,
    cells,
    failed,
    in_rounds,
    notes_of,
    of_today,
    page_lines,
    texts,
    timed,
    view,
)


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


OTHER = NEAR[3:] + NEAR[:3]


def winners(rows: Sequence[Row]) -> list[tuple[str, int]]:
    return [(cell["variant"], cell["batch_size"]) for cell in cells(*rows) if cell["fastest"]]


def test_the_fastest_is_chosen_in_the_rounds_that_are_shared() -> None:
    # Plain was measured five rounds longer, on a machine that had become slower.
    rows = [*in_rounds("fp32", 4, 100, SLOWED), *in_rounds("bf16", 4, 90, OTHER[:5])]
    plain, reduced = cells(*rows)
    assert plain["images_per_s"] < reduced["images_per_s"]
    assert reduced["speedup_verdict"] == "slower"
    assert winners(rows) == [("fp32", 4)]
    assert any(note.startswith("Not all rows have the same rounds") for note in notes_of(rows))
    assert view("ladder", *rows).bold == [True, False]
    # The other way round, and where neither is plain.
    rows = [*in_rounds("fp32", 4, 90, OTHER[:5]), *in_rounds("bf16", 4, 100, SLOWED)]
    assert winners(rows) == [("bf16", 4)]
    rows = [*in_rounds("tf32", 4, 100, SLOWED), *in_rounds("bf16", 4, 90, OTHER[:5])]
    assert winners(rows) == [("tf32", 4)]


def test_rates_are_compared_by_their_ratio_to_one_of_them() -> None:
    rows = [
        *in_rounds("fp32", 4, 100, SLOWED),
        *in_rounds("bf16", 4, 90, OTHER[:5]),
        *in_rounds("tf32", 4, 110, NEAR[:5], seed=1),
    ]
    ways = [[cell] for cell in cells(*rows)]
    plain, reduced, apart = compared_rates(ways)
    assert plain == pytest.approx(ways[0][0]["images_per_s"])
    assert plain is not None
    assert reduced == pytest.approx(0.9 * plain, rel=0.01)
    assert apart is None  # of another seed
    assert winners(rows) == [("fp32", 4)]


def test_what_shares_no_round_has_no_fastest() -> None:
    rows = [*in_rounds("fp32", 4, 100, NEAR), *in_rounds("bf16", 4, 150, NEAR, seed=1)]
    assert winners(rows) == []
    assert verdict(cell_frame(rows)).startswith("Nothing is called fastest here")
    assert winners(rows[:10]) == [("fp32", 4)]


def test_what_is_slower_than_what_must_not_win_is_no_fastest() -> None:
    rows = [
        *in_rounds("fp32", 4, 100, NEAR),
        of_today("fp32", 4, failed(Status.CRASH), round=10),
        *in_rounds("bf16", 4, 80, OTHER),
    ]
    assert cells(*rows)[1]["speedup_verdict"] == "slower"
    assert winners(rows) == []
    assert view("ladder", *rows).bold == [False, False]
    assert "Nothing is called fastest here" in verdict(cell_frame(rows))
    assert winners([*rows, *in_rounds("tf32", 4, 130, OTHER)]) == [("tf32", 4)]
    # A ladder's first rung need not be plain.
    rungs = [replace(row, trial=replace(row.trial, variant="first")) for row in rows[:11]]
    page = view("ladder", *rungs, *rows[11:])
    assert [line["fastest"] for line in page_lines(page)] == [False, True]
    assert page.bold == [False, False]


def test_no_faster_one_in_shared_rounds_is_passed_over() -> None:
    # By its ratio to plain tf32 is ahead, by its ratio to bf16 in their own rounds it is behind.
    rows = [
        *in_rounds("fp32", 4, 100, [1.0] * 4),
        *in_rounds("bf16", 4, 120, [1.3] * 2 + [0.9] * 2),
        *in_rounds("tf32", 4, 131, [1.0] * 2),  # too few for any verdict
    ]
    _, reduced, other = compared_rates([[cell] for cell in cells(*rows)])
    assert reduced is not None
    assert other is not None
    assert other > reduced
    assert winners(rows) == [("bf16", 4)]


# The baseline.


def oom(batch_size: int, **more: int) -> Row:
    return of_today("fp32", batch_size, failed(Status.OOM), **more)


def test_the_baseline_fits_in_all_rounds() -> None:
    rows = [
        *in_rounds("fp32", 8, 90, NEAR[:5]),
        *in_rounds("fp32", 16, 100, NEAR[:1]),
        *(oom(16, round=number) for number in range(1, 5)),
        *in_rounds("bf16", 16, 150, NEAR[:5]),
    ]
    assert {cell["seed_batch_size"] for cell in cells(*rows)} == {8}
    found = {(cell["variant"], cell["batch_size"]): cell for cell in cells(*rows)}
    assert found["bf16", 16]["speedup_vs_seed"] == pytest.approx(150 / 90)
    assert any("batch 8, the largest power of two that fits" in note for note in notes_of(rows))
    # Nor is it the baseline at its own batch: it does not fit there.
    for cell in found["fp32", 16], found["bf16", 16]:
        assert cell["speedup"] != cell["speedup"]  # not a number
    text = next(
        text for text in texts(*rows) if text["variant"] == "fp32" and text["batch"] == "16"
    )
    assert (text["speedup"], text["status"]) == ("not comparable", "ok 1/5, oom 4/5")
    assert "plain" not in verdict(cell_frame(rows))
    lines = {line["variant"]: line for line in page_lines(view("largest-batch", *rows))}
    assert lines["fp32"]["largest_batch"] == 8
    assert lines["fp32"]["speedup_vs_seed"] == 1


def test_the_baseline_fits_with_all_seeds() -> None:
    rows = [
        *(timed("fp32", 8, 90, seed=seed) for seed in (0, 1)),
        timed("fp32", 16, 100, seed=0),
        oom(16, seed=1),
        *(timed("bf16", 16, 150, seed=seed) for seed in (0, 1)),
    ]
    assert {cell["seed_batch_size"] for cell in cells(*rows)} == {8}
    assert all("that fits the budget" in note for note in notes_of(rows) if "vs seed" in note)
    lines = page_lines(view("largest-batch", *rows))
    plain = [line for line in lines if line["variant"] == "fp32"]
    assert [(line["largest_batch"], line["next_status"]) for line in plain] == [(8, "oom")] * 2


def test_what_was_interrupted_is_yet_to_come() -> None:
    rows = [
        *in_rounds("fp32", 8, 90, NEAR[:5]),
        *in_rounds("fp32", 16, 100, NEAR[:4]),
        bad("fp32", 16, Status.INTERRUPTED, round=4),
    ]
    rows = [replace(row, workload=rows[0].workload) for row in rows]
    assert {cell["seed_batch_size"] for cell in cells(*rows)} == {16}
    assert page_lines(view("largest-batch", *rows))[0]["largest_batch"] == 16
    assert winners(rows) == [("fp32", 16)]
