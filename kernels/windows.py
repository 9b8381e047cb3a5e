"""What is taken of frames: int64 (N, 3) in the host's memory of top, left, and 1 where mirrored."""

import torch
from torch import Tensor


def cut(frames: Tensor, windows: Tensor | None, height: int, width: int) -> Tensor:
    """What `windows` says, of frames (N, 3, H, W), as a plain chain of torch's operators."""
    if windows is None:
        return frames[:, :, :height, :width]
    parts = []
    for frame, (top, left, mirrored) in zip(frames, windows.tolist(), strict=True):
        part = frame[:, top : top + height, left : left + width]
        parts.append(part.flip(-1) if mirrored else part)
    return torch.stack(parts)


def check_windows(windows: Tensor, frames: Tensor, height: int, width: int) -> None:
    """Raises `ValueError` for the first window that is not all within its frame."""
    room = torch.tensor([frames.shape[2] - height, frames.shape[3] - width, 1])
    wrong = ((windows < 0) | (windows > room)).any(dim=1)
    if wrong.any():
        first = int(wrong.nonzero()[0])
        raise ValueError(
            f"windows[{first}] {windows[first].tolist()}: expected top, left from 0 to "
            f"{room[:2].tolist()} and 0 or 1, for {height} x {width} of "
            f"{frames.shape[2]} x {frames.shape[3]}"
        )
