"""What others offer for the same as `kernels.rgb_to_lab`, called as their users call it.

All keep to one contract: uint8 frames (N, H, W, 3) in, scaled L and ab out, in one dtype,
contiguous and in memory of their own. Nothing that ours does is left out, be it scaling or the
order of channels.
"""

import importlib.util
import math
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from kernels import lab, native
from kernels.rgb_to_lab import rgb_to_lab

Convert = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From uint8 (N, H, W, 3) to L of (N, 1, H, W) and ab of (N, 2, H, W)."""

OURS: Final = "unet-bench"
COPY: Final = "copy"

_L_CENTER, _L_SCALE, _AB_SCALE = 50.0, 50.0, 110.0

_PEERS: Final = {"kornia": "kornia", "cv2": "OpenCV", "skimage": "scikit-image"}


@dataclass(frozen=True)
class Work:
    """What is converted.

    Attributes:
        shape: Frames, height and width.
        dtype: Of L and ab.
    """

    shape: tuple[int, int, int]
    dtype: torch.dtype

    @property
    def pixel_bytes(self) -> int:
        """Of a pixel: 3 are read, and L, a and b are written."""
        return 3 + 3 * self.dtype.itemsize

    def frames(self, device: torch.device) -> Tensor:
        """Random ones, uint8 (N, H, W, 3)."""
        generator = torch.Generator().manual_seed(0)
        whole = torch.randint(256, (*self.shape, 3), dtype=torch.uint8, generator=generator)
        return whole.to(device)


_WORK: Final = {
    "training batch": Work((16, 256, 256), torch.float32),
    "1080p": Work((1, 1080, 1920), torch.float32),
}
_WORK_ON_GPU: Final = {
    # Enough to keep a GPU busy for longer than it takes to launch a kernel.
    "16 x 1080p": Work((16, 1080, 1920), torch.float32),
    "16 x 1080p to fp16": Work((16, 1080, 1920), torch.float16),
}


def work(device: torch.device) -> dict[str, Work]:
    """What is converted on a device, by name."""
    return _WORK | (_WORK_ON_GPU if device.type == "cuda" else {})


@dataclass(frozen=True)
class Case:
    """The same work in several ways.

    Attributes:
        name: Of what is converted.
        calls: By name, ours first; the last one, `COPY`, moves as many bytes and does nothing else.
        error: How far a way's result is off a float64 reference at the most, in Lab units before
            scaling; raises `ValueError` if that is no number.
        note: What a reader must know, given the ways that were measured.
        pixels: How many are converted.
    """

    name: str
    calls: Mapping[str, Callable[[], Any]]
    error: Callable[[Any], float]
    note: Callable[[Collection[str]], str]
    pixels: int


def cases(device: torch.device) -> list[Case]:
    """All work that there is for a device, by all who can do it there.

    Raises:
        ValueError: Ours would be the reference, as the kernel cannot be had.
    """
    if device.type == "cpu" and (reason := native.lack()):
        raise ValueError(f"the Lab kernel of a CPU could not be compiled and kept: {reason}")
    return [case(name, found, device) for name, found in work(device).items()]


def case(name: str, asked: Work, device: torch.device) -> Case:
    """Some work, by all who can do it on a device."""
    frames = asked.frames(device)
    pixels = frames.numel() // 3
    source = torch.zeros(asked.pixel_bytes * pixels // 2, dtype=torch.uint8, device=device)
    calls: dict[str, Callable[[], Any]] = {
        way: partial(convert, frames) for way, convert in contenders(device, asked.dtype).items()
    }
    calls[COPY] = partial(torch.empty_like(source).copy_, source)  # into memory that is there
    return Case(name, calls, partial(_error, frames), _note, pixels)


def _error(frames: Tensor, results: tuple[Tensor, Tensor]) -> float:
    """Frame by frame: float64 takes much memory."""
    errors = []
    for frame, lightness, ab in zip(frames, *results, strict=True):
        truth = lab.rgb_to_lab(frame.permute(2, 0, 1)[None].double() / 255)[0]
        found = torch.cat((lightness.double() * _L_SCALE + _L_CENTER, ab.double() * _AB_SCALE))
        errors.append((found - truth).abs().max())
    worst = float(torch.stack(errors).max())
    if not math.isfinite(worst):
        raise ValueError(f"a result is off by {worst}")
    return worst


def _note(ways: Collection[str]) -> str:
    text = (
        "uint8 RGB to scaled L and ab, in fp32 unless said. Max error: in Lab units before "
        "scaling, against float64."
    )
    versions = [
        f"{name} {getattr(sys.modules.get(module), '__version__', 'of unknown version')}"
        for module, name in _PEERS.items()
        if any(way.startswith(name) for way in ways)
    ]
    if versions:
        text += f" Beside {', '.join(versions)}."
    return f"{text} scikit-image does it in one thread." if "scikit-image" in ways else text


def contenders(device: torch.device, dtype: torch.dtype = torch.float32) -> dict[str, Convert]:
    """Who can convert on a device, by name: ours, the reference, and peers that are installed."""
    found: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {OURS: _ours, "reference": _reference}
    if _is_installed("kornia"):
        found |= {"kornia": _kornia, "kornia compiled": torch.compile(_kornia, dynamic=False)}
    if device.type == "cpu":
        if _is_installed("cv2"):
            found["OpenCV float"] = _opencv
        if _is_installed("skimage"):
            found["scikit-image"] = _skimage
    return {name: partial(convert, dtype=dtype) for name, convert in found.items()}


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _ours(frames: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return rgb_to_lab(frames, dtype=dtype, l_center=_L_CENTER, l_scale=_L_SCALE, ab_scale=_AB_SCALE)


def _scaled(whole: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Lab of shape (N, 3, H, W), scaled and parted."""
    lightness = (whole[:, :1] - _L_CENTER) / _L_SCALE
    ab = whole[:, 1:] / _AB_SCALE
    return lightness.to(dtype).contiguous(), ab.to(dtype).contiguous()


def _reference(frames: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return _scaled(lab.rgb_to_lab(frames.permute(0, 3, 1, 2).float() / 255), dtype)


def _kornia(frames: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    from kornia.color import rgb_to_lab as convert

    return _scaled(convert(frames.permute(0, 3, 1, 2).float() / 255), dtype)


def _opencv(frames: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    import cv2

    cv2.setNumThreads(torch.get_num_threads())
    found = np.empty(tuple(frames.shape), np.float32)
    for frame, result in zip(frames.numpy(), found, strict=True):
        cv2.cvtColor(frame.astype(np.float32) / 255, cv2.COLOR_RGB2Lab, dst=result)
    return _scaled(torch.from_numpy(found).permute(0, 3, 1, 2), dtype)


def _skimage(frames: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    from skimage.color import rgb2lab

    found = rgb2lab(frames.numpy()).astype(np.float32)
    return _scaled(torch.from_numpy(found).permute(0, 3, 1, 2), dtype)
