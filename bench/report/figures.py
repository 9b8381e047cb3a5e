"""What is compared of two cells, and whether a change for the worse is shown.

A cell's rounds are its replicates, of all seeds, in speed and memory. In quality its seeds are:
rounds of one seed learn the same from the same, so that they tell nothing of another seed.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

from bench.journal import Row
from bench.noise import class_of, of_rows
from bench.report import Record
from bench.report.contrast import FASTER, Contrast, Rates, Verdict, Words, of_rates
from bench.report.frame import trial_record
from bench.report.sides import Pair
from bench.stats import Direction, paired_logs
from bench.trial import Status

Replicates = dict[tuple[int, int], Record]
"""(seed, round) -> a trial that ended well."""


@dataclass(frozen=True, eq=False)
class Figure:
    """What is compared.

    Attributes:
        name: Of the ratio's column.
        source: Of the figure's column in a trial's record.
        words: For what is known of it.
        worse: The direction that nobody wants.
        unit: What is one observation of it.
    """

    name: str
    source: str
    words: Words
    worse: Direction
    unit: str = "round"

    def harm(self, ratio: float) -> float:
        """By what share it is worse; negative where it is better."""
        return 1 - ratio if self.worse is Direction.LOWER else ratio - 1


SPEED = Figure("ratio", "images_per_s", FASTER, Direction.LOWER)
MEMORY = Figure(
    "memory_ratio",
    "peak_memory_gib",
    {**FASTER, Direction.HIGHER: "more", Direction.LOWER: "less"},
    Direction.HIGHER,
)
QUALITY = Figure(
    "mse_ratio",
    "final_mse",
    {**FASTER, Direction.HIGHER: "worse", Direction.LOWER: "better"},
    Direction.HIGHER,
    "seed",
)


@dataclass(frozen=True)
class Gate:
    """A change that shall not be.

    Attributes:
        option: By which it was asked for.
        figure: What must not be worse.
        share: By this or more.
    """

    option: str
    figure: Figure
    share: float


def replicates(rows: Iterable[Row]) -> Replicates:
    """The trials that ended well, of a cell or of all seeds of one."""
    return {
        (row.trial.seed, row.trial.round): trial_record(row)
        for row in rows
        if row.result.status is Status.OK
    }


def values_of(figure: Figure, rows: Iterable[Row]) -> dict[tuple[int, int], float]:
    """A figure of every trial that has it, by seed and round."""
    found = {key: record[figure.source] for key, record in replicates(rows).items()}
    return {key: value for key, value in found.items() if value}


def logs_of(figure: Figure, pair: Pair) -> list[float]:
    """Logarithms of a figure's ratio, of each seed and round that both sides have."""
    return paired_logs(values_of(figure, pair.here), values_of(figure, pair.there))


def rates_of(rows: Iterable[Row]) -> Rates:
    """Images/s of every trial that ended well, and when it began."""
    return {
        (row.trial.seed, row.trial.round): (row.result.images_per_s, row.result.started_at or "")
        for row in rows
        if row.result.status is Status.OK
    }


def speed_of(pair: Pair, drift: float | None = None) -> Contrast:
    """The contrast of a pair's images/s; see `bench.report.contrast.of_rates`."""
    noises = [of_rows(rows) for rows in (pair.here, pair.there)]
    good = (row for row in pair.here if row.result.status is Status.OK)
    group = next(map(class_of, good), "")
    return of_rates(rates_of(pair.here), rates_of(pair.there), group, noises, drift)


def quality_of(pair: Pair) -> Contrast:
    """The contrast of a pair's MSE: of each seed, by the mean of the rounds both sides have."""
    here, there = values_of(QUALITY, pair.here), values_of(QUALITY, pair.there)
    seeds: dict[int, list[tuple[int, int]]] = {}
    for key in sorted(here.keys() & there.keys()):
        seeds.setdefault(key[0], []).append(key)
    means = (
        {seed: fmean(side[key] for key in keys) for seed, keys in seeds.items()}
        for side in (here, there)
    )
    return Contrast(paired_logs(*means), "")


def status_of(rows: Iterable[Row]) -> str:
    """`ok`, or how those rounds ended that did not end so; what was interrupted runs again."""
    fine = (Status.OK, Status.INTERRUPTED)
    odd = dict.fromkeys(row.result.status for row in rows if row.result.status not in fine)
    return ", ".join(odd) or Status.OK.value


@dataclass(frozen=True)
class Harm:
    """By how much something is worse than what it is compared with.

    Attributes:
        share: By the estimate; negative where it is better.
        most: At most, at the level of the verdict; `None` where nothing is known.
        within: Whether it is shown to stay below a limit, shown to reach it, or neither (`None`).
    """

    share: float
    most: float | None
    within: bool | None


def harm(figure: Figure, verdict: Verdict, limit: float) -> Harm:
    """What a verdict tells of a change for the worse.

    Args:
        figure: What was compared.
        verdict: On its ratio.
        limit: A share.
    """
    judgement = verdict.judgement
    share = figure.harm(judgement.ratio.value)
    if judgement.differs and share >= limit:
        return Harm(share, None, within=False)
    if judgement.strict is None:
        return Harm(share, None, within=None)
    low, high = judgement.strict.low, judgement.strict.high
    if math.isinf(high):  # of an unknown drift
        return Harm(share, None, within=None)
    most = max(map(figure.harm, (low, high)))
    quiet = judgement.direction is Direction.SAME or math.expm1(verdict.floor) < limit
    return Harm(share, most, within=True if most < limit and quiet else None)


def judge_gate(gate: Gate, pair: Pair, verdict: Verdict | None) -> tuple[bool | None, str]:
    """Whether a gate holds for a cell, or `None` where that is not shown; and a sentence."""
    limit, what = f"{gate.option} {100 * gate.share:g}%", gate.figure.source
    there, here = status_of(pair.there), status_of(pair.here)
    worse = here != Status.OK and (there == Status.OK or not replicates(pair.here))
    if worse and replicates(pair.there):
        return False, f"{limit}: {pair.label} ended {here} in B, and well in A"
    if verdict is None:
        return None, f"{limit}: {pair.label} has no {what} to compare"
    found = harm(gate.figure, verdict, gate.share)
    change = f"{100 * abs(found.share):.1f}% {'worse' if found.share > 0 else 'better'}"
    text = f"{limit}: {pair.label} has {change} {what}, {verdict.word}"
    if verdict.judgement.why:
        text += f" ({verdict.judgement.why})"
    if found.within is None and found.most is not None:
        text += f", at most {100 * found.most:.1f}% worse"
    return found.within, text
