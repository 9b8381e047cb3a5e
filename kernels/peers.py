"""What others offer for the same as `kernels.rgb_to_lab`, called as their users call it.

All keep to one contract: uint8 frames (N, H, W, 3) in, scaled L and ab in fp32 out, contiguous and
in memory of their own. Nothing that ours does is left out, be it scaling or the order of channels.
"""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from kernels import lab
from kernels.rgb_to_lab import kernel_on, rgb_to_lab

Convert = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From uint8 (N, H, W, 3) to L of (N, 1, H, W) and ab of (N, 2, H, W)."""

SHAPES: Final = {"training batch": (16, 256, 256), "1080p": (1, 1080, 1920)}
"""Frames, height and width of what is converted."""

BYTES: Final = 15
"""Of a pixel: 3 are read, and 12 written."""

OURS: Final = "unet-bench"
COPY: Final = "copy"

NOTE: Final = (
    "uint8 RGB to scaled L and ab in fp32; scikit-image does it in one thread. Max error: in Lab "
    "units before scaling, against float64."
)

_L_CENTER, _L_SCALE, _AB_SCALE = 50.0, 50.0, 110.0


@dataclass(frozen=True)
class Case:
    """The same work in several ways.

    Attributes:
        name: Of what is converted.
        calls: By name, ours first; `COPY` moves as many bytes, and does nothing else.
        told: `pixels`, `threads`, `errors`: how far each is off a float64 reference at the most, in
            Lab units before scaling; and `note`, what a reader must know.
    """

    name: str
    calls: Mapping[str, Callable[[], object]]
    told: Mapping[str, Any]


def cases(device: torch.device) -> list[Case]:
    """A training batch and a frame of 1080p, by all who can convert on a device.

    Raises:
        ValueError: Ours would be the reference, for want of a compiler.
    """
    if kernel_on(device) == "reference":
        raise ValueError("the Lab kernel of a CPU needs a C++ compiler, which CXX may name, or g++")
    return [_case(name, shape, device) for name, shape in SHAPES.items()]


def _case(name: str, shape: tuple[int, int, int], device: torch.device) -> Case:
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(256, (*shape, 3), dtype=torch.uint8, generator=generator)
    truth = lab.rgb_to_lab(frames.permute(0, 3, 1, 2).double() / 255)
    frames = frames.to(device)
    ways, pixels = contenders(device), truth.numel() // 3
    errors = {way: _error(convert(frames), truth) for way, convert in ways.items()}
    source = torch.zeros(BYTES * pixels // 2, dtype=torch.uint8, device=device)
    calls: dict[str, Callable[[], object]] = {
        way: partial(convert, frames) for way, convert in ways.items()
    }
    calls[COPY] = partial(torch.empty_like(source).copy_, source)  # into memory that is there
    told = {"pixels": pixels, "threads": torch.get_num_threads(), "errors": errors, "note": NOTE}
    return Case(name, calls, told)


def _error(results: tuple[Tensor, Tensor], truth: Tensor) -> float:
    lightness, ab = (part.cpu().double() for part in results)
    whole = torch.cat((lightness * _L_SCALE + _L_CENTER, ab * _AB_SCALE), dim=1)
    return float((whole - truth).abs().max())


def contenders(device: torch.device) -> dict[str, Convert]:
    """Who can convert on a device, by name: ours, the reference, and peers that are installed."""
    found: dict[str, Convert] = {OURS: _ours, "reference": _reference}
    if _is_installed("kornia"):
        found |= {"kornia": _kornia, "kornia compiled": torch.compile(_kornia, dynamic=False)}
    if device.type == "cpu":
        if _is_installed("cv2"):
            found["OpenCV float"] = _opencv
        if _is_installed("skimage"):
            found["scikit-image"] = _skimage
    return found


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _ours(frames: Tensor) -> tuple[Tensor, Tensor]:
    return rgb_to_lab(frames, l_center=_L_CENTER, l_scale=_L_SCALE, ab_scale=_AB_SCALE)


def _scaled(whole: Tensor) -> tuple[Tensor, Tensor]:
    """Lab of shape (N, 3, H, W), scaled and parted."""
    lightness = (whole[:, :1] - _L_CENTER) / _L_SCALE
    return lightness.contiguous(), (whole[:, 1:] / _AB_SCALE).contiguous()


def _reference(frames: Tensor) -> tuple[Tensor, Tensor]:
    return _scaled(lab.rgb_to_lab(frames.permute(0, 3, 1, 2).float() / 255))


def _kornia(frames: Tensor) -> tuple[Tensor, Tensor]:
    from kornia.color import rgb_to_lab as convert

    return _scaled(convert(frames.permute(0, 3, 1, 2).float() / 255))


def _opencv(frames: Tensor) -> tuple[Tensor, Tensor]:
    import cv2

    cv2.setNumThreads(torch.get_num_threads())
    found = np.empty(tuple(frames.shape), np.float32)
    for frame, result in zip(frames.numpy(), found, strict=True):
        cv2.cvtColor(frame.astype(np.float32) / 255, cv2.COLOR_RGB2Lab, dst=result)
    return _scaled(torch.from_numpy(found).permute(0, 3, 1, 2))


def _skimage(frames: Tensor) -> tuple[Tensor, Tensor]:
    from skimage.color import rgb2lab

    found = rgb2lab(frames.numpy()).astype(np.float32)
    return _scaled(torch.from_numpy(found).permute(0, 3, 1, 2))
