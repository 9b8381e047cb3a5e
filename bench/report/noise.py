"""The A/A self-test: what equal processes differ by, and how many rounds a difference takes."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from bench.noise import WINDOW
from bench.report import Record
from bench.report.contrast import FASTER, MARGIN
from bench.report.page import Column, IntervalColumn, Page, shown
from bench.stats import (
    drift,
    judge,
    paired_logs,
    paired_noise,
    rounds_to_show,
)

SHOWN_PERCENT = (1, 2, 5)
"""Differences of so many percent are asked for."""

MOST_ROUNDS = 1000


def noise_page(description: Mapping[str, Any]) -> Page:
    """The table of a noise measurement.

    Args:
        description: Of `bench.noise.describe`, with at least one cell.
    """
    records = [_record(cell) for cell in description["cells"]]
    columns = shown(
        [
            Column("ratio", "A / A", "{:.3f}x".format),
            IntervalColumn("ratio", "interval", "{:.3f}".format),
            Column("floor_percent", "floor\n%", "{:.1f}".format),
            Column("drift_percent", "drift\n%", "{:.1f}".format),
            *(
                Column(
                    f"rounds_to_show_{percent}_percent",
                    f"rounds\nfor {percent} %",
                    "{:.0f}".format,
                    absent=f"> {MOST_ROUNDS}",
                )
                for percent in SHOWN_PERCENT
            ),
        ],
        records,
    )
    alarms = [record["cell"] for record in records if record["verdict"] in ("faster", "slower")]
    return Page(
        pd.DataFrame(records),
        {
            "class": [record["class"] for record in records],
            "cell": [record["cell"] for record in records],
            "rounds": [str(record["rounds"]) for record in records],
            **{column.title: [column.text(record) for record in records] for column in columns},
            "verdict": [record["verdict"] for record in records],
        },
        [record["cell"] in alarms for record in records],
        ["interval"],
        f"Equal things were called different: {', '.join(alarms)}. Something alternates with the "
        "processes of this machine; see `doctor`."
        if alarms
        else "No equal things were called different.",
        [
            "A / A: every second process against the one before it, the same cell.",
            "Floor: what 1 of 20 comparisons of equal cells exceeds at these rounds, if they are "
            "measured in turn. Drift: what they differed by at most, measured one after the other.",
            "Rounds for: so many show such a difference in 19 of 20 comparisons of two cells; a "
            "table of many cells takes more.",
            *_windows(description["cells"]),
        ],
    )


def _windows(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which rows the floors hold for."""
    return list(
        dict.fromkeys(
            f"Holds for rows of the same settings at batch {cell['batch_size']}, "
            f"{cell['samples']} samples, at least {cell['warmup_steps']} warm-up and "
            f"{cell['measured_steps']} measured steps."
            for cell in cells
        )
    )


def _record(cell: Mapping[str, Any]) -> Record:
    values = cell["images_per_s"]
    pairs = dict(enumerate(values[::2])), dict(enumerate(values[1::2]))
    logs, noise = paired_logs(pairs[1], pairs[0]), paired_noise(values)
    floor = noise.floor(len(logs))
    judgement = judge(logs, floor, MARGIN)
    return {
        "class": cell["class"],
        "cell": cell["label"],
        **{name: cell[name] for name in WINDOW},
        "rounds": len(logs),
        "ratio": judgement.ratio.value,
        "ratio_low": judgement.ratio.low,
        "ratio_high": judgement.ratio.high,
        "verdict": FASTER[judgement.direction],
        "floor_percent": 100 * math.expm1(floor),
        "drift_percent": 100 * math.expm1(drift(values, len(logs))),
        **{
            f"rounds_to_show_{percent}_percent": rounds_to_show(percent, noise, MOST_ROUNDS)
            for percent in SHOWN_PERCENT
        },
    }
