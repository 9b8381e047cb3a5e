import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench import budget, environment, spec
from bench.budget import GIB, is_out_of_memory, memory_mode, parse_bytes
from bench.environment import describe_device
from bench.forkserver import ForkServer
from bench.runner import Runner, StopRequest
from bench.trial import Status, TrialResult
from tests.children import MIB
from tests.harness import LIMIT_S, Listening, run_child
from tests.nvml import UUID, Nvml
from tests.training import fastest
from unet.variant import MemoryFormat, Variant

WSL = "5.15.167.4-microsoft-standard-WSL2"


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8GiB", 8 * 2**30),
        ("8 gib", 8 * 2**30),
        (" 800 MiB ", 800 * 2**20),
        ("2.5GB", 2_500_000_000),
        (".5GiB", 2**29),
        ("64KiB", 2**16),
        ("3kb", 3000),
        ("7MB", 7_000_000),
        ("1073741824B", 2**30),
        ("8589934592", 2**33),
        (" 1048576 ", 2**20),
    ],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    "text", ["", "8", "1048575", "GiB", "8G", "8g", "8 GiB GiB", "--8GiB", "1e3MiB", "8,5GiB", "-"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a number and a unit") as caught:
        parse_bytes(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text", ["0", "0GiB", "-8GiB", "-8", "-.5GB", "-0MiB"])
def test_a_size_that_is_not_positive_is_told_to_be_that(text: str) -> None:
    with pytest.raises(ValueError, match=f"^memory size '{text}': expected a positive one, such "):
        parse_bytes(text)


@pytest.mark.parametrize("text", ["0.1B", "9999999999GiB", "9" * 400 + "GiB"])
def test_a_size_that_no_memory_has_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"^memory size '{text}': expected between "):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("budget_gib", "free_gib", "mode"),
    [
        (8, 79, "emulated"),
        (7.25, 7.4, "native"),  # an 8 GiB card whose display takes the rest
        (7.25, 7.7, "native"),  # by now it takes less
        (8, 7.4, "native"),  # more than there is
        (6, 7.4, "emulated"),
    ],
)
def test_a_budget_is_native_where_it_is_all_that_the_card_had_free(
    budget_gib: float, free_gib: float, mode: str
) -> None:
    assert memory_mode(int(budget_gib * GIB), int(free_gib * GIB)) == mode


def caused(cause: BaseException | None = None, context: BaseException | None = None) -> KeyError:
    """An error that says nothing itself, as `raise ... from cause` makes it."""
    error = KeyError("unrelated")
    error.__cause__, error.__context__ = cause, context
    return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] not enough memory: you tried to allocate 9"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
        RuntimeError("CUDA driver error: CUDA_ERROR_OUT_OF_MEMORY"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("could not create a primitive"),
        RuntimeError("RuntimeError: could not create a primitive\n\nSet TORCHDYNAMO_VERBOSE=1"),
        RuntimeError("unable to mmap 64 bytes from file <x>: Cannot allocate memory (12)"),
        RuntimeError("C++ compile error\ncc1plus: out of memory allocating 65536 bytes after 9"),
        RuntimeError("C++ compile error\nvirtual memory exhausted: Cannot allocate memory"),
        RuntimeError("C++ compile error\nld: final link failed: memory exhausted"),
        RuntimeError("An exception occurred in a subprocess:\n\nnumpy._ArrayMemoryError: Unable"),
        OSError(errno.ENOMEM, "any words, in any language"),
        caused(cause=MemoryError()),
        caused(context=RuntimeError("DefaultCPUAllocator: can't allocate memory")),
        caused(cause=caused(context=MemoryError())),
    ],
    ids=repr,
)
def test_shapes_of_out_of_memory(error: BaseException) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        RuntimeError("could not create a primitive descriptor for a convolution forward primitive"),
        caused(cause=RuntimeError("broken")),
        ValueError("out of memory"),  # a caller's mistake, whatever it says
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("can't start new thread"),  # too many of them may be the reason as well
        RuntimeError("out of resource: shared memory, Required: 262144, Hardware limit: 232448"),
        RuntimeError("g++: fatal error: Killed signal terminated program cc1plus"),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
    ids=repr,
)
def test_other_errors_are_not_out_of_memory(error: BaseException) -> None:
    assert not is_out_of_memory(error)


@pytest.mark.parametrize(
    "text",
    [
        "GET was unable to find an engine to execute this computation",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
    ],
)
@pytest.mark.parametrize(
    ("initialized", "ooms", "retries"),
    [(True, 2, 0), (True, 0, 1), (True, 0, 0), (False, 0, 0)],
)
def test_what_may_have_other_reasons_is_out_of_memory_where_memory_was_refused(
    text: str, initialized: bool, ooms: int, retries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stats = {"num_ooms": ooms, "num_alloc_retries": retries}
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: initialized)
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda: stats)
    assert is_out_of_memory(RuntimeError(text)) == bool(ooms or retries)


def test_what_torch_raises_on_cpu_is_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.ones(1 << 50, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    with pytest.raises(RuntimeError) as other:
        torch.ones(2, 3) @ torch.ones(2, 3)
    assert not is_out_of_memory(other.value)


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    server = ForkServer(preload=("tests.children", "bench.worker"))
    yield server
    server.close()


@pytest.mark.parametrize("budget_bytes", [768 * MIB])
def test_memory_runs_out_at_the_budget_and_is_there_again_once_it_is_lifted(
    server: ForkServer, budget_bytes: int
) -> None:
    ended = run_child(server, "fill_memory", budget_bytes=budget_bytes)
    assert ended.exit_code == 0, ended.log
    (event,) = ended.events
    assert event["out_of_memory"]
    assert 0.75 * budget_bytes < event["resident_bytes"] <= 1.1 * budget_bytes
    assert event["after_bytes"] == budget_bytes


def test_the_peak_is_the_allocation_is_forgotten_and_knows_no_files(
    server: ForkServer, tmp_path: Path
) -> None:
    path = tmp_path / "frames"
    ended = run_child(server, "watch_peaks", budget_bytes=2048 * MIB, path=str(path))
    assert ended.exit_code == 0, ended.log
    (event,) = ended.events
    assert event["allocated"] - event["start"] == pytest.approx(256 * MIB, rel=0.05)
    assert event["reset"] < event["start"] + 16 * MIB
    assert event["mapped"] > 256 * MIB
    assert event["read"] < event["reset"] + 16 * MIB


def test_address_space_of_before_a_peak_began_is_no_part_of_it(server: ForkServer) -> None:
    spike = 512 * MIB
    ended = run_child(server, "watch_address_space", budget_bytes=2048 * MIB, spike_bytes=spike)
    assert ended.exit_code == 0, ended.log
    (event,) = ended.events
    assert event["spike"] - event["before"] > spike / 2
    assert event["small"] - event["before"] == pytest.approx(64 * MIB, rel=0.1)
    assert event["large"] - event["before"] == pytest.approx(spike + 64 * MIB, rel=0.1)


def test_a_hard_limit_of_the_system_holds_where_it_leaves_less(server: ForkServer) -> None:
    request = {"budget_bytes": 2048 * MIB, "room_bytes": 128 * MIB}
    ended = run_child(server, "limit_below_the_budget", **request)
    assert ended.exit_code == 0, ended.log
    (event,) = ended.events
    assert event["limit"] == event["hard"]
    assert event["refused"]


def test_a_budget_below_what_a_process_needs_is_refused(server: ForkServer) -> None:
    (event,) = run_child(server, "refuse_budget", budget_bytes=16 * MIB).events
    assert event["error"].startswith("budget 16 MiB: a trial's process needs ")


# On a GPU.


class Card:
    """CUDA as a process finds it that NVML tells of: a context of 300 MiB, libraries of 200.

    Args:
        nvml: Tells of it.
        patch: Puts it in torch's place.
        processes: Whether NVML accounts memory to processes.
    """

    reserved = 64 * MIB
    total = 8192 * MIB

    def __init__(self, nvml: Nvml, patch: pytest.MonkeyPatch, processes: bool) -> None:
        self.nvml, self.processes, self.fraction = nvml, processes, 0.0
        self.take(0)
        patch.setattr(torch.cuda, "set_device", lambda device: self.take(300 * MIB))
        patch.setattr(budget, "load_libraries", lambda device: self.take(500 * MIB + self.reserved))
        patch.setattr(torch.cuda, "memory_reserved", lambda device: self.reserved)
        patch.setattr(torch.cuda, "mem_get_info", lambda device: (7000 * MIB, self.total))
        patch.setattr(torch.cuda, "set_per_process_memory_fraction", self.cap)
        for name in ("synchronize", "empty_cache", "reset_peak_memory_stats"):
            patch.setattr(torch.cuda, name, lambda *device: None)

    def take(self, taken: int) -> None:
        own = f"1:5,{os.getpid()}:{taken}" if self.processes else ""
        self.nvml.answer(free_bytes=7168 * MIB - taken, processes=own)

    def cap(self, fraction: float, device: torch.device) -> None:
        self.fraction = fraction


@pytest.mark.parametrize(
    ("processes", "source"), [(True, "nvml process memory"), (False, "nvml free memory")]
)
def test_the_context_is_measured_when_its_libraries_are_loaded(
    nvml: Nvml, monkeypatch: pytest.MonkeyPatch, processes: bool, source: str
) -> None:
    card = Card(nvml, monkeypatch, processes)
    limits = budget.CudaBudget("cuda:0", 2048 * MIB, UUID).limits
    assert (limits["context_bytes"], limits["context_source"]) == (500 * MIB, source)
    assert limits["cap_bytes"] == 1548 * MIB == card.fraction * card.total
    card.take(0)
    with pytest.raises(ValueError, match=r"^budget 500 MiB: the CUDA context alone takes 500 MiB$"):
        budget.CudaBudget("cuda:0", 500 * MIB, UUID)


def test_a_context_that_nvml_does_not_tell_is_not_readable(
    nvml: Nvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = Card(nvml, monkeypatch, processes=False)
    card.reserved = 600 * MIB  # others have given back what it has taken
    monkeypatch.setattr(budget, "load_libraries", lambda device: None)
    for driver in (True, False):
        if not driver:
            monkeypatch.delenv("UNET_BENCH_TEST_NVML")
        limits = budget.CudaBudget("cuda:0", 2048 * MIB, UUID).limits
        assert (limits["context_bytes"], limits["context_source"]) == (None, "not readable")
        assert limits["cap_bytes"] == 2048 * MIB
        assert limits["mode"] == "emulated"


def test_a_card_without_room_for_the_libraries_is_told_in_one_line(
    nvml: Nvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(device: torch.device) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried")

    Card(nvml, monkeypatch, processes=True)
    monkeypatch.setattr(budget, "load_libraries", full)
    with pytest.raises(ValueError, match=r"^budget 2 GiB: cuda:0 has no room for a CUDA context"):
        budget.CudaBudget("cuda:0", 2048 * MIB, UUID)


def test_libraries_are_loaded_for_products_and_convolutions_both_ways() -> None:
    class Watching(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            tensor = next((one for one in args if isinstance(one, torch.Tensor)), None)
            seen.add(
                (func.__name__.partition(".")[0], tensor.dtype if tensor is not None else None)
            )
            return func(*args, **(kwargs or {}))

    seen: set[tuple[str, torch.dtype | None]] = set()
    with Watching():  # type: ignore[no-untyped-call]
        budget.load_libraries(torch.device("cpu"))
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert {("convolution", dtype), ("convolution_backward", dtype), ("mm", dtype)} <= seen


@pytest.mark.parametrize(("release", "margin"), [("6.8.0-generic", 0), (WSL, 512 * MIB)])
def test_a_margin_of_a_card_s_memory_is_left_where_windows_manages_it(
    tmp_path: Path, nvml: Nvml, monkeypatch: pytest.MonkeyPatch, release: str, margin: int
) -> None:
    (tmp_path / "osrelease").write_text(release + "\n")
    assert environment.is_wsl(tmp_path / "osrelease") == bool(margin)
    monkeypatch.setattr(budget, "is_wsl", lambda: environment.is_wsl(tmp_path / "osrelease"))
    assert budget.usable_bytes(7168 * MIB) == 7168 * MIB - margin
    assert budget.usable_bytes(MIB) == (0 if margin else MIB)
    Card(nvml, monkeypatch, processes=True)
    limits = budget.CudaBudget("cuda:0", 7168 * MIB - margin, UUID).limits
    assert limits["mode"] == "native"


@pytest.fixture(scope="module")
def gpu_uuid() -> str:
    return str(describe_device("cuda:0")["gpu_uuid"])


@pytest.mark.gpu
def test_the_allocator_stops_at_the_budget_less_the_context(
    server: ForkServer, gpu_uuid: str
) -> None:
    budget_bytes = 2048 * MIB
    ended = run_child(server, "audit_cuda", budget_bytes=budget_bytes, gpu_uuid=gpu_uuid)
    assert ended.exit_code == 0, ended.log
    (found,) = ended.events
    assert found["refused"]
    assert found["recognized"]
    assert found["recovered"]
    assert (found["context_bytes"] is None) == (found["context_source"] == "not readable")
    assert found["cap_bytes"] + (found["context_bytes"] or 0) == budget_bytes
    assert 0.95 * found["cap_bytes"] < found["peak_bytes"] <= found["peak_reserved_bytes"]
    assert found["peak_reserved_bytes"] <= found["cap_bytes"]
    if found["process_bytes"] is not None:  # what it has beyond the budget are kernels, no data
        assert found["peak_reserved_bytes"] < found["process_bytes"] < budget_bytes + 1024 * MIB


@pytest.mark.gpu
def test_the_context_is_measured_with_and_without_nvmls_word_on_the_process(
    server: ForkServer, gpu_uuid: str
) -> None:
    found = {}
    for hidden in ((), ("nvml_process_bytes",), ("nvml_process_bytes", "nvml_free_bytes")):
        ended = run_child(server, "measure_context", hidden=hidden, gpu_uuid=gpu_uuid)
        assert ended.exit_code == 0, ended.log
        (limits,) = ended.events
        found[limits["context_source"]] = limits["context_bytes"]
    assert found.pop("not readable") is None
    by_free = found.pop("nvml free memory", None)
    if by_free is None:
        pytest.skip("NVML tells nothing of memory here, and so it was said")
    assert 64 * MIB < by_free < 2048 * MIB
    if not found:
        pytest.skip("NVML does not tell a process's memory here: the other two were measured")
    assert found["nvml process memory"] == pytest.approx(by_free, abs=64 * MIB)


@pytest.mark.gpu
def test_the_allocator_s_retries_are_counted(server: ForkServer, gpu_uuid: str) -> None:
    ended = run_child(server, "outgrow_the_cache", budget_bytes=2048 * MIB, gpu_uuid=gpu_uuid)
    assert ended.exit_code == 0, ended.log
    assert ended.events[0]["alloc_retries"] == 2


@pytest.mark.gpu
@pytest.mark.parametrize("product", ["matrix", "convolution"])
def test_a_workspace_for_which_there_is_no_room_is_out_of_memory(
    server: ForkServer, product: str, gpu_uuid: str
) -> None:
    ended = run_child(
        server,
        "run_out_of_workspace",
        budget_bytes=2048 * MIB,
        product=product,
        gpu_uuid=gpu_uuid,
    )
    assert ended.exit_code == 0, ended.log
    (event,) = ended.events
    if product == "matrix":  # cuBLAS cannot do without; a convolution may find a way
        assert event["raised"]
    assert not event["raised"] or event["out_of_memory"], event


# Little arithmetic for much memory, so that it fits or fails soon.
SETTINGS = {"image_size": 64, "width": 16, "depth": 1, "frames": 120, "batch_size": 64}
HARNESS = {"samples": 128, "warmup_steps": 0, "measured_steps": 1, "device": "cpu"}


def where(result: TrialResult) -> str:
    """The part of the step in which a trial ended, or all that is known of it."""
    detail = result.detail or f"{result.status}: {result.reason}"
    parts = [part for part in ("forward", "backward") if f"task.{part}(" in detail]
    return parts[0] if parts else detail


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Runner("unet.colorize:ColorizationTask", timeout_s=LIMIT_S) as runner:
        yield runner


DEVICES = ["cpu", pytest.param("cuda:0", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.precision
@pytest.mark.parametrize("kind", ["plain", "fastest"])
def test_a_unet_that_does_not_fit_is_out_of_memory(runner: Runner, kind: str, device: str) -> None:
    reduced = Variant(fastest(torch.device(device)), MemoryFormat.CHANNELS_LAST)
    variant = "fp32" if kind == "plain" else reduced.name
    overrides = {name: [str(value)] for name, value in {**SETTINGS, **HARNESS}.items()}
    gpu_uuid = describe_device(device)["gpu_uuid"]
    asked = spec.load("quick", overrides | {"variants": [variant]})
    data = asked.workload.prepare(asked.settings()[0], lambda done, total: None)

    def run(budget_bytes: int) -> TrialResult:
        (trial,) = asked.trials(device, budget_bytes)
        with StopRequest() as stop:
            return runner.run(trial, data, gpu_uuid, stop, Listening(), compiled=False)

    fits = run(4 * GIB)
    assert fits.status is Status.OK, fits.reason
    peak = fits.memory["first_step_peak_bytes"]
    base = fits.memory["baseline_bytes" if device == "cpu" else "context_bytes"]
    if device != "cpu" and base is None:
        base = 0  # not readable, and so not taken off
    assert isinstance(base, int)
    assert isinstance(peak, int)
    if device != "cpu":  # there the peak is the allocator's alone
        peak += base
    # cuDNN makes do with smaller workspaces, but not with smaller activations.
    for share in (80, 90) if device == "cpu" else (40, 50):
        result = run(base + (peak - base) * share // 100)
        assert result.status is Status.OOM, result.detail
        assert where(result) in ("forward", "backward")
        assert result.phase in ("first_step", "measuring")
        assert result.reason
        assert "\n" not in result.reason
