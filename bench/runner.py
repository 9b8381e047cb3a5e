"""The parent's side of one trial: starts its process, watches it, ends it."""

import contextlib
import os
import re
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import IO, Any, NamedTuple, Protocol

from bench.budget import says_out_of_memory
from bench.environment import cpus_allowed
from bench.errors import UserError
from bench.forkserver import Child, EventReader, ForkServer, ServerGoneError, poll_ms
from bench.monitor import INTERVAL_S, Monitor, Reading, Sample, cpu_percent, gpu_percent, oom_kills
from bench.scratch import ScratchFolder
from bench.startup import stop_signals
from bench.steps import StepBoard
from bench.trial import Status, Trial, TrialResult
from bench.workload import Data

_KILLED = re.compile("SIGKILL|signal 9|Killed|terminated abruptly|ended unexpectedly")
"""How it is told that somebody killed a process: a trial's, a compiler's, a loader's, one of a pool
or the server."""


class Listener(Protocol):
    """Hears how a trial goes."""

    def phase(self, name: str) -> None:
        """A phase begins."""
        ...

    def reading(self, reading: Reading) -> None:
        """How it is doing; a few times a second."""
        ...


class StopRequest:
    """Turns Ctrl-C, SIGTERM and SIGHUP into a flag and a readable file descriptor.

    Nothing is interrupted halfway: who waits also waits for `fd`, and ends in good order.
    Use as a context manager, in the main thread.
    """

    def __init__(self) -> None:
        self.requested = False
        self.fd, self._write_fd = os.pipe()

    def __enter__(self) -> "StopRequest":
        self._before = {number: signal.signal(number, self._handle) for number in stop_signals()}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self.fd)
        os.close(self._write_fd)

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if not self.requested:
            self.requested = True
            os.write(self._write_fd, b"!")


class Probe(NamedTuple):
    """What a device is.

    Attributes:
        device: `cpu` or `cuda:N`.
        environment: What rows record of it.
        note: What is worth telling; `None` if there is nothing.
        free_bytes: What is free there.
    """

    device: str
    environment: dict[str, Any]
    note: str | None
    free_bytes: int


class Runner:
    """Runs trials one after the other, each in a fresh process.

    Use as a context manager: it leaves no process and no file behind.

    Args:
        task: The task's class as `module:attribute`.
        timeout_s: A trial that takes longer is killed.
    """

    def __init__(self, task: str, timeout_s: float) -> None:
        self._task = task
        self._timeout_s = timeout_s
        self._server: ForkServer | None = None
        self._folder = ScratchFolder()
        self._board_path = self._folder.path / "board"
        self._board = StepBoard.create(self._board_path)

    def __enter__(self) -> "Runner":
        return self

    def __exit__(self, *_: object) -> None:
        self.new_round()
        self._folder.remove()

    def new_round(self) -> None:
        """Ends the process that trials are forked from; the next trial starts another."""
        if self._server:
            self._server.close()
            self._server = None

    def ask(self, entry: str, request: dict[str, Any]) -> dict[str, Any]:
        """One answer from a function of the worker that gives one event.

        Raises:
            UserError: The answer is an error, or there was none.
            ServerGoneError: There is no server to start a process.
        """
        try:
            server = self._running_server()
            with tempfile.TemporaryFile() as log, self._fork(entry, request, log) as child:
                answer = self._answer(server, child)
                if answer is None:
                    raise UserError(f"the trial's process does not start: {child.log_tail()}")
        except ServerGoneError:
            self.new_round()  # the next question gets another server
            raise
        if "error" in answer:
            raise UserError(answer["error"])
        return answer

    def probe(self, device: str) -> Probe:
        """Looks at a device; see `bench.environment.describe_device`.

        Raises:
            UserError: It is not there.
        """
        found = dict(self.ask("bench.worker:probe", {"device": device})["environment"])
        told = {name: found.pop(name) for name in ("device", "note", "free_bytes")}
        return Probe(environment=found, **told)

    @staticmethod
    def _answer(server: ForkServer, child: Child) -> dict[str, Any] | None:
        """The first event of a child that ends; it is read as it comes, however long it is."""
        reader, found = EventReader(child.events), list[dict[str, Any]]()
        events_fd, server_fd = child.events.fileno(), server.socket.fileno()
        poll = select.poll()
        for fd in (events_fd, server_fd):
            poll.register(fd, select.POLLIN)
        while child.exit_code is None:
            ready = {fd for fd, _ in poll.poll()}
            if events_fd in ready:
                found += reader.read()
                if reader.ended:
                    poll.unregister(events_fd)
            if server_fd in ready:
                child.exit_code = int(server.reply()["exit_code"])
        found += reader.read()
        return next(iter(found), None)

    def run(
        self,
        trial: Trial,
        data: Data,
        gpu_uuid: str | None,
        stop: StopRequest,
        listener: Listener,
        *,
        compiled: bool,
        again: bool = False,
        previews: tuple[Path, int] | None = None,
    ) -> TrialResult:
        """Runs a trial to its end, whatever end that is.

        A compiled one is first compiled in a process of its own, from an empty cache, unless an
        earlier round has done so.

        Args:
            trial: What to run.
            data: What to train on.
            gpu_uuid: The GPU to watch; `None` on CPU.
            stop: Ends the trial when requested.
            listener: Hears how it goes.
            compiled: Whether the trial is of a compiled variant.
            again: Whether another round of the same cell is to come, which finds the cache filled.
            previews: The folder for pictures of what was learnt, and of how many samples.
        """
        cache = self._folder.path / trial.cell.key
        request = {
            "trial": trial.to_json(),
            "task": self._task,
            "train_size": data.train_size,
            "handle": dict(data.handle),
            "gpu_uuid": gpu_uuid,
            "board": str(self._board_path),
            "compile_cache": str(cache) if compiled else None,
            "previews": previews and (str(previews[0].absolute()), previews[1]),
        }
        watch = partial(_Watch, trial, gpu_uuid, self._board, listener)
        try:
            if not compiled or cache.exists():
                return self._attempt("bench.worker:run", request, watch(), stop)
            cold = self._attempt("bench.worker:compile_cold", request, watch(), stop)
            if cold.status is not Status.OK:
                again = False  # what is half made is not warm
                return cold
            shutil.rmtree(cache / "tmp")
            return _joined(cold, self._attempt("bench.worker:run", request, watch(), stop))
        finally:
            if not again:
                shutil.rmtree(cache, ignore_errors=True)

    def _attempt(
        self, entry: str, request: dict[str, Any], watch: "_Watch", stop: StopRequest
    ) -> TrialResult:
        """What one process finds."""
        started_at = datetime.now(UTC).isoformat(timespec="seconds")
        requested_s = time.monotonic()
        kills = oom_kills()
        self._board.begin(0)
        ended: Status | None
        try:
            if not self._running_server().wait_until_ready(stop.fd, self._timeout_s):
                self.new_round()
                ended = Status.INTERRUPTED if stop.requested else Status.TIMEOUT
            else:
                with (
                    tempfile.TemporaryFile() as log,
                    self._fork(entry, request, log) as child,
                ):
                    ended = self._watch(child, watch, stop)
                    watch.log = child.log_tail()
            result = watch.result or self._ended_early(ended, watch)
        except ServerGoneError as error:
            self.new_round()  # the next trial gets another server
            result = TrialResult(Status.CRASH, str(error))
        if (
            result.status is Status.CRASH
            and _KILLED.search(f"{result.reason} {result.detail}")
            and oom_kills() > kills
        ):
            # Of others' processes the counter tells too, which is why it does not do alone.
            who = "a process that it started was " if watch.result else ""
            result.status = Status.OOM
            result.reason = f"{who}killed by the kernel for want of memory"
        result.started_at = started_at
        result.duration_s = time.monotonic() - requested_s
        result.phase = watch.phase
        result.phase_at_s = watch.phase_at_s
        result.parent_phase_at_s = watch.parent_phase_at_s
        result.monitor = watch.samples
        if "starting" in watch.phase_at_s:
            result.start_s = watch.phase_at_s["starting"] - requested_s
        return result

    def _running_server(self) -> ForkServer:
        if self._server is None:
            module = self._task.partition(":")[0]
            # Beyond it torch looks for compiled code where any user may have put some first.
            temporary = self._folder.path / "tmp"
            temporary.mkdir(exist_ok=True)
            self._server = ForkServer(("bench.worker", module), temporary)
        return self._server

    @contextlib.contextmanager
    def _fork(self, entry: str, request: dict[str, Any], log: IO[bytes]) -> Iterator[Child]:
        child = self._running_server().fork(entry, request, log)
        try:
            yield child
        finally:
            child.events.close()
            if child.exit_code is None:  # left in a hurry: the server still owes its exit code
                child.kill()
                self.new_round()

    def _watch(self, child: Child, watch: "_Watch", stop: StopRequest) -> Status | None:
        """Sleeps until something happens, and samples at intervals, until the child has ended.

        Returns:
            Why the child was killed; `None` if it ended by itself.
        """
        server = self._running_server()
        monitor, reader = Monitor(child.pid, watch.gpu_uuid), EventReader(child.events)
        deadline_s = time.monotonic() + self._timeout_s
        events_fd, server_fd = child.events.fileno(), server.socket.fileno()
        poll = select.poll()
        for fd in (events_fd, server_fd, stop.fd):
            poll.register(fd, select.POLLIN)
        killed = None
        sample_at_s = time.monotonic()
        while child.exit_code is None:
            wait_s = max(0.0, min(deadline_s, sample_at_s) - time.monotonic())
            ready = {fd for fd, _ in poll.poll(poll_ms(wait_s))}
            now_s = time.monotonic()
            if events_fd in ready:
                watch.read(reader, now_s, monitor)
                if reader.ended:
                    poll.unregister(events_fd)
            if server_fd in ready:
                child.exit_code = int(server.reply()["exit_code"])
            if not killed and (stop.fd in ready or now_s >= deadline_s):
                killed = Status.INTERRUPTED if stop.requested else Status.TIMEOUT
                child.kill()
                deadline_s = float("inf")
                poll.unregister(stop.fd)
            if now_s >= sample_at_s:
                watch.sample(monitor)
                sample_at_s = now_s + INTERVAL_S
        watch.read(reader, time.monotonic(), monitor)
        watch.exit_code = child.exit_code
        return killed

    def _ended_early(self, ended: Status | None, watch: "_Watch") -> TrialResult:
        """The result of a process that ended without giving one."""
        if ended is Status.TIMEOUT:
            return TrialResult(ended, f"killed after {self._timeout_s:g} s")
        if ended:
            return TrialResult(ended, "stopped before its end")
        code = watch.exit_code or 0
        reason = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        # Some libraries abort when memory runs out, and say so last.
        words = next(filter(says_out_of_memory, watch.log.splitlines()), None)
        if words:
            return TrialResult(Status.OOM, f"{reason}: {words.strip()}", detail=watch.log)
        return TrialResult(Status.CRASH, reason, detail=watch.log or None)


class _Watch:
    """What the parent has seen of a running trial."""

    def __init__(
        self, trial: Trial, gpu_uuid: str | None, board: StepBoard, listener: Listener
    ) -> None:
        self.gpu_uuid = gpu_uuid
        self.exit_code: int | None = None
        self.log = ""
        self.result: TrialResult | None = None
        self.phase: str | None = None
        self.phase_at_s: dict[str, float] = {}
        self.parent_phase_at_s: dict[str, float] = {}
        self.samples: list[Sample] = []
        self._trial = trial
        self._board = board
        self._listener = listener
        self._phase_began = board.read()

    def read(self, reader: EventReader, now_s: float, monitor: Monitor) -> None:
        for event in reader.read():
            if event["event"] == "result":
                self.result = TrialResult(**event["result"])
                self.result.status = Status(self.result.status)
            else:
                self.phase = event["phase"]
                self.phase_at_s[event["phase"]] = event["at_s"]
                self.parent_phase_at_s[event["phase"]] = now_s
                self._phase_began = self._board.read()
                # So that the samples of a phase cover it from end to end.
                self.samples.append(monitor.sample(self.phase))
                self._listener.phase(event["phase"])

    def sample(self, monitor: Monitor) -> None:
        self.samples.append(monitor.sample(self.phase))
        self._listener.reading(self._reading())

    def _reading(self) -> Reading:
        """From the last two samples, and the steps since the phase began."""
        step, step_at_s = self._board.read()
        first, first_at_s = self._phase_began
        images_per_s = None
        if step > first > 0:
            images_per_s = (step - first) * self._trial.batch_size / (step_at_s - first_at_s)
        now = self.samples[-1]
        if self.gpu_uuid is not None:
            memory, percent = now.get("gpu_process_bytes"), gpu_percent(now)
        else:
            memory = now["rss_anon_bytes"]
            # The last but one may be of this very moment, taken when a phase began.
            percent = cpu_percent(self.samples[-3:][0], now, cpus_allowed())
        card = now.get("gpu_used_bytes")
        return Reading(step, images_per_s, _number(memory), percent, _number(card))


def _joined(cold: TrialResult, result: TrialResult) -> TrialResult:
    """A trial's result with what was found when it was compiled before."""
    if result.compilation:
        result.compilation["cold_step_s"] = [sum(phases) for phases in cold.step_phase_s]
    result.started_at = cold.started_at
    result.phase_at_s = cold.phase_at_s | result.phase_at_s
    result.parent_phase_at_s = cold.parent_phase_at_s | result.parent_phase_at_s
    result.duration_s = (result.duration_s or 0.0) + (cold.duration_s or 0.0)
    return result


def _number(value: float | str | None) -> float | None:
    return None if value is None else float(value)
