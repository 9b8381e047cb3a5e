"""What watching costs: the live display beside a trial that is measured."""

import contextlib
import fcntl
import os
import pty
import statistics
import struct
import termios
import time
from collections.abc import Iterator
from itertools import count

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from rich.console import Console

from bench.estimate import remaining_s
from bench.live import LiveDisplay
from bench.monitor import INTERVAL_S, Reading
from tests.displays import measured
from tests.harness import toy_trial

ROWS = [measured(toy_trial(batch_size=size), 100.0 + size) for size in range(1, 31)]


@pytest.fixture
def terminal() -> Iterator[tuple[Console, int]]:
    """A console of 80 x 40 characters, and where to read what it shows."""
    controller, fd = pty.openpty()
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    os.set_blocking(controller, False)
    with open(fd, "w") as file:  # noqa: PTH123
        environ = {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
        console = Console(file=file, force_terminal=True, width=80, height=40, _environ=environ)
        yield console, controller
    os.close(controller)


def test_live_display(benchmark: BenchmarkFixture, terminal: tuple[Console, int]) -> None:
    """CPU time of the parent as a share of a core: readings as they come, 30 rows in the table."""
    console, controller = terminal
    seconds = 8.0 if benchmark.enabled else 1.0
    shares: list[float] = []
    shown = 0

    with LiveDisplay(console) as display:
        trial = toy_trial(batch_size=64, samples=10**6)
        display.begin([trial], ROWS)
        display.trial(trial)
        display.phase("measuring")
        numbers = count(2)

        def watch() -> None:
            nonlocal shown
            cpu_s, began_s = time.process_time(), time.monotonic()
            while time.monotonic() - began_s < seconds:
                time.sleep(INTERVAL_S)
                number = next(numbers)
                display.reading(Reading(number, 100.0 + number, 2e8 + number, 97.0))
                shown += _drain(controller)
            wall_s = time.monotonic() - began_s
            shares.append(100 * (time.process_time() - cpu_s) / wall_s)

        benchmark.pedantic(watch, rounds=3)  # type: ignore[no-untyped-call]
    assert shown > 1000  # it was drawn
    benchmark.extra_info["parent_cpu_percent_median"] = statistics.median(shares)


def test_one_drawing(benchmark: BenchmarkFixture, terminal: tuple[Console, int]) -> None:
    """A refresh of the whole area."""
    console, controller = terminal
    times = count(1)
    trial = toy_trial(batch_size=64, samples=10**6)
    now_s = [0.0]
    with LiveDisplay(console, lambda: now_s[0]) as display:
        display.begin([trial], ROWS)
        display.trial(trial)

        def draw() -> None:
            now_s[0] = 10.0 * next(times)
            display.reading(Reading(int(now_s[0]), 100.0, 2e8, 97.0))
            _drain(controller)

        benchmark(draw)


def test_estimate_of_a_large_sweep(benchmark: BenchmarkFixture) -> None:
    """What is left of 1000 trials when 500 have run."""
    asked = [
        toy_trial(axes={"fault": "none", "flavor": str(flavor)}, batch_size=size, round=round_)
        for round_ in range(4)
        for flavor in range(25)
        for size in range(1, 11)
    ]
    rows = [measured(trial) for trial in asked[:500]]
    left_s = benchmark(remaining_s, asked[500:], rows)
    assert left_s == pytest.approx(5000.0)


def _drain(fd: int) -> int:
    """Reads what there is, and tells how much it was."""
    size = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            size += len(os.read(fd, 1 << 16))
    return size
