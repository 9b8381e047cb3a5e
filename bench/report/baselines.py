"""Predictions that need no training: what a row's quality is held against."""

import json
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from bench.report import Record


@dataclass(frozen=True)
class Baseline:
    """A prediction that needs no training.

    Attributes:
        words: What it is.
        value: Its error, in the unit of `final_mse`.
    """

    words: str
    value: float


def described(cells: Iterable[Record]) -> dict[str, str]:
    """The workload's baselines: quality figure -> what it is, in words."""
    found: dict[str, str] = {}
    for cell in cells:
        found |= json.loads(cell["baselines"])
    return found


def to_beat(cell: Record) -> Baseline | None:
    """The best of a cell's baselines; `None` where none is known."""
    known = [
        Baseline(words, float(cell[figure]))
        for figure, words in described([cell]).items()
        if pd.notna(cell[figure])
    ]
    return min(known, key=lambda baseline: baseline.value, default=None)
