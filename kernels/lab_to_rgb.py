"""Scaled L and ab back to uint8 RGB, for pictures; the inverse of `kernels.rgb_to_lab`.

One operator, `torch.ops.unet_bench.lab_to_rgb`, with Triton's kernel below for CUDA and `lab.cpp`
for a CPU. What bounds it is what bounds the way there: 6 or 12 bytes a pixel in, 3 out; here the
special functions are those of sRGB's curve, exp2(log2(t) / 2.4), as cubes need none.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels import lab, native
from kernels.checks import check_lab, check_scaling, check_tensor
from kernels.rgb_to_lab import (
    DTYPES,
    F_OFFSET,
    F_SLOPE,
    GROUPS,
    LAYOUTS,
    groups_of_program,
    power,
    programs,
)

RED_X, RED_Y, RED_Z = map(tl.constexpr, lab.RGB_FROM_WHITE[0])
GREEN_X, GREEN_Y, GREEN_Z = map(tl.constexpr, lab.RGB_FROM_WHITE[1])
BLUE_X, BLUE_Y, BLUE_Z = map(tl.constexpr, lab.RGB_FROM_WHITE[2])
F_INVERSE_KNEE = tl.constexpr(lab.F_INVERSE_KNEE)
LINEAR_KNEE = tl.constexpr(lab.LINEAR_KNEE)
SRGB_SLOPE = tl.constexpr(lab.SRGB_SLOPE)
SRGB_OFFSET = tl.constexpr(lab.SRGB_OFFSET)
SRGB_GAMMA = tl.constexpr(lab.SRGB_GAMMA)


@triton.jit
def _f_inverse(f):
    return tl.where(f > F_INVERSE_KNEE, f * f * f, (f - F_OFFSET) * (1.0 / F_SLOPE))


@triton.jit
def _level(linear, APPROXIMATE: tl.constexpr):
    """A linear channel to its level, uint32 from 0 to 255."""
    root = power(tl.maximum(linear, LINEAR_KNEE), 1.0 / SRGB_GAMMA, APPROXIMATE)
    curve = root * (1.0 + SRGB_OFFSET) - SRGB_OFFSET
    companded = tl.where(linear > LINEAR_KNEE, curve, linear * SRGB_SLOPE)
    clipped = tl.minimum(tl.maximum(companded, 0.0), 1.0)
    # Adding 2^23 rounds to an integer, ties to even.
    return (clipped * 255.0 + 8388608.0).to(tl.uint32, bitcast=True) & 255


@triton.jit
def _lab_to_rgb(
    lightness,  # (N, 1, HEIGHT, WIDTH), any strides
    ab,  # (N, 2, HEIGHT, WIDTH), any strides
    rgb,  # uint8 (N, HEIGHT, WIDTH, 3) or (N, 3, HEIGHT, WIDTH), contiguous
    l_stride_n,
    l_stride_h,
    l_stride_w,
    ab_stride_n,
    ab_stride_c,
    ab_stride_h,
    ab_stride_w,
    l_factor,
    l_term,
    a_factor,
    b_factor,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    LAYOUT: tl.constexpr,
    APPROXIMATE: tl.constexpr,  # as a GPU does; Triton's interpreter cannot
    GROUPS: tl.constexpr,
):
    area: tl.constexpr = HEIGHT * WIDTH
    image, row, column = groups_of_program(HEIGHT, WIDTH, GROUPS)
    y = row.to(tl.int64)[:, None]
    x = column.to(tl.int64)[:, None] + tl.arange(0, 4)[None, :]
    exists = (y < HEIGHT) & (x < WIDTH)

    lightness += image * l_stride_n
    ab += image * ab_stride_n
    at = y * ab_stride_h + x * ab_stride_w
    l = tl.load(lightness + y * l_stride_h + x * l_stride_w, mask=exists, other=0).to(tl.float32)  # noqa: E741
    a = tl.load(ab + at, mask=exists, other=0).to(tl.float32)
    b = tl.load(ab + ab_stride_c + at, mask=exists, other=0).to(tl.float32)
    fy = l_factor * l + l_term
    from_x = _f_inverse(fy + a_factor * a)
    from_y = _f_inverse(fy)
    from_z = _f_inverse(tl.maximum(fy - b_factor * b, 0.0))
    red = _level(from_x * RED_X + from_y * RED_Y + from_z * RED_Z, APPROXIMATE)
    green = _level(from_x * GREEN_X + from_y * GREEN_Y + from_z * GREEN_Z, APPROXIMATE)
    blue = _level(from_x * BLUE_X + from_y * BLUE_Y + from_z * BLUE_Z, APPROXIMATE)

    rgb += 3 * image * area
    pixel = y * WIDTH + x
    if LAYOUT == "NCHW":
        tl.store(rgb + pixel, red.to(tl.uint8), mask=exists)
        tl.store(rgb + area + pixel, green.to(tl.uint8), mask=exists)
        tl.store(rgb + 2 * area + pixel, blue.to(tl.uint8), mask=exists)
    elif WIDTH % 4:
        tl.store(rgb + 3 * pixel, red.to(tl.uint8), mask=exists)
        tl.store(rgb + 3 * pixel + 1, green.to(tl.uint8), mask=exists)
        tl.store(rgb + 3 * pixel + 2, blue.to(tl.uint8), mask=exists)
    else:
        packed = tl.reshape(red | (green << 8) | (blue << 16), (GROUPS, 2, 2))
        even, odd = tl.split(packed)
        p0, p2 = tl.split(even)
        p1, p3 = tl.split(odd)
        words = rgb.to(tl.pointer_type(tl.uint32), bitcast=True)
        at = 3 * (row.to(tl.int64) * (WIDTH // 4) + column // 4)
        inside = row < HEIGHT
        tl.store(words + at, p0 | (p1 << 24), mask=inside)
        tl.store(words + at + 1, (p1 >> 8) | (p2 << 16), mask=inside)
        tl.store(words + at + 2, (p2 >> 16) | (p3 << 8), mask=inside)


def lab_to_rgb(
    lightness: Tensor,
    ab: Tensor,
    *,
    layout: str = "NHWC",
    l_center: float = 0.0,
    l_scale: float = 1.0,
    ab_scale: float = 1.0,
) -> Tensor:
    """Converts scaled CIELAB (D65, 2-degree observer) to companded sRGB, clipped to its gamut.

    Args:
        lightness: (L - l_center) / l_scale, (N, 1, H, W), any strides; fp32, fp16 or bf16, on a CPU
            or a CUDA device.
        ab: a / ab_scale and b / ab_scale, (N, 2, H, W), any strides; likewise.
        layout: Of the result: "NHWC" or "NCHW".
        l_center: See `lightness`,
        l_scale: likewise,
        ab_scale: see `ab`.

    Returns:
        uint8 (N, H, W, 3) or (N, 3, H, W), contiguous, the nearest levels.

    Raises:
        ValueError: Something else was given, in one line that says what.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout {layout!r}: expected one of {', '.join(LAYOUTS)}")
    check_tensor("lightness", lightness)
    check_tensor("ab", ab)
    check_lab(lightness, ab)
    if lightness.dtype not in DTYPES or ab.dtype is not lightness.dtype:
        raise ValueError(
            "lightness and ab: expected both fp32, fp16 or bf16, got "
            f"{lightness.dtype} and {ab.dtype}"
        )
    if torch.is_grad_enabled() and (lightness.requires_grad or ab.requires_grad):
        raise ValueError("lightness and ab: expected no gradient to be asked for: levels have none")
    check_scaling(l_center=l_center, l_scale=l_scale, ab_scale=ab_scale)
    found: Tensor = _operator(lightness, ab, layout, l_center, l_scale, ab_scale)
    return found


@torch.library.custom_op("unet_bench::lab_to_rgb", mutates_args=())
def _operator(
    lightness: Tensor, ab: Tensor, layout: str, l_center: float, l_scale: float, ab_scale: float
) -> Tensor:
    check_lab(lightness, ab)  # of who calls the operator itself
    rgb = _result(lightness, layout)
    scaling = (l_scale / 116.0, (l_center + 16.0) / 116.0, ab_scale / 500.0, ab_scale / 200.0)
    if not rgb.numel():
        return rgb
    if rgb.device.type == "cuda":
        with torch.cuda.device_of(rgb):  # it need not be the current one
            launch(lightness, ab, scaling, rgb, layout)
    elif library := native.library():
        native.lab_to_rgb(library, lightness, ab, scaling, rgb, layout)
    else:
        whole = torch.cat((lightness.float() * l_scale + l_center, ab.float() * ab_scale), dim=1)
        levels = (lab.lab_to_rgb(whole) * 255).round().to(torch.uint8)
        rgb.copy_(levels.permute(0, 2, 3, 1) if layout == "NHWC" else levels)
    return rgb


@_operator.register_fake
def _(lightness: Tensor, _ab: Tensor, layout: str, *_: float) -> Tensor:
    return _result(lightness, layout)


def _result(lightness: Tensor, layout: str) -> Tensor:
    count, _, height, width = lightness.shape
    shape = (count, height, width, 3) if layout == "NHWC" else (count, 3, height, width)
    return torch.empty(shape, dtype=torch.uint8, device=lightness.device)


def launch(
    lightness: Tensor,
    ab: Tensor,
    scaling: tuple[float, float, float, float],
    rgb: Tensor,
    layout: str,
    groups: int = GROUPS,
) -> None:
    """Runs Triton's kernel; see `lab_to_rgb` for what is given.

    Args:
        lightness: (N, 1, H, W), any strides.
        ab: (N, 2, H, W), any strides.
        scaling: Factor and term of f(Y) as a function of L, factors of a and b.
        rgb: Where to write the levels, contiguous.
        layout: Of `rgb`.
        groups: Of 4 pixels, for one program; a power of two.
    """
    height, width = lightness.shape[2:]
    l_stride_n, _, l_stride_h, l_stride_w = lightness.stride()
    _lab_to_rgb[(programs(lightness, groups),)](
        lightness,
        ab,
        rgb,
        l_stride_n,
        l_stride_h,
        l_stride_w,
        *ab.stride(),
        *scaling,
        HEIGHT=height,
        WIDTH=width,
        LAYOUT=layout,
        APPROXIMATE=not triton.knobs.runtime.interpret,
        GROUPS=groups,
        enable_fp_fusion=True,  # whatever Triton's default is
    )
