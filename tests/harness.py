"""What tests of the process side share."""

import contextlib
import copy
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench import spec
from bench.forkserver import Child, EventReader, ForkServer
from bench.journal import FILE_NAME, Row
from bench.monitor import Reading
from bench.runner import Runner, StopRequest
from bench.spec import SweepSpec
from bench.sweep import Plan
from bench.trial import Status, Trial, TrialResult
from tests.toy import PLAIN, SETTINGS, Toy, ToyData

REPOSITORY = Path(__file__).parent.parent

MARK = "UNET_BENCH_TEST_MARK"
"""An environment variable by which the processes of one test are found again."""

BUDGET_BYTES = 2**30

LIMIT_S = 300.0
"""What does not happen within so many seconds does not happen on a slow and busy machine either."""

OTHER_TOY = Toy()


def is_alive(pid: int) -> bool:
    """A zombie is not: whoever inherits it will collect it."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(condition: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
    end_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end_s, "waited in vain"
        time.sleep(0.01)


class Clock:
    """Stands in for the module `time` in one of ours; a test can put it forward.

    A time limit is then reached when something has happened, on a slow machine as on a fast one.
    """

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead_s

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def wait_until_dead(*pids: int) -> None:
    wait_until(lambda: not any(map(is_alive, pids)))


@dataclass
class Ended:
    """A child of the fork server that has ended."""

    exit_code: int
    events: list[dict[str, Any]]
    log: str


def events_of(child: Child, reader: EventReader) -> list[dict[str, Any]]:
    """Waits for something in the event pipe and reads it."""
    assert select.select([child.events], [], [], LIMIT_S)[0], "no event came"
    return list(reader.read())


def run_child(server: ForkServer, name: str, **request: Any) -> Ended:
    """Runs a function of `tests.children` to its end."""
    with tempfile.TemporaryFile() as log:
        child = server.fork(f"tests.children:{name}", request, log)
        reader, events = EventReader(child.events), []
        while not reader.ended:
            events += events_of(child, reader)
        reply = server.reply()
        assert reply is not None
        child.events.close()
        return Ended(reply["exit_code"], events, child.log_tail())


@contextlib.contextmanager
def memory_group(limit_bytes: int) -> Iterator[Path]:
    """A control group: whoever has joined it and takes more than the limit, the kernel kills.

    The test is skipped where none can be made, as by others than root.
    """
    root, limit, swap = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.swappiness"
    if not root.is_dir():  # the second version of control groups
        root, limit, swap = root.parent, "memory.max", "memory.swap.max"
    group = root / f"unet-bench-{uuid.uuid4().hex}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"needs a control group of its own: {error}")
    try:
        (group / limit).write_text(str(limit_bytes))
        with contextlib.suppress(OSError):  # without swap there may be no such file
            (group / swap).write_text("0")
        yield group
    except PermissionError as error:
        pytest.skip(f"needs a control group that limits memory: {error}")
    finally:
        wait_until(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


def toy_trial(**changes: Any) -> Trial:
    fields: dict[str, Any] = {
        "workload": "tests.toy:TOY",
        "variant": "none",
        "axes": PLAIN,
        "settings": SETTINGS,
        "batch_size": 4,
        "seed": 0,
        "round": 0,
        "samples": 64,
        "warmup_steps": 1,
        "measured_steps": 4,
        "device": "cpu",
        "budget_bytes": BUDGET_BYTES,
    }
    return Trial(**{**fields, **changes})


TOY_DATA = ToyData(64, {"source": "toy", "size": 64})


@dataclass
class Listening:
    """A listener that keeps what it hears.

    Attributes:
        on_phase: Called with each phase.
    """

    on_phase: Callable[[str], None] = lambda name: None
    readings: list[tuple[str | None, Reading]] = field(default_factory=list)
    under_way: str | None = None

    def phase(self, name: str) -> None:
        self.under_way = name
        self.on_phase(name)

    def reading(self, reading: Reading) -> None:
        self.readings.append((self.under_way, reading))


def run_toy(
    runner: Runner,
    trial: Trial,
    listener: Listening | None = None,
    stop: StopRequest | None = None,
    gpu_uuid: str | None = None,
) -> TrialResult:
    """One trial of the toy, as a sweep would have it run."""
    listener = listener or Listening()
    with contextlib.ExitStack() as stack:
        stop = stop or stack.enter_context(StopRequest())
        compiled = Toy().compiles(trial.axes)
        return runner.run(trial, TOY_DATA, gpu_uuid, stop, listener, compiled=compiled, again=True)


ENVIRONMENT: Mapping[str, Any] = {
    "torch": "2.0",
    "device_name": "a device",
    "commit": None,
    "dirty": None,
    "cpus_allowed": 2,
}

MEASURED: Mapping[str, Any] = {
    "phase_at_s": {"measuring": 1.0, "training": 2.0},
    "step_phase_s": [[0.1, 0.2, 0.3, 0.4]] * 2,
    "step_samples": [4, 4],
    "window": [1, 2],
    "quality": {"final_mse": 1.0},
}
"""The least that a result tells of a trial that ended well."""


def row_of(
    trial: Trial, status: Status = Status.OK, environment: Mapping[str, Any] | None = None
) -> Row:
    result = TrialResult(status, "for a reason")
    if status is Status.OK:
        result = TrialResult(status, **copy.deepcopy(dict(MEASURED)))
    return Row(
        trial,
        {"name": "toy", "plain": "none"},
        {"source": "toy", "size": 64},
        {**ENVIRONMENT, **(environment or {})},
        result,
    )


def write_toml(path: Path, **values: Any) -> Path:
    """A sweep of the toy; lists, texts and numbers are written alike in JSON and TOML."""
    names = {
        "workload": "tests.toy:TOY",
        "samples": 64,
        "warmup_steps": 1,
        "measured_steps": 4,
        "device": "cpu",
        "budget": f"{BUDGET_BYTES}B",
    } | values
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in names.items()))
    return path


def toy_spec(folder: Path, **values: Any) -> SweepSpec:
    folder.mkdir(parents=True, exist_ok=True)
    return spec.load(str(write_toml(folder / "toy.toml", **values)), {})


def toy_plan(folder: Path, retry: tuple[Status, ...] = (), **values: Any) -> Plan:
    timeout_s = values.pop("timeout_s", LIMIT_S)
    asked = toy_spec(folder.parent, **values)
    return Plan(asked, folder, timeout_s, frozenset(retry), ["unet-bench", "sweep"])


def lines_of(folder: Path) -> list[bytes]:
    """The finished lines of a journal; none where there is no journal yet."""
    path = folder / FILE_NAME
    return path.read_bytes().splitlines(keepends=True) if path.exists() else []


@dataclass
class Recorder:
    """An observer that keeps what it hears.

    Attributes:
        rows: All rows, in the order they came.
        servers: For each trial that ran, the fork server that ran it.
        on_phase: Called with the trial under way, the phase and the trial's process.
    """

    rows: list[Row] = field(default_factory=list)
    servers: list[tuple[Trial, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    began: tuple[int, int] | None = None  # trials in all, and of them done before
    readings: list[tuple[Trial, Reading]] = field(default_factory=list)
    under_way: Trial | None = None
    on_phase: Callable[[Trial, str, psutil.Process], None] | None = None

    def preparing(self, done: int, total: int) -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)

    def begin(self, to_do: Sequence[Trial], done: Sequence[Row]) -> None:
        self.began = (len(to_do) + len(done), len(done))

    def trial(self, trial: Trial) -> None:
        self.under_way = trial

    def phase(self, name: str) -> None:
        assert self.under_way is not None
        children = filter(lambda child: is_alive(child.pid), psutil.Process().children())
        server = next(child for child in children if "bench.forkserver" in child.cmdline())
        if name == "building":
            self.servers.append((self.under_way, server.pid))
        if self.on_phase and (trials := server.children()):  # the last phase may be over
            self.on_phase(self.under_way, name, *trials)

    def reading(self, reading: Reading) -> None:
        assert self.under_way is not None
        self.readings.append((self.under_way, reading))

    def row(self, row: Row) -> None:
        self.rows.append(row)

    def by_label(self) -> dict[str, Row]:
        return {row.trial.label: row for row in self.rows}

    def ran(self) -> list[str]:
        return [row.trial.label for row in self.rows]


class CommandLine:
    """`python -m bench ...` in a process of its own, all of whose processes can be found."""

    def __init__(
        self,
        *arguments: str | Path,
        program: tuple[str, ...] = ("-m", "bench"),
        variables: Mapping[str, str] | None = None,
        streams: int | None = None,
        **options: Any,
    ) -> None:
        self.mark = uuid.uuid4().hex
        self.process = subprocess.Popen(
            [sys.executable, *program, *map(str, arguments)],
            cwd=REPOSITORY,
            env={**os.environ, **(variables or {}), MARK: self.mark},
            stdin=streams,
            stdout=subprocess.PIPE if streams is None else streams,
            stderr=subprocess.STDOUT,
            text=True,
            **options,
        )

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> tuple[int, str]:
        """Exit code and output."""
        output, _ = self.process.communicate(timeout=LIMIT_S)
        return self.process.returncode, output

    def processes(self) -> list[int]:
        """Those that live now, children and orphans included."""
        wanted = f"{MARK}={self.mark}".encode()
        found = []
        for process in psutil.process_iter():
            try:
                if wanted in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0"):
                    found.append(process.pid)
            except OSError:  # it has ended, or is a zombie, or is another user's
                continue
        return [pid for pid in found if is_alive(pid)]
