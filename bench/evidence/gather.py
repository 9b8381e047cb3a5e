"""Gathers evidence within a time limit: runs the parts, stops them in time, goes on next time."""

import contextlib
import json
import os
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import IO, cast

from bench.environment import COMPARABLE, ROOT
from bench.errors import UserError
from bench.evidence import record
from bench.evidence.parts import Ended, Part
from bench.evidence.plan import Plan
from bench.forkserver import on_parent_death
from bench.journal import check_equal

LOG_NAME = "log.txt"

TOLD_CHARACTERS = 2**16
"""So much of what a part prints is told, each time that it runs."""

GRACE_S = 10.0
"""So long may a part take to end when it is asked to; then it is killed."""

RESERVE_S = GRACE_S + 10.0
"""Of the limit, for the last part's grace and for writing it all up."""

LEAST_S = 5.0
"""No part begins with less."""

_LOOK_S = 0.5

_LINE_BYTES = 2**20
"""Of a line that does not end, no more is kept."""

Say = Callable[[str], None]
"""Shows a line to whoever watches."""


class Outcome(StrEnum):
    """How a part stands."""

    DONE = "done"
    OUT_OF_TIME = "out of time"
    FAILED = "failed"


def gather(
    plan: Plan, folder: Path, limit_s: float, say: Say, write: Callable[[], None]
) -> dict[str, Outcome]:
    """Runs whatever is missing in a folder, as far as the time goes.

    Each part first has its share of what is left, so that one that takes long leaves something for
    the others; those that did not come to their end then have the rest, one after the other, and
    once more if that ended early.

    Args:
        plan: What to gather.
        folder: Where; locked by the caller.
        limit_s: Seconds for all of it.
        say: Is told how it goes.
        write: Writes up what is there; called after each part, since any may be the last.

    Returns:
        How each part stands now, by its name.

    Raises:
        UserError: The device is not there, or the folder's evidence comes from another machine.
        KeyboardInterrupt: The user's; what was found is safe.
    """
    end_s = time.monotonic() + limit_s - RESERVE_S
    with (folder / LOG_NAME).open("a") as log:
        machine = _machine(plan, folder, end_s)
        device = machine["environment"]["device_name"]
        say(f"{device}, torch {machine['environment']['torch']}")
        found = {
            part.name: Outcome.OUT_OF_TIME if part.left(folder) != 0 else Outcome.DONE
            for part in plan.parts
        }
        for shared in (True, False, False):
            waiting = [part for part in plan.parts if found[part.name] is Outcome.OUT_OF_TIME]
            for place, part in enumerate(waiting):
                left_s = end_s - time.monotonic()
                rest = sum(other.minutes for other in waiting[place:])
                share_s = left_s * part.minutes / rest if shared else left_s
                if left_s >= LEAST_S:
                    share_s = max(share_s, LEAST_S)
                    try:
                        found[part.name] = _run(part, folder, machine, share_s, log, say)
                    finally:
                        write()
        write()
    return found


def _machine(plan: Plan, folder: Path, end_s: float) -> record.Line:
    """What the machine is; refuses evidence of another one before anything is added to it."""
    command = [sys.executable, "-P", "-m", "bench.evidence.machine", plan.device]
    command += ["unet-bench", *sys.argv[1:]]
    ended = _watch(command, end_s, lambda _: None)
    if not ended.in_time:
        raise UserError(f"device {plan.device}: nothing was heard of it within the time limit")
    if not ended.answer:
        raise UserError(ended.last_line or f"device {plan.device}: {ended.how}")
    machine: record.Line = json.loads(ended.answer)
    for before in record.read(folder, "machine")[:1]:  # all others are like it
        for name in COMPARABLE:
            there, here = (line["environment"].get(name) for line in (before, machine))
            check_equal(f"environment.{name}", there, here, str(folder / record.FILE_NAME))
    record.append(folder, "machine", **machine)
    return machine


def _run(
    part: Part, folder: Path, machine: record.Line, limit_s: float, log: IO[str], say: Say
) -> Outcome:
    """Runs a part until it ends or has to."""
    began_s = time.monotonic()
    command, before = part.command(folder, machine, limit_s), part.left(folder)
    say(f"-- {part.name}: has {limit_s:.0f} s")
    log.write(f"-- {shlex.join(command)}\n")
    told = 0

    def tell(line: str) -> None:
        nonlocal told
        text = part.news(line)
        if text is not None and told < TOLD_CHARACTERS:
            text = text[: TOLD_CHARACTERS - told]
            told += len(text)
            say(text)
            log.write(text + "\n")
            log.flush()

    outcome: Outcome = Outcome.OUT_OF_TIME
    reason: str | None = "interrupted"
    try:
        ended = _watch(command, began_s + limit_s, tell)
        part.keep(folder, ended)
        outcome, reason = _judge(before, part.left(folder), ended)
    finally:
        record.append(
            folder,
            "part",
            name=part.name,
            command=command,
            seconds=round(time.monotonic() - began_s, 1),
            outcome=outcome,
            reason=reason,
        )
    say(f"-- {part.name}: {outcome}{f', {reason}' if reason else ''}")
    return outcome


def _judge(before: int | None, left: int | None, ended: Ended) -> tuple[Outcome, str | None]:
    """How a part stands; what fails and yet gets on is worth going on with."""
    if left == 0:
        return Outcome.DONE, None
    reason = f"{ended.how}: {ended.last_line}" if ended.in_time and ended.how else None
    if ended.in_time and left == before:
        return Outcome.FAILED, reason or "it ended and left nothing"
    return Outcome.OUT_OF_TIME, reason


def _watch(command: Sequence[str], until_s: float, tell: Say) -> Ended:
    """Runs a program and passes on what it prints; interrupts it when its time is up."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
        env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
        # Ctrl-C is ours to pass on; and it does not outlive us, however we end.
        process_group=0,
        preexec_fn=partial(on_parent_death, signal.SIGINT),
    )
    lines = _Lines(cast("IO[bytes]", process.stdout), tell)
    in_time = False
    try:
        while process.poll() is None and time.monotonic() < until_s:
            lines.read(min(_LOOK_S, max(0.0, until_s - time.monotonic())))
        in_time = process.poll() is not None
    finally:
        if not in_time:
            _stop(process, lines)
        with contextlib.suppress(ProcessLookupError):  # what it may have left behind
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # a driver may hold it for ever
            process.wait(_LOOK_S)
        for _ in range(100):  # what is left; but one that got away may print for ever
            if not lines.read(0):
                break
    return Ended(in_time, _how(process.returncode), lines.answer, lines.last)


def _how(code: int | None) -> str | None:
    if not code:
        return None
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _stop(process: "subprocess.Popen[bytes]", lines: "_Lines") -> None:
    """Asks a program to end, and ends it if it does not."""
    process.send_signal(signal.SIGINT)
    end_s = time.monotonic() + GRACE_S
    while process.poll() is None and time.monotonic() < end_s:
        lines.read(_LOOK_S / 5)
    process.kill()


class _Lines:
    """Cuts what a program prints into lines."""

    def __init__(self, pipe: IO[bytes], tell: Say) -> None:
        self._pipe, self._tell = pipe, tell
        os.set_blocking(self._pipe.fileno(), False)
        self._rest = b""
        self._ended = False
        self.answer = self.last = ""

    def read(self, wait_s: float) -> bool:
        """Something of what comes within so many seconds; whether anything did."""
        if self._ended:
            time.sleep(wait_s)  # it has closed its output and goes on
            return False
        if not select.select([self._pipe], [], [], wait_s)[0]:
            return False
        chunk = self._pipe.read(1 << 16)
        self._ended = not chunk
        *whole, rest = (self._rest + chunk).split(b"\n")
        self._rest = rest[:_LINE_BYTES]
        if self._ended and self._rest:
            whole.append(self._rest)
        for line in whole:
            text = line.decode(errors="replace").rstrip()
            self._tell(text)
            self.last = text or self.last
            self.answer = text if _is_object(text) else self.answer
        return not self._ended


def _is_object(text: str) -> bool:
    """Whether it is a JSON object, and a whole one."""
    try:
        return text.startswith("{") and isinstance(json.loads(text), dict)
    except ValueError:
        return False
