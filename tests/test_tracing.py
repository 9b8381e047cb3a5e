"""Traces of training steps: that they do with memory what real steps do, at every batch size."""

from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bench import tracing
from bench.predict import ACTIVATIONS, TEMPORARY
from bench.tracing import BATCHES, Lines, Trace, trace_at
from unet.model import UNet, UNetConfig
from unet.variant import Variant
from unet.workload import COLORIZATION

VARIANTS = ["fp32", "fp16", "bf16+channels_last+fused", "bf16+lean", "fp32+blocks"]


def request(variant: str, device: str = "cuda") -> dict[str, Any]:
    settings = dict(COLORIZATION.settings, image_size=16, width=4, depth=2)
    axes = COLORIZATION.parse_variant(variant)
    return {"task": COLORIZATION.task, "axes": axes, "settings": settings, "device": device}


def lines_of(variant: str, device: str = "cuda") -> Lines:
    few, more = (trace_at(request(variant, device), size) for size in BATCHES)
    return Lines(few, more)


def course(trace: Trace) -> list[Any]:
    return [(b.size_bytes, b.phase, b.module, b.born, b.died) for b in trace.blocks]


def peaks(trace: Trace) -> list[float]:
    """Of building, and of every phase of two steps."""
    live = trace.live()
    return [float(live[a : b + 1].max()) for a, b in pairwise([0, *trace.ends])]


@pytest.mark.parametrize("variant", VARIANTS)
def test_memory_lives_and_dies_as_that_of_real_tensors(
    variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = request(variant)
    asked["settings"]["width"] = 16
    fake = trace_at(asked, 3)
    monkeypatch.setattr(tracing, "FakeTensorMode", lambda **_: nullcontext())
    torch.manual_seed(0)
    real = trace_at(asked, 3)
    # A real mean squared error keeps the memory of its squares, which have two channels.
    assert peaks(fake) == pytest.approx(peaks(real), rel=0.02)


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_traces_give_the_peak_at_any_batch_size(variant: str) -> None:
    lines = lines_of(variant)
    found = {"first step": lines.moments(0, 4), "steady": lines.moments(4, 8)}
    before = dict.fromkeys(found, 0.0)
    for size in (2, 5, 32, 333):
        there = trace_at(request(variant), size)
        for name, first, last in (("first step", 0, 4), ("steady", 4, 8)):
            told = max(sum(c + s * size for c, s in m.values()) for m in found[name])
            assert told == there.live()[there.ends[first] : there.ends[last]].max()
            assert told > before[name]
            before[name] = told


def test_what_memory_is_for() -> None:
    few, more = (trace_at(request("fp32"), size) for size in BATCHES)
    lines = Lines(few, more)
    forward_ends, backward_ends = more.ends[6], more.ends[7]
    kinds = lines.at(forward_ends)
    model = UNet(UNetConfig(width=4, depth=2))
    state = [*model.parameters(), *model.buffers()]
    assert kinds["parameters"] == (sum(tensor.nbytes for tensor in state), 0)
    tensors = list(model.parameters())
    # Adam's two moments and a counter of steps.
    assert kinds["optimizer state"] == (sum(2 * t.nbytes + 4 for t in tensors), 0)
    assert kinds["batch"] == (0, 4 * 3 * 16 * 16)
    names = ("down.0", "down.1", "bottleneck", "up.0", "up.1")
    assert set(kinds) >= {f"{ACTIVATIONS} of {name}" for name in names}
    # The concatenation; a convolution's output and that of batch norm and ReLU, twice.
    feature_map = 4 * 4 * 16 * 16
    assert kinds[f"{ACTIVATIONS} of up.1"][1] == (2 + 2 * 2) * feature_map
    gradients = sum(tensor.nbytes for tensor in tensors)
    loss = 4  # whose gradient is 1
    assert lines.at(backward_ends)["gradients"] == (gradients + loss, 0)
    assert any(TEMPORARY in moment for moment in lines.moments(4, 8))


def test_a_cpu_takes_workspaces_and_more_of_them_where_strides_must_be_changed() -> None:
    def peak(variant: str, device: str) -> float:
        return float(trace_at(request(variant, device), 8).live().max())

    assert peak("fp32", "cpu") > peak("fp32+channels_last", "cpu")
    assert peak("fp32", "cuda") == peak("fp32+channels_last", "cuda")


def test_memory_that_depends_on_the_batch_in_another_way_is_told() -> None:
    few, more = (trace_at(request("fp32"), size) for size in BATCHES)
    more.blocks.pop()
    with pytest.raises(ValueError, match="depends on the batch size"):
        Lines(few, more)


@pytest.mark.parametrize("name", ["fp16", "bf16", "bf16+channels_last", "fp32"])
def test_a_gpus_autocast_computes_in_what_the_traced_one_does(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward only: fake CUDA tensors have no backward pass without a GPU.

    Without one, torch's context would switch itself off.
    """
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)

    def dtypes(device: torch.device) -> list[torch.dtype]:
        found: list[torch.dtype] = []

        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            found.extend(t.dtype for t in (output if isinstance(output, tuple) else (output,)))

        with FakeTensorMode(), device:
            variant = Variant.parse(name)
            model = UNet(UNetConfig(width=4, depth=2))
            for module in model.modules():
                module.register_forward_hook(note)
            dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(variant.precision)
            with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
                model(torch.zeros(2, 1, 16, 16))
        return found

    on_gpu = dtypes(torch.device("cuda"))
    assert on_gpu == dtypes(torch.device("cpu"))
    assert {str(dtype) for dtype in on_gpu} == {
        {"fp16": "torch.float16", "fp32": "torch.float32"}.get(name, "torch.bfloat16")
    }
