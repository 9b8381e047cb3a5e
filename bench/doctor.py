"""What on this machine would disturb a measurement.

What a machine does not let one read is said to be unreadable, never to be fine.
"""

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

from bench.budget import DEFAULT_BUDGET_BYTES, format_bytes
from bench.environment import cpus_allowed

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
    device: str, note: str | None, free_bytes: int, gpu: Mapping[str, Any] | None
) -> list[Finding]:
    """Looks at everything; takes a second.

    Args:
        device: Where one would measure: `cpu` or `cuda:N`.
        note: What torch says of a GPU that it cannot use; `None` if there is nothing to say.
        free_bytes: Memory that is free there.
        gpu: Of `bench.monitor.NvmlDevice.describe`, empty where it cannot be read; `None` on a CPU.
    """
    return [
        *processes(),
        quota(),
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
    before, own_before = _machine_s(), sum(own.cpu_times()[:2])
    used_before, began_s = _cpu_s(), time.monotonic()
    watch(_WATCHED_S)
    took_s = time.monotonic() - began_s
    after, own_s = _machine_s(), sum(own.cpu_times()[:2]) - own_before
    spent = {name: after[name] - before[name] for name in after}
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


def _machine_s() -> dict[str, float]:
    """Seconds so far of the CPUs that this process may use: `busy`, `idle` and `stolen`."""
    allowed = os.sched_getaffinity(0)
    times = [one for number, one in enumerate(psutil.cpu_times(percpu=True)) if number in allowed]
    kinds = {
        "busy": ("user", "nice", "system", "irq", "softirq"),
        "idle": ("idle", "iowait"),
        "stolen": ("steal",),
    }
    return {
        kind: sum(getattr(one, name, 0.0) for one in times for name in names)
        for kind, names in kinds.items()
    }


def _cpu_s() -> dict[tuple[int, str], float]:
    """What every process has used so far."""
    used = {}
    for process in psutil.process_iter(["name", "cpu_times"]):
        if times := process.info["cpu_times"]:
            used[process.pid, process.info["name"]] = times.user + times.system
    return used


def quota(sysfs: Path = SYSFS) -> Finding:
    """Whether a container may use fewer CPUs than it sees."""
    cpus = cpus_allowed()
    try:
        limit, period = (sysfs / "fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return Finding("CPU quota", State.UNREADABLE)
    if limit == "max":
        return Finding("CPU quota", State.FINE, "none")
    allowed = int(limit) / int(period)
    return Finding(
        "CPU quota",
        State.DISTURBS if allowed < cpus else State.FINE,
        f"{allowed:g} CPUs of the {cpus} that are there",
        f"threads wait for each other: limit the container to whole CPUs (taskset -c 0-"
        f"{max(0, int(allowed) - 1)})",
    )


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


def memory(device: str, free_bytes: int) -> Finding:
    """Whether the default budget is there."""
    return Finding(
        "memory",
        State.FINE if free_bytes >= DEFAULT_BUDGET_BYTES else State.DISTURBS,
        f"{format_bytes(free_bytes)} free on {device}",
        f"less than the default budget of {format_bytes(DEFAULT_BUDGET_BYTES)}",
    )


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
        gpu: Of `bench.monitor.NvmlDevice.describe`.
    """
    reasons = gpu.get("throttle_reasons")
    names = {
        words: None
        for name, words in _THROTTLES.items()
        if reasons is not None and reasons & getattr(pynvml, name)
    }
    yield _of_gpu(
        "GPU throttling",
        reasons,
        bool(names),
        ", ".join(names) or "none",
        "see to power and cooling",
    )
    display = gpu.get("display_active")
    yield _of_gpu(
        "display",
        display,
        bool(display),
        "on this card" if display else "none on this card",
        "it takes memory and time of the card: use another for it, or none",
    )
    others = gpu.get("compute_processes")
    yield _of_gpu(
        "others on the GPU",
        others,
        bool(others),
        f"{others or 'no'} processes",
        "end them, or measure when they have ended",
    )


def _of_gpu(name: str, read: object, disturbs: bool, text: str, advice: str) -> Finding:
    if read is None:
        return Finding(name, State.UNREADABLE)
    return Finding(name, State.DISTURBS if disturbs else State.FINE, text, advice)
