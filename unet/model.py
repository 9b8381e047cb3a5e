"""The U-Net itself (Ronneberger et al. 2015, with padding, batch norm and interpolation).

It knows no variants: precision, memory format and the like are put around it from outside.
"""

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from unet.blocks import ConvBlock, DownBlock, UpBlock
from unet.shape import UPSAMPLINGS, min_side


@dataclass(frozen=True)
class UNetConfig:
    """Shape of a U-Net.

    Attributes:
        in_channels: Channels of the input (1: Lab's L).
        out_channels: Channels of the output (2: Lab's a and b).
        width: Channels at full resolution; they double with each level down.
        depth: How many times the resolution is halved.
        upsampling: "bilinear" or "nearest".

    Raises:
        ValueError: If a number is below 1 or the upsampling is unknown.
    """

    in_channels: int = 1
    out_channels: int = 2
    width: int = 64
    depth: int = 4
    upsampling: str = "bilinear"

    def __post_init__(self) -> None:
        for name in ("in_channels", "out_channels", "width", "depth"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.upsampling not in UPSAMPLINGS:
            raise ValueError(
                f"upsampling must be one of {', '.join(UPSAMPLINGS)}, got {self.upsampling!r}"
            )

    @property
    def min_side(self) -> int:
        """The smallest image side in pixels; see `unet.shape.min_side`."""
        return min_side(self.depth)


class UNet(nn.Module):
    """Encoder of `depth` DownBlocks, a bottleneck, as many UpBlocks, and a 1x1 head."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        *widths, bottom = (config.width << level for level in range(config.depth + 1))
        self.down = nn.ModuleList(
            DownBlock(above, width) for above, width in pairwise((config.in_channels, *widths))
        )
        self.bottleneck = ConvBlock(widths[-1], bottom)
        self.up = nn.ModuleList(
            UpBlock(2 * width, width, config.upsampling) for width in reversed(widths)
        )
        self.head = nn.Conv2d(config.width, config.out_channels, 1)
        self._initialize()

    def _initialize(self) -> None:
        """He et al. 2015 for convolutions before a ReLU; batch norm starts as torch has it: 1, 0.

        The head starts with outputs near zero, as Lin et al. 2017 do (normal, 0.01): in Lab that is
        grey, the best guess of a network that has not seen a colour.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.head.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, in_channels, H, W) to (N, out_channels, H, W); any H and W, odd ones too.

        Raises:
            ValueError: If the input has other channels, or a side below `config.min_side`.
        """
        channels, side = self.config.in_channels, self.config.min_side
        if x.ndim != 4 or x.shape[1] != channels or min(x.shape[2:]) < side:
            raise ValueError(
                f"x must be (N, {channels}, H, W) with sides of at least {side},"
                f" got shape {tuple(x.shape)}"
            )
        skips = []
        for down in self.down:
            x, skip = down(x)
            skips.append(skip)
        x = self.bottleneck(x)
        for up in self.up:
            x = up(x, skips.pop())
        prediction: Tensor = self.head(x)
        return prediction
