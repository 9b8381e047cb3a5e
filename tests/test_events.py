import io
import json
import math
import os
from dataclasses import fields
from typing import Any

import pytest

from bench.events import JsonDisplay
from bench.monitor import Reading
from bench.report.frame import cell_frame
from bench.trial import Trial
from tests.displays import Clock, failed, measured, trials


@pytest.fixture
def clock() -> Clock:
    return Clock()


def events_of(stream: io.StringIO) -> list[dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in stream.getvalue().splitlines()]


def test_events(clock: Clock) -> None:
    stream = io.StringIO()
    before, good, bad = trials(3)
    slowed = measured(good, 50.0, duration_s=10.0)
    slowed.result.step_phase_s[-2] = [0.001, 100.0, 0.02, 0.003]
    with JsonDisplay(stream, clock) as display:
        display.note("A note.")
        display.preparing(64, 64)
        display.begin([good, bad], [measured(before)])
        display.trial(good)
        display.phase("measuring")
        clock.now_s += 0.5
        display.reading(Reading(3, math.nan, None, 97.3))
        display.row(slowed)
        display.row(failed(bad))
    events = events_of(stream)
    assert all("at_s" in event for event in events)
    note, preparing, begin, trial, phase, seen, ok, crash, end = events
    assert [note.pop("at_s"), seen["at_s"]] == [1000.0, 1000.5]
    assert note == {"event": "note", "text": "A note."}
    assert (preparing["event"], preparing["done"], preparing["total"]) == ("preparing", 64, 64)
    assert (begin["event"], begin["done"], begin["total"]) == ("begin", 1, 3)
    assert (begin["to_do"], begin["done_keys"]) == ([good.key, bad.key], [before.key])
    assert (trial["event"], trial["key"], trial["label"]) == ("trial", good.key, "none b5")
    assert Trial.from_json(trial["trial"]) == good
    assert trial["steps"] == good.steps
    assert (phase["event"], phase["key"], phase["phase"]) == ("phase", good.key, "measuring")
    assert {field.name for field in fields(Reading)} < set(seen)
    assert (seen["event"], seen["key"], seen["phase"]) == ("reading", good.key, "measuring")
    assert (seen["step"], seen["images_per_s"], seen["memory_bytes"]) == (3, None, None)
    assert (ok["event"], ok["key"], ok["status"], ok["reason"]) == ("row", good.key, "ok", None)
    assert (ok["done"], ok["total"], ok["left_s"]) == (2, 3, 10.0)
    assert (ok["flags"], crash["flags"]) == ("the machine was busy", "")
    final = cell_frame([slowed]).iloc[0]
    for name in ("images_per_s", "step_ms", "peak_memory_gib", "utilization_percent", "final_mse"):
        assert ok[name] == pytest.approx(final[name])
    assert (crash["status"], crash["reason"], crash["images_per_s"]) == (
        "crash", "exit code 3", None,
    )  # fmt: skip
    assert (end["event"], end["done"], end["total"], end["complete"]) == ("end", 3, 3, True)


def test_a_sweep_that_ends_early_says_so(clock: Clock) -> None:
    stream = io.StringIO()
    with JsonDisplay(stream, clock) as display:
        display.begin(trials(2), [])
        display.row(measured(trials(2)[0]))
    assert events_of(stream)[-1] == {
        "event": "end", "at_s": clock.now_s, "done": 1, "total": 2, "complete": False,
    }  # fmt: skip


def test_not_every_frame_is_an_event(clock: Clock) -> None:
    stream = io.StringIO()
    display = JsonDisplay(stream, clock)
    for done in range(1, 1201):
        clock.now_s += 0.0025  # 3 s in all
        display.preparing(done, 1200)
    assert 3 <= len(events_of(stream)) <= 5
    assert events_of(stream)[-1]["done"] == 1200


def test_events_come_at_once_and_a_reader_may_leave() -> None:
    reader, writer = os.pipe()
    with open(writer, "w") as stream:  # noqa: PTH123
        display = JsonDisplay(stream)
        display.note("at once")
        assert b"at once" in os.read(reader, 1000)
        os.close(reader)
        for _ in range(3):
            display.note("to nobody")
        display.__exit__(None)
        stream.flush()  # as at the end of the program
