"""Ratios of cells with their intervals and verdicts, all of a table judged together."""

import json
import math
from bisect import bisect_left, bisect_right
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import pandas as pd

from bench.report import Record
from bench.stats import (
    LEAST_ROUNDS,
    Direction,
    Judgement,
    Noise,
    judge,
    pooled_noise,
)

Words = Mapping[Direction, str]

MARGIN = 0.02
"""Unless asked otherwise, what lies within this share of each other is as good as equal."""

FASTER: Words = {
    Direction.HIGHER: "faster",
    Direction.LOWER: "slower",
    Direction.SAME: "same",
    Direction.UNKNOWN: "inconclusive",
}
"""What is known of a ratio of rates."""

MARKS = {"inconclusive": "~", "same": "="}
"""Before a ratio that is not shown to differ from 1."""


MEASURED, POOLED = "measured by `doctor --noise`", "by the scatter of these rounds"
"""Where a noise floor is from."""


TrialId = tuple[int, ...]
"""Which trial of a cell: its round, or its seed and its round."""

Rates = Mapping[TrialId, tuple[float, str]]
"""Trial -> images/s, and when it began (UTC, ISO 8601; empty where that is not known)."""


@dataclass(frozen=True)
class Contrast:
    """Something in two cells, to be compared.

    Attributes:
        logs: Logarithms of its ratio, one for each independent observation.
        group: Whose scatter is like this one's.
        noise: What was measured of such comparisons; `None` leaves it to the scatter of these
            rounds.
        drift: See `bench.stats.judge`.
    """

    logs: Sequence[float]
    group: Hashable
    noise: Noise | None = None
    drift: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """What is known of a contrast.

    Attributes:
        judgement: Of its ratio.
        word: The same in a word.
        floor: Logarithm of the noise floor that it was held to.
        floor_source: `MEASURED` or `POOLED`.
    """

    judgement: Judgement
    word: str
    floor: float
    floor_source: str

    def withheld(self, why: str) -> "Verdict":
        """The same figures, from which nothing is concluded."""
        unknown = replace(
            self.judgement, strict=None, direction=Direction.UNKNOWN, differs=False, why=why
        )
        return replace(self, judgement=unknown, word=FASTER[Direction.UNKNOWN])

    def columns(self, name: str) -> Record:
        """The ratio, its interval and the verdict, as columns of a DataFrame."""
        ratio = self.judgement.ratio
        floor_percent = None if math.isinf(self.floor) else 100 * math.expm1(self.floor)
        return {
            name: ratio.value,
            f"{name}_low": ratio.low,
            f"{name}_high": ratio.high,
            f"{name}_rounds": ratio.rounds,
            f"{name}_verdict": self.word,
            f"{name}_why": self.judgement.why,
            f"{name}_floor_percent": floor_percent,
            f"{name}_floor_source": self.floor_source,
        }


COLUMNS = ("low", "high", "rounds", "verdict", "why", "floor_percent", "floor_source")
"""What stands beside a ratio; see `Verdict.columns`."""


def absent(name: str) -> Record:
    """The columns of a ratio that there is not."""
    return dict.fromkeys((name, *(f"{name}_{more}" for more in COLUMNS)))


def judge_all(
    contrasts: Sequence[Contrast | None],
    margin: float = MARGIN,
    words: Words = FASTER,
    unit: str = "round",
    comparisons: int | None = None,
) -> list[Verdict | None]:
    """Judges contrasts, so that all together are rarely wrong.

    Args:
        contrasts: `None` where there is nothing to compare with.
        margin: See `bench.stats.judge`.
        words: For what is known.
        unit: What the logarithms are of, in words.
        comparisons: How many there are, if more than these.

    Returns:
        One for each; `None` where there is no round to judge by.
    """
    told = [contrast for contrast in contrasts if contrast and contrast.logs]
    count = comparisons or sum(len(contrast.logs) >= LEAST_ROUNDS for contrast in told) or 1
    pooled = {
        group: pooled_noise([contrast.logs for contrast in told if contrast.group == group])
        for group in {contrast.group for contrast in told}
    }

    def verdict(contrast: Contrast) -> Verdict:
        noise = contrast.noise or pooled[contrast.group]
        floor = noise.floor(len(contrast.logs)) if noise else math.inf
        judgement = judge(contrast.logs, floor, margin, count, unit, contrast.drift)
        source = MEASURED if contrast.noise else POOLED
        return Verdict(judgement, words[judgement.direction], floor, source)

    return [verdict(contrast) if contrast and contrast.logs else None for contrast in contrasts]


def of_rates(
    rates: Rates,
    others: Rates,
    group: Hashable,
    noises: Sequence[Noise | None],
    drift: float | None = None,
) -> Contrast:
    """The contrast of two cells' images/s.

    Trials are paired by seed and round. Each turn is one observation: the mean of its pairs, which
    share what the machine did between the two sides. Pairs that were not measured in turn are left
    out. If all are such, nothing is known of the drift of the machine between the cells.

    Args:
        rates: Of one cell.
        others: Of what it is compared with.
        group: See `Contrast`.
        noises: What was measured of either side's class.
        drift: Logarithm of what the machine may have drifted by, where the user knows it: then
            every pair is an observation.
    """
    observations = turns(rates, others) if drift is None else []
    if drift is None:
        drift = 0.0 if observations else math.inf
    if not observations:
        observations = [[key] for key in sorted(rates.keys() & others.keys())]
    known = [noise for noise in noises if noise]
    return Contrast(
        [
            fmean(math.log(rates[key][0] / others[key][0]) for key in observation)
            for observation in observations
        ],
        group,
        max(known, key=lambda noise: noise.floor(1)) if len(known) == len(noises) else None,
        drift,
    )


def turns(rates: Rates, others: Rates) -> list[list[TrialId]]:
    """The pairs that were measured in turn, those of one turn together.

    A pair was measured in turn if no other round began between its two trials. Other seeds of its
    own round may: a sweep that is extended round by round on both sides measures all seeds of one
    side, then all of the other. Pairs that overlap in time are of one turn. If there is one turn
    only, of several pairs, then one side was measured after the other, and nothing in turn.
    """
    spans = {key: sorted((rates[key][1], others[key][1])) for key in rates.keys() & others.keys()}
    began = sorted((moment, key[-1]) for key, span in spans.items() for moment in span)
    moments = [moment for moment, _ in began]
    in_turn = [
        key
        for key, (first, last) in spans.items()
        if all(
            began[place][1] == key[-1]
            for place in range(bisect_right(moments, first), bisect_left(moments, last))
        )
    ]
    found: list[list[TrialId]] = []
    end = ""
    for key in sorted(in_turn, key=lambda key: (spans[key][0], key)):
        first, last = spans[key]
        if found and first < end:
            found[-1].append(key)
        else:
            found.append([key])
        end = max(end, last)
    return [] if len(found) == 1 < len(found[0]) else found


def of_cells(cell: Record, reference: Record) -> Contrast:
    """The contrast of two cells of a table."""
    sides = (cell, reference)
    group = bool(pd.notna(cell["graph_breaks"]))
    return of_rates(_rates(cell), _rates(reference), group, [_noise(side) for side in sides])


def _noise(cell: Record) -> Noise | None:
    """What was measured for cells of this one's class."""
    if pd.isna(cell["noise_percent"]):
        return None
    return Noise(math.log1p(cell["noise_percent"] / 100), int(cell["noise_pairs"]))


def _rates(cell: Record) -> Rates:
    rates, began = json.loads(cell["rates"]), json.loads(cell["began"])
    return {tuple(map(int, trial.split())): (rate, began[trial]) for trial, rate in rates.items()}


def ratios(name: str, cells: Sequence[Record], references: Sequence[Record | None]) -> list[Record]:
    """The ratio of each cell's images/s to its reference's, all judged together.

    Args:
        name: Of the ratio's column; see `Verdict.columns` for the others.
        cells: What is compared, with the columns of `cell_frame`.
        references: What with, one for each. A cell that is its own is no comparison.

    Returns:
        The columns, for each cell; all of them empty where there is nothing to compare with.
    """
    pairs = list(zip(cells, references, strict=True))
    contrasts = [
        None if reference is None or reference is cell else of_cells(cell, reference)
        for cell, reference in pairs
    ]
    found = []
    for (cell, reference), verdict in zip(pairs, judge_all(contrasts), strict=True):
        own = {name: 1.0} if reference is cell and cell["rounds_ok"] else {}
        if verdict and cell["flags"]:
            verdict = verdict.withheld("flagged")
        found.append(verdict.columns(name) if verdict else absent(name) | own)
    return found
