"""Statistics of a measurement: floats in, floats out.

A round, that is a process, is one observation: steps within a process are not independent. Two
cells are compared by the logarithms of their ratio in every round, so that what a round does to
both alike cancels. The mean of these is the logarithm of the geometric mean ratio.

Intervals are Student's t intervals of these logarithms, whatever the number of rounds. Where both
cells scatter alike, their ratio scatters evenly to both sides, so that t intervals hold from few
rounds on, with outliers and with processes of two kinds too. Bootstraps over rounds do not: with an
outlier in 10 processes, intervals at 95 % cover 87 % (studentized) or 88 % (percentiles) of 20
rounds, 92 % and 93 % of 60, where t covers 94 % and more (tests/benchmarks/intervals.py).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from statistics import fmean, median, stdev
from typing import Any

import numpy as np

SETTLED_PERCENT = 2.0
"""Steps that become faster by more than this are still warming up."""

SETTLED_STEPS = 10
"""So many are looked at: with fewer, noise would soon pass for an end of the trend."""

LEVEL = 0.95
"""Confidence level of the intervals that are shown."""

ALPHA = 0.005
"""How often a verdict may call equal things different, all cells of one comparison together."""

INTERVAL_ROUNDS = 3
"""For an interval: of 2 rounds, it covers 89 % where processes are of two kinds."""

LEAST_ROUNDS = 5
"""For any verdict. Where processes are of two kinds at random, one comparison of two equal cells in
2**(2 * rounds - 1) finds all rounds of the one on this side and of the other on that: 3 % of them
at 3 rounds, 0.2 % at 5."""


def has_settled(steps_s: Sequence[float]) -> bool | None:
    """Whether step times have stopped to fall.

    Args:
        steps_s: Times of the latest steps, in order.

    Returns:
        Whether the median of their later half lies below that of their earlier half (of an odd
        number the middle one is left out) by no more than `SETTLED_PERCENT`, or than twice the
        standard error of that difference, by the median deviation of steps from the median of their
        half; `None` for less than two steps.
    """
    half = len(steps_s) // 2
    if not half:
        return None
    halves = steps_s[:half], steps_s[-half:]
    earlier, later = map(median, halves)
    deviation = median(abs(step_s - median(one)) for one in halves for step_s in one)
    # Of normal noise, 1.4826 of its median deviation is its standard deviation, and a median has
    # 1.2533 times the standard error of a mean.
    error = 1.2533 * 1.4826 * deviation * math.sqrt(2 / half)
    return earlier - later <= max(SETTLED_PERCENT / 100 * earlier, 2 * error)


def t_probability(t: float, degrees: int) -> float:
    """P(|T| <= t) of Student's t distribution.

    Exact: Abramowitz & Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.

    Args:
        t: Not negative.
        degrees: Degrees of freedom, at least 1.
    """
    theta = math.atan(t / math.sqrt(degrees))
    odd = degrees % 2
    term = total = math.cos(theta) if odd else 1.0
    for k in range(2 + odd, degrees - 1, 2):  # each power of the cosine by the one before
        term *= math.cos(theta) ** 2 * (k - 1) / k
        total += term
    if not odd:
        return math.sin(theta) * total
    return 2 / math.pi * (theta + (math.sin(theta) * total if degrees > 1 else 0.0))


@cache
def t_quantile(level: float, degrees: int) -> float:
    """The t with P(|T| <= t) = level, by bisection; see `t_probability`."""
    low, high = 0.0, 1.0
    while t_probability(high, degrees) < level:
        low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if t_probability(middle, degrees) < level:
            low = middle
        else:
            high = middle
    return high


@dataclass(frozen=True)
class Estimate:
    """A geometric mean over rounds and its confidence interval.

    Attributes:
        value: The geometric mean.
        low, high: The interval's ends; both `nan` for less than `INTERVAL_ROUNDS`.
        rounds: How many it comes from.
    """

    value: float
    low: float
    high: float
    rounds: int

    @property
    def width(self) -> float:
        """The interval's width as a share: 0.02 where its upper end is 2 % above its lower."""
        return self.high / self.low - 1


def estimate(logs: Sequence[float], level: float = LEVEL) -> Estimate:
    """The mean of logarithms and its interval, as `Estimate` of what they are logarithms of.

    Args:
        logs: One for each round, at least one.
        level: Confidence level.
    """
    rounds, mean = len(logs), fmean(logs)
    if rounds < INTERVAL_ROUNDS:
        return Estimate(math.exp(mean), math.nan, math.nan, rounds)
    reach = t_quantile(level, rounds - 1) * stdev(logs) / math.sqrt(rounds)
    return Estimate(math.exp(mean), math.exp(mean - reach), math.exp(mean + reach), rounds)


def paired_logs(values: Mapping[Any, float], others: Mapping[Any, float]) -> list[float]:
    """Logarithms of value / other in every round that both have.

    Args:
        values: Round -> positive value.
        others: The same of what they are compared with.
    """
    return [math.log(values[k] / others[k]) for k in sorted(values.keys() & others.keys())]


class Direction(StrEnum):
    """What is known of a ratio."""

    HIGHER = "higher"
    LOWER = "lower"
    SAME = "same"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Judgement:
    """What rounds tell of a ratio.

    Attributes:
        ratio: The geometric mean ratio and its interval at `LEVEL`.
        strict: The same at the level that the verdict is held to, widened by drift; `None` where
            nothing can be said.
        direction: What is shown.
        differs: Whether a difference is shown, though it may lie within the margin.
        why: Where nothing is: what is missing, in words; otherwise empty.
    """

    ratio: Estimate
    strict: Estimate | None
    direction: Direction
    differs: bool
    why: str


def judge(
    logs: Sequence[float],
    floor: float,
    margin: float,
    comparisons: int = 1,
    unit: str = "round",
    drift: float = 0.0,
) -> Judgement:
    """Whether a ratio is shown to differ from 1, or to lie near it.

    A difference needs both: an interval at 1 - `ALPHA` / `comparisons` (Bonferroni) without 1 in
    it, and a ratio beyond the noise floor. Equivalence needs that interval to lie within the margin
    (two one-sided tests; Schuirmann 1987), and a floor that does; a difference that is shown to lie
    within the margin is called the same too. What is equal to the last bit in every round is the
    same, however few they are.

    Args:
        logs: Of the ratio, one for each round, at least one.
        floor: Logarithm of a ratio that equal things may show; not negative.
        margin: Differences up to this share do not matter: 0.02 for ratios from 1/1.02 to 1.02.
        comparisons: How many are made at once.
        unit: What the logarithms are of, in words.
        drift: Logarithm of what may have changed in all of them alike, besides what is compared;
            infinite where nothing is known of it.
    """
    ratio = estimate(logs)
    if not any(logs):
        equal = replace(ratio, low=1.0, high=1.0)
        return Judgement(equal, equal, Direction.SAME, differs=False, why="")
    if ratio.rounds < LEAST_ROUNDS:
        few = f"{ratio.rounds} {unit}{'s' if ratio.rounds > 1 else ''}, {LEAST_ROUNDS} are needed"
        return Judgement(ratio, None, Direction.UNKNOWN, differs=False, why=few)
    strict = estimate(logs, 1 - ALPHA / comparisons)
    # Where the drift is not known, from nothing to infinity.
    strict = replace(strict, low=strict.low * math.exp(-drift), high=strict.high * math.exp(drift))
    significant = strict.low > 1 or strict.high < 1
    differs = significant and abs(math.log(ratio.value)) > floor
    near, why = 1 + margin, ""
    if math.exp(floor) <= near and 1 / near <= strict.low and strict.high <= near:
        direction = Direction.SAME
    elif differs:
        direction = Direction.HIGHER if ratio.value > 1 else Direction.LOWER
    else:
        direction = Direction.UNKNOWN
        why = "below the noise floor" if significant else "too noisy"
        if math.isinf(drift):
            why = "not measured in turn"
    return Judgement(ratio, strict, direction, differs, why)


@dataclass(frozen=True)
class Noise:
    """How log ratios of equal things scatter about 0.

    Attributes:
        spread: Standard deviation in one round.
        degrees: Degrees of freedom that it is known with, at least 1.
    """

    spread: float
    degrees: int

    def floor(self, rounds: int) -> float:
        """The noise floor: the log ratio that 1 of 20 comparisons of equal things exceeds."""
        return t_quantile(0.95, self.degrees) * self.spread / math.sqrt(rounds)


def pooled_noise(groups: Sequence[Sequence[float]]) -> Noise | None:
    """The noise of a comparison by its own rounds.

    Args:
        groups: Log ratios of comparable cells, one for each round; each cell about its own mean.

    Returns:
        `None` if no group has two rounds.
    """
    degrees = sum(len(logs) - 1 for logs in groups if logs)
    if not degrees:
        return None
    means = [fmean(logs) if logs else 0.0 for logs in groups]
    squares = sum(
        (value - mean) ** 2 for logs, mean in zip(groups, means, strict=True) for value in logs
    )
    return Noise(math.sqrt(squares / degrees), degrees)


def paired_noise(values: Sequence[float]) -> Noise:
    """The noise of cells that are measured in turn.

    Args:
        values: Positive ones, of equal processes in the order they ran; at least two. Each two in a
            row are a comparison of equal things.
    """
    pairs = list(zip(values[::2], values[1::2], strict=False))
    squares = sum(math.log(b / a) ** 2 for a, b in pairs)
    return Noise(math.sqrt(squares / len(pairs)), len(pairs))


def drift(values: Sequence[float], rounds: int) -> float:
    """What cells differed by that were measured one after the other, though they are equal.

    Args:
        values: See `paired_noise`.
        rounds: Of a comparison; half of the processes at most.

    Returns:
        The largest log ratio between the geometric means of so many processes and of as many that
        ran next.
    """
    logs = np.log(values)
    count = min(rounds, len(logs) // 2)
    return max(
        abs(float(logs[k : k + count].mean() - logs[k + count : k + 2 * count].mean()))
        for k in range(len(logs) - 2 * count + 1)
    )


def rounds_to_show(percent: float, noise: Noise, most: int) -> int | None:
    """How many rounds show a difference, in 19 of 20 comparisons of two cells.

    Args:
        percent: So much higher is one of them.
        noise: Of such comparisons.
        most: Is tried.

    Returns:
        The least number for which the difference exceeds the noise floor, and the interval that
        `judge` asks for by another t quantile, which is a little more than it takes; `None` beyond
        `most`.
    """
    effect = math.log1p(percent / 100)
    for rounds in range(LEAST_ROUNDS, most + 1):
        quantiles = t_quantile(1 - ALPHA, rounds - 1) + t_quantile(0.95, rounds - 1)
        if effect > max(quantiles * noise.spread / math.sqrt(rounds), noise.floor(rounds)):
            return rounds
    return None
