"""Samples a running trial from outside: the trial's process does nothing for it.

The parent sleeps between two samples.
"""

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pynvml

from bench import cgroup
from bench.cgroup import PROC
from bench.nvml import NvmlDevice

Sample = dict[str, float | str | None]


@dataclass(frozen=True)
class Reading:
    """How a running trial is doing, for those who watch; `None` where it is not known yet.

    Attributes:
        step: Training steps that have begun, of `Trial.steps`.
        images_per_s: Since the phase began.
        memory_bytes: Anonymous resident memory of the process tree; on a GPU what NVML accounts to
            the trial's process.
        utilization_percent: Of the allowed cores since the last reading; on a GPU NVML's figure.
        card_bytes: What is in use on the whole GPU, whosever it is; `None` on a CPU.
    """

    step: int
    images_per_s: float | None
    memory_bytes: float | None
    utilization_percent: float | None
    card_bytes: float | None = None


INTERVAL_S = 0.25

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")

_LEAST_CPU_WINDOW_S = 0.1
"""CPU time is counted in ticks of 10 ms: a shorter window would hold fewer than ten."""


class Monitor:
    """Samples one trial: its process tree, and the GPU when it runs on one.

    Args:
        pid: The trial's process.
        gpu_uuid: NVML's name of the GPU; `None` on CPU.
        proc: Where procfs is mounted.
    """

    def __init__(self, pid: int, gpu_uuid: str | None, proc: Path = PROC) -> None:
        self._pid = pid
        self._waiting = RunQueueWait(proc)
        self._groups = cgroup.groups("cpu", pid, proc)
        self._gpu = None
        if gpu_uuid:
            with contextlib.suppress(pynvml.NVMLError):
                self._gpu = NvmlDevice(gpu_uuid)

    def sample(self, phase: str | None) -> Sample:
        """One sample.

        Returns:
            `at_s` (monotonic clock), `phase`, `cpu_s` (user and system time of the process tree
            so far), `rss_anon_bytes` (of the tree, what a helper shares with the process that it
            was forked from counted once), `wait_s` (see `RunQueueWait`), `machine_busy_s` and
            `machine_stolen_s` (see `machine_s`), `quota_periods` and `quota_throttled` (see
            `bench.cgroup.Throttling`), and on a GPU `NvmlDevice.sample`
            of the process.
        """
        cpu_s = 0.0
        rss_anon = 0
        tree = list(_tree(self._pid))
        for pid in tree:
            with contextlib.suppress(OSError):  # it may end while we look
                cpu_s += _cpu_s(pid)
                rss_anon += _rss_anon_bytes(pid) if pid == self._pid else _own_bytes(pid)
        sample: Sample = {
            "at_s": time.monotonic(),
            "phase": phase,
            "cpu_s": cpu_s,
            "rss_anon_bytes": rss_anon,
            "wait_s": self._waiting.until_now_s(tree),
            "machine_busy_s": None,
            "machine_stolen_s": None,
            "quota_periods": None,
            "quota_throttled": None,
        }
        if machine := machine_s():
            sample |= {"machine_busy_s": machine["busy"], "machine_stolen_s": machine["stolen"]}
        if counted := cgroup.throttling(self._groups):
            sample |= {"quota_periods": counted.periods, "quota_throttled": counted.throttled}
        return sample | self._gpu.sample(self._pid) if self._gpu else sample


class RunQueueWait:
    """Seconds that processes' threads were ready to run, but waited for a CPU.

    The kernel counts by thread, and forgets what an ended thread has waited, so a sum over threads
    that are there now would fall.

    Args:
        proc: Where procfs is mounted.
    """

    def __init__(self, proc: Path = PROC) -> None:
        self._proc = proc
        self._seen_ns: dict[Path, int] = {}
        self._total_ns = 0

    def until_now_s(self, pids: Iterable[int]) -> float | None:
        """Of all threads that were seen so far; `None` where no thread's wait is readable.

        Args:
            pids: Processes whose threads are there now.
        """
        now_ns: dict[Path, int] = {}
        for pid in pids:
            with contextlib.suppress(OSError):  # it may end while we look
                for task in (self._proc / str(pid) / "task").iterdir():
                    with contextlib.suppress(OSError, ValueError, IndexError):
                        # On a CPU, waiting for one (in ns), and how often; see sched-stats.rst.
                        now_ns[task] = int((task / "schedstat").read_text().split()[1])
        for task, wait_ns in now_ns.items():
            before_ns = self._seen_ns.get(task, 0)
            # Less than before: another thread has the number of one that has ended.
            self._total_ns += wait_ns - before_ns if wait_ns >= before_ns else wait_ns
        readable = bool(now_ns or self._seen_ns)
        self._seen_ns = now_ns
        return self._total_ns / 1e9 if readable else None


def machine_s() -> dict[str, float] | None:
    """Seconds so far of the CPUs that this process may use: `busy`, `idle` and `stolen`.

    Whoever used them; stolen are those that went to other machines on the same host. `None` where
    the system does not count them.
    """
    allowed = os.sched_getaffinity(0)
    try:
        times = psutil.cpu_times(percpu=True)
    except OSError:
        return None
    kinds = {
        "busy": ("user", "nice", "system", "irq", "softirq"),
        "idle": ("idle", "iowait"),
        "stolen": ("steal",),
    }
    found = {
        kind: sum(
            getattr(one, name, 0.0)
            for number, one in enumerate(times)
            if number in allowed
            for name in names
        )
        for kind, names in kinds.items()
    }
    return found if any(found.values()) else None


def cpu_percent(first: Sample, last: Sample, cpus: int) -> float | None:
    """Share of `cpus` cores that a trial's processes used between two samples.

    Returns:
        0 to 100; `None` where the samples lie too close to each other to tell.
    """
    busy_s = float(last["cpu_s"] or 0) - float(first["cpu_s"] or 0)
    wall_s = float(last["at_s"] or 0) - float(first["at_s"] or 0)
    if wall_s < _LEAST_CPU_WINDOW_S:
        return None
    return 100 * busy_s / wall_s / cpus


def window_of(samples: Sequence[Sample]) -> tuple[Sample, Sample]:
    """The samples at the beginning and at the end of the measured window."""
    # The sample that is taken when the window ends bears the next phase's name.
    first, last = (
        next(sample for sample in samples if sample["phase"] == phase)
        for phase in ("measuring", "training")
    )
    return first, last


def gpu_percent(sample: Sample) -> float | None:
    """How busy the GPU was until a sample: by NVML's history, else by its rates.

    `None` where neither is readable.
    """
    for name in ("gpu_busy_percent", "gpu_percent"):
        if (percent := sample.get(name)) is not None:
            return float(percent)
    return None


def read_proc_status(pid: int | str = "self") -> dict[str, int]:
    """The kernel's memory figures of a process in bytes, by the kernel's names (`RssAnon`, ...).

    See proc_pid_status(5). Raises `OSError` when there is no such process.
    """
    figures = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        number, _, unit = value.strip().partition(" ")
        if unit == "kB":
            figures[name] = int(number) * 1024
    return figures


def _rss_anon_bytes(pid: int) -> int:
    return read_proc_status(pid).get("RssAnon", 0)


def _own_bytes(pid: int) -> int:
    """Resident memory that no other process has; see proc_pid_smaps(5)."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # not readable, or it has ended, which the status will tell
        return _rss_anon_bytes(pid)
    return next((int(line.split()[1]) * 1024 for line in lines if "Private_Dirty" in line), 0)


def oom_kills(proc: Path = PROC) -> int:
    """A number that grows when the kernel kills a process for want of memory, whosever it is."""
    kills = 0
    # The first is of the whole machine, and not readable in every container.
    for path in (proc / "vmstat", *cgroup.oom_counters(proc)):
        with contextlib.suppress(OSError):  # no such file here
            for line in path.read_text().splitlines():
                name, _, number = line.partition(" ")
                kills += int(number) if name == "oom_kill" else 0
    return kills


def _tree(pid: int) -> Iterator[int]:
    """A process and its descendants; see proc_tid_children(5)."""
    yield pid
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from _tree(int(child))


def _cpu_s(pid: int) -> float:
    """User and system time of a process and its ended children; see proc_pid_stat(5)."""
    # The name in parentheses may hold spaces; fields 14 to 17 of the page come after it.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(ticks) for ticks in fields[11:15]) * _TICK_S
