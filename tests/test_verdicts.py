"""Verdicts on real processes whose truth is known: a published pool of this machine's kind.

What is asserted are shares of comparisons drawn from stored rates: nothing is timed here. See
tests/benchmarks/verdicts.py for how they were measured and what their bounds mean.
"""

from pathlib import Path

import numpy as np
import pytest

from bench.journal import read
from tests.benchmarks.verdicts import (
    DELAYED,
    GATING_ROUNDS,
    PLANTED_PERCENT,
    VARIANT,
    false_alarms,
    found_slower,
    in_windows,
    pool,
    share_of,
)

ROWS = read(
    Path(__file__).parent.parent / "results/2026-11-25_amd-epyc-2-cores_torch-2.14.1_verdicts"
)
EQUAL, SLOWED = pool(ROWS)


def test_the_pool_is_one_of_independent_processes() -> None:
    """One of each variant a round, and each round from a server of its own."""
    assert len(EQUAL) == len(SLOWED) >= 60
    assert {row.trial.variant for row in ROWS} == {VARIANT, DELAYED}
    assert len({(row.trial.variant, row.trial.round) for row in ROWS}) == len(ROWS)


def test_the_planted_slowdown_is_there() -> None:
    assert np.exp((SLOWED - EQUAL).mean()) == pytest.approx(
        1 / (1 + PLANTED_PERCENT / 100), abs=0.01
    )


@pytest.mark.parametrize("rounds", [5, 10, GATING_ROUNDS])
def test_equal_processes_are_rarely_called_different(rounds: int) -> None:
    share = false_alarms(EQUAL, rounds)
    assert share.found <= 0.01
    assert share.high <= 0.01
    called, windows = in_windows(EQUAL, rounds)
    assert called <= 0.01 * windows


def test_a_slowdown_of_5_percent_is_found_in_as_many_rounds_as_a_gate_has() -> None:
    share = found_slower(SLOWED - EQUAL, GATING_ROUNDS)
    assert share.found >= 0.95
    assert share.low >= 0.95
    assert found_slower(SLOWED - EQUAL, 5).found < share.found


def test_a_bound_is_wider_where_few_processes_decide() -> None:
    random = np.random.default_rng(0)
    drawn = random.random((5000, 50)).argsort(axis=1)[:, :10]
    by_one = share_of((drawn == 7).any(axis=1), drawn, 50)
    by_none = share_of(random.random(5000) < 0.2, drawn, 50)
    assert by_one.found == pytest.approx(by_none.found, abs=0.03)
    assert by_one.high - by_one.low > 5 * (by_none.high - by_none.low)
