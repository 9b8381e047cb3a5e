"""What a row knows of its compilation: seconds, graph breaks, recompilations, and its flags."""

import json
from collections.abc import Iterable, Sequence
from itertools import chain
from statistics import median
from typing import Any

from bench.journal import Row
from bench.report import Record

SECONDS = ("cold_compile_s", "warm_compile_s")
COUNTS = ("graph_breaks", "recompilations", "compiled_in_window", "cudagraph_skips")
REASONS = ("graph_break_reasons", "recompilation_reasons")

IN_WINDOW = "compiled inside the measured window"
SKIPPED = "CUDA graphs skipped"
NOT_WARM = "compile cache not used"

ABSENT: dict[str, Any] = {**dict.fromkeys((*SECONDS, *COUNTS, *REASONS)), "flags": ""}
"""What an eager row has in these columns, or one that did not end well."""


def of_row(row: Row) -> dict[str, Any]:
    """The columns of a trial that ended well; `ABSENT` if it did not compile."""
    found = row.result.compilation
    if not found:
        return ABSENT
    steps_s = [sum(phases) for phases in row.result.step_phase_s]
    step_s = median(steps_s[slice(*row.result.window)])
    breaks, again = found.get("graph_breaks", []), found.get("recompilations", [])
    in_window, skips = found.get("in_window", 0), found.get("cudagraph_skips", 0)
    not_warm = found.get("cache_misses", 0) or not found.get("cache_hits", 0)
    occurred = ((IN_WINDOW, in_window), (SKIPPED, skips), (NOT_WARM, not_warm))
    flags = [words for words, count in occurred if count]
    cold_s = found.get("cold_step_s")
    return {
        "cold_compile_s": None if cold_s is None else _beyond(cold_s, step_s),
        "warm_compile_s": _beyond(steps_s[: row.result.window[0]], step_s),
        "graph_breaks": len(breaks),
        "recompilations": len(again),
        "compiled_in_window": in_window,
        "cudagraph_skips": skips,
        "graph_break_reasons": json.dumps(breaks),
        "recompilation_reasons": json.dumps(again),
        "flags": "; ".join(flags),
    }


def _beyond(steps_s: Sequence[float], step_s: float) -> float:
    """What steps took beyond as many measured ones; less than nothing would be noise."""
    return max(0.0, sum(steps_s) - len(steps_s) * step_s)


def of_rounds(good: Sequence[Record]) -> dict[str, Any]:
    """Counts, reasons and flags of a cell: the worst count, and whatever any round tells.

    Args:
        good: The cell's rounds that ended well, with the columns of `of_row`.
    """
    told = [record for record in good if record["graph_breaks"] is not None]
    if not told:
        return {name: ABSENT[name] for name in (*COUNTS, *REASONS, "flags")}
    flags = (flag for record in told for flag in record["flags"].split("; ") if flag)
    return {
        **{name: max(record[name] for record in told) for name in COUNTS},
        **{name: _united(record[name] for record in told) for name in REASONS},
        "flags": "; ".join(dict.fromkeys(flags)),
    }


def _united(lists: Iterable[str]) -> str:
    """Lists as JSON, made one without repetitions."""
    return json.dumps(list(dict.fromkeys(chain.from_iterable(map(json.loads, lists)))))
