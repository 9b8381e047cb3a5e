"""The three blocks a U-Net is made of."""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn


class ConvBlock(nn.Sequential):
    """Two 3x3 convolutions, each followed by batch norm and ReLU.

    (N, in_channels, H, W) to (N, out_channels, H, W).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        # No bias: the mean that batch norm subtracts would take it away again.
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


class DownBlock(nn.Module):
    """A ConvBlock, then a 2x2 max pool; an odd last row or column is dropped by the pool."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.convs = ConvBlock(in_channels, out_channels)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (N, in_channels, H, W) to two tensors.

        Returns:
            The pooled features, (N, out_channels, H // 2, W // 2), and the skip, which is taken
            before pooling, (N, out_channels, H, W).
        """
        skip = self.convs(x)
        return self.pool(skip), skip


class _Bilinear(torch.autograd.Function):
    """Bilinear interpolation with torch's own kernels in both directions, compiled or not.

    Compiled, torch would derive the backward pass from the forward's formula: a scatter, which on a
    CPU took more of a training step than all convolutions' forward passes together. So the backward
    is named here. It is the one that eager torch runs, so that results are the same bits.

    The price: torch does not keep the traced graph of such a function on disk, and traces it again,
    for about a second, where it finds all else compiled.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Maps (N, C, h, w) to (N, C, *size)."""
        ctx.input_shape, ctx.size = x.shape, size
        return F.interpolate(x, size, mode="bilinear")  # align_corners=False by default

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Maps the gradient of the output to that of the input."""
        aten = torch.ops.aten
        return aten.upsample_bilinear2d_backward(gradient, ctx.size, ctx.input_shape, False), None


class UpBlock(nn.Module):
    """A 1x1 convolution, upsampling to the skip's size, concatenation, then a ConvBlock.

    Upsampling first would be the same function: both are linear, one acts on channels only and the
    other on pixels only, and the interpolation weights sum to 1, so the bias passes through. In
    this order the convolution sees, and saves for backward, a quarter of the pixels.

    `upsampling` is one of `unet.shape.UPSAMPLINGS`.
    """

    def __init__(self, in_channels: int, out_channels: int, upsampling: str) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(in_channels, out_channels, 1)
        self.upsampling = upsampling
        self.convs = ConvBlock(2 * out_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Maps (N, in_channels, h, w) and a skip (N, out_channels, H, W) to the skip's shape."""
        x = self.upsample(self.reduce(x), skip.shape[-2:])
        merged: Tensor = self.convs(torch.cat((skip, x), dim=1))
        return merged

    def upsample(self, x: Tensor, size: tuple[int, ...]) -> Tensor:
        """Interpolates (N, C, h, w) to (N, C, *size), in the precision it comes in.

        CUDA autocast would interpolate in fp32, and the concatenation then promote the skip and
        itself to fp32. The mean of four values needs no more than what they come in.
        """
        with torch.autocast(x.device.type, enabled=False):
            height, width = size
            if self.upsampling == "bilinear":
                x = _Bilinear.apply(x, (height, width))
            else:
                x = F.interpolate(x, (height, width), mode=self.upsampling)
            return x
