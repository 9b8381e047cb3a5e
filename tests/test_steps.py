"""How far a trial is, read from outside while it runs."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.forkserver import EventReader
from bench.runner import Runner
from bench.steps import StepBoard
from bench.trial import Status, TrialResult
from tests.harness import LIMIT_S, Listening, events_of, run_toy, toy_trial
from tests.toy import SETTINGS


def test_a_board_begins_before_the_first_step(tmp_path: Path) -> None:
    assert StepBoard.create(tmp_path / "board").read() == (0, 0.0)


def test_a_board_tells_the_last_step_and_its_moment_to_all_who_have_opened_it(
    tmp_path: Path,
) -> None:
    writer = StepBoard.create(tmp_path / "board")
    reader = StepBoard(tmp_path / "board")
    for step in (1, 2, 10**9):
        before_s = time.monotonic()
        writer.begin(step)
        seen, at_s = reader.read()
        assert seen == step
        assert before_s <= at_s <= time.monotonic()


STEPS = 60


def slow(**changes: Any) -> dict[str, Any]:
    return {
        "settings": {**SETTINGS, "sleep_ms": 20},
        "samples": 4 * STEPS,
        "batch_size": 4,
        **changes,
    }


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Runner("tests.toy_task:ToyTask", timeout_s=LIMIT_S) as runner:
        yield runner


@pytest.fixture(scope="module")
def watched(runner: Runner) -> tuple[TrialResult, Listening]:
    """Steps of 20 ms for more than a second."""
    listening = Listening()
    result = run_toy(runner, toy_trial(**slow()), listening)
    assert result.status is Status.OK
    return result, listening


def test_the_steps_of_another_process_are_seen(
    runner: Runner, watched: tuple[TrialResult, Listening]
) -> None:
    assert runner._board.read()[0] == STEPS
    steps = [reading.step for _, reading in watched[1].readings]
    assert len(steps) >= 4
    assert steps == sorted(steps)
    assert len(set(steps)) >= 4
    assert max(steps) <= STEPS


def test_a_trial_begins_at_no_step_whatever_the_one_before_has_left(runner: Runner) -> None:
    run_toy(runner, toy_trial())
    first: list[int] = []
    run_toy(runner, toy_trial(), Listening(lambda name: first.append(runner._board.read()[0])))
    assert first[0] <= 1  # it is starting
    assert runner._board.read()[0] == toy_trial().steps


def test_the_rate_is_that_of_the_row(watched: tuple[TrialResult, Listening]) -> None:
    result, listening = watched
    rates = [
        reading.images_per_s
        for phase, reading in listening.readings
        if phase == "measuring" and reading.images_per_s is not None
    ]
    assert len(rates) >= 3
    for rate in rates:
        assert result.images_per_s / 3 < rate < result.images_per_s * 3


def test_memory_and_utilization_are_told(watched: tuple[TrialResult, Listening]) -> None:
    readings = [reading for phase, reading in watched[1].readings if phase == "measuring"]
    for reading in readings:
        assert reading.memory_bytes is not None
        assert reading.memory_bytes > 2**20
    percents = [r.utilization_percent for r in readings if r.utilization_percent is not None]
    assert percents
    assert all(0 <= percent <= 100 for percent in percents)


def test_being_watched_costs_the_trial_no_event(runner: Runner, tmp_path: Path) -> None:
    """Its pipe carries the phases and the result, however many steps there are."""
    board = tmp_path / "board"
    StepBoard.create(board)
    request = {
        "trial": toy_trial(**slow()).to_json(),
        "task": "tests.toy_task:ToyTask",
        "train_size": 64,
        "handle": {},
        "gpu_uuid": None,
        "board": str(board),
        "compile_cache": None,
    }
    server = runner._running_server()
    with (tmp_path / "log").open("w+b") as log:
        child = server.fork("bench.worker:run", request, log)
        reader, events = EventReader(child.events), []
        while not reader.ended:
            events += events_of(child, reader)
        assert server.reply()["exit_code"] == 0, child.log_tail()
        child.events.close()
    assert [event.get("phase", event["event"]) for event in events] == [
        *("starting", "building", "first_step", "warming_up", "measuring", "training"),
        *("evaluating", "result"),
    ]
    assert StepBoard(board).read()[0] == STEPS
