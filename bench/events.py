"""A sweep's progress for scripts: one JSON object a line."""

import contextlib
import io
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, TextIO

from bench.estimate import remaining_s, without
from bench.journal import Row
from bench.monitor import Reading
from bench.trial import Status, Trial

PREPARING_INTERVAL_S = 1.0
"""Frames come by the hundred in a second: not every one is an event."""


def discard(stream: TextIO) -> None:
    """Sends what is written from now on nowhere: nobody reads it any more."""
    with contextlib.suppress(io.UnsupportedOperation):  # a stand-in that is no file
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, stream.fileno())
        os.close(devnull)


class JsonDisplay:
    """Writes an event a line, at once. A reader that goes away does not end the sweep.

    Every event has `event` (its name) and `at_s` (the machine's monotonic clock, in seconds, as in
    the journal's `phase_at_s`). What is not known or was not measured is null. Events, in order:

    - `note`: `text`, a sentence; may come at any time.
    - `preparing`: `done` of `total` frames are ready.
    - `begin`: `total` trials, `done` of them before, `to_do` and `done_keys` (their keys).
    - `trial`: one starts: `key`, `label`, `trial` (as in the journal), `steps`.
    - `phase`: `key`, `phase` (`compiling`, `starting`, `building`, `first_step`, `warming_up`,
      `measuring`, `training`, `evaluating`).
    - `reading`: `key`, `phase`, and the fields of `bench.monitor.Reading`; some four a second.
    - `row`: a trial has ended: `key`, `label`, `status`, `reason`, `flags` (what disturbed it;
      empty if nothing did), `done`, `total`, `left_s` (an estimate), and every figure
      by the name of its column in the result table (see `bench.report.frame.trial_record`).
    - `end`: `done` of `total` trials have rows, `complete` if that is all of them.

    Args:
        stream: Where to write.
        clock: Seconds; monotonic.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._prepared_at_s = -math.inf
        self._rows: list[Row] = []
        self._to_do: list[Trial] = []
        self._trial: Trial | None = None
        self._phase: str | None = None

    def __enter__(self) -> "JsonDisplay":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        done, total = len(self._rows), len(self._rows) + len(self._to_do)
        complete = kind is None and bool(self._rows) and not self._to_do
        self.send("end", done=done, total=total, complete=complete)

    def send(self, event: str, **fields: Any) -> None:
        """Writes an event of any name; of numbers that are not finite, null."""
        line = json.dumps(
            {name: _finite(value) for name, value in fields.items()}
            | {"event": event, "at_s": self._clock()},
            allow_nan=False,
        )
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except BrokenPipeError:
            discard(self._stream)

    def preparing(self, done: int, total: int) -> None:
        """See `bench.sweep.Observer`."""
        now_s = self._clock()
        if done == total or now_s - self._prepared_at_s >= PREPARING_INTERVAL_S:
            self._prepared_at_s = now_s
            self.send("preparing", done=done, total=total)

    def note(self, text: str) -> None:
        """See `bench.sweep.Observer`."""
        self.send("note", text=text)

    def begin(self, to_do: Sequence[Trial], done: Sequence[Row]) -> None:
        """See `bench.sweep.Observer`."""
        self._to_do, self._rows = list(to_do), list(done)
        self.send(
            "begin",
            total=len(to_do) + len(done),
            done=len(done),
            to_do=[trial.key for trial in to_do],
            done_keys=[row.trial.key for row in done],
        )

    def trial(self, trial: Trial) -> None:
        """See `bench.sweep.Observer`."""
        self._trial, self._phase = trial, None
        self.send(
            "trial", key=trial.key, label=trial.label, trial=trial.to_json(), steps=trial.steps
        )

    def phase(self, name: str) -> None:
        """See `bench.sweep.Observer`."""
        self._phase = name
        self.send("phase", key=self._key, phase=name)

    def reading(self, reading: Reading) -> None:
        """See `bench.sweep.Observer`."""
        self.send("reading", key=self._key, phase=self._phase, **asdict(reading))

    def row(self, row: Row) -> None:
        """See `bench.sweep.Observer`."""
        from bench.report.frame import flags_of, trial_record  # pandas: not before it is needed

        self._rows.append(row)
        self._to_do = without(row.trial, self._to_do)
        record = trial_record(row)
        progress = {
            "label": row.trial.label,
            "done": len(self._rows),
            "total": len(self._rows) + len(self._to_do),
            "left_s": remaining_s(self._to_do, self._rows),
            "flags": flags_of(row) if row.result.status is Status.OK else "",
        }
        self.send("row", **(record | progress))

    @property
    def _key(self) -> str | None:
        return self._trial.key if self._trial else None


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
