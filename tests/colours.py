"""What tests of the conversion share: all colours, and how far off a conversion may be."""

from typing import Any

import pytest
import torch
from torch import Tensor

SIDE = 1024
PARTS = 16
"""All 2^24 colours are 16 images of 1024 x 1024, for one after the other: at once they take GBs."""

L_CENTER, L_SCALE, AB_SCALE = 50.0, 50.0, 110.0
SCALING: dict[str, Any] = {"l_center": L_CENTER, "l_scale": L_SCALE, "ab_scale": AB_SCALE}

WITHIN = 1e-3
"""How far a result may be off, in Lab units, before it is rounded to its dtype."""

ROUNDING = {torch.float32: 0.0, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
"""Half the distance to the next number, as a share of the number; fp32's is within `WITHIN`."""

CUT_OFF = ROUNDING | {torch.bfloat16: 2.0**-7}
"""Triton's interpreter cuts the last bits off for bf16, where a GPU rounds."""


INTERPRETED = pytest.mark.skipif(
    torch.cuda.is_available(), reason="Triton interprets only where there is no GPU"
)
EVERY_KERNEL = (
    pytest.param("triton", marks=INTERPRETED),
    "c++",
    pytest.param("cuda", marks=pytest.mark.gpu),
)
"""By name: Triton's, interpreted, the CPU's, and Triton's on a GPU, whose hardware approximates."""

_ON_CPU = ["reference", "triton", "c++"]
ALL_COLOURS = (
    pytest.param(_ON_CPU, range(0, PARTS, 5), marks=INTERPRETED, id="cpu-quarter"),
    pytest.param(_ON_CPU, range(PARTS), marks=[INTERPRETED, pytest.mark.slow], id="cpu-all"),
    pytest.param(["cuda"], range(PARTS), marks=pytest.mark.gpu, id="cuda-all"),
)
"""Those that are held against the same truth in one go, which takes longest to find, and in which
parts of all colours. Four of the 16 have black, white and every level of green and blue."""


def on_gpu(tensor: Tensor) -> Tensor:
    """The same there, with its strides and its place in memory."""
    whole = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage()).cuda()
    return whole.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def part_of_all(number: int) -> Tensor:
    """The `number`-th 1/16 of all colours: uint8 (1, 1024, 1024, 3)."""
    colours = torch.arange(number << 20, (number + 1) << 20, dtype=torch.int32)
    channels = [(colours >> shift & 255).to(torch.uint8) for shift in (16, 8, 0)]
    return torch.stack(channels, dim=-1).view(1, SIDE, SIDE, 3)


def unscaled(lightness: Tensor, ab: Tensor) -> Tensor:
    """Results that were scaled by `SCALING`, in Lab units and float64."""
    return torch.cat((lightness.double() * L_SCALE + L_CENTER, ab.double() * AB_SCALE), dim=1)


def check(results: tuple[Tensor, Tensor], truth: Tensor, rounding: float, name: str) -> list[float]:
    """Holds results scaled by `SCALING` against the truth.

    Args:
        results: L and ab.
        truth: Lab in float64, (N, 3, H, W).
        rounding: How far results may be off because of their dtype, as a share of what they are.
        name: What they are of, for the message.

    Returns:
        How far L, a and b are off at the most, in Lab units.
    """
    off = (unscaled(*results) - truth).abs()
    center = truth.new_tensor([L_CENTER, 0, 0]).view(3, 1, 1)
    beyond = off > WITHIN + rounding * (truth - center).abs()
    worst: list[float] = off.amax(dim=(0, 2, 3)).tolist()
    assert not beyond.any(), f"{name}: {int(beyond.sum())} values are off, by {worst} at the most"
    return worst
