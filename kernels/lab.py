"""CIELAB conversion in plain torch: the constants, and the reference both ways.

Every other implementation in this package is held against these two functions, and they against
scikit-image. Numbers and branches are scikit-image's (`skimage.color.rgb2lab`, `lab2rgb`), so a
network trained on its Lab images sees the same colours here.
"""

import functools
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

Matrix = tuple[tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]]

# sRGB companding, IEC 61966-2-1:1999. The knee is given on both sides of the curve.
SRGB_KNEE: Final = 0.04045
LINEAR_KNEE: Final = 0.0031308
SRGB_SLOPE: Final = 12.92
SRGB_OFFSET: Final = 0.055
SRGB_GAMMA: Final = 2.4

# Linear sRGB primaries to CIE XYZ, rounded to six places as in skimage.color.xyz_from_rgb.
XYZ_FROM_RGB: Final[Matrix] = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
# Its inverse in float64 (not the rounded matrix of the standard): a round trip must close.
RGB_FROM_XYZ: Final[Matrix] = (
    (3.240481343200526, -1.5371515162713185, -0.4985363261688878),
    (-0.9692549499965682, 1.8759900014898907, 0.04155592655829284),
    (0.05564663913517716, -0.20404133836651123, 1.0573110696453443),
)
# Reference white X, Y, Z of D65, 2-degree observer. It is not the image of RGB (1, 1, 1) under the
# matrix above, hence white is Lab (100, -0.00245, 0.00465) here as in scikit-image.
WHITE: Final = (0.95047, 1.0, 1.08883)


def _rows(matrix: Matrix, factor: Callable[[int, int], float]) -> Matrix:
    first, second, third = (
        (row[0] * factor(i, 0), row[1] * factor(i, 1), row[2] * factor(i, 2))
        for i, row in enumerate(matrix)
    )
    return first, second, third


# What f takes, XYZ relative to the white, from linear RGB, and back: for kernels, a division less.
WHITE_FROM_RGB: Final = _rows(XYZ_FROM_RGB, lambda row, _: 1 / WHITE[row])
RGB_FROM_WHITE: Final = _rows(RGB_FROM_XYZ, lambda _, column: WHITE[column])

# CIE f(t): cube root above a knee, a line below it (easyrgb.com's rounded constants).
F_KNEE: Final = 0.008856
F_INVERSE_KNEE: Final = 0.2068966
F_SLOPE: Final = 7.787
F_OFFSET: Final = 16.0 / 116.0


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """Converts sRGB to CIELAB (D65, 2-degree observer).

    Args:
        rgb: Floating, (..., 3, H, W), any strides, companded sRGB in [0, 1].

    Returns:
        Lab of the same shape and dtype, computed in that dtype: L in [0, 100], a and b within
        [-108, 99] for colours of the sRGB gamut. Gradients are finite everywhere.

    Raises:
        ValueError: If `rgb` is not floating or has no three channels.
    """
    _require_image("rgb", rgb)
    x, y, z = _mix(XYZ_FROM_RGB, _linearize(rgb).unbind(-3))
    fx, fy, fz = (_f(t / white) for t, white in zip((x, y, z), WHITE, strict=True))
    return torch.stack((116.0 * fy - 16.0, 500.0 * (fx - fy), 200.0 * (fy - fz)), dim=-3)


def lab_to_rgb(lab: Tensor) -> Tensor:
    """Converts CIELAB (D65, 2-degree observer) to sRGB.

    Colours outside the sRGB gamut are treated as scikit-image does: a negative f(Z) is raised to
    zero, and the companded result is clipped channel by channel.

    Args:
        lab: Floating, (..., 3, H, W), any strides, L in [0, 100].

    Returns:
        Companded sRGB in [0, 1] of the same shape and dtype, computed in that dtype. Gradients are
        finite everywhere and zero where the result is clipped.

    Raises:
        ValueError: If `lab` is not floating or has no three channels.
    """
    _require_image("lab", lab)
    lightness, a, b = lab.unbind(-3)
    fy = (lightness + 16.0) / 116.0
    f = (a / 500.0 + fy, fy, (fy - b / 200.0).clamp(min=0.0))
    xyz = tuple(_f_inverse(t) * white for t, white in zip(f, WHITE, strict=True))
    return _compand(torch.stack(_mix(RGB_FROM_XYZ, xyz), dim=-3)).clamp(0.0, 1.0)


@functools.cache
def linear_levels(device: torch.device) -> Tensor:
    """The linear value of each of the 256 levels of a channel: fp32 (256,) on the device."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    return _linearize(levels).float().to(device)


def _require_image(name: str, image: Tensor) -> None:
    if not image.is_floating_point():
        raise ValueError(f"{name} must have a floating dtype, got {image.dtype}")
    if image.ndim < 3 or image.shape[-3] != 3:
        raise ValueError(f"{name} must be (..., 3, H, W), got shape {tuple(image.shape)}")


def _mix(matrix: Matrix, channels: tuple[Tensor, ...]) -> list[Tensor]:
    # Sums of products, not a matmul: no TF32 or autocast can get at them.
    u, v, w = channels
    return [m0 * u + m1 * v + m2 * w for m0, m1, m2 in matrix]


# In the four curves below the power is also evaluated on the side of the knee that does not use it.
# The clamp keeps it away from 0 and from negative numbers there, where its gradient is infinite or
# NaN and would come through torch.where as 0 * inf (kornia#868).


def _linearize(rgb: Tensor) -> Tensor:
    power = ((rgb.clamp(min=SRGB_KNEE) + SRGB_OFFSET) / (1.0 + SRGB_OFFSET)) ** SRGB_GAMMA
    return torch.where(rgb > SRGB_KNEE, power, rgb / SRGB_SLOPE)


def _compand(linear: Tensor) -> Tensor:
    root = linear.clamp(min=LINEAR_KNEE) ** (1.0 / SRGB_GAMMA)
    power = (1.0 + SRGB_OFFSET) * root - SRGB_OFFSET
    return torch.where(linear > LINEAR_KNEE, power, linear * SRGB_SLOPE)


def _f(t: Tensor) -> Tensor:
    root = t.clamp(min=F_KNEE) ** (1.0 / 3.0)
    return torch.where(t > F_KNEE, root, F_SLOPE * t + F_OFFSET)


def _f_inverse(f: Tensor) -> Tensor:
    return torch.where(f > F_INVERSE_KNEE, f**3, (f - F_OFFSET) / F_SLOPE)
