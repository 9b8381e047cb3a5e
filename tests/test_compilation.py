from typing import Any

import pytest

from bench.journal import Row
from bench.report.frame import cell_frame
from bench.report.tables import notes, verdict
from bench.trial import Status
from tests.report_rows import (
    PLAIN,
    TRAIN_SIZE,
    absent,
    cells,
    failed,
    good,
    measured,
    of_today,
    texts,
    timed,
)

COUNTS = ("graph_breaks", "recompilations", "compiled_in_window", "cudagraph_skips")


def one(*rounds: Row) -> dict[str, Any]:
    (cell,) = cells(*rounds)
    return cell


def seconds(before: list[float], cold: list[float] | None) -> tuple[float, float]:
    """Cold and warm compile seconds of a trial whose measured steps take 0.5, 0.4 and 9 s."""
    steps = [[0.0, step_s, 0.0, 0.0] for step_s in (*before, 0.5, 0.4, 9.0)]
    compilation = {"cold_step_s": cold, "graph_breaks": [], "recompilations": [], "cache_hits": 2}
    result = measured(step_phase_s=steps, compilation=compilation)
    cell = one(of_today("fp32+compile", 4, result))
    return cell["cold_compile_s"], cell["warm_compile_s"]


def test_compile_seconds_are_what_early_steps_took_beyond_as_many_median_ones() -> None:
    assert seconds([5.0, 1.0], [40.0, 3.0]) == pytest.approx((42.0, 5.0))
    assert seconds([5.0, 1.0], [40.0]) == pytest.approx((39.5, 5.0))


def test_less_than_nothing_is_nothing() -> None:
    assert seconds([0.2, 0.3], [0.1, 0.1]) == (0.0, 0.0)


def test_a_cell_has_the_medians_of_the_rounds_that_have_compile_seconds() -> None:
    rounds = [
        timed("fp32+compile", 4, 150, first_s, cold_s, round=number)
        for number, (first_s, cold_s) in enumerate([(1, 40), (2, None), (6, 44)])
    ]
    cell = one(*rounds)
    assert cell["cold_compile_s"] == pytest.approx(42)
    assert cell["warm_compile_s"] == pytest.approx(2)


def test_a_warm_cache_in_all_rounds_leaves_the_cold_seconds_not_measured() -> None:
    row = timed("fp32+compile", 4, 150, 3.0)
    assert absent(one(row)["cold_compile_s"])
    (text,) = texts(row)
    assert (text["cold compile s"], text["warm compile s"]) == ("not measured", "3.0")


@pytest.mark.parametrize(
    "row",
    [
        timed("fp32", 4, 100, first_s=9.0),
        of_today("fp32+compile", 4, failed(Status.CRASH)),
        good("fp32", 4, 10.0),
    ],
    ids=["eager", "failed", "old"],
)
def test_what_did_not_compile_has_no_compile_figures(row: Row) -> None:
    cell = one(row)
    assert cell["flags"] == ""
    assert all(absent(cell[name]) for name in (*COUNTS, "cold_compile_s", "warm_compile_s"))
    assert "cold compile s" not in texts(row)[0]
    assert not any("Compile seconds" in note for note in notes(cell_frame([row])))


def test_beside_compiled_rows_eager_ones_have_a_dash() -> None:
    eager, compiled = texts(timed("fp32", 4, 100), timed("fp32+compile", 4, 150, 3.2, 42))
    assert (eager["cold compile s"], eager["warm compile s"]) == ("-", "-")
    assert (compiled["cold compile s"], compiled["warm compile s"]) == ("42.0", "3.2")


def compiled(number: int, rate: float = 150, **found: Any) -> Row:
    return timed("fp32+compile", 4, rate, found=found, round=number)


def test_breaks_and_recompilations_are_counted_in_the_worst_round() -> None:
    cell = one(
        compiled(0, graph_breaks=["print"], recompilations=["size 3", "size 4"]),
        compiled(1, graph_breaks=["print", "item"], recompilations=["size 5"]),
    )
    assert [cell[name] for name in COUNTS] == [2, 2, 0, 0]
    assert cell["graph_break_reasons"] == '["print", "item"]'
    assert cell["recompilation_reasons"] == '["size 3", "size 4", "size 5"]'


def test_breaks_and_recompilations_before_the_window_are_told_and_flag_nothing() -> None:
    rows = [compiled(0, graph_breaks=["call to\n print"], recompilations=["size 3"])]
    assert one(*rows)["flags"] == ""
    assert one(*rows)["fastest"]
    found = notes(cell_frame(rows))
    assert "fp32+compile b4: graph break: call to print" in found
    assert "fp32+compile b4: recompilation: size 3" in found


@pytest.mark.parametrize(
    ("found", "flag"),
    [
        ({"in_window": 1}, "compiled inside the measured window"),
        ({"cudagraph_skips": 2}, "CUDA graphs skipped"),
        (
            {"in_window": 1, "cudagraph_skips": 2},
            "compiled inside the measured window; CUDA graphs skipped",
        ),
    ],
    ids=["window", "graphs", "both"],
)
def test_a_flag_of_any_round_flags_the_row_which_is_never_the_fastest(
    found: dict[str, int], flag: str
) -> None:
    rows = [timed("fp32", 4, 100), compiled(0, 999), compiled(1, 999, **found), compiled(2, 999)]
    eager, flagged = cells(*rows)
    assert (eager["flags"], flagged["flags"]) == ("", flag)
    assert (eager["fastest"], flagged["fastest"]) == (True, False)
    assert [text["status"] for text in texts(*rows)] == ["ok", "ok 3/3, flagged"]
    assert verdict(cell_frame(rows)).startswith("Fastest here: fp32 at batch 4")
    note = f"fp32+compile b4: flagged, and nothing is concluded from it: {flag}."
    assert note in notes(cell_frame(rows))


def test_where_all_that_ended_well_is_flagged_nothing_is_called_fastest() -> None:
    sentence = verdict(cell_frame([compiled(0, in_window=1)]))
    assert sentence == "Nothing is called fastest here: what ended well is flagged."


# Axes and the training set, by which views pair rows and count epochs.


def test_rows_of_today_tell_all_axes_the_plain_ones_and_the_training_set() -> None:
    cell = one(timed("bf16+compile", 4, 100))
    assert cell["axes"] == (
        '{"precision": "bf16", "memory_format": "contiguous", "compile": "compile"}'
    )
    assert cell["plain_axes"] == str(PLAIN).replace("'", '"')
    assert cell["train_size"] == TRAIN_SIZE


def test_rows_of_old_have_the_plain_axes_of_the_plain_row_if_there_is_one() -> None:
    with_plain = cells(good("bf16", 4, 10.0), good("fp32", 4, 10.0))
    told = '{"precision": "fp32", "memory_format": "contiguous"}'
    assert [cell["plain_axes"] for cell in with_plain] == [told, told]
    alone = one(good("bf16", 4, 10.0))
    assert absent(alone["plain_axes"])
    assert absent(alone["train_size"])
