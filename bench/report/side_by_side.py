"""The table of the command `kernels`: the same in several ways, timed in turn."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from bench.report import Record
from bench.report.cells import records
from bench.report.page import Column, IntervalColumn, Page, SpreadColumn, shown
from bench.stats import estimate, paired_logs

_NEEDS = ("mpixel_per_s",)

_COLUMNS = (
    Column("mpixel_per_s", "Mpixel/s", "{:.1f}".format),
    SpreadColumn("mpixel_per_s", "±%", "{:.1f}".format),
    Column("ratio", "ours /\nthis", "{:.2f}x".format, needs=_NEEDS),
    IntervalColumn("ratio", "interval", "{:.2f}".format),
    Column("max_error", "max error", "{:.2g}".format, absent="-"),
    Column("copy_percent", "% of a\ncopy", "{:.1f}".format, needs=_NEEDS),
)


_FIGURES = [
    *("case", "by", "mpixel_per_s", "mpixel_per_s_low", "mpixel_per_s_high"),
    *("ratio", "ratio_low", "ratio_high", "max_error", "copy_percent", "reason"),
]


def side_by_side(cases: Sequence[dict[str, Any]], machine: str) -> Page:
    """One line for each way of each case.

    Args:
        cases: As `bench.side_by_side` sends them.
        machine: It, in words.
    """
    ours, copy = cases[0]["ours"], cases[0]["copy"]
    found = []
    for case in cases:
        failed = [{"by": way, "reason": why} for way, why in case["failed"].items()]
        measured = [_line(case, way) for way in case["seconds"]]
        told = [*measured[:-1], *failed, *measured[-1:]]  # the copy comes last
        found += [{"case": case["name"], **line} for line in told]
    frame = pd.DataFrame(found, columns=_FIGURES)
    lines = records(frame)
    columns = shown(_COLUMNS, lines)
    texts = {
        "case": [str(line["case"]) for line in lines],
        "by": [str(line["by"]) for line in lines],
        **{column.title: [column.text(line) for line in lines] for column in columns},
    }
    rounds, threads = len(cases[0]["seconds"][ours]), cases[0]["threads"]
    times = f"{rounds} round{'s in turn' if rounds > 1 else ''}"
    return Page(
        frame,
        texts,
        [line["by"] == ours for line in lines],
        ["interval", "±%"],
        " ".join(_sentence(str(case["name"]), lines, ours, copy) for case in cases),
        [
            f"Measured on {machine}, {times}, {threads} threads.",
            str(cases[0]["note"]),
            "% of a copy: of the rate at which as many bytes are copied.",
            *(f"{line['case']}, {line['by']}: {line['reason']}" for line in lines if _failed(line)),
        ],
    )


def _line(case: dict[str, Any], way: str) -> Record:
    ours, copy = case["ours"], case["copy"]
    seconds = {name: dict(enumerate(values)) for name, values in case["seconds"].items()}
    rate = estimate([math.log(case["pixels"] / 1e6 / value) for value in seconds[way].values()])
    ratio = estimate(paired_logs(seconds[way], seconds[ours]))
    share = estimate(paired_logs(seconds[copy], seconds[way]))
    return {
        "by": way,
        "mpixel_per_s": rate.value,
        "mpixel_per_s_low": rate.low,
        "mpixel_per_s_high": rate.high,
        "ratio": ratio.value,
        "ratio_low": None if way == ours else ratio.low,
        "ratio_high": None if way == ours else ratio.high,
        "max_error": case["errors"].get(way),
        "copy_percent": 100 * share.value,
    }


def _sentence(case: str, lines: list[Record], ours: str, copy: str) -> str:
    peers = [line for line in lines if line["case"] == case and line["by"] not in (ours, copy)]
    told = ", ".join(f"{line['ratio']:.1f}x {line['by']}" for line in peers if not _failed(line))
    return f"{case}: {told}."


def _failed(line: Record) -> bool:
    return bool(pd.notna(line["reason"]))
