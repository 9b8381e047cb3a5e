import errno
import io
import itertools
import json
import os
import signal
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench import budget as memory_budget
from bench import worker
from bench.runner import Runner
from bench.steps import StepBoard
from bench.trial import PHASES, Status, Trial, TrialResult
from bench.worker import CpuClock, CudaClock, measured_until, sample_batches
from tests.children import MIB
from tests.harness import LIMIT_S, run_toy, toy_trial
from tests.toy import PLAIN, SETTINGS

TRAIN_SIZE = 64


def sequence(trial: Trial, train_size: int) -> list[int]:
    return [int(i) for batch in sample_batches(trial, train_size) for i in batch]


@pytest.mark.parametrize("samples", [1, 63, 64, 65, 200])
def test_all_batch_sizes_see_the_same_samples_in_the_same_order(samples: int) -> None:
    sequences = set()
    for batch_size in (1, 3, 7, 64, 100):
        trial = toy_trial(batch_size=batch_size, samples=samples)
        sizes = [len(batch) for batch in sample_batches(trial, TRAIN_SIZE)]
        assert sum(sizes) == samples
        assert len(sizes) == trial.steps
        assert set(sizes[:-1]) <= {batch_size}
        assert 1 <= sizes[-1] <= batch_size
        sequences.add(tuple(sequence(trial, TRAIN_SIZE)))
    assert len(sequences) == 1


def test_each_pass_is_a_permutation_and_no_two_are_the_same() -> None:
    order = sequence(toy_trial(samples=3 * 64 + 10, batch_size=7), TRAIN_SIZE)
    passes = [order[start : start + 64] for start in range(0, 3 * 64, 64)]
    assert all(sorted(one) == list(range(64)) for one in passes)
    assert len({tuple(one) for one in passes}) == 3
    assert len(set(order[3 * 64 :])) == 10


def test_a_seed_decides_the_order_and_a_round_does_not() -> None:
    base = sequence(toy_trial(), TRAIN_SIZE)
    assert sequence(toy_trial(round=1), TRAIN_SIZE) == base
    assert sequence(toy_trial(seed=1), TRAIN_SIZE) != base
    # A shorter run is the beginning of a longer one.
    assert sequence(toy_trial(samples=256), TRAIN_SIZE)[:64] == base


def test_indices_are_what_a_workload_is_promised() -> None:
    batch = next(sample_batches(toy_trial(), TRAIN_SIZE))
    assert batch.dtype == np.int64
    assert batch.shape == (4,)


@pytest.mark.parametrize(("samples", "last"), [(32, 8), (33, 8), (35, 8), (36, 9)])
def test_all_whole_batches_are_measured(samples: int, last: int) -> None:
    assert measured_until(toy_trial(samples=samples, batch_size=4)) == last


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Runner("tests.toy_task:ToyTask", timeout_s=LIMIT_S) as runner:
        yield runner


def run(runner: Runner, **changes: Any) -> TrialResult:
    return run_toy(runner, toy_trial(**changes))


@pytest.fixture(scope="module")
def partial(runner: Runner) -> TrialResult:
    """First step, 2 of warm-up, 5 measured ones and one of 2 samples."""
    return run(runner, samples=34, batch_size=4, warmup_steps=2, measured_steps=5)


def test_the_window_leaves_out_the_first_step_the_warm_up_and_a_smaller_last_batch(
    partial: TrialResult,
) -> None:
    assert partial.status is Status.OK
    assert partial.step_samples == [4] * 8 + [2]
    assert partial.window == [3, 8]
    names = ["starting", "building", "first_step", "warming_up", "measuring", "training"]
    assert list(partial.phase_at_s) == [*names, "evaluating"]
    assert list(partial.parent_phase_at_s) == list(partial.phase_at_s)
    moments = list(partial.phase_at_s.values())
    assert moments == sorted(moments)
    assert partial.phase == "evaluating"


def test_every_step_has_its_loss_and_the_time_of_each_part(partial: TrialResult) -> None:
    assert len(partial.losses) == len(partial.step_phase_s) == 9
    for parts in partial.step_phase_s:
        assert len(parts) == len(PHASES)
        assert all(part > 0 for part in parts)
        assert parts[PHASES.index("forward")] >= 0.001  # where the toy sleeps


def test_progress_runs_from_0_at_the_first_step_to_1_at_the_last(partial: TrialResult) -> None:
    assert partial.facts["progress"] == [step / 8 for step in range(9)]


def test_the_seed_decides_what_a_task_draws(runner: Runner) -> None:
    first, again, other = (run(runner, seed=seed).facts["drawn"] for seed in (3, 3, 4))
    assert again == first
    assert all(here != there for here, there in zip(first, other, strict=True))


def test_without_warm_up_the_second_step_is_measured(runner: Runner) -> None:
    result = run(runner, samples=32, warmup_steps=0, measured_steps=3)
    assert result.status is Status.OK
    assert result.window == [1, 8]
    assert "warming_up" not in result.phase_at_s
    assert list(result.phase_at_s)[2:5] == ["first_step", "measuring", "training"]
    assert result.images_per_s == pytest.approx(
        28 / (result.phase_at_s["training"] - result.phase_at_s["measuring"])
    )


def warming(runner: Runner, until: int) -> TrialResult:
    """44 steps, of which the first so many become faster by 10 ms each."""
    return run(
        runner,
        axes={**PLAIN, "fault": "warming"},
        settings={**SETTINGS, "sleep_ms": 10, "at_step": until},
        batch_size=1,
        samples=44,
        warmup_steps=4,
        measured_steps=20,
    )


def test_warm_up_goes_on_until_step_times_have_settled(runner: Runner) -> None:
    result = warming(runner, until=6)
    assert result.settled is True
    # Of ten steps, the median of the first five is that of steps that are warm.
    assert 13 <= result.window[0] <= 18
    assert result.window[1] == 44


def test_warm_up_ends_at_its_cap_and_says_so(runner: Runner) -> None:
    result = warming(runner, until=44)
    assert result.settled is False
    assert result.window == [24, 44]


def test_steady_steps_are_warm_after_the_least_warm_up(runner: Runner) -> None:
    sleepy = {**SETTINGS, "sleep_ms": 30}
    windows = [
        run(runner, settings=sleepy, batch_size=1, samples=32, warmup_steps=4).window[0]
        for _ in range(2)
    ]
    assert min(windows) == 11


def test_less_than_two_steps_cannot_tell_whether_they_have_settled(runner: Runner) -> None:
    assert run(runner, warmup_steps=1).settled is None


def test_first_step_and_steady_memory_are_recorded_apart(partial: TrialResult) -> None:
    memory = partial.memory
    assert memory["budget_bytes"] == toy_trial().budget_bytes
    for name in ("peak_bytes", "first_step_peak_bytes", "baseline_bytes"):
        value = memory[name]
        assert isinstance(value, int), name
        assert 0 < value < toy_trial().budget_bytes


def test_what_only_the_first_step_takes_is_no_part_of_the_steady_peak(runner: Runner) -> None:
    axes = PLAIN | {"fault": "heavy"}
    memory = run(runner, axes=axes, variant="heavy", budget_bytes=4096 * MIB).memory
    first, steady = memory["first_step_peak_bytes"], memory["peak_bytes"]
    assert isinstance(first, int)
    assert isinstance(steady, int)
    assert first - steady > 200 * MIB


def test_quality_and_facts_are_the_task_s_own(partial: TrialResult) -> None:
    assert set(partial.quality) == {"final_mse", "grey_mse", "mean_color_mse"}
    # As they are when the last step has been taken.
    told = {name: partial.facts[name] for name in ("batch_size", "steps")}
    assert told == {"batch_size": 4, "steps": len(partial.step_samples)}


PARENT_SPANS = list(itertools.product(["measuring", "first_step"], ["training", "evaluating"]))


def steps_off(result: TrialResult, begins: str, ends: str, steps: slice) -> float:
    """By what share the steps differ from the wall time between two phases."""
    wall_s = result.phase_at_s[ends] - result.phase_at_s[begins]
    return abs(sum(map(sum, result.step_phase_s[steps])) / wall_s - 1)


def warm_up_off(result: TrialResult) -> float:
    return steps_off(result, "warming_up", "measuring", slice(1, result.window[0]))


def window_off(result: TrialResult) -> float:
    return steps_off(result, "measuring", "training", slice(*result.window))


def parent_off(result: TrialResult, begins: str, ends: str) -> float:
    """By what share the parent's clock differs from the child's."""
    child_s = result.phase_at_s[ends] - result.phase_at_s[begins]
    parent_s = result.parent_phase_at_s[ends] - result.parent_phase_at_s[begins]
    return abs(parent_s / child_s - 1)


@pytest.fixture(scope="module")
def long(runner: Runner) -> TrialResult:
    """Steps of 20 ms, 3 s of them in the window; the attempt with the least disagreement of three.

    A loaded machine may hold up a process between two readings of the clock. A mistake is there in
    every attempt.
    """

    def off(result: TrialResult) -> float:
        parent = [parent_off(result, *span) for span in PARENT_SPANS]
        return max(window_off(result), warm_up_off(result) / 5, *parent)

    attempts: list[TrialResult] = []
    sleepy = {**SETTINGS, "sleep_ms": 20}
    while len(attempts) < 3 and (not attempts or off(attempts[-1]) > 0.01):
        attempts.append(run(runner, settings=sleepy, batch_size=1, samples=160, warmup_steps=5))
    return min(attempts, key=off)


def test_a_window_s_steps_sum_to_its_wall_time(long: TrialResult) -> None:
    assert long.phase_at_s["training"] - long.phase_at_s["measuring"] > 3
    assert window_off(long) <= 0.01


def test_phases_begin_where_the_steps_say(long: TrialResult) -> None:
    assert warm_up_off(long) <= 0.05  # one step of ten would be 10 %
    assert window_off(long) <= 0.1


@pytest.mark.parametrize(("begins", "ends"), PARENT_SPANS)
def test_the_parent_s_clock_agrees(long: TrialResult, begins: str, ends: str) -> None:
    assert parent_off(long, begins, ends) <= 0.01


def test_the_rate_is_images_by_wall_time_by_either_clock(long: TrialResult) -> None:
    images = long.window[1] - long.window[0]
    assert images == 160 - long.window[0]
    for clock in (long.phase_at_s, long.parent_phase_at_s):
        window_s = clock["training"] - clock["measuring"]
        assert long.images_per_s == pytest.approx(images / window_s, rel=0.01)


def test_the_parent_samples_all_through_the_measured_window(long: TrialResult) -> None:
    measured = [s for s in long.monitor if s["phase"] == "measuring"]
    assert len(measured) >= 4
    assert all(s["rss_anon_bytes"] for s in long.monitor if s["phase"] == "measuring")
    cpu_s = [s["cpu_s"] for s in long.monitor if s["phase"] is not None and s["cpu_s"]]
    assert cpu_s == sorted(cpu_s, key=float)


def test_the_same_trial_learns_the_same_in_two_processes(
    runner: Runner, partial: TrialResult
) -> None:
    changes = {"samples": 34, "batch_size": 4, "warmup_steps": 2, "measured_steps": 5}
    again = run(runner, **changes, round=1)
    assert again.losses == partial.losses
    assert again.quality == partial.quality
    other = run(runner, **changes, seed=1)
    assert other.losses != partial.losses


def test_a_task_that_cannot_be_found_is_a_crash_that_names_it(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_task", "tests.toy_task:NoSuchTask")
    result = run(runner)
    assert result.status is Status.CRASH
    assert result.reason is not None
    assert "tests.toy_task:NoSuchTask" in result.reason
    assert result.detail is not None
    assert result.detail.startswith("Traceback")


# Memory.


class CountingBudget:
    """One whose allocator tries again once between any two looks at it."""

    def __init__(self) -> None:
        self.limits: dict[str, int | str | None] = {}
        self.retries = 0

    def reset_peak(self) -> None: ...

    def peak(self) -> dict[str, int | None]:
        self.retries += 1
        return {"alloc_retries": self.retries}

    def lift(self) -> None: ...


def test_retries_of_first_step_warm_up_and_window_can_be_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = tmp_path / "board"
    StepBoard.create(board)
    request = {
        "trial": toy_trial().to_json(),
        "task": "tests.toy_task:ToyTask",
        "train_size": TRAIN_SIZE,
        "handle": {},
        "gpu_uuid": None,
        "board": str(board),
        "compile_cache": None,
    }
    monkeypatch.setattr(memory_budget, "enforce", lambda *_: CountingBudget())
    pipe = io.BytesIO()
    worker.run(request, pipe)
    memory = json.loads(pipe.getvalue().splitlines()[-1])["result"]["memory"]
    assert memory == {
        "first_step_alloc_retries": 1,
        "warmup_alloc_retries": 2,
        "alloc_retries": 3,
    }


# Clocks.


def work(amount: int) -> None:
    """Keeps a GPU busy for millions of its clock's cycles."""
    torch.cuda._sleep(amount * 1_000_000)  # type: ignore[no-untyped-call]


def test_a_cpus_clock_tells_the_time_between_its_marks() -> None:
    clock = CpuClock()
    marked = []
    for amount_s in (0.0, 0.004, 0.016):
        time.sleep(amount_s)
        before_s = time.perf_counter()
        clock.mark()
        marked.append((before_s, time.perf_counter()))
    clock.synchronize()
    found = clock.intervals_s()
    assert len(found) == 2
    for took_s, (first, second) in zip(found, pairwise(marked), strict=True):
        # However long the machine let each wait.
        assert second[0] - first[1] <= took_s <= second[1] - first[0]


@pytest.mark.gpu
def test_a_gpus_clock_tells_what_it_did_between_its_marks() -> None:
    device = torch.device("cuda:0")
    clock = CudaClock(device)
    work(500)  # one that was idle takes its time to reach its clock rate
    clock.synchronize()
    began_s = time.perf_counter()
    clock.mark()
    for amount in (40, 160, 40):
        work(amount)
        clock.mark()
    clock.synchronize()
    took_s = time.perf_counter() - began_s
    first, second, third = clock.intervals_s()
    # Two clocks over the same seconds, and the same work twice.
    assert first + second + third == pytest.approx(took_s, rel=0.05)
    assert second == pytest.approx(2 * (first + third), rel=0.25)


# What an exception says, in a line.


class Broken(torch.utils.data.Dataset[int]):
    """What a data loader's worker cannot read."""

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        if self.fault == "signal":
            os.kill(os.getpid(), signal.SIGBUS)
        raise OSError(errno.ENOSPC, "No space left on device\nin two lines")


@pytest.mark.parametrize(
    ("fault", "expected"),
    [("raise", "OSError: [Errno 28] No space left on device"), ("signal", "Bus error")],
)
def test_of_a_data_loaders_worker_its_own_error_is_told(fault: str, expected: str) -> None:
    loader = torch.utils.data.DataLoader(
        Broken(fault), num_workers=1, multiprocessing_context="fork"
    )
    with pytest.raises((OSError, RuntimeError)) as caught:
        list(loader)
    line = worker.one_line(caught.value)
    assert expected in line
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "C++ compile error\n\nCommand:\ng++ a b\n\ng++: fatal error: no a",
            "g++: fatal error: no a",
        ),
        ("C++ compile error\n\nCommand:\ng++ a b", "C++ compile error"),
        ("it is broken\nan error: this one", "it is broken"),
    ],
)
def test_of_a_compiler_its_own_words_are_told(text: str, expected: str) -> None:
    assert worker.one_line(RuntimeError(text)) == f"RuntimeError: {expected}"
