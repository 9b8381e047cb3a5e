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
