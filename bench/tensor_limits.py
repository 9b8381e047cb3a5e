"""Which failures mean that a kernel cannot take a tensor of the size that was asked for."""

import math
import re

_TOO_LARGE = re.compile(
    r"tensors with less than (INT_MAX|2\^\d+)|32-bit index math|canUse32BitIndexMath"
)
"""How torch's kernels refuse a tensor whose elements they cannot count in 32 bits: it is no want of
memory, and which kernels do so differs from one version of torch to the next."""

_SHAPE = re.compile(r"\[(\d+(?:, \d+)+)\]")


def too_large(error: BaseException) -> str | None:
    """What was too large, in a line, if that is why an operation failed; else `None`."""
    line = next(filter(_TOO_LARGE.search, str(error).splitlines()), None)
    if line is None:
        return None
    tensor = "so large a tensor"
    if shape := _SHAPE.search(line):
        sizes = [int(size) for size in shape[1].split(", ")]
        words = " x ".join(map(str, sizes))
        tensor = f"a tensor of {words} = {math.prod(sizes)} elements"
    return f"torch has no kernel for {tensor}: {line.strip()}"
