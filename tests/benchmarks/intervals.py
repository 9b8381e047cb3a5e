"""How often intervals at 95 % cover the truth: Student's t beside bootstraps over rounds.

    python -m tests.benchmarks.intervals

On the made-up noise of tests/test_stats.py, for the ratio of two cells. The studentized bootstrap
is that of Efron & Tibshirani, An Introduction to the Bootstrap, 1993, section 12.5.
"""

import math

import numpy as np

from bench.stats import LEVEL, estimate
from tests.test_stats import DRAWS, ratios

EFFECT = 0.03
COMPARISONS = 1000
RESAMPLES = 2000
TAILS = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]


def bootstraps(logs: np.ndarray) -> tuple[tuple[float, float], tuple[float, float]]:
    """The studentized interval and that of percentiles, of logarithms of shape (rounds,)."""
    rounds = len(logs)
    drawn = logs[np.random.default_rng(0).integers(rounds, size=(RESAMPLES, rounds))]
    means, errors = drawn.mean(axis=1), drawn.std(axis=1, ddof=1) / math.sqrt(rounds)
    some = errors > 0
    low, high = np.quantile((means[some] - logs.mean()) / errors[some], TAILS)
    error = logs.std(ddof=1) / math.sqrt(rounds)
    first, last = np.quantile(means, TAILS)
    return (logs.mean() - high * error, logs.mean() - low * error), (float(first), float(last))


def main() -> None:
    """See the module."""
    truth = math.log1p(EFFECT)
    print("noise          rounds       t  studentized  percentiles")  # noqa: T201 (a program)
    for draw in DRAWS:
        for rounds in (3, 5, 10, 20, 40, 60):
            covered = []
            for logs in ratios(draw, rounds, EFFECT, COMPARISONS):
                found = estimate(logs)
                t = math.log(found.low), math.log(found.high)
                covered.append([a <= truth <= b for a, b in (t, *bootstraps(np.array(logs)))])
            shares = 100 * np.mean(covered, axis=0)
            print(  # noqa: T201
                f"{draw.__name__:13}  {rounds:6}  "
                + "  ".join(f"{share:9.1f} %" for share in shares)
            )


if __name__ == "__main__":
    main()
