"""Each eager variant against plain fp32, and planted faults against the same comparison."""

import itertools
from collections.abc import Iterator
from functools import partial

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from tests.training import (
    CPU,
    Fault,
    Trainee,
    beyond_tolerance,
    one_thread,
    plain_runs,
    worst_errors,
)
from unet.apply import apply_variant, autocast, grad_scaler, make_optimizer, to_input, unsupported
from unet.blocks import DownBlock, UpBlock
from unet.model import UNet, UNetConfig
from unet.variant import (
    Checkpointing,
    CudnnBenchmark,
    MemoryFormat,
    Optimizer,
    Precision,
    Variant,
)

CPU_PRECISIONS = [precision for precision in Precision if precision is not Precision.TF32]
"""What torch computes right on every CPU, if only by emulation."""


def eager(*precisions: Precision) -> list[Variant]:
    """All combinations, but `lean` with one optimizer: the rest is a matter of its gradients."""
    choices = itertools.product(precisions, MemoryFormat, Optimizer, Checkpointing)
    return [
        Variant(precision, memory_format, optimizer, checkpointing=checkpointing)
        for precision, memory_format, optimizer, checkpointing in choices
        if checkpointing is not Checkpointing.LEAN or optimizer is Optimizer.FOREACH
    ]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


def is_emulated_at_length(variant: Variant) -> bool:
    """Whether it takes seconds on a CPU without fp16, though each of its choices runs elsewhere."""
    kinds = (Checkpointing.NONE, Checkpointing.LEAN)
    return variant.precision is Precision.FP16 and variant.checkpointing not in kinds


ON_CPU = [
    pytest.param(
        variant,
        id=variant.name,
        marks=pytest.mark.slow if is_emulated_at_length(variant) else (),
    )
    for variant in eager(*CPU_PRECISIONS)
]


@pytest.mark.parametrize("variant", ON_CPU)
def test_a_variant_trains_as_plain_fp32_does(variant: Variant) -> None:
    found = worst_errors(variant, CPU, plain_runs(CPU))
    assert not beyond_tolerance(found, variant), found


ALWAYS = [
    (Precision.FP32, MemoryFormat.CONTIGUOUS),
    (Precision.BF16, MemoryFormat.CHANNELS_LAST),
]
SEARCHING = [
    pytest.param(
        Variant(precision, memory_format, cudnn_benchmark=CudnnBenchmark.ON),
        # It meets convolutions only, so not with every other axis; each search takes seconds.
        marks=() if (precision, memory_format) in ALWAYS else pytest.mark.slow,
    )
    for precision, memory_format in itertools.product(Precision, MemoryFormat)
]


@pytest.mark.gpu
@pytest.mark.parametrize(
    "variant", [*eager(*Precision), *SEARCHING], ids=lambda variant: variant.name
)
def test_a_variant_trains_as_plain_fp32_does_on_cuda(variant: Variant) -> None:
    device = torch.device("cuda")
    if (reason := unsupported(variant, device)) is not None:
        pytest.skip(reason)
    found = worst_errors(variant, device, plain_runs(device))
    assert not beyond_tolerance(found, variant, device), found


class PooledSkip(DownBlock):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pooled, skip = super().forward(x)
        return pooled, F.interpolate(pooled, size=skip.shape[-2:])


class AlignedCorners(UpBlock):
    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = F.interpolate(self.reduce(x), skip.shape[-2:], mode="bilinear", align_corners=True)
        merged: Tensor = self.convs(torch.cat((skip, x.to(skip.dtype)), dim=1))
        return merged


class OnePercentMore(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Conv2d's name for it
        return super().forward(input) * 1.01


def turn(path: str, kind: type[nn.Module]) -> Fault:
    """A fault that makes the module at `path` one of `kind`, weights and names unchanged."""

    def plant(model: UNet) -> None:
        model.get_submodule(path).__class__ = kind

    return plant


def other_momentum(model: UNet) -> None:
    norm = model.get_submodule("bottleneck.1")
    assert isinstance(norm, nn.BatchNorm2d)
    norm.momentum = 0.11


def updated_twice(model: UNet) -> None:
    # As checkpointing does, which runs a block again in backward.
    def run_first(block: nn.Module, inputs: tuple[Tensor]) -> None:
        (x,) = inputs
        with torch.no_grad():
            for layer in block.children():
                x = layer(x)

    model.bottleneck.register_forward_pre_hook(run_first)


def nearest(model: UNet) -> None:
    block = model.up[-1]
    assert isinstance(block, UpBlock)
    block.upsampling = "nearest"


# Which quantities must tell each fault, in each precision. The batch norm after a convolution hides
# a factor of 1 % from all that follows, and buffers are no part of the forward pass in training:
# outputs, loss and gradients cannot see the last three, hence the comparison of buffers.
FAULTS: dict[str, tuple[Fault, set[str]]] = {
    "skip after pooling": (turn("down.0", PooledSkip), {"output", "gradients", "buffers"}),
    "corners aligned": (turn("up.1", AlignedCorners), {"gradients", "buffers"}),
    "nearest for bilinear": (nearest, {"gradients", "buffers"}),
    "weight 1 % larger": (turn("down.1.convs.0", OnePercentMore), {"buffers"}),
    "one momentum 0.11": (other_momentum, {"buffers"}),
    "buffers updated twice": (updated_twice, {"buffers"}),
}


@pytest.mark.parametrize("precision", CPU_PRECISIONS)
@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_fails_the_comparison(name: str, precision: Precision) -> None:
    fault, told_by = FAULTS[name]
    variant = Variant(precision, MemoryFormat.CHANNELS_LAST)
    found = worst_errors(variant, CPU, plain_runs(CPU)[:1], fault)
    assert told_by <= beyond_tolerance(found, variant), found


@pytest.mark.parametrize("name", [name for name in FAULTS if FAULTS[name][1] == {"buffers"}])
def test_some_faults_are_told_by_the_buffers_alone(name: str) -> None:
    found = worst_errors(Variant(), CPU, plain_runs(CPU)[:1], FAULTS[name][0])
    assert beyond_tolerance(found, Variant()) == {"buffers"}


def test_the_memory_format_reaches_weights_optimizer_state_and_back() -> None:
    model = UNet(UNetConfig(width=4, depth=1))
    weight = model.get_submodule("bottleneck.0").weight
    channels_last = Variant(memory_format=MemoryFormat.CHANNELS_LAST)
    assert apply_variant(model, channels_last, CPU) is model
    assert isinstance(weight, Tensor)
    assert weight.stride() == (36, 1, 12, 4)
    optimizer = make_optimizer(model, channels_last, 1e-3)
    model(torch.rand(2, 1, 8, 8)).sum().backward()
    optimizer.step()
    assert optimizer.state[weight]["exp_avg"].stride() == weight.stride()
    apply_variant(model, Variant(), CPU)
    assert weight.stride() == (36, 9, 3, 1)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("kind", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("memory_format", list(MemoryFormat))
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
def test_every_activation_and_gradient_keeps_the_memory_format(
    precision: Precision, memory_format: MemoryFormat, kind: str
) -> None:
    device, variant = torch.device(kind), Variant(precision, memory_format)
    if kind == "cuda" and (reason := unsupported(variant, device)) is not None:
        pytest.skip(reason)
    trainee = Trainee(variant, device)
    seen: dict[str, set[bool]] = {"outputs": set(), "gradients": set()}

    def note(what: str, tensor: Tensor) -> None:
        seen[what].add(tensor.is_contiguous(memory_format=torch.channels_last))

    def look(module: nn.Module, inputs: object, output: Tensor) -> None:
        note("outputs", output)
        if module is not trainee.model.head:  # its own comes from torch's loss, always contiguous
            output.register_hook(partial(note, "gradients"))  # type: ignore[no-untyped-call]

    for module in trainee.model.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.MaxPool2d):
            module.register_forward_hook(look)
    output = trainee.forward(torch.rand(4, 1, 32, 32)).float()
    torch.autograd.backward(F.mse_loss(output, torch.zeros_like(output)))
    last = memory_format is MemoryFormat.CHANNELS_LAST
    assert seen == {"outputs": {last}, "gradients": {last}}
    for weight in trainee.model.parameters():
        assert weight.grad is not None
        assert weight.grad.stride() == weight.stride()


@pytest.mark.parametrize("channels", [1, 2])
def test_inputs_get_the_strides_of_the_format(channels: int) -> None:
    batch = torch.rand(3, channels, 5, 7)
    last = to_input(batch, Variant(memory_format=MemoryFormat.CHANNELS_LAST))
    assert last.stride() == (35 * channels, 1, 7 * channels, channels)
    assert to_input(last, Variant()).stride() == batch.stride()
    assert torch.equal(last, batch)


@pytest.mark.parametrize("precision", CPU_PRECISIONS)
def test_autocast_and_scaler_do_nothing_for_fp32(precision: Precision) -> None:
    variant = Variant(precision)
    conv, image = nn.Conv2d(1, 1, 3), torch.rand(1, 1, 5, 5)
    with autocast(variant, CPU):
        computed_in = conv(image).dtype
    expected = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    assert computed_in == expected[precision]
    assert grad_scaler(variant, CPU).is_enabled() == (precision is Precision.FP16)


def test_for_tf32_autocast_and_scaler_do_nothing() -> None:
    assert not autocast(Variant(Precision.TF32), CPU)._enabled
    assert not grad_scaler(Variant(Precision.TF32), CPU).is_enabled()


@pytest.mark.parametrize("memory_format", list(MemoryFormat))
@pytest.mark.parametrize("channels", [slice(0, 1), slice(1, 3)])
def test_a_slice_of_channels_becomes_a_dense_input(
    memory_format: MemoryFormat, channels: slice
) -> None:
    batch = to_input(torch.zeros(2, 3, 4, 4)[:, channels], Variant(memory_format=memory_format))
    wanted = torch.empty(
        batch.shape,
        memory_format=torch.channels_last
        if memory_format is MemoryFormat.CHANNELS_LAST
        else torch.contiguous_format,
    )
    assert batch.stride() == wanted.stride()


# The optimizer.


@pytest.mark.parametrize("optimizer", list(Optimizer))
def test_the_optimizer_carries_out_adam_as_the_variant_says(optimizer: Optimizer) -> None:
    adam = make_optimizer(nn.Conv2d(1, 1, 3), Variant(optimizer=optimizer), 0.25)
    assert type(adam) is torch.optim.Adam
    assert adam.defaults["lr"] == 0.25
    assert adam.defaults["foreach"] is (optimizer is Optimizer.FOREACH)
    assert adam.defaults["fused"] is (optimizer is Optimizer.FUSED)


def trained_weights(optimizer: Optimizer, precision: Precision) -> list[Tensor]:
    """After 5 steps on given gradients, scaled where the precision wants it; the 3rd overflows."""
    variant = Variant(precision, optimizer=optimizer)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 2, 1))
    adam, scaler = make_optimizer(model, variant, 1e-2), grad_scaler(variant, CPU)
    generator = torch.Generator().manual_seed(1)
    scaler.scale(torch.zeros(1))  # sets it up
    for step in range(5):
        for weight in model.parameters():
            gradient = torch.randn(weight.shape, generator=generator)
            weight.grad = gradient * float(scaler.get_scale())
        if step == 2 and scaler.is_enabled():
            next(iter(model.parameters())).grad = torch.full((5, 3, 3, 3), torch.inf)
        before = [weight.detach().clone() for weight in model.parameters()]
        scaler.step(adam)
        scaler.update()
        moved = [not torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True)]
        skipped = step == 2 and scaler.is_enabled()
        assert moved == [not skipped] * 4
    return [weight.detach() for weight in model.parameters()]


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
def test_foreach_and_fused_give_the_same_weights(precision: Precision) -> None:
    pairs = zip(*(trained_weights(kind, precision) for kind in Optimizer), strict=True)
    for foreach, fused in pairs:
        # A few roundings of weights below 1 in each of 5 steps, and those of Adam's fractions.
        torch.testing.assert_close(fused, foreach, rtol=1e-5, atol=1e-6)
