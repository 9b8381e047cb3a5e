"""Training steps of a variant, and how far they are from plain fp32's: shared by several tests.

How the comparison is made sound:

- Every step starts from the reference's weights. Adam divides by the gradient's size, so that a
  rounding error in a gradient near zero becomes a whole step, and after a few steps two runs that
  are both right have different weights. The buffers are the candidate's own over all steps.
- Errors are relative L2 norms per tensor, and the largest tensor counts.
- Batch norm starts with a bias that opens nearly every ReLU, and images are smooth. A pixel that
  falls on the other side of a kink brings its whole gradient with it, even between two orders of
  summation in fp32: that would compare luck, not rounding.
- It counts over several seeds, so that one lucky or unlucky one does not set the scale.
- The head starts large enough to pass gradients on to the layers below it, and the loss is small
  enough for fp16's first loss scale, 65536, to overflow nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
import torch._dynamo
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn
from torch._dynamo.utils import counters

from unet.apply import apply_variant, autocast, grad_scaler, make_optimizer, set_flags, to_input
from unet.capability import lacking
from unet.model import UNet, UNetConfig
from unet.variant import PREFERENCES, Precision, Variant

CPU = torch.device("cpu")
STEPS = 3
SEEDS = range(4)
Tensors = dict[str, Tensor]
Fault = Callable[[UNet], None]


@dataclass(frozen=True)
class Step:
    weights: Tensors  # before the step
    output: Tensor
    loss: Tensor
    gradients: Tensors
    update: Tensor  # of all weights, as one vector


@dataclass(frozen=True)
class Run:
    steps: list[Step]
    buffers: Tensors  # after the last step


def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Smooth images of odd size, (8, 1, 33, 30) in about [0, 1], and two colours of them."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        coarse = torch.randn(8, 1, 6, 6, generator=generator)
        image = 0.5 + 0.2 * F.interpolate(coarse, size=(33, 30), mode="bicubic")
        yield image, torch.cat((image.sin(), 1 - image.square()), dim=1)


def small_network(seed: int = 0, depth: int = 2) -> UNet:
    torch.manual_seed(seed)
    model = UNet(UNetConfig(width=8, depth=depth))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.bias, 4.0)
    nn.init.normal_(model.head.weight, std=0.1)
    return model


def fastest(device: torch.device) -> Precision:
    """What `reduced` means on a device: fp32 where it has no reduced precision."""
    candidates = map(Precision, PREFERENCES["precision"]["reduced"])
    return next(one for one in candidates if lacking(one, device) is None)


class Trainee:
    """A small network of a variant, built and compiled once, and trained anew for every seed."""

    def __init__(
        self, variant: Variant, device: torch.device, fault: Fault | None = None, depth: int = 2
    ) -> None:
        self.variant, self.device, self.depth = variant, device, depth
        set_flags(variant)
        self.model = small_network(depth=depth)
        if fault is not None:
            fault(self.model)
        self.network = apply_variant(self.model, variant, device)

    def forward(self, image: Tensor) -> Tensor:
        with autocast(self.variant, self.device):
            return self.network(to_input(image.to(self.device), self.variant))

    def train(self, seed: int = 0, reference: Run | None = None) -> Run:
        """Trains for STEPS steps with Adam, each from the reference's weights if one is given."""
        set_flags(self.variant)
        model = self.model
        model.load_state_dict(small_network(seed, self.depth).state_dict())
        optimizer = make_optimizer(model, self.variant, learning_rate=1e-3)
        scaler = grad_scaler(self.variant, self.device)
        steps = []
        for index, (image, target) in enumerate(batches(seed)):
            if reference is not None:
                model.load_state_dict(reference.steps[index].weights, strict=False)
            weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
            optimizer.zero_grad()
            output = self.forward(image)
            loss = F.mse_loss(output.float(), target.to(self.device)) / 64
            torch.autograd.backward(scaler.scale(loss))
            scaler.unscale_(optimizer)
            gradients = {
                name: weight.grad.clone()
                for name, weight in model.named_parameters()
                if weight.grad is not None
            }
            scaler.step(optimizer)
            scaler.update()
            moved = [(w.detach() - weights[name]).flatten() for name, w in model.named_parameters()]
            # A clone: CUDA graphs write the next output where this one is.
            kept = output.detach().clone()
            steps.append(Step(weights, kept, loss.detach(), gradients, torch.cat(moved)))
        return Run(steps, {name: buffer.clone() for name, buffer in model.named_buffers()})

    def saved_bytes(self) -> int:
        """What a forward pass keeps for the backward: each storage once, weights not counted."""
        weights = {weight.untyped_storage().data_ptr() for weight in self.model.parameters()}
        kept: dict[int, Tensor] = {}  # alive, so that no storage takes another's address

        def pack(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        image, _ = next(batches(0))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            self.forward(image)
        return sum(
            tensor.untyped_storage().nbytes()
            for pointer, tensor in kept.items()
            if pointer not in weights
        )


@dataclass(frozen=True)
class CompiledRuns:
    """What a compiled variant did over all seeds and steps, from the references' weights."""

    runs: list[Run]
    saved_bytes: int
    graphs: int
    graph_breaks: int


@cache
def compiled_runs(variant: Variant, device: torch.device, depth: int) -> CompiledRuns:
    """Trains a compiled variant; whatever would compile it a second time is an error."""
    torch._dynamo.reset()
    counters.clear()
    trainee = Trainee(variant, device, depth=depth)
    references = plain_runs(device, depth)
    with torch._dynamo.config.patch(error_on_recompile=True):
        runs = [trainee.train(seed, reference) for seed, reference in enumerate(references)]
        saved_bytes = trainee.saved_bytes()
    graphs, breaks = counters["stats"]["unique_graphs"], counters["graph_break"].total()
    return CompiledRuns(runs, saved_bytes, graphs, breaks)


@cache
def plain_runs(device: torch.device, depth: int = 2) -> list[Run]:
    return [Trainee(Variant(), device, depth=depth).train(seed) for seed in SEEDS]


def relative(candidate: Tensor, reference: Tensor) -> float:
    difference = candidate.double() - reference.double()
    return float(difference.norm() / reference.double().norm())


def errors(candidate: Run, reference: Run) -> dict[str, float]:
    """The largest relative error of each quantity, over tensors and steps."""
    largest = dict.fromkeys(("output", "loss", "gradients", "update", "buffers"), 0.0)
    for ours, theirs in zip(candidate.steps, reference.steps, strict=True):
        assert ours.gradients.keys() == theirs.gradients.keys()
        found = {
            "output": relative(ours.output, theirs.output),
            "loss": relative(ours.loss, theirs.loss),
            "gradients": max(
                relative(ours.gradients[name], gradient)
                for name, gradient in theirs.gradients.items()
            ),
            "update": relative(ours.update, theirs.update),
        }
        largest |= {name: max(largest[name], error) for name, error in found.items()}
    assert candidate.buffers.keys() == reference.buffers.keys()
    largest["buffers"] = max(
        relative(candidate.buffers[name], buffer) for name, buffer in reference.buffers.items()
    )
    return largest


def worst_of(candidates: list[Run], references: list[Run]) -> dict[str, float]:
    found = [errors(*pair) for pair in zip(candidates, references, strict=True)]
    return {name: max(one[name] for one in found) for name in found[0]}


def worst_errors(
    variant: Variant, device: torch.device, references: list[Run], fault: Fault | None = None
) -> dict[str, float]:
    trainee = Trainee(variant, device, fault)
    runs = [trainee.train(seed, reference) for seed, reference in enumerate(references)]
    return worst_of(runs, references)


# Twice the largest error of 8 seeds, each with 1 and 2 threads and with oneDNN held to AVX2 and to
# AVX-512 without bf16, on an AMD Zen 4 with torch 2.15; what was measured stands beside it. Neither
# threads nor instructions moved a half-precision error by more than 6 %: it is the rounding of what
# is stored (unit roundoff 2**-8 for bf16, 2**-11 for fp16) through a dozen convolutions and back,
# not the order of a sum. Worst are gradients of batch norms that the next one nearly cancels.
TOLERANCES = {
    Precision.FP32: {
        "output": 1.8e-5,  # 8.7e-6
        "loss": 2.1e-5,  # 1.1e-5
        "gradients": 1.5e-3,  # 7.4e-4 in one run, at most 2.2e-4 in all others
        "update": 3.4e-3,  # 1.7e-3
        "buffers": 3.8e-6,  # 1.9e-6
    },
    Precision.FP16: {
        "output": 5.5e-3,  # 2.8e-3
        "loss": 2.3e-3,  # 1.2e-3
        "gradients": 2.1e-2,  # 1.1e-2
        "update": 6.7e-2,  # 3.4e-2
        "buffers": 8.2e-4,  # 4.1e-4
    },
    Precision.BF16: {
        "output": 4.4e-2,  # 2.2e-2
        "loss": 2.2e-2,  # 1.1e-2
        "gradients": 8.0e-2,  # 4.0e-2
        "update": 2.1e-1,  # 1.1e-1
        "buffers": 4.8e-3,  # 2.4e-3
    },
}
# TF32 rounds factors to as many bits as fp16 has, and nothing that is stored. Some kernels cut the
# bits off instead, which leans to one side; with that simulated in every convolution, both ways:
TOLERANCES[Precision.TF32] = TOLERANCES[Precision.FP16] | {
    "loss": 4.5e-3,  # 2.2e-3
    "update": 1.2e-1,  # 5.8e-2
    "buffers": 5.0e-3,  # 2.5e-3
}
# cuDNN may choose another algorithm for each convolution. With noise of 1e-6 in each, simulated,
# 7 of 25 seeds had a pixel on the other side of a kink: gradients 7.5e-3, update 2.7e-2. Products
# in TF32 would still be told: output 1e-3 and more, buffers 2.4e-4.
FP32_ON_CUDA = {"output": 1e-4, "loss": 1e-4, "gradients": 2e-2, "update": 6e-2, "buffers": 2e-5}


def tolerances(variant: Variant, device: torch.device) -> dict[str, float]:
    """The largest relative error of each quantity, against plain fp32 on the same device."""
    if device.type == "cuda" and variant.precision is Precision.FP32:
        return FP32_ON_CUDA
    return TOLERANCES[variant.precision]


def beyond(found: dict[str, float], limits: dict[str, float]) -> set[str]:
    return {name for name, limit in limits.items() if found[name] > limit}


def beyond_tolerance(
    found: dict[str, float], variant: Variant, device: torch.device = CPU
) -> set[str]:
    return beyond(found, tolerances(variant, device))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """As many threads of torch, however many cores there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums in one order, and plain fp32 afterwards."""
    with threads(1), plain_flags_afterwards():
        yield


@contextmanager
def plain_flags_afterwards() -> Iterator[None]:
    try:
        yield
    finally:
        set_flags(Variant())


@contextmanager
def without_inductor() -> Iterator[None]:
    """`torch.compile` traces, decomposes and partitions, and generates no code: quick."""
    whole = torch.compile

    def compile_without(model: nn.Module, *, mode: str, **others: Any) -> Any:
        return whole(model, backend="aot_eager_decomp_partition", **others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", compile_without)
        torch._dynamo.reset()
        yield
    torch._dynamo.reset()


@contextmanager
def own_inductor_cache(factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled kernels neither come from the user's folder nor go there; one folder a session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(factory.getbasetemp() / "inductor"))
        yield
    torch._dynamo.reset()
