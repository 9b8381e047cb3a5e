import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cache
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bench.tracing import trace
from tests.training import (
    CPU,
    Run,
    Tensors,
    Trainee,
    one_thread,
    relative,
    small_network,
    tolerances,
)
from unet import checkpointing
from unet.apply import unsupported
from unet.checkpointing import checkpoint_blocks
from unet.colorize import ColorizationTask
from unet.model import UNet, UNetConfig
from unet.shape import UPSAMPLINGS
from unet.variant import Checkpointing, MemoryFormat, Precision, Variant
from unet.workload import COLORIZATION

RECOMPUTING = [Checkpointing.BLOCKS, Checkpointing.HIGH_RES, Checkpointing.LEAN]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


def trained(
    kind: Checkpointing,
    precision: Precision = Precision.FP32,
    memory_format: MemoryFormat = MemoryFormat.CONTIGUOUS,
) -> Run:
    return Trainee(Variant(precision, memory_format, checkpointing=kind), CPU).train()


plain = cache(trained)


def differing(candidate: Run, reference: Run) -> set[str]:
    """The quantities of which not every bit is the same, in any step."""

    def told(ours: Tensors, theirs: Tensors) -> bool:
        assert ours.keys() == theirs.keys()
        return not all(torch.equal(ours[name], theirs[name]) for name in theirs)

    found = {"buffers"} if told(candidate.buffers, reference.buffers) else set()
    for ours, theirs in zip(candidate.steps, reference.steps, strict=True):
        for name in ("weights", "gradients"):
            found |= {name} if told(getattr(ours, name), getattr(theirs, name)) else set()
        for name in ("output", "loss", "update"):
            found |= set() if torch.equal(getattr(ours, name), getattr(theirs, name)) else {name}
    return found


@pytest.mark.parametrize("kind", RECOMPUTING)
@pytest.mark.parametrize("memory_format", list(MemoryFormat))
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
def test_eager_training_is_that_of_the_network_without_bit_by_bit(
    precision: Precision, memory_format: MemoryFormat, kind: Checkpointing
) -> None:
    reference = plain(Checkpointing.NONE, precision, memory_format)
    assert reference.buffers["bottleneck.1.num_batches_tracked"] == len(reference.steps)
    assert not differing(trained(kind, precision, memory_format), reference)


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
@pytest.mark.parametrize("size", [(8, 8), (15, 8), (9, 11)])
def test_lean_has_the_same_bits_whatever_the_upsampling_and_the_size(
    size: tuple[int, int], upsampling: str
) -> None:
    def found(kind: Checkpointing) -> Tensors:
        torch.manual_seed(0)
        model = UNet(UNetConfig(width=4, depth=2, upsampling=upsampling))
        checkpoint_blocks(model, kind)
        image = torch.rand(3, 1, *size, requires_grad=True)
        # Batches of two sizes, both forward before either goes back.
        losses = [model(batch).square().mean() for batch in (image, image[:2])]
        torch.autograd.backward(losses)
        assert image.grad is not None
        gradients = {name: weight.grad for name, weight in model.named_parameters()}
        tensors = {"image": image.grad, "losses": torch.stack(losses), **buffers(model)}
        return tensors | {name: grad for name, grad in gradients.items() if grad is not None}

    lean, none = found(Checkpointing.LEAN), found(Checkpointing.NONE)
    assert lean.keys() == none.keys()
    assert [name for name in none if not torch.equal(lean[name], none[name])] == []


@pytest.mark.parametrize("kind", [Checkpointing.BLOCKS, Checkpointing.HIGH_RES])
def test_torchs_own_checkpoint_updates_buffers_twice_and_the_comparison_tells(
    kind: Checkpointing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpointing, "_spare_statistics", lambda block: nullcontext())
    assert differing(trained(kind), plain(Checkpointing.NONE)) == {"buffers"}


def computed(model: UNet) -> list[str]:
    """The blocks whose layers ran, in order, in a training step."""
    ran: list[str] = []
    blocks: dict[str, nn.Module] = {"bottleneck": model.bottleneck}
    for level in range(model.config.depth):
        for kind in ("down", "up"):
            blocks[f"{kind}{level}"] = model.get_submodule(f"{kind}.{level}.convs")

    def note(name: str) -> Callable[..., None]:
        return lambda *_: ran.append(name)

    for name, block in blocks.items():
        next(iter(block.children())).register_forward_hook(note(name))
    side = model.config.min_side
    model(torch.rand(2, 1, side, side)).sum().backward()
    return ran


@pytest.mark.parametrize(
    ("kind", "depth", "again"),
    [
        (Checkpointing.NONE, 2, []),
        (Checkpointing.BLOCKS, 2, ["up1", "up0", "bottleneck", "down1", "down0"]),
        (Checkpointing.BLOCKS, 1, ["up0", "bottleneck", "down0"]),
        (Checkpointing.HIGH_RES, 1, ["up0", "down0"]),
        (Checkpointing.HIGH_RES, 2, ["up1", "down0"]),
        (Checkpointing.HIGH_RES, 3, ["up2", "up1", "down1", "down0"]),
        (Checkpointing.HIGH_RES, 4, ["up3", "up2", "down1", "down0"]),
    ],
)
def test_blocks_compute_again_once_each_from_the_last_to_the_first(
    kind: Checkpointing, depth: int, again: list[str]
) -> None:
    model = UNet(UNetConfig(width=2, depth=depth))
    checkpoint_blocks(model, kind)
    first = [f"down{level}" for level in range(depth)]
    first += ["bottleneck", *(f"up{level}" for level in range(depth))]
    assert computed(model) == first + again


class Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """How often torch's operations ran; of a convolution's gradients, each that was wanted.

    A transposed convolution is the gradient of a convolution's input by another name.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        wanted = [True]
        if name == "convolution_backward":
            wanted = args[-1]
        elif name == "convolution" and args[6]:
            name = "convolution_backward"
        self.calls[name] += sum(wanted)
        return func(*args, **(kwargs or {}))


def counted(kind: Checkpointing) -> Counter[str]:
    """What ran in a training step."""
    model = small_network()
    checkpoint_blocks(model, kind)
    image = torch.rand(2, 1, 33, 30)
    counting = Counting()
    with counting:
        model(image).sum().backward()
    return counting.calls


def test_lean_makes_everything_again_but_convolutions() -> None:
    none, blocks, lean = (
        counted(kind) for kind in (Checkpointing.NONE, Checkpointing.BLOCKS, Checkpointing.LEAN)
    )
    assert none["convolution"] == 13
    assert blocks["convolution"] > none["convolution"]
    for name in ("convolution", "convolution_backward"):
        assert lean[name] == none[name]
    # Batch norms normalize again with the statistics that they have.
    assert lean["_batch_norm_with_update"] == none["native_batch_norm"] == 10
    assert lean["native_batch_norm"] >= 10
    assert lean["max_pool2d_with_indices"] > none["max_pool2d_with_indices"] == 2


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
def test_what_is_kept_for_the_backward_shrinks(precision: Precision) -> None:
    none, high_res, lean, blocks = (
        Trainee(Variant(precision, checkpointing=kind), CPU).saved_bytes()
        for kind in [
            Checkpointing.NONE,
            Checkpointing.HIGH_RES,
            Checkpointing.LEAN,
            Checkpointing.BLOCKS,
        ]
    )
    assert none > 1.5 * high_res > 1.5 * blocks
    # One tensor instead of two for a convolution, and neither indices nor concatenations.
    assert none > 2.2 * lean > 2.2 * blocks
    # Every block keeps what comes in, at most twice as many channels as its level has, instead of
    # that, two outputs of convolutions and two of batch norms.
    assert none > 3 * blocks


def peak_bytes(variant: Variant) -> int:
    """Of two training steps that are traced, with all that a step has."""
    axes, settings = variant.axes(), dict(COLORIZATION.settings, image_size=256, width=64)
    traced = trace(
        lambda: ColorizationTask(
            axes=axes, settings=settings, batch_size=16, handle={}, device="cpu"
        ),
        {},
    )
    return int(traced.live().max())


@pytest.mark.parametrize("name", ["fp32", "bf16+channels_last"])
def test_lean_halves_the_peak_and_takes_less_than_blocks_which_keep_less(name: str) -> None:
    plain = Variant.parse(name)
    none, blocks, lean = (
        peak_bytes(dataclasses.replace(plain, checkpointing=kind))
        for kind in (Checkpointing.NONE, Checkpointing.BLOCKS, Checkpointing.LEAN)
    )
    assert lean < 0.52 * none
    assert lean < blocks


@pytest.mark.parametrize("kind", RECOMPUTING)
def test_names_weights_and_modules_stay_as_they_were(kind: Checkpointing) -> None:
    model = small_network()
    before = dict(model.state_dict())
    modules = [name for name, _ in model.named_modules()]
    checkpoint_blocks(model, kind)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(after[name].data_ptr() == before[name].data_ptr() for name in before)
    assert [name for name, _ in model.named_modules()] == modules


def test_without_gradients_blocks_are_not_checkpointed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("checkpointed")

    model = small_network()
    image = torch.rand(2, 1, 33, 30)
    with torch.no_grad():
        expected = model(image)
    monkeypatch.setattr(checkpointing, "_checkpoint", refuse)
    checkpointed = small_network()
    checkpoint_blocks(checkpointed, Checkpointing.BLOCKS)
    with torch.no_grad():
        assert torch.equal(checkpointed(image), expected)
    with pytest.raises(AssertionError, match="checkpointed"):
        checkpointed(image)


@pytest.mark.parametrize("training", [True, False])
def test_without_gradients_and_in_evaluation_lean_is_the_network_without(training: bool) -> None:
    def ran(kind: Checkpointing) -> tuple[Counter[str], Tensor]:
        model = small_network().train(training)
        checkpoint_blocks(model, kind)
        counting = Counting()
        with torch.set_grad_enabled(not training), counting:
            output = model(torch.linspace(0, 1, 2 * 33 * 30).reshape(2, 1, 33, 30))
            if not training:
                output.sum().backward()
        return counting.calls, output

    (none_calls, none), (lean_calls, lean) = ran(Checkpointing.NONE), ran(Checkpointing.LEAN)
    assert lean_calls == none_calls
    assert torch.equal(lean, none)


def test_lean_goes_back_twice_but_has_no_second_derivative() -> None:
    model = small_network()
    checkpoint_blocks(model, Checkpointing.LEAN)
    weights = list(model.parameters())
    loss = model(torch.rand(2, 1, 33, 30)).square().sum()
    once = torch.autograd.grad(loss, weights, retain_graph=True)
    again = torch.autograd.grad(loss, weights, create_graph=True)
    assert all(torch.equal(*pair) for pair in zip(once, again, strict=True))
    with pytest.raises(RuntimeError, match="differentiate twice"):
        torch.autograd.backward(again[0].sum())


def buffers(model: UNet) -> dict[str, Tensor]:
    return dict(model.named_buffers())


@pytest.mark.parametrize("kind", RECOMPUTING)
def test_in_backward_buffers_keep_their_values_and_their_identity(kind: Checkpointing) -> None:
    model = small_network()
    checkpoint_blocks(model, kind)
    before = buffers(model)
    loss = model(torch.rand(2, 1, 33, 30)).sum()
    values = {name: buffer.clone() for name, buffer in before.items()}
    loss.backward()
    for name, buffer in buffers(model).items():
        assert buffer is before[name]
        assert torch.equal(buffer, values[name])


def test_an_error_amid_recomputation_leaves_the_buffers_in_place() -> None:
    model = small_network()
    checkpoint_blocks(model, Checkpointing.BLOCKS)
    loss = model(torch.rand(2, 1, 33, 30)).sum()
    before = buffers(model)
    values = {name: buffer.clone() for name, buffer in before.items()}

    def fail(module: nn.Module, inputs: object, output: object) -> None:
        raise MemoryError("amid recomputation")

    # The block's second norm: the first has counted the batch already, in its copy.
    handle = model.get_submodule("up.0.convs.4").register_forward_hook(fail)
    with pytest.raises(MemoryError, match="amid recomputation"):
        loss.backward()
    handle.remove()
    for name, buffer in buffers(model).items():
        assert buffer is before[name]
        assert torch.equal(buffer, values[name])
    model(torch.rand(2, 1, 33, 30)).sum().backward()
    assert buffers(model)["up.0.convs.1.num_batches_tracked"] == 2


@pytest.mark.parametrize("kind", RECOMPUTING)
def test_evaluation_with_gradients_leaves_the_statistics_alone(kind: Checkpointing) -> None:
    model = small_network().eval()
    checkpoint_blocks(model, kind)
    values = {name: buffer.clone() for name, buffer in buffers(model).items()}
    model(torch.rand(2, 1, 33, 30)).sum().backward()
    assert all(torch.equal(buffer, values[name]) for name, buffer in buffers(model).items())


def one_step(device: torch.device, variant: Variant) -> Tensors:
    """Gradients, and buffers, after one forward and backward pass from the same weights."""
    trainee = Trainee(variant, device)
    image = torch.linspace(0, 1, 8 * 33 * 30).reshape(8, 1, 33, 30).sin()
    torch.autograd.backward(trainee.forward(image).float().square().mean())
    found = {name: buffer.clone() for name, buffer in trainee.model.named_buffers()}
    for name, weight in trainee.model.named_parameters():
        assert weight.grad is not None
        found[f"{name}.grad"] = weight.grad
    return found


def distance(one: Tensors, other: Tensors) -> float:
    """The largest relative difference of all tensors."""
    assert one.keys() == other.keys()
    return max(
        0.0 if torch.equal(one[name], other[name]) else relative(one[name], other[name])
        for name in one
    )


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("kind", RECOMPUTING)
@pytest.mark.parametrize("name", ["fp32", "bf16+channels_last"])
def test_it_differs_no_more_from_the_network_without_than_that_does_from_itself(
    name: str, kind: Checkpointing, device: str
) -> None:
    # cuDNN's backward kernels may add in any order; where they do not, every bit is the same. Only
    # `lean` normalizes with another kernel the second time, which may put a pixel on the other side
    # of a kink.
    on, plain = torch.device(device), Variant.parse(name)
    if device == "cuda" and (reason := unsupported(plain, on)) is not None:
        pytest.skip(reason)
    runs = [one_step(on, plain) for _ in range(6)]
    spread = max(distance(*pair) for pair in combinations(runs, 2))
    found = one_step(on, dataclasses.replace(plain, checkpointing=kind))
    limit = 2 * spread
    if device == "cuda" and kind is Checkpointing.LEAN:
        limit = max(limit, tolerances(plain, on)["gradients"])
    assert min(distance(found, run) for run in runs) <= limit
