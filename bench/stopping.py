"""When a sweep has measured enough, and the record of why it stopped."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path

from bench.journal import Row
from bench.stats import LEAST_ROUNDS, estimate, paired_logs
from bench.trial import Status

FILE_NAME = "runs.jsonl"

CONFIRMING_ROUNDS = 2
"""So many more are measured when intervals have become narrow enough. Who stops at once stops where
the scatter happens to be small: intervals at 95 % then cover 92 %, with these 93 % and more; see
tests/test_stopping.py."""


class Stop(StrEnum):
    """Why a run of a sweep came to its end."""

    CI_WIDTH = "ci_width"  # every interval is narrow enough
    MAX_TIME = "max_time"
    ROUNDS = "rounds"  # all that were asked for are measured
    INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Run:
    """One run of a sweep, which may be one of several in a folder.

    Attributes:
        command: The command line.
        started_at: In UTC, ISO 8601.
        ended_at: Likewise.
        stopped_by: Why it ended.
        rounds: Whole rounds that the folder then held, of all cells that were asked for.
        ci_width: The width that was asked for, as a share; `None` if none was.
        widest: The widest interval then, as a share, where a width was asked for; `None` where
            there were too few rounds.
    """

    command: str
    started_at: str
    ended_at: str
    stopped_by: Stop
    rounds: int
    ci_width: float | None
    widest: float | None

    @property
    def sentence(self) -> str:
        """Why no more was measured."""
        count = f"{self.rounds} round{'s' if self.rounds != 1 else ''}"
        text = {
            Stop.CI_WIDTH: f"Measuring stopped after {count}, the last {CONFIRMING_ROUNDS} to "
            "confirm that every interval is narrow enough",
            Stop.MAX_TIME: f"Time was up after {count}",
            Stop.ROUNDS: f"Measured {count}, all that were asked for",
            Stop.INTERRUPTED: f"Interrupted after {count}",
        }[self.stopped_by]
        if self.ci_width is not None:
            widest = "not known yet" if self.widest is None else f"{100 * self.widest:.2g} % wide"
            text += f"; the widest is {widest}, {100 * self.ci_width:g} % were asked for"
        return f"{text}."


def record(folder: Path, run: Run) -> None:
    """Appends a run to the folder's record."""
    path = folder / FILE_NAME
    before = path.read_bytes() if path.exists() else b""
    with path.open("a") as file:
        if before and not before.endswith(b"\n"):  # its writer was killed
            file.write("\n")
        file.write(json.dumps(asdict(run)) + "\n")


def last(folder: Path) -> Run | None:
    """The latest run in a folder; `None` where none is recorded that can be read."""
    try:
        run = Run(**json.loads((folder / FILE_NAME).read_text().splitlines()[-1]))
        numbers = (run.rounds, run.ci_width or 0.0, run.widest or 0.0)
        if not all(isinstance(number, int | float) for number in numbers):
            return None
        return replace(run, stopped_by=Stop(run.stopped_by))
    except (OSError, ValueError, TypeError, IndexError):
        return None


def widest_interval(rows: Iterable[Row], plain: Mapping[str, str], rounds: int) -> float | None:
    """The widest of the intervals that matter, of all cells that ended well in any round.

    Of a cell it is that of its speed-up, or of its rate where there is no plain cell to compare it
    with.

    Args:
        rows: Of one folder.
        plain: Axes of the plain variant.
        rounds: The first so many count.

    Returns:
        Its width as a share; `None` where a cell has fewer than `LEAST_ROUNDS`, or none ended well.
    """
    rates: dict[str, dict[int, float]] = {}
    plain_of: dict[str, str] = {}
    for row in rows:
        if row.result.status is Status.OK and row.trial.round < rounds:
            cell = row.trial.cell
            rates.setdefault(cell.key, {})[row.trial.round] = row.result.images_per_s
            plain_of[cell.key] = replace(cell, axes=dict(plain)).key
    widths = []
    compared_with = {plain_of[key] for key in rates if plain_of[key] != key}
    for key, found in rates.items():
        if key in compared_with:  # what meets it meets the others too
            continue
        reference = rates.get(plain_of[key]) if plain_of[key] != key else None
        logs = (
            paired_logs(found, reference)
            if reference
            else [math.log(rate) for rate in found.values()]
        )
        if len(logs) < LEAST_ROUNDS:
            return None
        widths.append(estimate(logs).width)
    return max(widths, default=None)
