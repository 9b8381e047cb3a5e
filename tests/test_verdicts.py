"""Verdicts on real processes whose truth is known: a published pool of this machine's kind.

What is asserted are shares of comparisons drawn from stored rates: nothing is timed here. See
tests/benchmarks/verdicts.py for how they were measured and what their bounds mean.
"""

from pathlib import Path

import numpy as np
import pytest

from bench.journal import read
from bench.report.contrast import Contrast, judge_all
from tests.benchmarks import verdicts
from tests.benchmarks.verdicts import (
    DELAYED,
    GATE_CELLS,
    GATING_ROUNDS,
    PLANTED_PERCENT,
    ROUNDS,
    VARIANT,
    calls,
    drawn_at_random,
    false_alarms,
    found_slower,
    pool,
    share_of,
    windows,
)


@pytest.fixture(autouse=True)
def _fewer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "DRAWS", 100_000)


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


@pytest.mark.parametrize("rounds", ROUNDS)
def test_neither_are_those_that_ran_one_after_the_other(rounds: int) -> None:
    two = windows(EQUAL, 2 * rounds)
    assert (calls(two[:, 1::2] - two[:, ::2]) != 0).mean() <= 0.01


def test_a_slowdown_of_5_percent_is_found_in_as_many_rounds_as_a_gate_has() -> None:
    share = found_slower(SLOWED - EQUAL, GATING_ROUNDS, GATE_CELLS)
    assert share.found >= 0.95
    assert share.low >= 0.95
    in_order = calls(windows(SLOWED - EQUAL, GATING_ROUNDS), GATE_CELLS) < 0
    assert in_order.mean() >= 0.95
    assert found_slower(SLOWED - EQUAL, 5, GATE_CELLS).found < share.found


@pytest.mark.parametrize("cells", [1, GATE_CELLS])
@pytest.mark.parametrize("rounds", [5, 20])
def test_what_is_called_is_what_the_reports_say(rounds: int, cells: int) -> None:
    drawn = drawn_at_random(len(EQUAL), rounds)[:100]
    for logs in ((SLOWED - EQUAL)[drawn], (EQUAL - SLOWED)[drawn], (EQUAL - SLOWED)[drawn] / 20):
        words = [
            verdict.word
            for one in logs
            for verdict in judge_all([Contrast(list(map(float, one)), "")], comparisons=cells)
            if verdict
        ]
        expected = {1.0: "faster", -1.0: "slower"}
        for word, called in zip(words, calls(logs, cells), strict=True):
            assert (word if word in expected.values() else None) == expected.get(called)


def test_a_bound_is_wider_where_few_processes_decide() -> None:
    random = np.random.default_rng(0)
    drawn = random.random((5000, 50)).argsort(axis=1)[:, :10]
    by_one = share_of((drawn == 7).any(axis=1), drawn, 50)
    by_none = share_of(random.random(5000) < 0.2, drawn, 50)
    assert by_one.found == pytest.approx(by_none.found, abs=0.03)
    assert by_one.high - by_one.low > 5 * (by_none.high - by_none.low)
