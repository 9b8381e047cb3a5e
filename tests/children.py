"""What children of the fork server do in tests; torch is imported where it is needed only."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

STATE: list[int] = []

MIB = 2**20


def send(pipe: IO[bytes], **event: Any) -> None:
    line = memoryview(json.dumps(event).encode() + b"\n")
    while line:
        line = line[pipe.write(line) :]


def answer(request: dict[str, Any], pipe: IO[bytes]) -> None:
    send(
        pipe,
        pid=os.getpid(),
        request=request,
        state=STATE,
        leak=os.environ.get("UNET_BENCH_TEST_LEAK"),
        folder=str(Path.cwd()),
        temporary=tempfile.gettempdir(),
        hash=hash("a text"),
    )


def leak(request: dict[str, Any], pipe: IO[bytes]) -> None:
    STATE.append(1)
    os.environ["UNET_BENCH_TEST_LEAK"] = "leaked"
    os.chdir("/")
    os.kill(os.getpid(), signal.SIGSEGV)


def end(request: dict[str, Any], pipe: IO[bytes]) -> None:
    if "code" in request:
        os._exit(request["code"])
    if "signal" in request:
        os.kill(os.getpid(), request["signal"])
    raise RuntimeError(request["message"])


def write(request: dict[str, Any], pipe: IO[bytes]) -> None:
    print("printed", end=" ")  # noqa: T201 - without a newline it stays in Python's buffer
    print("to stderr", file=sys.stderr)  # noqa: T201
    subprocess.run(["echo", "by a process"], check=True)
    os.write(1, b"x" * request.get("bytes", 0) + b" end ")


def answer_at_length(request: dict[str, Any], pipe: IO[bytes]) -> None:
    send(pipe, text="x" * request["bytes"])


def send_large(request: dict[str, Any], pipe: IO[bytes]) -> None:
    for number in range(3):
        send(pipe, number=number, text="x" * request["bytes"])


def sleep(request: dict[str, Any], pipe: IO[bytes]) -> None:
    helper = subprocess.Popen(["sleep", "3600"])
    send(pipe, pid=os.getpid(), helper=helper.pid)
    time.sleep(3600)


def burn(request: dict[str, Any], pipe: IO[bytes]) -> None:
    """Uses `cpu_s` of a core and `mib` of memory, here and in `generations` below, and stays.

    Tells what all of them have used by their own accounts.
    With `ends`, the generations below end when they are done.
    """
    depth, child, read_fd, write_fds = 0, 0, -1, list[int]()
    while depth < request["generations"]:
        read_fd, write_fd = os.pipe()
        write_fds.append(write_fd)
        if child := os.fork():
            break
        depth += 1
    block = bytearray(request["mib"] * MIB)
    for page in range(0, len(block), 4096):
        block[page] = 1
    while time.process_time() < request["cpu_s"]:
        pass
    used_s = 0.0
    if child:
        used_s = float(os.read(read_fd, 100))  # when those below are done
        if request.get("ends"):
            os.waitpid(child, 0)
    used_s += time.process_time()
    if not depth:
        send(pipe, cpu_s=used_s)
    else:
        os.write(write_fds[depth - 1], str(used_s).encode())
        if request.get("ends"):
            os._exit(0)
    time.sleep(3600)
    del block


def fill_memory(request: dict[str, Any], pipe: IO[bytes]) -> None:
    """Allocates in steps of 16 MiB until that fails, then lifts the budget and goes on."""
    import torch

    from bench.budget import enforce, is_out_of_memory
    from bench.monitor import read_proc_status

    budget = enforce("cpu", request["budget_bytes"])
    tensors = []
    try:
        for _ in range(10_000):
            tensors.append(torch.ones(16 * MIB, dtype=torch.uint8))  # noqa: PERF401
    except RuntimeError as error:
        resident = read_proc_status()["RssAnon"]
        budget.lift()
        more = torch.ones(request["budget_bytes"], dtype=torch.uint8)
        send(
            pipe,
            resident_bytes=resident,
            out_of_memory=is_out_of_memory(error),
            after_bytes=int(more[-1]) * len(more),
        )


def compete(request: dict[str, Any], pipe: IO[bytes]) -> None:
    """Is ready to run on one CPU only, all the time."""
    os.sched_setaffinity(0, {request["cpu"]})
    send(pipe, pid=os.getpid())
    while True:
        pass


def watch_address_space(request: dict[str, Any], pipe: IO[bytes]) -> None:
    """Reserves address space and gives it back, before a peak begins and then within it."""
    import mmap

    import torch

    from bench.budget import enforce

    budget = enforce("cpu", request["budget_bytes"])

    def reserve() -> None:
        mmap.mmap(-1, request["spike_bytes"], prot=mmap.PROT_READ).close()

    def peak() -> int:
        found = budget.peak()["peak_vm_data_bytes"]
        assert found is not None
        return found

    reserve()
    spike = peak()
    budget.reset_peak()
    before = peak()
    block = torch.ones(64 * MIB, dtype=torch.uint8)
    del block
    small = peak()
    block = torch.ones(request["spike_bytes"] + 64 * MIB, dtype=torch.uint8)
    del block
    large = peak()
    send(pipe, spike=spike, before=before, small=small, large=large)


def limit_below_the_budget(request: dict[str, Any], pipe: IO[bytes]) -> None:
    """Is under a hard limit, as of a batch system, that leaves less than the budget."""
    import resource

    import torch

    from bench.budget import enforce, is_out_of_memory
    from bench.monitor import read_proc_status

    hard = read_proc_status()["VmData"] + request["room_bytes"]
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
    budget = enforce("cpu", request["budget_bytes"])
    try:
        torch.ones(2 * request["room_bytes"], dtype=torch.uint8)
        refused = False
    except RuntimeError as error:
        refused = is_out_of_memory(error)
    send(pipe, hard=hard, limit=budget.limits["limit_vm_data_bytes"], refused=refused)


def watch_peaks(request: dict[str, Any], pipe: IO[bytes]) -> None:
    import numpy as np
    import torch

    from bench.budget import enforce
    from bench.monitor import read_proc_status

    before = torch.ones(256 * MIB, dtype=torch.uint8)
    del before  # no part of the first peak
    budget = enforce("cpu", request["budget_bytes"])
    start = budget.peak()["peak_bytes"]
    block = torch.ones(256 * MIB, dtype=torch.uint8)
    del block
    allocated = budget.peak()["peak_bytes"]
    budget.reset_peak()
    reset = budget.peak()["peak_bytes"]
    path = Path(request["path"])
    with path.open("wb") as file:
        file.truncate(256 * MIB)
    mapping = np.memmap(path, mode="r", dtype=np.uint8)
    assert mapping[::4096].sum() == 0
    mapped = read_proc_status()["RssFile"]
    read = budget.peak()["peak_bytes"]
    send(pipe, start=start, allocated=allocated, reset=reset, read=read, mapped=mapped)


def refuse_budget(request: dict[str, Any], pipe: IO[bytes]) -> None:
    from bench.budget import enforce

    try:
        enforce("cpu", request["budget_bytes"])
    except ValueError as error:
        send(pipe, error=str(error))


def audit_cuda(request: dict[str, Any], pipe: IO[bytes]) -> None:
    from bench.evidence.audit import audit

    send(pipe, **audit("cuda:0", request["budget_bytes"], request["gpu_uuid"]))


def measure_context(request: dict[str, Any], pipe: IO[bytes]) -> None:
    """Enforces a budget where some of NVML's answers are not to be had."""
    from bench import budget

    for name in request["hidden"]:
        setattr(budget, name, lambda *_: None)
    send(pipe, **budget.enforce("cuda:0", 2048 * MIB, request["gpu_uuid"]).limits)


def outgrow_the_cache(request: dict[str, Any], pipe: IO[bytes]) -> None:
    """Takes blocks that do not fit beside the cached one before, nor into it."""
    import torch

    from bench.budget import enforce

    budget = enforce("cuda:0", request["budget_bytes"], request["gpu_uuid"])
    for mib in (900, 1000, 1100):
        block = torch.empty(mib * MIB, dtype=torch.uint8, device="cuda:0")
        del block
    send(pipe, **budget.peak())


def run_out_of_workspace(request: dict[str, Any], pipe: IO[bytes]) -> None:
    """Multiplies or convolves for the first time when no memory is left but for the result."""
    import torch

    from bench.budget import enforce, is_out_of_memory

    enforce("cuda:0", request["budget_bytes"], request["gpu_uuid"])
    torch.backends.cudnn.benchmark = True  # tries what takes a workspace
    image = torch.rand(16, 64, 64, 64, device="cuda:0")
    kernel = torch.rand(64, 64, 3, 3, device="cuda:0")
    room = torch.empty_like(image)  # where the convolution's result will be
    left, right = torch.rand(2, 256, 256, device="cuda:0")
    result = torch.empty_like(left)
    kept = []
    for mib in (16, 8, 2):
        try:
            while True:
                kept.append(torch.empty(mib * MIB, dtype=torch.uint8, device="cuda:0"))
        except torch.OutOfMemoryError:
            continue
    try:
        if request["product"] == "matrix":
            torch.mm(left, right, out=result)
        else:
            del room
            torch.nn.functional.conv2d(image, kernel, padding=1)
        torch.cuda.synchronize()
        send(pipe, raised=None)
    except RuntimeError as error:
        send(pipe, raised=str(error), out_of_memory=is_out_of_memory(error))
