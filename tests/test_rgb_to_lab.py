"""The way to Lab: both kernels of the operator against the reference, in every colour."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels import lab, native
from kernels.cache import COMPILED
from kernels.rgb_to_lab import DTYPES, launch, rgb_to_lab
from kernels.windows import cut
from tests.colours import (
    ALL_COLOURS,
    CUT_OFF,
    EVERY_KERNEL,
    ROUNDING,
    SCALING,
    check,
    on_gpu,
    part_of_all,
)
from tests.training import threads

Convert = Callable[..., tuple[Tensor, Tensor]]
FACTORS = (116 / 50, -(16 + 50) / 50, 500 / 110, 200 / 110)


def by_triton(
    frames: Tensor,
    dtype: torch.dtype = torch.float32,
    windows: Tensor | None = None,
    size: tuple[int, int] | None = None,
    memory_format: torch.memory_format = torch.contiguous_format,
    layout: str = "NHWC",
) -> tuple[Tensor, Tensor]:
    """Triton's kernel where the operator would take the CPU's; interpreted, in large blocks."""
    planes = frames.permute(0, 3, 1, 2) if layout == "NHWC" else frames
    height, width = size or planes.shape[2:]
    whole = frames.new_zeros((len(frames), 3, height, width), dtype=dtype)
    lightness, ab = whole[:, :1].contiguous(), whole[:, 1:].contiguous(memory_format=memory_format)
    groups = min(1 << 17, 1 << (height * -(-width // 4) - 1).bit_length())
    launch(planes, windows, FACTORS, lightness, ab, groups)
    return lightness, ab


def by_operator(
    frames: Tensor, dtype: torch.dtype = torch.float32, **how: Any
) -> tuple[Tensor, Tensor]:
    return rgb_to_lab(frames, dtype=dtype, **SCALING, **how)


def by_gpu(frames: Tensor, **how: Any) -> tuple[Tensor, Tensor]:
    lightness, ab = by_operator(on_gpu(frames), **how)
    return lightness.cpu(), ab.cpu()


def by_reference(frames: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    found = lab.rgb_to_lab(frames.permute(0, 3, 1, 2).float() / 255)
    return ((found[:, :1] - 50) / 50).to(dtype), (found[:, 1:] / 110).to(dtype)


def rounding(name: str, dtype: torch.dtype) -> float:
    return (CUT_OFF if name == "triton" else ROUNDING)[dtype]


KERNELS: dict[str, Convert] = {
    "reference": by_reference,
    "triton": by_triton,
    "c++": by_operator,
    "cuda": by_gpu,
}

pytestmark = pytest.mark.usefixtures("compiled_kernels")


@pytest.fixture(scope="module")
def compiled_kernels() -> Iterator[None]:
    assert native.library(), "these tests are of the compiled kernel, and there is a compiler"
    with threads(2):  # which share the work
        yield


@pytest.mark.parametrize(("names", "parts"), ALL_COLOURS)
def test_every_colour(
    names: list[str], parts: range, record_property: Callable[[str, object], None]
) -> None:
    worst: dict[str, list[list[float]]] = {}
    for number in parts:
        frames = part_of_all(number)
        truth = lab.rgb_to_lab(frames.permute(0, 3, 1, 2).double() / 255)
        for name in names:
            for dtype in DTYPES if name != "reference" else DTYPES[:1]:
                results = KERNELS[name](frames, dtype=dtype)
                off = check(results, truth, rounding(name, dtype), name)
                worst.setdefault(f"{name} {dtype}", []).append(off)
    for name, offs in worst.items():
        record_property(f"L, a, b of {name} off by", torch.tensor(offs).amax(dim=0).tolist())


def windows_of(count: int, room: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Random windows, int64 (N, 3)."""
    bounds = (room[0] + 1, room[1] + 1, 2)
    columns = [torch.randint(bound, (count,), generator=generator) for bound in bounds]
    return torch.stack(columns, dim=1)


def random_frames(
    shape: tuple[int, int, int], layout: str, kind: str, generator: torch.Generator
) -> Tensor:
    """uint8 frames (N, H, W) with channels where `layout` has them, dense or as views are."""
    count, height, width = shape
    if kind == "dense":
        whole = (count, height, width, 3) if layout == "NHWC" else (count, 3, height, width)
        return torch.randint(256, whole, dtype=torch.uint8, generator=generator)
    # A part of something larger, from an address that is no multiple of anything.
    if kind == "part":
        around = random_frames((count + 1, height + 3, width + 5), layout, "dense", generator)
        if layout == "NHWC":
            return around[1:, 2 : 2 + height, 1 : 1 + width]
        return around[1:, :, 2 : 2 + height, 1 : 1 + width]
    # Every second pixel of every second row, of four channels of which three are taken.
    rgba = torch.randint(
        256, (count, 2 * height, 2 * width, 4), dtype=torch.uint8, generator=generator
    )
    taken = rgba[:, ::2, ::2, :3]
    return taken if layout == "NHWC" else taken.permute(0, 3, 1, 2)


SHAPES = [(1, 1, 1), (2, 3, 5), (3, 7, 4), (1, 5, 33), (2, 16, 64), (1, 1, 2), (4, 2, 3)]


@pytest.mark.parametrize("name", EVERY_KERNEL)
@pytest.mark.parametrize("kind", ["dense", "part", "apart"])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_shape_strides_window_dtype_and_format(
    shape: tuple[int, int, int], layout: str, kind: str, name: str
) -> None:
    generator = torch.Generator().manual_seed(0)
    frames = random_frames(shape, layout, kind, generator)
    planes = frames.permute(0, 3, 1, 2) if layout == "NHWC" else frames
    for place, dtype in enumerate(DTYPES):
        for memory_format in (torch.contiguous_format, torch.channels_last):
            size = (max(1, shape[1] - place), max(1, shape[2] - 2 * place))
            room = (shape[1] - size[0], shape[2] - size[1])
            for windows in (None, windows_of(shape[0], room, generator)):
                lightness, ab = KERNELS[name](
                    frames,
                    dtype=dtype,
                    windows=windows,
                    size=size,
                    memory_format=memory_format,
                    layout=layout,
                )
                assert lightness.dtype is ab.dtype is dtype
                assert ab.is_contiguous(memory_format=memory_format)
                truth = lab.rgb_to_lab(cut(planes, windows, *size).double() / 255)
                check((lightness, ab), truth, rounding(name, dtype), f"{dtype} {windows}")


def test_cut_takes_windows_and_mirrors() -> None:
    frames = torch.arange(24, dtype=torch.uint8).view(2, 1, 3, 4).expand(2, 3, 3, 4)
    found = cut(frames, torch.tensor([[1, 2, 0], [0, 1, 1]]), 2, 2)[:, 0]
    assert found.tolist() == [[[6, 7], [10, 11]], [[14, 13], [18, 17]]]


def test_without_frames_there_is_no_result() -> None:
    lightness, ab = by_operator(torch.empty((0, 8, 6, 3), dtype=torch.uint8))
    assert (lightness.shape, ab.shape) == ((0, 1, 8, 6), (0, 2, 8, 6))


@pytest.mark.parametrize("name", EVERY_KERNEL)
def test_frames_beyond_2_to_the_31_bytes_are_found(name: str) -> None:
    # Of which the system has only the touched pages.
    storage = torch.zeros(2**31 + 2**20, dtype=torch.uint8)
    frames = storage.as_strided((2, 4, 4, 3), (2**31 + 5, 12, 3, 1))
    frames[1] = 255
    lightness, _ = KERNELS[name](frames)
    assert lightness[:, 0, 0, 0].tolist() == pytest.approx([-1, 1], abs=1e-5)
    assert (lightness == lightness[:, :, :1, :1]).all()


FRAMES = torch.zeros((2, 8, 6, 3), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("frames", "how", "message"),
    [
        (FRAMES.float(), {}, "frames: expected uint8 (N, H, W, 3) by layout 'NHWC', got torch.fl"),
        (FRAMES[0], {}, "layout 'NHWC', got torch.uint8 (8, 6, 3)"),
        (FRAMES, {"layout": "NCHW"}, "(N, 3, H, W) by layout 'NCHW', got torch.uint8 (2, 8, 6, 3)"),
        (None, {}, "frames: expected a torch.Tensor, got NoneType"),
        (FRAMES.numpy(), {}, "frames: expected a torch.Tensor, got ndarray"),
        (FRAMES.to_sparse(), {}, "frames: expected a tensor with strides, got torch.sparse_coo"),
        (FRAMES[:, :0], {}, "size 0 x 6: expected a part of frames of 0 x 6, and no empty one"),
        (FRAMES, {"layout": "HWC"}, "layout 'HWC': expected one of NHWC, NCHW"),
        (FRAMES.to("meta"), {}, "frames: expected a CPU or a CUDA device, got meta"),
        (FRAMES, {"size": (9, 6)}, "size 9 x 6: expected a part of frames of 8 x 6"),
        (FRAMES, {"size": (0, 6)}, "size 0 x 6: expected a part of frames"),
        (FRAMES, {"size": (8.0, 6.0)}, "size (8.0, 6.0): expected a height and a width, in whole"),
        (FRAMES, {"size": 8}, "size 8: expected a height and a width"),
        (FRAMES, {"size": (8, 6, 3)}, "size (8, 6, 3): expected a height and a width"),
        (FRAMES, {"windows": [[0, 0, 0]] * 2}, "windows: expected a torch.Tensor, got list"),
        (FRAMES, {"dtype": torch.float64}, "dtype torch.float64: expected one of"),
        (FRAMES, {"memory_format": torch.preserve_format}, "memory_format torch.preserve_format:"),
        (FRAMES, {"l_scale": 0.0}, "l_scale 0.0: expected"),
        (FRAMES, {"ab_scale": float("nan")}, "ab_scale nan: expected"),
        (FRAMES, {"ab_scale": 1e-320}, "ab_scale 1e-320: expected one from 1e-06 to 1e+06"),
        (FRAMES, {"l_scale": None}, "l_scale None: expected one from"),
        (FRAMES, {"l_center": 1e300}, "l_center 1e+300: expected a number up to 1e+06"),
        (FRAMES, {"windows": torch.zeros(2, 3)}, "windows: expected int64 (2, 3) in the host"),
        (FRAMES, {"windows": torch.zeros((1, 3)).long()}, "windows: expected int64 (2, 3)"),
        (
            FRAMES,
            {"windows": torch.tensor([[0, 0, 0], [5, 0, 0]]), "size": (4, 4)},
            "windows[1] [5, 0, 0]: expected top, left from 0 to [4, 2] and 0 or 1",
        ),
        (FRAMES, {"windows": torch.tensor([[0, 0, 2], [0, 0, 0]])}, "windows[0] [0, 0, 2]:"),
        (FRAMES, {"windows": torch.tensor([[0, -1, 0], [0, 0, 0]])}, "windows[0] [0, -1, 0]:"),
    ],
)
def test_what_cannot_be_converted_is_told_in_one_line(
    frames: Tensor, how: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        rgb_to_lab(frames, **how)
    assert len(str(caught.value).splitlines()) == 1


def test_the_operator_itself_reads_nothing_beyond_its_frames() -> None:
    planes = FRAMES.permute(0, 3, 1, 2)
    for size in ((9, 6), (8, 7), (0, 1)):
        with pytest.raises(ValueError, match="expected a part of frames of 8 x 6"):
            torch.ops.unet_bench.rgb_to_lab(
                planes, None, *size, 0.0, 1.0, 1.0, torch.float32, False
            )


# As an operator of torch.


@pytest.mark.parametrize("windows", [None, torch.tensor([[1, 2, 0], [3, 0, 1]])])
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_operator_is_what_torch_expects(channels_last: bool, windows: Tensor | None) -> None:
    frames = torch.randint(256, (2, 8, 6, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    given = (frames, windows, 5, 4, 50.0, 50.0, 110.0, torch.bfloat16, channels_last)
    torch.library.opcheck(torch.ops.unet_bench.rgb_to_lab.default, given)


def test_it_breaks_no_graph() -> None:
    frames = torch.randint(256, (2, 8, 6, 3), dtype=torch.uint8)
    compiled = torch.compile(
        lambda frames: by_operator(frames)[1] * 2, fullgraph=True, backend="aot_eager"
    )
    assert torch.equal(compiled(frames), by_operator(frames)[1] * 2)


# The compiled kernel.


PROGRAM = """
import torch
from kernels.rgb_to_lab import rgb_to_lab
from kernels.lab_to_rgb import lab_to_rgb
torch.manual_seed(0)
frames = torch.randint(256, (2, 9, 7, 3), dtype=torch.uint8)
for _ in range(2):
    lightness, ab = rgb_to_lab(frames)
    assert torch.equal(lab_to_rgb(lightness, ab), frames)
print(lightness.sum().item())
"""


def converted(cache: Path, **environment: str) -> tuple[float, str]:
    """What `PROGRAM` prints in a process of its own, and what it warns of."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "UNET_BENCH_CACHE": str(cache), **environment},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout), done.stderr


def test_it_is_compiled_once_and_kept(tmp_path: Path) -> None:
    first, said = converted(tmp_path)
    assert said == ""
    (kept,) = (tmp_path / COMPILED).iterdir()
    made_at = kept.stat().st_mtime_ns
    # Nobody compiles now, as there is nobody to do it; but asking who it would be.
    assert converted(tmp_path) == (first, "")
    assert [path.stat().st_mtime_ns for path in kept.parent.iterdir()] == [made_at]


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [("no-such-compiler", "'no-such-compiler' (CXX): no such program"), ("false", "false")],
)
def test_without_a_compiler_the_reference_converts_after_one_warning(
    compiler: str, reason: str, tmp_path: Path
) -> None:
    found, said = converted(tmp_path, CXX=compiler)
    assert said.count("RuntimeWarning") == 1
    assert reason in said
    assert found == pytest.approx(converted(tmp_path)[0], rel=1e-6)
