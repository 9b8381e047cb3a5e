"""The cases of `unet-bench kernels`, one by one:

pytest tests/benchmarks/test_lab_bench.py --benchmark-enable --benchmark-group-by=param:name
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from kernels.peers import contenders, work

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("way", contenders(CPU))
@pytest.mark.parametrize("name", work(CPU))
def test_uint8_frames_to_lab(name: str, way: str, benchmark: Callable[..., Any]) -> None:
    _check(CPU, name, way, benchmark)


@pytest.mark.gpu
@pytest.mark.parametrize("way", contenders(CUDA))
@pytest.mark.parametrize("name", work(CUDA))
def test_uint8_frames_to_lab_on_a_gpu(name: str, way: str, benchmark: Callable[..., Any]) -> None:
    _check(CUDA, name, way, benchmark)


def _check(device: torch.device, name: str, way: str, benchmark: Callable[..., Any]) -> None:
    asked = work(device)[name]
    frames, convert = asked.frames(device), contenders(device, asked.dtype)[way]

    def call() -> tuple[torch.Tensor, torch.Tensor]:
        found = convert(frames)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return found

    call()  # which may compile
    lightness, ab = benchmark(call)
    count, height, width = asked.shape
    assert lightness.shape == (count, 1, height, width)
    assert ab.shape == (count, 2, height, width)
    assert lightness.dtype == ab.dtype == asked.dtype
