"""How a sweep is shown while it runs: see `make_display`."""

import contextlib
import io
from collections.abc import Sequence
from typing import TextIO

from rich.console import Console

from bench.estimate import format_duration, remaining_s, without
from bench.events import JsonDisplay
from bench.journal import Row
from bench.live import LiveDisplay
from bench.monitor import Reading
from bench.output import print_line
from bench.trial import Status, Trial, rate_text


def make_display(
    console: Console, events: TextIO | None = None
) -> "LiveDisplay | LineDisplay | JsonDisplay":
    """What suits who looks: events for a script, a live display in a terminal, lines in a pipe.

    Args:
        console: Where people look.
        events: Where a script listens; then nothing is shown on the console.
    """
    if events is not None:
        return JsonDisplay(events)
    with contextlib.suppress(AttributeError, io.UnsupportedOperation):
        # A reason may hold what this terminal's encoding has no letter for.
        console.file.reconfigure(errors="replace")  # type: ignore[attr-defined]
    # Colours may be forced upon a pipe; a cursor to be moved it has none.
    if console.is_interactive and console.file.isatty():
        return LiveDisplay(console)
    return LineDisplay(console)


def summary(row: Row) -> str:
    """One row in a line."""
    result = row.result
    text = f"{row.trial.label}: {result.status}"
    if result.status is Status.OK:
        from bench.report.frame import flags_of  # pandas: not before it is needed

        rate, mse = rate_text(result.images_per_s), result.quality["final_mse"]
        flagged = f", flagged: {flags}" if (flags := flags_of(row)) else ""
        return f"{text}, {rate} images/s, MSE {mse:.1f}{flagged}"
    return f"{text}, {result.reason}"


class LineDisplay:
    """A plain line per ended row, for pipes and logs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rows: list[Row] = []
        self._notes: set[str] = set()
        self._to_do: list[Trial] = []

    def __enter__(self) -> "LineDisplay":
        return self

    def __exit__(self, *_: object) -> None:
        return

    def preparing(self, done: int, total: int) -> None:
        """See `bench.sweep.Observer`."""
        if done == total:
            self._line(f"{total} frames processed")

    def note(self, text: str) -> None:
        """See `bench.sweep.Observer`. Of many sweeps in a row each says the same."""
        if text not in self._notes:
            self._notes.add(text)
            self._line(text)

    def begin(self, to_do: Sequence[Trial], done: Sequence[Row]) -> None:
        """See `bench.sweep.Observer`."""
        self._to_do, self._rows = list(to_do), list(done)
        if done:
            total = len(to_do) + len(done)
            self._line(f"{len(done)} of {total} trials are done already.")

    def trial(self, trial: Trial) -> None:
        """See `bench.sweep.Observer`."""

    def phase(self, name: str) -> None:
        """See `bench.sweep.Observer`."""

    def reading(self, reading: Reading) -> None:
        """See `bench.sweep.Observer`."""

    def row(self, row: Row) -> None:
        """See `bench.sweep.Observer`."""
        self._rows.append(row)
        self._to_do = without(row.trial, self._to_do)
        done, total = len(self._rows), len(self._rows) + len(self._to_do)
        left_s = remaining_s(self._to_do, self._rows) if self._to_do else None
        left = "" if left_s is None else f", about {format_duration(left_s)} left"
        self._line(f"[{done}/{total}{left}] {summary(row)}")

    def _line(self, text: str) -> None:
        print_line(self._console, text)
