"""What both conversions refuse, in one line that names the argument."""

from numbers import Real

import torch
from torch import Tensor

MOST = 1e6
"""Of a scale and of its inverse, and of a center: far beyond any use, and far from fp32's ends."""


def check_tensor(name: str, value: object) -> None:
    """Raises `ValueError` for what is no tensor with strides."""
    if not isinstance(value, Tensor):
        raise ValueError(  # noqa: TRY004 (as for all that a caller can do wrong)
            f"{name}: expected a torch.Tensor, got {type(value).__name__}"
        )
    if value.layout is not torch.strided:
        raise ValueError(f"{name}: expected a tensor with strides, got {value.layout}")


def check_scaling(**scaling: object) -> None:
    """Raises `ValueError` for a scale by which nothing can be divided, or a center that is none."""
    for name, value in scaling.items():
        least = 0.0 if name == "l_center" else 1 / MOST
        if not isinstance(value, Real) or not least <= abs(float(value)) <= MOST:
            wanted = f"a number up to {MOST:g}" if not least else f"one from {least:g} to {MOST:g}"
            raise ValueError(f"{name} {value!r}: expected {wanted}, whatever its sign")


def check_part(frames: Tensor, height: int, width: int) -> None:
    """Raises `ValueError` if frames (N, 3, H, W) have no part of that size."""
    rows, columns = frames.shape[2:]
    if not (0 < height <= rows and 0 < width <= columns):
        raise ValueError(
            f"size {height} x {width}: expected a part of frames of {rows} x {columns}, and no "
            "empty one"
        )


def check_windows(windows: Tensor, frames: Tensor, height: int, width: int) -> None:
    """Raises `ValueError` for the first window that is not all within its frame."""
    room = torch.tensor([frames.shape[2] - height, frames.shape[3] - width, 1])
    wrong = ((windows < 0) | (windows > room)).any(dim=1)
    if wrong.any():
        first = int(wrong.nonzero()[0])
        raise ValueError(
            f"windows[{first}] {windows[first].tolist()}: expected top, left from 0 to "
            f"{room[:2].tolist()} and 0 or 1, for {height} x {width} (size) of "
            f"{frames.shape[2]} x {frames.shape[3]}"
        )


def check_lab(lightness: Tensor, ab: Tensor) -> None:
    """Raises `ValueError` unless these are L (N, 1, H, W) and a and b (N, 2, H, W) of one kind."""
    if lightness.ndim != 4 or lightness.shape[1] != 1:
        raise ValueError(f"lightness: expected (N, 1, H, W), got {tuple(lightness.shape)}")
    wanted = (len(lightness), 2, *lightness.shape[2:])
    if ab.shape != wanted:
        raise ValueError(f"ab: expected {wanted}, as lightness is, got {tuple(ab.shape)}")
    if lightness.device != ab.device or ab.device.type not in ("cpu", "cuda"):
        raise ValueError(
            "lightness and ab: expected both on a CPU or on one CUDA device, got "
            f"{lightness.device} and {ab.device}"
        )
