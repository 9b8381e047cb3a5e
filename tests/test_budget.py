from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bench import spec
from bench.budget import GIB, is_out_of_memory, parse_bytes
from bench.forkserver import ForkServer
from bench.runner import Runner, StopRequest
from bench.trial import Status, TrialResult
from tests.children import MIB
from tests.harness import Listening, run_child


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
    ],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "8", "GiB", "8G", "8 GiB GiB", "-8GiB", "1e3MiB", "8,5GiB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a number and a unit") as caught:
        parse_bytes(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text", ["0GiB", "0.1B", "9999999999GiB"])
def test_a_size_that_no_memory_has_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"^memory size '{text}': expected between "):
        parse_bytes(text)


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
        RuntimeError("could not create a primitive"),
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
    ],
    ids=repr,
)
def test_other_errors_are_not_out_of_memory(error: BaseException) -> None:
    assert not is_out_of_memory(error)


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


def test_a_budget_below_what_a_process_needs_is_refused(server: ForkServer) -> None:
    (event,) = run_child(server, "refuse_budget", budget_bytes=16 * MIB).events
    assert event["error"].startswith("budget 16 MiB: a trial's process needs ")


@pytest.mark.gpu
def test_the_allocator_stops_at_the_budget_less_the_context(server: ForkServer) -> None:
    budget_bytes = 2048 * MIB
    ended = run_child(server, "fill_cuda", budget_bytes=budget_bytes)
    assert ended.exit_code == 0, ended.log
    (event,) = ended.events
    limits, peaks = event["limits"], event["peaks"]
    assert event["out_of_memory"]
    assert limits["context_bytes"] > 0
    assert limits["cap_bytes"] + limits["context_bytes"] == budget_bytes
    assert 0.95 * limits["cap_bytes"] < peaks["peak_bytes"] <= peaks["peak_reserved_bytes"]
    assert peaks["peak_reserved_bytes"] <= limits["cap_bytes"]
    assert event["after_reset"]["peak_bytes"] == 0


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
    with Runner("unet.colorize:ColorizationTask", timeout_s=100) as runner:
        yield runner


@pytest.mark.parametrize("variant", ["fp32", "bf16+channels_last"])
def test_a_unet_that_does_not_fit_is_out_of_memory(runner: Runner, variant: str) -> None:
    overrides = {name: [str(value)] for name, value in {**SETTINGS, **HARNESS}.items()}
    asked = spec.load("quick", overrides | {"variants": [variant]})
    data = asked.workload.prepare(asked.settings()[0], lambda done, total: None)

    def run(budget_bytes: int) -> TrialResult:
        (trial,) = asked.trials("cpu", budget_bytes)
        with StopRequest() as stop:
            return runner.run(trial, data, None, stop, Listening(), compiled=False)

    fits = run(4 * GIB)
    assert fits.status is Status.OK, fits.reason
    base, peak = (fits.memory[name] for name in ("baseline_bytes", "first_step_peak_bytes"))
    assert isinstance(base, int)
    assert isinstance(peak, int)
    for share in (80, 90):
        result = run(base + (peak - base) * share // 100)
        assert result.status is Status.OOM, result.detail
        assert where(result) in ("forward", "backward")
        assert result.phase in ("first_step", "measuring")
        assert result.reason
        assert "\n" not in result.reason
