"""A memory budget that is enforced, and what counts as running out of it.

On CUDA the caching allocator is capped at the budget less the measured context. On CPU the
kernel refuses the trial's process more private memory than the budget (`RLIMIT_DATA`), which
torch reports as an ordinary, catchable failure.

Torch is imported in functions: the parent process, which only reads sizes, stays without it.
"""

import errno
import os
import re
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from bench.environment import is_wsl
from bench.errors import UserError
from bench.monitor import read_proc_status
from bench.nvml import nvml_free_bytes, nvml_process_bytes

if TYPE_CHECKING:
    import torch

GIB = 2**30
DEFAULT_BUDGET_BYTES = 8 * GIB

BUDGET_STEP_BYTES = 2**28
"""A default budget below 8 GiB is rounded down to this, so that resuming finds the same one."""

WSL_MARGIN_BYTES = 2**29
"""Left free on WSL2, where the desktop's share of a GPU changes while a trial runs."""

_UNITS = {"b": 1}
_UNITS |= {f"{prefix}ib": 2 ** (10 * power) for power, prefix in enumerate("kmgt", start=1)}
_UNITS |= {f"{prefix}b": 10 ** (3 * power) for power, prefix in enumerate("kmgt", start=1)}

_LEAST_PLAIN_BYTES = 2**20
"""A number without a unit is a number of bytes; a smaller one has lost its unit."""

# The shapes in which it is said that memory is short: by allocators, cuBLAS and cuDNN (8 and 9),
# the C library, Python and numpy, compilers and linkers. The last is oneDNN's: its message ends
# there, while "... a primitive descriptor for ..." means that it has no such code.
_OUT_OF_MEMORY = re.compile(
    r"can(no|')t allocate memory|out[ _]of[ _]memory|not enough memory|bad_alloc"
    r"|ALLOC(ATION)?_FAILED|cudaErrorMemoryAllocation|MemoryError|memory exhausted"
    r"|could not create a primitive$",
    re.IGNORECASE | re.MULTILINE,
)

_PERHAPS_OUT_OF_MEMORY = re.compile(
    "unable to find an engine to execute this computation|CU(BLAS|DNN)_STATUS_NOT_INITIALIZED"
)
"""What is said for want of memory and for other reasons. cuDNN's convolutions try one algorithm
after the other and pass over those whose workspace is refused; when none is left torch says the
first, and no word of memory (pytorch#108645). It says the same where cuDNN has no algorithm at all.
The second is said when a library cannot be set up: on a card that is full, or broken."""


def parse_bytes(text: str) -> int:
    """A size such as `8GiB`, `800 MiB`, `2.5GB` or, in plain bytes, `8589934592`.

    Raises:
        UserError: It is no number, has no clear unit, or is not a size that memory has.
    """
    match = re.fullmatch(r"\s*(-?[0-9]*\.?[0-9]+)\s*([a-zA-Z]*)\s*", text)
    number, unit = (float(match[1]), match[2].lower()) if match else (0.0, "none")
    if match and number <= 0:
        raise UserError(f"memory size {text!r}: expected a positive one, such as 8GiB")
    if unit not in _UNITS and (unit or number < _LEAST_PLAIN_BYTES):
        raise UserError(
            f"memory size {text!r}: expected a number and a unit, such as 8GiB, 8192MiB or 8GB, or "
            f"plain bytes from {_LEAST_PLAIN_BYTES} on"
        )
    size = number * _UNITS[unit or "b"]
    if not 1 <= size <= 2**62:  # what the kernel's limits can hold, with room to add to it
        raise UserError(f"memory size {text!r}: expected between 1 byte and 4 EiB")
    return int(size)


def format_bytes(size_bytes: float) -> str:
    """Bytes as GiB, or as MiB or KiB where that reads better, for messages."""
    if size_bytes < 2**20:
        return f"{size_bytes / 2**10:.4g} KiB"
    if size_bytes < GIB:
        return f"{size_bytes / 2**20:.4g} MiB"
    return f"{size_bytes / GIB:.3g} GiB"


def memory_mode(budget_bytes: int, free_bytes: int) -> str:
    """`native` where the budget is all that a card had to give at the start, else `emulated`.

    A default budget is rounded down by up to a step; by another one what is free may have changed
    since, as it does on a card that drives a display.
    """
    return "native" if budget_bytes > free_bytes - 2 * BUDGET_STEP_BYTES else "emulated"


def usable_bytes(free_bytes: int) -> int:
    """What of a GPU's free memory a process should take: all of it, but for a margin on WSL2.

    There Windows manages it, and may move it to the host's memory instead of refusing it, so that a
    trial would run on at a fraction of its speed.
    """
    return max(0, free_bytes - WSL_MARGIN_BYTES) if is_wsl() else free_bytes


def default_budget(free_bytes: int) -> int:
    """8 GiB, or what is free rounded down, if that is less."""
    if free_bytes >= DEFAULT_BUDGET_BYTES:
        return DEFAULT_BUDGET_BYTES
    return free_bytes // BUDGET_STEP_BYTES * BUDGET_STEP_BYTES


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception, or one that it came from, means that memory ran out."""
    import torch

    kinds = (MemoryError, torch.OutOfMemoryError)
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, kinds):
            return True
        if isinstance(seen, OSError) and seen.errno == errno.ENOMEM:
            return True
        # Inductor's and its compilers' are of this kind too, and hold what these have said.
        if isinstance(seen, RuntimeError):
            text = str(seen)
            if says_out_of_memory(text) or (_PERHAPS_OUT_OF_MEMORY.search(text) and _has_refused()):
                return True
        seen = seen.__cause__ or seen.__context__
    return False


def _has_refused() -> bool:
    """Whether torch's CUDA allocator has come to the end of memory in this process."""
    import torch

    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return False
    stats = torch.cuda.memory_stats()
    return bool(stats["num_ooms"] or stats["num_alloc_retries"])


def says_out_of_memory(text: str) -> bool:
    """Whether a library's message means that memory ran out."""
    return bool(_OUT_OF_MEMORY.search(text))


class MemoryBudget(Protocol):
    """Enforces a budget on this process and knows its peaks."""

    limits: dict[str, int | str | None]
    """What was set and measured when the budget was enforced, in bytes."""

    def reset_peak(self) -> None:
        """Starts a new peak."""
        ...

    def peak(self) -> dict[str, int | None]:
        """Bytes at the peak since the last reset: `peak_bytes` is the one to quote."""
        ...

    def lift(self) -> None:
        """Ends the limit, so that a failure can be reported in peace."""
        ...


def enforce(device: str, budget_bytes: int, gpu_uuid: str | None = None) -> MemoryBudget:
    """Puts this process under the budget.

    Args:
        device: `cpu` or `cuda:N`.
        budget_bytes: What the process may use, its baseline or CUDA context included.
        gpu_uuid: NVML's name of a CUDA device.

    Raises:
        UserError: The process needs more than that before it has done anything.
    """
    if device == "cpu":
        return CpuBudget(budget_bytes)
    return CudaBudget(device, budget_bytes, gpu_uuid or "")


class CpuBudget:
    """Limits private writable memory (`VmData`) and measures what of it is resident.

    A part of VmData is only reserved and never resident (thread stacks, arenas). What is so at
    the start is added to the limit, so that the budget means resident memory as nearly as the
    kernel can enforce it. The limit holds per process.
    """

    def __init__(self, budget_bytes: int) -> None:
        import torch

        torch.ones(1 << 20).add_(1)  # starts the thread pool, which cannot start out of memory
        now = read_proc_status()
        if budget_bytes <= now["RssAnon"]:
            raise UserError(
                f"budget {format_bytes(budget_bytes)}: a trial's process needs "
                f"{format_bytes(now['RssAnon'])} before it trains"
            )
        limit = budget_bytes + now["VmData"] - now["RssAnon"]
        _, self._hard = resource.getrlimit(resource.RLIMIT_DATA)
        if self._hard != resource.RLIM_INFINITY:
            limit = min(limit, self._hard)
        # Only the soft limit, so that it can be lifted again.
        resource.setrlimit(resource.RLIMIT_DATA, (limit, self._hard))
        self.limits: dict[str, int | str | None] = {
            "mode": "native",
            "budget_bytes": budget_bytes,
            "limit_vm_data_bytes": limit,
            "baseline_bytes": now["RssAnon"],
            "baseline_vm_data_bytes": now["VmData"],
        }
        self.reset_peak()

    def reset_peak(self) -> None:
        """Lets the kernel forget the process's peak resident set; see proc_pid_clear_refs(5)."""
        try:
            Path("/proc/self/clear_refs").write_text("5")
            self._tracked = True
        except OSError:  # some sandboxes have no such file: the parent's samples must do
            self._tracked = False
        self._peak_before = read_proc_status()["VmPeak"]

    def peak(self) -> dict[str, int | None]:
        """Peak of anonymous resident memory, tracked by the kernel, not sampled.

        The kernel keeps a peak of the whole resident set only. File and shared pages, which
        hardly change while training, are taken off at their present size.
        """
        now = read_proc_status()
        peak = now["VmHWM"] - now["RssFile"] - now["RssShmem"]
        # The kernel keeps a peak of all address space only, and never forgets it. What of it is not
        # private writable memory is libraries and files, mapped early and for good.
        peak_data = now["VmData"] + now["VmPeak"] - now["VmSize"]
        if self._tracked and now["VmPeak"] == self._peak_before:
            # That peak is from before the reset: while threads start and libraries are loaded,
            # address space is reserved and given back. Since then, at the resident peak there was
            # beside it what is only reserved.
            peak_data = min(peak_data, peak + now["VmData"] - now["RssAnon"])
        return {
            "peak_bytes": peak if self._tracked else None,
            "vm_data_bytes": now["VmData"],
            "peak_vm_data_bytes": peak_data,
        }

    def lift(self) -> None:
        """Takes the limit off."""
        resource.setrlimit(resource.RLIMIT_DATA, (self._hard, self._hard))


def load_libraries(device: "torch.device") -> None:
    """Convolves and multiplies in fp32 and half precision and both memory formats, both ways.

    A CUDA context grows when cuDNN, cuBLAS and their kernels are loaded, which no allocator counts.
    """
    import torch

    half = [torch.float16]
    if device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False):
        half.append(torch.bfloat16)
    image = torch.rand(4, 16, 64, 64, device=device, requires_grad=True)
    kernel = torch.rand(16, 16, 3, 3, device=device, requires_grad=True)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        batch = image.contiguous(memory_format=memory_format)
        for dtype in (None, *half):
            with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
                convolved = torch.nn.functional.conv2d(batch, kernel, padding=1)
                product = convolved.flatten(0, 2) @ convolved.flatten(0, 2).T[:, :64]
            torch.autograd.backward(product.float().sum())


class CudaBudget:
    """Caps torch's caching allocator at the budget less the CUDA context.

    The allocator's cap does not count the context (pytorch#58466), so the context is measured
    and taken off, with the libraries that every trial loads. A capped big card is an emulation of a
    small one and is recorded as such.
    """

    def __init__(self, device: str, budget_bytes: int, gpu_uuid: str) -> None:
        import torch

        self.device = torch.device(device)
        self._gpu_uuid = gpu_uuid
        free_before = nvml_free_bytes(gpu_uuid)
        try:
            torch.cuda.set_device(self.device)  # makes the context
            load_libraries(self.device)
            torch.cuda.synchronize(self.device)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(
                f"budget {format_bytes(budget_bytes)}: {device} has no room for a CUDA context and "
                "its libraries"
            ) from None
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        reserved = torch.cuda.memory_reserved(self.device)
        free_now, total_bytes = torch.cuda.mem_get_info(self.device)
        free_after = nvml_free_bytes(gpu_uuid)  # like with like: the two need not agree
        risen = None if free_before is None or free_after is None else free_before - free_after
        context_bytes: int | None = None
        source = "not readable"
        for taken, told_by in (
            (nvml_process_bytes(gpu_uuid, os.getpid()), "nvml process memory"),
            (risen, "nvml free memory"),
        ):
            # No context is free: others have given back memory meanwhile.
            if taken is not None and taken > reserved:
                context_bytes, source = taken - reserved, told_by
                break
        cap = budget_bytes - (context_bytes or 0)
        if cap <= 0:
            raise UserError(
                f"budget {format_bytes(budget_bytes)}: the CUDA context alone takes "
                f"{format_bytes(context_bytes or 0)}"
            )
        torch.cuda.set_per_process_memory_fraction(min(1.0, cap / total_bytes), self.device)
        at_start = free_before
        if at_start is None:
            at_start = free_now + reserved + (context_bytes or 0)
        self.limits: dict[str, int | str | None] = {
            "mode": memory_mode(budget_bytes, usable_bytes(at_start)),
            "budget_bytes": budget_bytes,
            "cap_bytes": min(cap, total_bytes),
            "context_bytes": context_bytes,
            "context_source": source,
            "card_bytes": total_bytes,
        }

    def reset_peak(self) -> None:
        """Starts a new peak of the allocator."""
        import torch

        torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> dict[str, int | None]:
        """Peaks of allocated and reserved memory since the reset, and allocation retries.

        Beside them what NVML accounts to the process now, its context and the kernels it has
        loaded included.
        """
        import torch

        stats = torch.cuda.memory_stats(self.device)
        return {
            "peak_bytes": stats["allocated_bytes.all.peak"],
            "peak_reserved_bytes": stats["reserved_bytes.all.peak"],
            "alloc_retries": stats["num_alloc_retries"],
            "process_bytes": nvml_process_bytes(self._gpu_uuid, os.getpid()),
        }

    def lift(self) -> None:
        """Nothing to lift: reporting needs no device memory."""
