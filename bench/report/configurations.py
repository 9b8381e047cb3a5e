"""Variants at a batch size with all their seeds and rounds: what one may choose between."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

import pandas as pd

from bench.budget import GIB
from bench.journal import Row
from bench.report import Record
from bench.report.baselines import to_beat
from bench.report.cells import by_settings, ran_out_of_memory
from bench.report.figures import rates_of
from bench.report.frame import trial_record
from bench.report.speedups import baseline_batch, compared_rates, may_win
from bench.stats import Estimate, estimate
from bench.trial import Status


def pareto(lines: Sequence[Record]) -> list[Record]:
    """The lines that no other is both faster and better than, the fastest first.

    Args:
        lines: With `images_per_s` and `final_mse`.
    """
    front: list[Record] = []
    for line in sorted(lines, key=lambda line: (-line["images_per_s"], line["final_mse"])):
        if not front or line["final_mse"] < front[-1]["final_mse"]:
            front.append(line)
    return front


@dataclass(frozen=True, eq=False)
class Configuration:
    """A variant at a batch size: all seeds and rounds of it.

    Attributes:
        rows: Of its trials.
        cells: Of `bench.report.frame.cell_frame`, one for each seed.
    """

    rows: Sequence[Row]
    cells: Sequence[Record]

    @property
    def variant(self) -> str:
        """Its variant's name."""
        return self.rows[0].trial.variant

    @property
    def batch_size(self) -> int:
        """Images per step."""
        return self.rows[0].trial.batch_size

    @property
    def label(self) -> str:
        """What a sentence calls it."""
        return f"{self.variant} at batch {self.batch_size}"

    @property
    def seeds(self) -> set[int]:
        """Of random numbers."""
        return {cell["seed"] for cell in self.cells}

    @property
    def is_measured(self) -> bool:
        """Whether any round of it ended well."""
        return any(cell["rounds_ok"] for cell in self.cells)

    @property
    def is_sound(self) -> bool:
        """Whether every round of every seed ended well, unflagged."""
        return all(map(may_win, self.cells))

    @property
    def ran_out_of_memory(self) -> bool:
        """Whether it did, or a smaller batch of the same variant."""
        return any(map(ran_out_of_memory, self.cells))

    @property
    def is_plain(self) -> bool:
        """Whether it is the plain variant."""
        return bool(self.variant == self.cells[0]["plain_variant"])

    @cached_property
    def rate(self) -> Estimate:
        """Images/s: the geometric mean of all rounds; of what ended well in one."""
        return estimate([math.log(rate) for rate, _ in rates_of(self.rows).values()])

    @property
    def images_per_s(self) -> float:
        """The same without its interval."""
        return self.rate.value

    @property
    def final_mse(self) -> float:
        """The mean of its seeds; of what ended well in all of them."""
        return fmean(cell["final_mse"] for cell in self.cells)

    def most(self, name: str) -> float | None:
        """The largest value of a column that its cells have; `None` where none has any."""
        known = [float(cell[name]) for cell in self.cells if pd.notna(cell[name])]
        return max(known, default=None)

    @cached_property
    def taken_gib(self) -> float | None:
        """What its process took of the budget, at most in any round; `None` if not readable."""
        told = map(trial_record, (row for row in self.rows if row.result.status is Status.OK))
        percents = [record["budget_percent"] for record in told]
        if not percents or any(map(pd.isna, percents)):
            return None
        return float(max(percents)) / 100 * self.rows[0].trial.budget_bytes / GIB

    @property
    def baseline(self) -> str | None:
        """What needs no training and is no worse than it, in words; `None` if it is better."""
        best = to_beat(self.cells[0])
        return best.words if best and self.final_mse >= best.value else None


def configurations(rows: Sequence[Row], cells: Sequence[Record]) -> list[Configuration]:
    """All that have these cells, in their order.

    Args:
        rows: Of one journal.
        cells: Of `cell_frame`, that share their settings.
    """
    found: dict[tuple[str, int], list[Record]] = {}
    for cell in cells:
        found.setdefault((cell["variant"], cell["batch_size"]), []).append(cell)
    own: dict[tuple[str, int], list[Row]] = {}
    settings = json.loads(cells[0]["settings"])
    for row in rows:
        if dict(row.trial.settings) == settings:
            own.setdefault((row.trial.variant, row.trial.batch_size), []).append(row)
    return [Configuration(own[place], group) for place, group in found.items()]


def baseline_of(ones: Sequence[Configuration]) -> Configuration | None:
    """The baseline of configurations that share their settings; `None` where there is none."""
    size = baseline_batch(cell for one in ones for cell in one.cells)
    return next((one for one in ones if one.is_plain and one.batch_size == size), None)


def rates_compared(ones: Sequence[Configuration]) -> dict[Configuration, float]:
    """Images/s that may be compared, of those of which any may; see `compared_rates`."""
    rates = compared_rates([one.cells for one in ones])
    return {one: rate for one, rate in zip(ones, rates, strict=True) if rate}


MOST_VARIANTS = 8
"""So many are shown beside each other: of more, no legend could be read."""

Group = tuple[str, list[Configuration]]
"""What sets configurations apart from others, in words, and those."""


def groups_of(rows: Sequence[Row], cells: list[Record]) -> list[Group]:
    """Configurations by what may be compared, those alone of which any round ended well."""
    found = [
        (words, [one for one in configurations(rows, group) if one.is_measured])
        for words, group in by_settings(cells)
    ]
    return [(words, group) for words, group in found if group]


def variants_shown(groups: Sequence[Group]) -> list[str]:
    """The variants that are drawn, in the order of the table: the plain one and the fastest."""
    best: dict[str, float] = {}
    for _, group in groups:
        rates = rates_compared(group)
        top = max(rates.values())
        for one in group:
            # Of other settings images/s are other figures: what counts is the share of the best.
            share = math.inf if one.is_plain else rates.get(one, 0.0) / top
            best[one.variant] = max(best.get(one.variant, 0.0), share)
    kept = sorted(best, key=lambda variant: -best[variant])[:MOST_VARIANTS]
    return [variant for variant in best if variant in kept]
