"""What a U-Net's shape may be. Never imports torch: the parent process reads this too."""

from typing import Final

UPSAMPLINGS: Final = ("bilinear", "nearest")
"""Ways of doubling the resolution, by torch's names for them."""


def min_side(depth: int) -> int:
    """The smallest image side, in pixels, that leaves the bottleneck 2x2 pixels.

    Batch norm cannot train on one value a channel, as a batch of one with 1x1 pixels would be.

    Args:
        depth: How many times the resolution is halved.
    """
    return 2 << depth
