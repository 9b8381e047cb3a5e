"""How a sweep looks while it runs: a bar in a terminal, plain lines elsewhere."""

import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from bench.journal import Row
from bench.monitor import Reading
from bench.trial import Status, Trial


def summary(row: Row) -> str:
    """One row in a line."""
    result = row.result
    text = f"{row.trial.label}: {result.status}"
    if result.status is Status.OK:
        return f"{text}, {result.images_per_s:.1f} images/s, MSE {result.quality['final_mse']:.1f}"
    return f"{text}, {result.reason}"


class BarDisplay:
    """One overall bar with the row under way; ended rows are printed above it.

    It is drawn once a second: the process that is measured shall not share its cores with it.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            refresh_per_second=1,
            speed_estimate_period=24 * 3600,  # the mean of all rows: single ones differ widely
        )
        self._task = self._progress.add_task("starting", total=None)
        self._label = ""

    def __enter__(self) -> "BarDisplay":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def preparing(self, done: int, total: int) -> None:
        """See `bench.sweep.Observer`."""
        self._progress.update(
            self._task, description="rendering frames", completed=done, total=total
        )

    def note(self, text: str) -> None:
        """See `bench.sweep.Observer`."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def begin(self, to_do: Sequence[Trial], done: Sequence[Row]) -> None:
        """See `bench.sweep.Observer`."""
        total = len(to_do) + len(done)
        if done:
            self.note(f"{len(done)} of {total} trials are done already.")
        self._progress.reset(self._task, description="starting", total=total, completed=len(done))

    def trial(self, trial: Trial) -> None:
        """See `bench.sweep.Observer`."""
        self._label = trial.label
        self.phase("starting")

    def phase(self, name: str) -> None:
        """See `bench.sweep.Observer`."""
        text = f"{self._label}: {name.replace('_', ' ')}"
        self._progress.update(self._task, description=text)

    def reading(self, reading: Reading) -> None:
        """See `bench.sweep.Observer`."""

    def row(self, row: Row) -> None:
        """See `bench.sweep.Observer`."""
        self._console.print(summary(row), markup=False, highlight=False, soft_wrap=True)
        self._progress.update(self._task, advance=1)


class LineDisplay:
    """A plain line per ended row, for pipes and logs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._total = self._done = self._done_before = 0
        self._began_s = 0.0

    def __enter__(self) -> "LineDisplay":
        return self

    def __exit__(self, *_: object) -> None:
        return

    def preparing(self, done: int, total: int) -> None:
        """See `bench.sweep.Observer`."""
        if done == total:
            self._line(f"{total} frames rendered")

    def note(self, text: str) -> None:
        """See `bench.sweep.Observer`."""
        self._line(text)

    def begin(self, to_do: Sequence[Trial], done: Sequence[Row]) -> None:
        """See `bench.sweep.Observer`."""
        self._total, self._done = len(to_do) + len(done), len(done)
        self._done_before = self._done
        self._began_s = time.monotonic()
        if done:
            self._line(f"{len(done)} of {self._total} trials are done already.")

    def trial(self, trial: Trial) -> None:
        """See `bench.sweep.Observer`."""

    def phase(self, name: str) -> None:
        """See `bench.sweep.Observer`."""

    def reading(self, reading: Reading) -> None:
        """See `bench.sweep.Observer`."""

    def row(self, row: Row) -> None:
        """See `bench.sweep.Observer`."""
        self._done += 1
        mean_s = (time.monotonic() - self._began_s) / (self._done - self._done_before)
        left_s = mean_s * (self._total - self._done)
        self._line(f"[{self._done}/{self._total}, {left_s:.0f} s left] {summary(row)}")

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
