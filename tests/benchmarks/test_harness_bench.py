"""What the harness itself costs: a trial's start, the parent while it measures, a journal line."""

import statistics
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.journal import Journal
from bench.runner import Runner
from bench.trial import Status, TrialResult
from tests.harness import Listening, row_of, run_toy, toy_trial
from tests.toy import SETTINGS


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Runner("tests.toy_task:ToyTask", timeout_s=60) as runner:
        runner.ask("bench.worker:probe", {"device": "cpu"})  # the server has started
        yield runner


def test_trial_start(benchmark: BenchmarkFixture, runner: Runner) -> None:
    """From the request to the first line of the trial's own code, after the first of a round."""
    starts: list[float] = []

    def trial() -> TrialResult:
        result = run_toy(runner, toy_trial())
        assert result.start_s is not None
        starts.append(result.start_s)
        return result

    result = benchmark.pedantic(trial, rounds=20)  # type: ignore[no-untyped-call]
    assert result.status is Status.OK
    benchmark.extra_info["start_s_median"] = statistics.median(starts)
    benchmark.extra_info["start_s_max"] = max(starts)


def test_parent_while_measuring(benchmark: BenchmarkFixture, runner: Runner) -> None:
    """The parent's CPU time as a share of a core, over the measured window of 2 s."""
    settings = {**SETTINGS, "sleep_ms": 20}
    shares: list[float] = []

    def trial() -> TrialResult:
        cpu_s: dict[str, float] = {}
        wall_s: dict[str, float] = {}

        def on_phase(phase: str) -> None:
            cpu_s[phase], wall_s[phase] = time.process_time(), time.monotonic()

        asked = toy_trial(settings=settings, batch_size=1, samples=106)
        result = run_toy(runner, asked, Listening(on_phase))
        used_s = cpu_s["training"] - cpu_s["measuring"]
        shares.append(100 * used_s / (wall_s["training"] - wall_s["measuring"]))
        return result

    result = benchmark.pedantic(trial, rounds=3)  # type: ignore[no-untyped-call]
    assert result.status is Status.OK
    benchmark.extra_info["parent_cpu_percent_median"] = statistics.median(shares)


def test_journal_append(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """One synced line of a trial of 400 steps."""
    numbers = count()
    result = TrialResult(Status.OK, step_phase_s=[[0.001] * 4] * 400, losses=[0.1] * 400)
    with Journal(tmp_path) as journal:

        def append() -> None:
            row = row_of(toy_trial(round=next(numbers)))
            row.result.step_phase_s, row.result.losses = result.step_phase_s, result.losses
            journal.append(row)

        benchmark(append)
        assert len(journal.rows) == next(numbers)
