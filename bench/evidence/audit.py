"""The memory budget put to the test: a process takes memory until it is refused.

Run as a program: a budget holds for the process that it is enforced on.
"""

import json
import os
import sys
from typing import Any

from bench.budget import (
    default_budget,
    enforce,
    is_out_of_memory,
    load_libraries,
    parse_bytes,
    usable_bytes,
)
from bench.errors import UserError
from bench.monitor import read_proc_status
from bench.nvml import nvml_free_bytes, nvml_process_bytes

BLOCK_BYTES = 2**24


def audit(device: str, budget_bytes: int, gpu_uuid: str | None = None) -> dict[str, Any]:
    """Enforces a budget on this process, and takes memory until it is refused.

    Args:
        device: `cpu` or `cuda:N`.
        budget_bytes: The budget.
        gpu_uuid: NVML's name of a CUDA device.

    Returns:
        What `MemoryBudget.limits` holds, and sizes in bytes, `None` where they are not readable:
        `taken_bytes` (in blocks, when the next one was refused), `peak_bytes` and on CUDA
        `peak_reserved_bytes` (see `MemoryBudget.peak`), `libraries_bytes` (what the context has
        grown by when convolutions and products have run once more),
        `process_bytes` (all that the process had then: by NVML on CUDA, RssAnon on CPU),
        `device_rise_bytes` (by how much the GPU's used memory has risen, whosever it is);
        `refused` (whether there was an end to it), `recognized` (as out of memory), `message`, and
        `recovered` (whether half of it could be taken again).

    Raises:
        UserError: The process needs more than the budget before it has done anything.
    """
    import torch

    free_before = nvml_free_bytes(gpu_uuid) if gpu_uuid else None
    budget = enforce(device, budget_bytes, gpu_uuid)
    found: dict[str, Any] = dict(budget.limits)
    if gpu_uuid:
        found["libraries_bytes"] = _grown_bytes(device, found["context_bytes"], gpu_uuid)

    def block() -> torch.Tensor:
        return torch.ones(BLOCK_BYTES, dtype=torch.uint8, device=device)

    blocks: list[torch.Tensor] = []
    found |= {"refused": False, "recognized": False, "message": None}
    try:
        while len(blocks) * BLOCK_BYTES < 2 * budget_bytes:
            blocks.append(block())
    except (RuntimeError, MemoryError) as error:
        found |= {"refused": True, "recognized": is_out_of_memory(error), "message": _line(error)}
    found["taken_bytes"] = len(blocks) * BLOCK_BYTES
    found |= budget.peak()
    if gpu_uuid:
        torch.cuda.synchronize(device)
        free_now = nvml_free_bytes(gpu_uuid)
        known = free_before is not None and free_now is not None
        found["device_rise_bytes"] = (free_before or 0) - (free_now or 0) if known else None
    else:
        found["process_bytes"] = read_proc_status()["RssAnon"]
    half = len(blocks) // 2
    blocks.clear()
    try:
        found["recovered"] = len([block() for _ in range(half)]) == half
    except RuntimeError:
        found["recovered"] = False
    budget.lift()
    return found


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _grown_bytes(device: str, context_bytes: int | None, gpu_uuid: str) -> int | None:
    """What the process has beyond the allocator's memory and the context after more of the same.

    `None` where NVML does not tell.
    """
    import torch

    load_libraries(torch.device(device))
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()  # pieces of segments that no block would fit into
    process_bytes = nvml_process_bytes(gpu_uuid, os.getpid())
    if process_bytes is None or context_bytes is None:
        return None
    return process_bytes - torch.cuda.memory_reserved(device) - context_bytes


def main() -> None:
    """Prints what `audit` finds, or why it could not begin."""
    device, gpu_uuid, free_bytes, budget = sys.argv[1:]
    free = int(free_bytes) if device == "cpu" else usable_bytes(int(free_bytes))
    asked = parse_bytes(budget) if budget else default_budget(free)
    try:
        found = audit(device, asked, gpu_uuid or None)
    except UserError as error:
        sys.exit(str(error))
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
