"""What NVML tells of one GPU. A figure that is not readable here is `None`, never 0."""

import os
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pynvml

from bench.cgroup import PROC

Figures = dict[str, float | str | None]

_FIRST_PID_NAMESPACE = 0xEFFFFFFC
"""Inode of the namespace that holds all processes of the machine; see linux/proc_ns.h."""

# The member of NVML's union that holds a value, by its `nvmlValueType_t`.
_NVML_VALUES = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")


class NvmlDevice:
    """One GPU, by UUID."""

    def __init__(self, uuid: str) -> None:
        pynvml.nvmlInit()
        self._handle = _nvml_handle(uuid)
        self._read_until_us: int | None = None

    def sample(self, pid: int) -> Figures:
        """What a process does to the GPU.

        Args:
            pid: The process.

        Returns:
            `_state`; `gpu_busy_percent`, the mean of NVML's own samples of utilization since the
            call before; and `gpu_process_bytes`, the memory of the process.
        """
        return self._state() | {
            "gpu_busy_percent": self._busy_percent(),
            "gpu_process_bytes": self.process_bytes(pid),
        }

    def _state(self) -> Figures:
        """Utilization in percent, memory in bytes, clock in MHz, power in W, temperature in C.

        All are the whole card's, or those of the MIG instance.
        """
        nvml, gpu = pynvml, self._handle
        power_mw = _read(lambda: nvml.nvmlDeviceGetPowerUsage(gpu))
        return {
            "gpu_percent": _read(lambda: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu),
            "gpu_used_bytes": _read(lambda: nvml.nvmlDeviceGetMemoryInfo(gpu).used),
            "sm_clock_mhz": _read(lambda: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM)),
            "power_w": None if power_mw is None else power_mw / 1000,
            "temperature_c": _read(
                lambda: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU)
            ),
        }

    def _busy_percent(self) -> float | None:
        """Mean utilization since the last call, by the history that NVML keeps.

        `nvmlDeviceGetUtilizationRates` tells only of the last 1/6 to 1 s, which in a short window
        may lie before it.

        Returns:
            0 to 100; `None` in the first call, where there is no new sample, and where the GPU
            keeps none.
        """
        since_us = self._read_until_us or 0
        kind, samples = _read(
            lambda: pynvml.nvmlDeviceGetSamples(
                self._handle, pynvml.NVML_GPU_UTILIZATION_SAMPLES, since_us
            )
        ) or (0, [])
        new = [sample for sample in samples if sample.timeStamp > since_us]
        first = self._read_until_us is None
        self._read_until_us = max([since_us, *(sample.timeStamp for sample in new)])
        if first or not new:
            return None
        return fmean(getattr(sample.sampleValue, _NVML_VALUES[kind]) for sample in new)

    def describe(self) -> dict[str, float | str | None]:
        """What may explain a measurement, by name and unit; a switch is 1 or 0."""
        nvml, gpu = pynvml, self._handle
        limit_mw = _read(lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(gpu))
        return {
            "name": _read(lambda: nvml.nvmlDeviceGetName(gpu)),
            "driver": _read(nvml.nvmlSystemGetDriverVersion),
            "cuda_driver": _read(nvml.nvmlSystemGetCudaDriverVersion_v2),
            "memory_bytes": _read(lambda: nvml.nvmlDeviceGetMemoryInfo(gpu).total),
            "used_bytes": _read(lambda: nvml.nvmlDeviceGetMemoryInfo(gpu).used),
            "compute_processes": self._other_processes(),
            "power_limit_w": None if limit_mw is None else limit_mw / 1000,
            "max_sm_clock_mhz": _read(
                lambda: nvml.nvmlDeviceGetMaxClockInfo(gpu, nvml.NVML_CLOCK_SM)
            ),
            "max_memory_clock_mhz": _read(
                lambda: nvml.nvmlDeviceGetMaxClockInfo(gpu, nvml.NVML_CLOCK_MEM)
            ),
            "throttle_reasons": _read(lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(gpu)),
            "display_active": _read(lambda: nvml.nvmlDeviceGetDisplayActive(gpu)),
            "persistence_mode": _read(lambda: nvml.nvmlDeviceGetPersistenceMode(gpu)),
            "ecc_mode": _read(lambda: nvml.nvmlDeviceGetEccMode(gpu)[0]),
            "mig_mode": _read(lambda: nvml.nvmlDeviceGetMigMode(gpu)[0]),
            "pcie_generation": _read(lambda: nvml.nvmlDeviceGetMaxPcieLinkGeneration(gpu)),
            "pcie_width": _read(lambda: nvml.nvmlDeviceGetMaxPcieLinkWidth(gpu)),
        } | self._state()

    def free_bytes(self) -> int:
        """Memory that nobody uses."""
        return int(pynvml.nvmlDeviceGetMemoryInfo(self._handle).free)

    def process_bytes(self, pid: int) -> int | None:
        """Memory that NVML accounts to a process, its context included."""
        for process in self._processes() or ():
            if process.pid == pid and process.usedGpuMemory:
                return int(process.usedGpuMemory)
        return None

    def _other_processes(self) -> int | None:
        """How many processes beside this one compute on the GPU.

        `None` where it is not readable, as is an empty list in a container: there it is always
        empty, whoever computes.
        """
        processes = self._processes()
        if processes is None or not (processes or sees_all_processes()):
            return None
        return len([process for process in processes if process.pid != os.getpid()])

    def _processes(self) -> list[Any] | None:
        """Those that compute on the GPU; `None` where the list is not readable."""
        listed: list[Any] | None = _read(
            lambda: pynvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
        )
        return listed


def sees_all_processes(proc: Path = PROC) -> bool:
    """Whether no container hides others' processes from this one, and from what NVML lists."""
    try:
        return (proc / "self/ns/pid").stat().st_ino == _FIRST_PID_NAMESPACE
    except OSError:
        return False


def _read(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except (pynvml.NVMLError, pynvml.NVMLLibraryMismatchError):  # the second: an old driver
        return None


def _nvml_handle(uuid: str) -> Any:
    """NVML's handle of a GPU, or of a MIG instance.

    NVML requires the prefix, which tells the one from the other; torch leaves it out.
    """
    bare = uuid.removeprefix("GPU-").removeprefix("MIG-")
    try:
        return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{bare}")
    except pynvml.NVMLError:
        return pynvml.nvmlDeviceGetHandleByUUID(f"MIG-{bare}")


def nvml_process_bytes(uuid: str, pid: int) -> int | None:
    """Device memory of one process; `None` where it is not readable (as in most containers)."""
    try:
        return NvmlDevice(uuid).process_bytes(pid)
    except pynvml.NVMLError:
        return None


def nvml_free_bytes(uuid: str) -> int | None:
    """Free memory of a GPU; `None` where it is not readable. Makes no CUDA context."""
    try:
        return NvmlDevice(uuid).free_bytes()
    except pynvml.NVMLError:
        return None


def nvml_describe(uuid: str) -> dict[str, float | str | None]:
    """See `NvmlDevice.describe`; empty where NVML does not find the GPU."""
    try:
        return NvmlDevice(uuid).describe()
    except pynvml.NVMLError:
        return {}
