"""What a backward pass of its own saves the compiled network: training steps side by side.

Three networks of the same weights in one process, a step of each in turn, so that whatever else
happens on the machine meets all of them: eager; compiled; and compiled with the gradient of
bilinear interpolation as torch derives it.
"""

import statistics
import time
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch._dynamo.utils import counters

from tests.training import own_inductor_cache
from unet.apply import apply_variant, autocast, make_optimizer, set_flags, to_input
from unet.blocks import UpBlock
from unet.model import UNet, UNetConfig
from unet.variant import Variant

CPU = torch.device("cpu")
EAGER = "bf16+channels_last"
COMPILED = f"{EAGER}+compile"


class Derived(UpBlock):
    """An UpBlock whose gradient torch derives, where it is compiled."""

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.reduce(x)
        with torch.autocast(x.device.type, enabled=False):
            x = F.interpolate(x, (skip.shape[-2], skip.shape[-1]), mode="bilinear")
        merged: Tensor = self.convs(torch.cat((skip, x), dim=1))
        return merged


@pytest.fixture(autouse=True, scope="module")
def _inductor_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with own_inductor_cache(tmp_path_factory):
        yield


def training(
    variant: Variant, width: int, side: int, batch_size: int, up: type[UpBlock] = UpBlock
) -> Callable[[], None]:
    """A step of training, compiled if need be: ready to be timed."""
    torch.manual_seed(0)
    model = UNet(UNetConfig(width=width))
    for block in model.up:
        block.__class__ = up
    network = apply_variant(model, variant, CPU)
    optimizer = make_optimizer(model, variant, learning_rate=1e-3)
    image = to_input(torch.rand(batch_size, 1, side, side), variant)
    target = to_input(torch.rand(batch_size, 2, side, side), variant)

    def step() -> None:
        with autocast(variant, CPU):
            output = network(image)
        torch.autograd.backward(F.mse_loss(output.float(), target))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for _ in range(3):
        step()
    return step


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("width", "side", "batch_size"), [(16, 64, 16), (32, 128, 8)])
def test_training_steps(
    benchmark: BenchmarkFixture, width: int, side: int, batch_size: int
) -> None:
    """Median ms of each, and ratios within a round with their 10th and 90th percentiles."""
    if not benchmark.enabled:
        pytest.skip("compiles two networks: a minute")
    set_flags(Variant.parse(COMPILED))
    torch._dynamo.reset()
    counters.clear()
    shape = (width, side, batch_size)
    steps = {
        "eager": training(Variant.parse(EAGER), *shape),
        "compiled": training(Variant.parse(COMPILED), *shape),
        "derived": training(Variant.parse(COMPILED), *shape, Derived),
    }
    assert counters["stats"]["unique_graphs"] == 2  # neither took the other's code
    times_ms: dict[str, list[float]] = {name: [] for name in steps}

    def turn() -> None:
        for name, step in steps.items():
            began_s = time.perf_counter()
            step()
            times_ms[name].append(1000 * (time.perf_counter() - began_s))

    with torch._dynamo.config.patch(error_on_recompile=True):
        benchmark.pedantic(turn, rounds=40 if side < 128 else 20)  # type: ignore[no-untyped-call]
    for name, found in times_ms.items():
        benchmark.extra_info[f"{name}_ms_median"] = statistics.median(found)
    print(f"\nwidth {width}, {side}x{side}, batch {batch_size}:", *lines(times_ms), sep="\n")  # noqa: T201


def lines(times_ms: dict[str, list[float]]) -> Iterator[str]:
    for name, found in times_ms.items():
        yield f"  {name:8} {statistics.median(found):8.2f} ms"
    for name in ("compiled", "derived"):
        pairs = zip(times_ms[name], times_ms["eager"], strict=True)
        ratios = [ours / eager for ours, eager in pairs]
        low, *_, high = statistics.quantiles(ratios, n=10) if len(ratios) > 1 else ratios * 2
        median = statistics.median(ratios)
        yield f"  {name} / eager: {median:.2f} ({low:.2f} to {high:.2f}) of its time"
