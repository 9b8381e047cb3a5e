"""The way back to RGB: both kernels of the operator, in every colour."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels import lab
from kernels.lab_to_rgb import lab_to_rgb, launch
from kernels.rgb_to_lab import DTYPES
from tests.colours import (
    AB_SCALE,
    ALL_COLOURS,
    EVERY_KERNEL,
    L_CENTER,
    L_SCALE,
    SCALING,
    on_gpu,
    part_of_all,
    unscaled,
)
from tests.test_rgb_to_lab import by_gpu as by_gpu_to_lab
from tests.test_rgb_to_lab import by_operator as by_operator_to_lab
from tests.training import threads

Convert = Callable[..., Tensor]
FACTORS = (L_SCALE / 116, (L_CENTER + 16) / 116, AB_SCALE / 500, AB_SCALE / 200)


@pytest.fixture(autouse=True, scope="module")
def _two_threads() -> Iterator[None]:
    with threads(2):  # which share the work
        yield


def by_triton(lightness: Tensor, ab: Tensor, layout: str = "NHWC") -> Tensor:
    """Triton's kernel where the operator would take the CPU's; interpreted, in large blocks."""
    count, _, height, width = lightness.shape
    shape = (count, height, width, 3) if layout == "NHWC" else (count, 3, height, width)
    rgb = torch.zeros(shape, dtype=torch.uint8, device=lightness.device)
    groups = min(1 << 17, 1 << (height * -(-width // 4) - 1).bit_length())
    launch(lightness, ab, FACTORS, rgb, layout, groups)
    return rgb


def by_operator(lightness: Tensor, ab: Tensor, layout: str = "NHWC") -> Tensor:
    return lab_to_rgb(lightness, ab, layout=layout, **SCALING)


def by_gpu(lightness: Tensor, ab: Tensor, layout: str = "NHWC") -> Tensor:
    return by_operator(on_gpu(lightness), on_gpu(ab), layout).cpu()


def by_reference(lightness: Tensor, ab: Tensor) -> Tensor:
    whole = unscaled(lightness, ab).float()
    return (lab.lab_to_rgb(whole) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


KERNELS: dict[str, Convert] = {
    "reference": by_reference,
    "triton": by_triton,
    "c++": by_operator,
    "cuda": by_gpu,
}

LEVELS_OFF = {torch.float32: 0, torch.float16: 2, torch.bfloat16: 14}
"""How many levels a channel may change on the way to Lab of that dtype and back, of 255."""


@pytest.mark.parametrize(("names", "parts"), ALL_COLOURS)
def test_every_colour_comes_back(
    names: list[str], parts: range, record_property: Callable[[str, object], None]
) -> None:
    to_lab = by_gpu_to_lab if "cuda" in names else by_operator_to_lab
    worst: Counter[tuple[str, torch.dtype]] = Counter()
    changed: Counter[tuple[str, torch.dtype]] = Counter()
    for number in parts:
        frames = part_of_all(number)
        for dtype in DTYPES:
            results = to_lab(frames, dtype=dtype)
            for name in names if dtype is torch.float32 else set(names) - {"reference"}:
                off = (KERNELS[name](*results).int() - frames.int()).abs()
                worst[name, dtype] = max(worst[name, dtype], int(off.max()))
                changed[name, dtype] += int(off.any(dim=-1).sum())
    assert {name for name, _ in worst} == set(names)
    for (name, dtype), levels in worst.items():
        told = f"{levels} levels, {changed[name, dtype] / (2**20 * len(parts)):.2%} of the colours"
        record_property(f"{name} through {dtype}", told)
        assert levels <= LEVELS_OFF[dtype], f"{name} through {dtype}: off by {told}"


@pytest.mark.parametrize("name", EVERY_KERNEL)
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (2, 3, 5), (3, 7, 4), (1, 5, 33), (2, 16, 64), (4, 2, 3)], ids=str
)
def test_any_shape_strides_dtype_and_layout(
    shape: tuple[int, int, int], layout: str, name: str
) -> None:
    generator = torch.Generator().manual_seed(0)
    count, height, width = shape
    for dtype in DTYPES:
        # Beyond the gamut too, as predictions are.
        whole = torch.rand((count, 3, height + 1, 2 * width), generator=generator) * 2.4 - 1.2
        part = whole[:, :, 1:, ::2].to(dtype)
        for lightness, ab in (
            (part[:, :1], part[:, 1:]),
            (part[:, :1].contiguous(), part[:, 1:].contiguous(memory_format=torch.channels_last)),
        ):
            found = KERNELS[name](lightness, ab, layout=layout)
            truth = lab.lab_to_rgb(unscaled(lightness, ab)) * 255
            levels = found.permute(0, 3, 1, 2) if layout == "NHWC" else found
            # The nearest level, up to what fp32 makes of a half.
            assert ((levels - truth).abs() <= 0.501).all()


def test_without_pictures_there_is_no_result() -> None:
    found = by_operator(torch.empty(0, 1, 8, 6), torch.empty(0, 2, 8, 6))
    assert (found.shape, found.dtype) == ((0, 8, 6, 3), torch.uint8)


L, AB = torch.zeros(2, 1, 8, 6), torch.zeros(2, 2, 8, 6)


@pytest.mark.parametrize(
    ("lightness", "ab", "how", "message"),
    [
        (L[:, 0], AB, {}, "lightness: expected (N, 1, H, W), got (2, 8, 6)"),
        (AB, AB, {}, "lightness: expected (N, 1, H, W), got (2, 2, 8, 6)"),
        (L, L, {}, "ab: expected (2, 2, 8, 6), as lightness is, got (2, 1, 8, 6)"),
        (L, AB.half(), {}, "expected both fp32, fp16 or bf16, got torch.float32 and torch.float16"),
        (L.double(), AB.double(), {}, "expected both fp32, fp16 or bf16, got torch.float64"),
        (L, AB.to("meta"), {}, "expected both on a CPU or on one CUDA device, got cpu and meta"),
        (L.clone().requires_grad_(), AB, {}, "expected no gradient"),
        (L, AB, {"layout": "CHW"}, "layout 'CHW': expected one of NHWC, NCHW"),
        (L, AB, {"l_scale": 0.0}, "l_scale 0.0: expected one from 1e-06 to 1e+06"),
        (L, None, {}, "ab: expected a torch.Tensor, got NoneType"),
        (L.numpy(), AB, {}, "lightness: expected a torch.Tensor, got ndarray"),
        (L, AB, {"l_center": float("inf")}, "l_center inf: expected a number"),
    ],
)
def test_what_cannot_be_converted_is_told_in_one_line(
    lightness: Tensor, ab: Tensor, how: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        lab_to_rgb(lightness, ab, **how)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_the_operator_is_what_torch_expects(layout: str) -> None:
    given = (torch.rand(2, 1, 5, 4), torch.rand(2, 2, 5, 4), layout, 50.0, 50.0, 110.0)
    torch.library.opcheck(torch.ops.unet_bench.lab_to_rgb.default, given)


def test_it_breaks_no_graph() -> None:
    compiled = torch.compile(
        lambda lightness, ab: by_operator(lightness, ab) ^ 255, fullgraph=True, backend="aot_eager"
    )
    lightness, ab = torch.rand(2, 1, 5, 4), torch.rand(2, 2, 5, 4)
    assert torch.equal(compiled(lightness, ab), by_operator(lightness, ab) ^ 255)
