"""What others offer for the same: uint8 frames in, scaled L and ab in fp32 out.

Each of them is called as its users would call it, with nothing left out that `kernels.rgb_to_lab`
does: the scaling, the order of channels, a result in memory of its own.
"""

import importlib.util
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from kernels import lab
from kernels.rgb_to_lab import rgb_to_lab

Convert = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From uint8 (N, H, W, 3) to L of (N, 1, H, W) and ab of (N, 2, H, W), both fp32 and contiguous."""

L_CENTER, L_SCALE, AB_SCALE = 50.0, 50.0, 110.0

OURS = "unet-bench"


def contenders(device: torch.device) -> dict[str, Convert]:
    """Whoever can convert on a device, by name: ours first, then those that are installed."""
    found: dict[str, Convert] = {OURS: _ours, "torch reference": _reference}
    if importlib.util.find_spec("kornia"):
        found |= {"kornia": _kornia, "kornia compiled": torch.compile(_kornia, dynamic=False)}
    if device.type == "cpu":
        if importlib.util.find_spec("cv2"):
            found["OpenCV float"] = _opencv
        if importlib.util.find_spec("skimage"):
            found["scikit-image"] = _skimage
    return found


def _ours(frames: Tensor) -> tuple[Tensor, Tensor]:
    return rgb_to_lab(frames, l_center=L_CENTER, l_scale=L_SCALE, ab_scale=AB_SCALE)


def _scaled(whole: Tensor) -> tuple[Tensor, Tensor]:
    """Lab of shape (N, 3, H, W) to what is asked for."""
    return (whole[:, :1] - L_CENTER) / L_SCALE, (whole[:, 1:] / AB_SCALE).contiguous()


def _reference(frames: Tensor) -> tuple[Tensor, Tensor]:
    return _scaled(lab.rgb_to_lab(frames.permute(0, 3, 1, 2).float() / 255))


def _kornia(frames: Tensor) -> tuple[Tensor, Tensor]:
    from kornia.color import rgb_to_lab as convert

    return _scaled(convert(frames.permute(0, 3, 1, 2).float() / 255))


def _opencv(frames: Tensor) -> tuple[Tensor, Tensor]:
    import cv2

    found = np.empty(tuple(frames.shape), np.float32)
    for frame, result in zip(frames.numpy(), found, strict=True):
        cv2.cvtColor(frame.astype(np.float32) / 255, cv2.COLOR_RGB2Lab, dst=result)
    return _of_pixels(found)


def _skimage(frames: Tensor) -> tuple[Tensor, Tensor]:
    from skimage.color import rgb2lab

    return _of_pixels(rgb2lab(frames.numpy()).astype(np.float32))


def _of_pixels(whole: np.ndarray) -> tuple[Tensor, Tensor]:
    return _scaled(torch.from_numpy(whole).permute(0, 3, 1, 2).contiguous())
