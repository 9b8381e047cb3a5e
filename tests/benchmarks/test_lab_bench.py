"""The cases of `unet-bench kernels`, one by one:

pytest tests/benchmarks/test_lab_bench.py --benchmark-enable --benchmark-group-by=param:shape
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from kernels.peers import SHAPES, contenders

CPU = torch.device("cpu")


@pytest.mark.parametrize("way", contenders(CPU))
@pytest.mark.parametrize("shape", SHAPES)
def test_uint8_frames_to_lab(shape: str, way: str, benchmark: Callable[..., Any]) -> None:
    frames = torch.randint(256, (*SHAPES[shape], 3), dtype=torch.uint8)
    convert = contenders(CPU)[way]
    convert(frames)  # which may compile
    lightness, ab = benchmark(convert, frames)
    count, height, width = SHAPES[shape]
    assert lightness.shape == (count, 1, height, width)
    assert ab.shape == (count, 2, height, width)
