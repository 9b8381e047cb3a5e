"""What on this machine would disturb a measurement.

What a machine does not let one read is said to be unreadable, never to be fine.
"""

import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil
import pynvml

from bench import cgroup
from bench.budget import DEFAULT_BUDGET_BYTES, format_bytes
from bench.cgroup import PROC
from bench.environment import cpus_allowed
from bench.monitor import machine_s

SYSFS = Path("/sys")
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (what is looked at, not what is written to)

_WATCHED_S = 1.0
BUSY_PERCENT = 3.0
"""Of the allowed CPUs; an idle machine's own housekeeping takes less."""

_STOLEN_PERCENT = 0.5
_LEAST_SHARED_BYTES = 2**30

_THROTTLES = {
    "nvmlClocksEventReasonSwPowerCap": "power cap",
    "nvmlClocksEventReasonHwSlowdown": "hardware slowdown",
    "nvmlClocksEventReasonSwThermalSlowdown": "heat",
    "nvmlClocksEventReasonHwThermalSlowdown": "heat",
    "nvmlClocksEventReasonHwPowerBrakeSlowdown": "power brake",
}
"""NVML's reasons for lower clocks that are none of the user's own; see nvmlClocksEventReasons."""


class State(StrEnum):
    """What a finding means."""

    FINE = "fine"
    DISTURBS = "disturbs"
    UNREADABLE = "not readable"


@dataclass(frozen=True)
class Finding:
    """What was found of one thing.

    Attributes:
        name: The thing.
        state: What it means.
        text: What was found, in words and with units.
        advice: What to do about it, where it disturbs.
    """

    name: str
    state: State
    text: str = ""
    advice: str = ""

    @property
    def line(self) -> str:
        """All of it, in a line."""
        advice = f" -> {self.advice}" if self.state is State.DISTURBS else ""
        return f"{self.state:12}  {self.name:17}  {self.text}{advice}".rstrip()


def machine(environment: Mapping[str, Any]) -> str:
    """What this machine is, in a line; from what rows record of it."""
    return (
        f"{environment['device_name']}, {environment['cpus_allowed']} CPUs allowed, "
        f"{format_bytes(environment['memory_bytes'])} of memory, torch {environment['torch']}, "
        f"Triton {environment['triton']}, Python {environment['python']}, {environment['os']}"
    )


def examine(
    device: str,
    note: str | None,
    free_bytes: int,
    threads: int,
    gpu: Mapping[str, Any] | None,
) -> list[Finding]:
    """Looks at everything; takes a second.

    Args:
        device: Where one would measure: `cpu` or `cuda:N`.
        note: What torch says of a GPU that it cannot use; `None` if there is nothing to say.
        free_bytes: Memory that is free there.
        threads: How many torch computes with on a CPU.
        gpu: Of `bench.nvml.NvmlDevice.describe`, empty where it cannot be read; `None` on a CPU.
    """
    return [
        *processes(),
        quota(),
        thread_count(threads),
        governor(),
        throttling(),
        memory(device, free_bytes),
        shared_memory(),
        compiler(device),
        *([hidden_gpu(note)] if note else []),
        *(graphics(gpu) if gpu is not None else ()),
    ]


def processes(watch: Callable[[float], None] = time.sleep) -> Iterator[Finding]:
    """What other processes and other machines on the same host take of the CPUs.

    Args:
        watch: Waits for so many seconds.
    """
    cpus, own = cpus_allowed(), psutil.Process()
    before, own_before = machine_s(), sum(own.cpu_times()[:2])
    used_before, began_s = _cpu_s(), time.monotonic()
    watch(_WATCHED_S)
    took_s = time.monotonic() - began_s
    after, own_s = machine_s(), sum(own.cpu_times()[:2]) - own_before
    spent = {name: after[name] - before[name] for name in after} if before and after else {}
    if not sum(spent.values()):  # some sandboxes do not count
        yield Finding("other processes", State.UNREADABLE)
        yield Finding("stolen time", State.UNREADABLE)
        return
    used = {key: value - used_before.get(key, value) for key, value in _cpu_s().items()}
    percent = max(0.0, 100 * (spent["busy"] - own_s) / took_s / cpus)
    names = [
        f"{name} ({pid})"
        for (pid, name), spent_s in sorted(used.items(), key=lambda item: -item[1])[:3]
        if spent_s > 0.01 * took_s and pid != own.pid
    ]
    yield Finding(
        "other processes",
        State.DISTURBS if percent > BUSY_PERCENT else State.FINE,
        f"{percent:.1f} % of {cpus} CPUs" + (f": {', '.join(names)}" if names else ""),
        "end them, or measure when they have ended",
    )
    stolen = 100 * spent["stolen"] / took_s / cpus
    yield Finding(
        "stolen time",
        State.DISTURBS if stolen > _STOLEN_PERCENT else State.FINE,
        f"{stolen:.1f} % went to other machines on this host",
        "measure on a host of one's own, or with more rounds",
    )


def _cpu_s() -> dict[tuple[int, str], float]:
    """What every process has used so far."""
    used = {}
    for process in psutil.process_iter(["name", "cpu_times"]):
        if times := process.info["cpu_times"]:
            used[process.pid, process.info["name"]] = times.user + times.system
    return used


def quota(proc: Path = PROC) -> Finding:
    """Whether this process's control groups may use fewer CPUs than it sees."""
    cpus, allowed = cpus_allowed(), cgroup.quota_cpus(proc)
    if allowed is None:
        return Finding("CPU quota", State.UNREADABLE)
    if allowed == math.inf:
        return Finding("CPU quota", State.FINE, "none")
    return Finding(
        "CPU quota",
        State.DISTURBS if allowed < cpus else State.FINE,
        f"{allowed:g} CPUs of the {cpus} that are there",
        f"threads wait for each other: limit the container to whole CPUs (taskset -c 0-"
        f"{max(0, int(allowed) - 1)})",
    )


def thread_count(threads: int, proc: Path = PROC) -> Finding:
    """Whether there is a CPU for each thread.

    Args:
        threads: How many torch computes with.
        proc: Where procfs is mounted.
    """
    cpus, allowed = cpus_allowed(), cgroup.quota_cpus(proc)
    text = f"{threads} for {min(cpus, math.inf if allowed is None else allowed):g} CPUs"
    if threads > min(cpus, math.inf if allowed is None else allowed):
        state = State.DISTURBS
    else:
        state = State.UNREADABLE if allowed is None else State.FINE
    return Finding("threads", state, text, "they wait for each other: set OMP_NUM_THREADS to less")


def governor(sysfs: Path = SYSFS) -> Finding:
    """How the CPU's clock is chosen."""
    files = sysfs.glob("devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor")
    found = sorted({text for file in files if (text := _read(file))})
    if not found:
        return Finding("governor", State.UNREADABLE)
    return Finding(
        "governor",
        State.FINE if found == ["performance"] else State.DISTURBS,
        ", ".join(found),
        "the clock follows the load: cpupower frequency-set -g performance",
    )


def throttling(sysfs: Path = SYSFS) -> Finding:
    """Whether the CPU has slowed down for heat."""
    files = sysfs.glob("devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count")
    found = [int(text) for file in files if (text := _read(file))]
    if not found:
        return Finding("CPU throttling", State.UNREADABLE)
    return Finding(
        "CPU throttling",
        State.DISTURBS if any(found) else State.FINE,
        f"{sum(found)} times since it was started",
        "see to its cooling, or let it rest between rounds",
    )


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def memory(device: str, free_bytes: int, proc: Path = PROC) -> Finding:
    """Whether the default budget is there."""
    text = f"{format_bytes(free_bytes)} free on {device}"
    state = State.FINE if free_bytes >= DEFAULT_BUDGET_BYTES else State.DISTURBS
    if device == "cpu":
        limit = cgroup.memory_limit_bytes(proc)
        if limit is None:
            text += ", the control groups' limits not read"
            state = State.UNREADABLE if state is State.FINE else state
        elif limit != math.inf:
            text += f", within a control group's limit of {format_bytes(limit)}"
    advice = f"less than the default budget of {format_bytes(DEFAULT_BUDGET_BYTES)}"
    return Finding("memory", state, text, advice)


def shared_memory(path: Path = SHARED_MEMORY) -> Finding:
    """Whether there is room for what processes hand each other."""
    try:
        total = shutil.disk_usage(path).total
    except OSError:
        return Finding(str(path), State.UNREADABLE)
    return Finding(
        str(path),
        State.FINE if total >= _LEAST_SHARED_BYTES else State.DISTURBS,
        format_bytes(total),
        "loader workers hand over batches there: docker run --shm-size=2g",
    )


def compiler(device: str) -> Finding:
    """Whether torch.compile finds the compiler that it wants: for C++ on a CPU, for C on a GPU."""
    own = os.environ.get("CXX" if device == "cpu" else "CC")
    names = [own or "g++"] if device == "cpu" else [*filter(None, [own]), "gcc", "clang"]
    found = next(filter(None, map(shutil.which, names)), None)
    return Finding(
        "compiler",
        State.FINE if found else State.DISTURBS,
        found or f"no {' or '.join(names)}",
        f"compiled variants cannot be measured: install {'g++' if device == 'cpu' else 'gcc'}",
    )


def hidden_gpu(note: str) -> Finding:
    """A GPU that torch cannot use."""
    return Finding(
        "GPU", State.DISTURBS, note, "install a newer driver, or torch for an older CUDA"
    )


def graphics(gpu: Mapping[str, Any]) -> Iterator[Finding]:
    """What would disturb on a GPU.

    Args:
        gpu: Of `bench.nvml.NvmlDevice.describe`.
    """
    busy = gpu.get("gpu_percent")
    yield _slowed(gpu.get("throttle_reasons"), busy)
    display = gpu.get("display_active")
    text = "on this card" if display else "none on this card"
    advice = "it takes memory and time of the card: use another for it, or none"
    if display is None:
        yield Finding("display", State.UNREADABLE)
    else:
        yield Finding("display", State.DISTURBS if display else State.FINE, text, advice)
    yield _others(gpu.get("compute_processes"), busy)


def _slowed(reasons: int | None, busy_percent: float | None) -> Finding:
    """Whether the GPU's clocks are lower than they could be; only a GPU under load shows it."""
    name, advice = "GPU throttling", "see to power and cooling"
    if reasons is None:
        return Finding(name, State.UNREADABLE)
    words = {text: None for bit, text in _THROTTLES.items() if reasons & getattr(pynvml, bit)}
    if words:
        return Finding(name, State.DISTURBS, ", ".join(words), advice)
    if not busy_percent or reasons & pynvml.nvmlClocksEventReasonGpuIdle:
        return Finding(name, State.UNREADABLE, "while the GPU is idle")
    return Finding(name, State.FINE, "none")


def _others(processes: int | None, busy_percent: float | None) -> Finding:
    """Whether others use the GPU, on which nothing of ours runs now.

    Args:
        processes: How many NVML lists; `None` where that is not readable.
        busy_percent: NVML's utilization.
    """
    name, advice = "others on the GPU", "end them, or measure when they have ended"
    text = "processes not listed" if processes is None else f"{processes or 'no'} processes"
    if processes or (busy_percent or 0.0) > BUSY_PERCENT:
        busy = "" if busy_percent is None else f", {busy_percent:g} % busy"
        return Finding(name, State.DISTURBS, text + busy, advice)
    if processes is None:
        return Finding(name, State.UNREADABLE)
    return Finding(name, State.FINE, text)
