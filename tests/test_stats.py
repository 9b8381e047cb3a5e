"""Statistics on made-up rounds, where the truth is known.

How often something happens is counted over seeded draws: a bound that holds, holds in every run.
"""

import math
from collections.abc import Callable
from statistics import fmean

import numpy as np
import pytest

from bench.stats import (
    ALPHA,
    INTERVAL_ROUNDS,
    LEAST_ROUNDS,
    LEVEL,
    Direction,
    Estimate,
    Noise,
    drift,
    estimate,
    has_settled,
    judge,
    paired_logs,
    paired_noise,
    pooled_noise,
    rounds_to_show,
    t_probability,
    t_quantile,
)

Generator = np.random.Generator
Draw = Callable[[Generator, int], np.ndarray]
"""Log rates of so many processes of one cell."""


def calm(random: Generator, rounds: int) -> np.ndarray:
    return np.asarray(random.normal(0, 0.015, rounds))


def outliers(random: Generator, rounds: int) -> np.ndarray:
    """Now and then something else runs beside a process."""
    return np.asarray(calm(random, rounds) - 0.3 * (random.random(rounds) < 0.1))


def bimodal(random: Generator, rounds: int) -> np.ndarray:
    """Processes of two kinds, as memory happens to lie."""
    return np.asarray(random.normal(0, 0.002, rounds) + 0.03 * random.integers(0, 2, rounds))


def lopsided(random: Generator, rounds: int) -> np.ndarray:
    return np.asarray(-random.exponential(0.02, rounds))


def bimodal_steps(random: Generator, rounds: int) -> np.ndarray:
    """Steps of two kinds in processes that differ: each is the rate of its 26 steps."""
    steps_s = random.choice([0.050, 0.065], p=[0.8, 0.2], size=(rounds, 26))
    return np.asarray(calm(random, rounds) - np.log(steps_s.sum(axis=1)))


DRAWS: list[Draw] = [calm, outliers, bimodal, lopsided, bimodal_steps]


def ratios(draw: Draw, rounds: int, effect: float, count: int) -> list[list[float]]:
    """Log ratios of two cells, one of them faster by `effect`, in so many comparisons."""
    random = np.random.default_rng(1)
    return [
        list(math.log1p(effect) + draw(random, rounds) - draw(random, rounds)) for _ in range(count)
    ]


def noise_of(draw: Draw) -> Noise:
    """As `doctor --noise` would have measured it, from 20 processes."""
    return paired_noise(list(np.exp(draw(np.random.default_rng(2), 20))))


def share(answers: list[bool]) -> float:
    return fmean(answers)


# Student's t.


@pytest.mark.parametrize(
    ("level", "degrees", "quantile"),
    [(0.95, 1, 12.706), (0.95, 2, 4.303), (0.95, 4, 2.776), (0.99, 9, 3.250), (0.95, 30, 2.042)],
)
def test_quantiles_are_those_of_the_printed_tables(
    level: float, degrees: int, quantile: float
) -> None:
    assert t_quantile(level, degrees) == pytest.approx(quantile, abs=5e-4)
    assert t_probability(t_quantile(level, degrees), degrees) == pytest.approx(level, abs=1e-12)


def test_with_many_degrees_it_is_the_normal_distribution() -> None:
    assert t_probability(1.959964, 100_000) == pytest.approx(0.95, abs=1e-5)
    assert t_probability(0, 3) == 0


# Estimates.


def test_an_estimate_is_the_geometric_mean_with_its_t_interval() -> None:
    found = estimate([math.log(2), math.log(4), math.log(8)])
    assert found.value == pytest.approx(4)
    half = 4.30265 * math.log(2) / math.sqrt(3)
    assert found.low == pytest.approx(4 * math.exp(-half), rel=1e-4)
    assert found.high == pytest.approx(4 * math.exp(half), rel=1e-4)
    assert found.rounds == 3
    assert found.width == pytest.approx(found.high / found.low - 1)


@pytest.mark.parametrize("rounds", range(1, INTERVAL_ROUNDS))
def test_one_or_two_rounds_tell_too_little_of_their_spread(rounds: int) -> None:
    found = estimate([math.log(3)] * rounds)
    assert found.value == pytest.approx(3)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_equal_rounds_have_no_width() -> None:
    equal = estimate([0.5] * 5)
    assert equal.low == equal.value == equal.high


@pytest.mark.parametrize("rounds", [3, 5, 10, 20, 40])
@pytest.mark.parametrize("draw", DRAWS, ids=lambda draw: draw.__name__)
def test_intervals_cover_the_truth_as_often_as_they_say(draw: Draw, rounds: int) -> None:
    effect = 0.03
    found = [estimate(logs) for logs in ratios(draw, rounds, effect, 2000)]
    assert share([one.low <= 1 + effect <= one.high for one in found]) >= 0.93


def test_intervals_are_no_wider_than_they_must_be() -> None:
    """What covers by being wide would show nothing."""
    for rounds, most in ((5, 0.08), (10, 0.04), (20, 0.025)):
        widths = [estimate(logs).width for logs in ratios(calm, rounds, 0, 200)]
        assert fmean(widths) < most


# Verdicts.


@pytest.mark.parametrize("rounds", [5, 7, 10, 20])
@pytest.mark.parametrize("draw", DRAWS, ids=lambda draw: draw.__name__)
def test_equal_cells_are_rarely_called_different(draw: Draw, rounds: int) -> None:
    noise = noise_of(draw)
    found = [
        judge(logs, noise.floor(rounds), 0.02).direction for logs in ratios(draw, rounds, 0, 2000)
    ]
    assert share([one in (Direction.HIGHER, Direction.LOWER) for one in found]) <= 0.01


def test_a_floor_of_its_own_rounds_does_not_make_it_worse() -> None:
    found = []
    for logs in ratios(calm, 7, 0, 2000):
        noise = pooled_noise([logs])
        assert noise is not None
        found.append(judge(logs, noise.floor(7), 0.02).direction)
    assert share([one in (Direction.HIGHER, Direction.LOWER) for one in found]) <= 0.01


@pytest.mark.parametrize(("effect", "direction"), [(0.05, "higher"), (-0.05, "lower")])
@pytest.mark.parametrize("draw", [calm, bimodal, bimodal_steps], ids=lambda draw: draw.__name__)
def test_a_difference_of_5_percent_is_found_in_10_rounds(
    draw: Draw, effect: float, direction: str
) -> None:
    floor = noise_of(draw).floor(10)
    found = [judge(logs, floor, 0.02).direction for logs in ratios(draw, 10, effect, 500)]
    assert share([one == direction for one in found]) >= (
        0.95 if draw is not bimodal_steps else 0.5
    )


def test_outliers_are_not_thrown_away_but_take_more_rounds() -> None:
    few = [judge(logs, 0, 0.02).direction for logs in ratios(outliers, 10, 0.1, 300)]
    many = [judge(logs, 0, 0.02).direction for logs in ratios(outliers, 80, 0.1, 100)]
    assert share([one is Direction.HIGHER for one in few]) < 0.6
    assert share([one is Direction.HIGHER for one in many]) >= 0.95


def test_equality_is_shown_where_rounds_are_many_or_quiet() -> None:
    quiet = [judge([x / 5 for x in logs], 0.005, 0.02) for logs in ratios(calm, 10, 0, 300)]
    assert share([one.direction is Direction.SAME for one in quiet]) >= 0.95
    many = [judge(logs, 0.005, 0.02) for logs in ratios(calm, 40, 0, 100)]
    assert share([one.direction is Direction.SAME for one in many]) >= 0.9


def test_equality_is_rarely_shown_of_what_differs_by_the_margin() -> None:
    found = [judge(logs, 0.005, 0.02).direction for logs in ratios(calm, 20, 0.02, 300)]
    assert share([one is Direction.SAME for one in found]) <= 0.01


def test_many_comparisons_together_are_as_rarely_wrong_as_one() -> None:
    cells, wrong = 20, []
    logs = ratios(calm, 7, 0, cells * 300)
    for start in range(0, len(logs), cells):
        family = [judge(one, 0.0, 0.02, cells) for one in logs[start : start + cells]]
        wrong.append(any(one.direction in (Direction.HIGHER, Direction.LOWER) for one in family))
    assert share(wrong) <= 0.015
    assert share([one.low > 1 or one.high < 1 for one in map(estimate, logs)]) > 0.04


@pytest.mark.parametrize("rounds", range(1, LEAST_ROUNDS))
def test_too_few_rounds_show_nothing_however_clear_they_look(rounds: int) -> None:
    found = judge([0.5 + k / 1000 for k in range(rounds)], 0.0, 0.02)
    assert found.direction is Direction.UNKNOWN
    assert found.strict is None
    assert found.why.startswith(f"{rounds} round")
    assert str(LEAST_ROUNDS) in found.why


def test_what_is_significant_but_below_the_floor_is_not_shown() -> None:
    logs = [0.030, 0.031, 0.029, 0.030, 0.032]
    assert judge(logs, 0.02, 0.01).direction is Direction.HIGHER
    below = judge(logs, 0.04, 0.01)
    assert (below.direction, below.why) == (Direction.UNKNOWN, "below the noise floor")


def test_a_difference_within_the_margin_is_one_and_is_called_the_same() -> None:
    logs = [0.010, 0.011, 0.009, 0.010, 0.012]
    found = judge(logs, 0.001, 0.02)
    assert (found.direction, found.differs) == (Direction.SAME, True)
    assert judge(logs, 0.001, 0.005).direction is Direction.HIGHER


@pytest.mark.parametrize(("drift", "direction"), [(0.01, "higher"), (0.05, "unknown")])
def test_a_drift_widens_what_the_rounds_leave_open(drift: float, direction: str) -> None:
    logs = [0.030, 0.031, 0.029, 0.030, 0.032]
    assert judge(logs, 0.0, 0.001, drift=drift).direction == direction
    unknown = judge(logs, 0.0, 0.001, drift=math.inf)
    assert (unknown.direction, unknown.why) == (Direction.UNKNOWN, "not measured in turn")


def test_equality_needs_a_floor_within_the_margin() -> None:
    logs = [0.001, -0.001, 0.0, 0.001, -0.002]
    assert judge(logs, 0.005, 0.02).direction is Direction.SAME
    assert judge(logs, 0.03, 0.02).direction is Direction.UNKNOWN


def test_what_scatters_is_called_noisy() -> None:
    found = judge([0.1, -0.1, 0.05, -0.08, 0.02], 0.001, 0.02)
    assert (found.direction, found.why) == (Direction.UNKNOWN, "too noisy")


@pytest.mark.parametrize("rounds", [1, 5])
def test_what_is_equal_to_the_last_bit_is_the_same(rounds: int) -> None:
    found = judge([0.0] * rounds, math.inf, 0.02)
    assert found.direction is Direction.SAME
    assert isinstance(found.strict, Estimate)
    assert (found.strict.low, found.strict.high) == (1, 1)


def test_the_strict_interval_is_wider_with_more_comparisons() -> None:
    logs = ratios(calm, 10, 0, 1)[0]
    one, many = judge(logs, 0, 0.02).strict, judge(logs, 0, 0.02, 50).strict
    assert one is not None
    assert many is not None
    assert many.width > one.width > estimate(logs, LEVEL).width
    assert one == estimate(logs, 1 - ALPHA)


def test_rounds_pair_by_their_number() -> None:
    logs = paired_logs({0: 2.0, 2: 8.0, 3: 5.0}, {2: 2.0, 0: 1.0, 7: 9.0})
    assert logs == pytest.approx([math.log(2), math.log(4)])


# Drift.


def drifting(rounds: int, percent: float, random: Generator) -> tuple[list[float], list[float]]:
    """Log rates of two equal cells in a machine that slows down, as a sweep measures them: in turn,
    each round beginning with the other."""
    moments = random.normal(0, 0.01, 2 * rounds) - np.linspace(0, percent / 100, 2 * rounds)
    pairs = moments.reshape(rounds, 2)
    pairs[1::2] = pairs[1::2, ::-1]
    return list(pairs[:, 0]), list(pairs[:, 1])


def test_a_drift_of_the_machine_is_no_difference_of_cells_measured_in_turn() -> None:
    random = np.random.default_rng(3)
    found = []
    for _ in range(1000):
        a, b = drifting(10, 15, random)
        found.append(judge([x - y for x, y in zip(a, b, strict=True)], 0.0, 0.02).direction)
    assert share([one in (Direction.HIGHER, Direction.LOWER) for one in found]) <= 0.01


def test_a_drift_is_seen_between_cells_measured_one_after_the_other() -> None:
    random = np.random.default_rng(4)
    values = list(np.exp(random.normal(0, 0.005, 20) - np.linspace(0, 0.2, 20)))
    assert paired_noise(values).floor(10) < 0.02
    assert drift(values, 10) == pytest.approx(0.105, abs=0.01)  # between the halves' middles
    assert drift(values, 1000) == drift(values, 10)
    assert drift(list(np.exp(random.normal(0, 0.005, 20))), 10) < 0.01


# The noise floor.


def test_the_floor_is_what_1_of_20_comparisons_of_equal_cells_exceeds() -> None:
    floor = paired_noise(list(np.exp(calm(np.random.default_rng(5), 2000)))).floor(10)
    beyond = [abs(fmean(logs)) > floor for logs in ratios(calm, 10, 0, 2000)]
    assert share(beyond) == pytest.approx(0.05, abs=0.015)


def test_a_floor_from_few_processes_is_higher() -> None:
    assert Noise(0.02, 2).floor(10) > Noise(0.02, 20).floor(10)
    assert Noise(0.02, 5).floor(40) == pytest.approx(Noise(0.02, 5).floor(10) / 2)


def test_pooled_noise_is_that_of_cells_each_about_its_own_mean() -> None:
    groups = ratios(calm, 10, 0.5, 40) + ratios(calm, 10, -0.2, 40)
    noise = pooled_noise(groups)
    assert noise is not None
    assert noise.degrees == 80 * 9
    assert noise.spread == pytest.approx(0.015 * math.sqrt(2), rel=0.1)
    assert pooled_noise([[0.1], [0.2]]) is None


@pytest.mark.parametrize("percent", [1, 2, 5])
def test_rounds_to_show_a_difference_are_enough_and_not_too_many(percent: int) -> None:
    noise = Noise(0.015 * math.sqrt(2), 50)
    enough = rounds_to_show(percent, noise, most=1000)
    assert enough is not None

    def shown(rounds: int) -> float:
        found = (
            judge(logs, noise.floor(rounds), 0.02)
            for logs in ratios(calm, rounds, percent / 100, 1000)
        )
        return share([one.differs and one.ratio.value > 1 for one in found])

    assert shown(enough) >= 0.95
    assert shown(round(0.6 * enough)) < 0.95
    assert rounds_to_show(percent, noise, most=enough - 1) is None


# Warm-up.


@pytest.mark.parametrize(
    ("steps_s", "settled"),
    [
        ([], None),
        ([1.0], None),
        ([1.0, 1.0], True),
        ([1.0, 0.9], False),  # still becoming faster
        ([1.0, 1.1], True),  # slower is no warm-up
        ([1.00, 1.00, 5.0, 0.99, 0.99], True),  # by less than 2 %; the middle is left out
        ([1.00, 1.00, 5.0, 0.97, 0.97], False),
        ([1.0, 1.0, 9.0, 1.0, 1.0, 1.0], True),  # medians: one slow step is no trend
        ([3.0, 1.0, 1.0, 1.0, 1.0, 1.0], True),
        # A difference of 5 %, among steps that scatter by 10 % and among steps that do not.
        ([1.0, 1.1, 0.9, 1.05, 1.0, 0.95, 1.05, 0.85, 0.95, 1.0], True),
        ([1.0, 1.001, 0.999, 1.0, 1.0, 0.95, 0.951, 0.949, 0.95, 0.95], False),
    ],
)
def test_steps_have_settled_when_they_become_no_faster(
    steps_s: list[float], settled: bool | None
) -> None:
    assert has_settled(steps_s) is settled


@pytest.mark.parametrize(("faster", "settled"), [(0.0230, True), (0.0240, False)])
def test_a_trend_is_one_beyond_two_standard_errors(faster: float, settled: bool) -> None:
    """Steps deviate by 0.01 in the median, so that twice the standard error is 0.0235."""
    half = [1.00, 1.02, 0.98, 1.01, 0.99]
    assert has_settled([*half, *(step_s - faster for step_s in half)]) is settled
