"""Two sides of a comparison, and what `compare` makes of them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.journal import FILE_NAME, Row
from bench.report.compare import compare
from bench.report.sides import Side
from tests.commands import main
from tests.report_rows import GIB, NEAR, at_minutes, in_rounds, page_lines

BASE = in_rounds("fp32", 4, 100) + in_rounds("bf16", 4, 200)
SLOWER = in_rounds("fp32", 4, 100) + in_rounds("bf16", 4, 180)
OTHER = (0.999, 1.001, 1.003, 0.997, 1.002, 0.998, 1.0, 1.001, 0.999, 1.002)
"""Other ten rounds of as calm a machine."""


def lines(there: Sequence[Row], here: Sequence[Row], margin: float = 0.02) -> list[dict[str, Any]]:
    return page_lines(compare(Side("A", there), Side("B", here), margin).page)


def only(there: Sequence[Row], here: Sequence[Row], margin: float = 0.02) -> dict[str, Any]:
    (line,) = lines(there, here, margin)
    return line


def write(folder: Path, rows: Sequence[Row]) -> str:
    folder.mkdir()
    (folder / FILE_NAME).write_text("".join(row.to_line() for row in rows))
    return str(folder)


def run_compare(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    there: Sequence[Row],
    here: Sequence[Row],
    *options: str,
) -> tuple[object, str, str]:
    """`compare`, with options, on rows that are written to two folders."""
    folders = [write(folder / "a", there), write(folder / "b", here)]
    return main(["compare", *folders, *options], capsys)


def with_memory(rows: Sequence[Row], gib: float) -> list[Row]:
    """With another peak, of which each round has a little more."""
    return [
        replace(
            row,
            result=replace(
                row.result,
                memory={"peak_bytes": int((gib + number / 1000) * GIB)},
                monitor=[{**sample, "rss_anon_bytes": 0} for sample in row.result.monitor],
            ),
        )
        for number, row in enumerate(rows)
    ]


def in_seeds(mse: float, shape: Sequence[float] = NEAR) -> list[Row]:
    """One round of each seed."""
    return [
        row
        for seed, factor in enumerate(shape)
        for row in in_rounds("fp32", 4, 100, [1], seed=seed, final_mse=mse * factor)
    ]


def in_seeds_by_turns(
    rate: float, rounds: int, seeds: int = 5, common: Sequence[float] = (1,)
) -> tuple[list[Row], list[Row]]:
    """Two sides of several seeds, extended in turn round by round, every second round backwards.

    Args:
        rate: Of the second side, where the first has 100.
        rounds: Of every seed.
        seeds: How many.
        common: By how much faster or slower the second side was in a round, whatever the seed.
    """
    sides: tuple[list[Row], list[Row]] = ([], [])
    minute = 0
    for number in range(rounds):
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            rows = [
                replace(row, trial=replace(row.trial, round=number))
                for seed in range(seeds)
                for row in in_rounds(
                    "fp32",
                    4,
                    (100, rate * common[number % len(common)])[side],
                    [(NEAR, OTHER)[side][(3 * number + seed) % len(NEAR)]],
                    seed=seed,
                )
            ]
            sides[side].extend(at_minutes(rows, minute))
            minute += seeds
    return sides


def busy(rows: Sequence[Row]) -> list[Row]:
    """The same, but something ran beside them."""
    steps_s = [[0.1, 0, 0, 0]] * 4 + [[9, 0, 0, 0], [0.1, 0, 0, 0]]
    return [replace(row, result=replace(row.result, step_phase_s=steps_s)) for row in rows]
