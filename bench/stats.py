"""Statistics of a measurement: floats in, floats out."""

from collections.abc import Sequence
from statistics import median

SETTLED_PERCENT = 2.0
"""Steps that become faster by more than this are still warming up."""


def has_settled(steps_s: Sequence[float]) -> bool | None:
    """Whether step times have stopped to fall.

    Args:
        steps_s: Times of the latest steps, in order.

    Returns:
        Whether the median of their later half lies no more than `SETTLED_PERCENT` below that of
        their earlier half (of an odd number the middle one is left out); `None` for less than two.
    """
    half = len(steps_s) // 2
    if not half:
        return None
    return median(steps_s[-half:]) >= (1 - SETTLED_PERCENT / 100) * median(steps_s[:half])
