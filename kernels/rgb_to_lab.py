"""uint8 RGB to what the network eats, in one pass: scaled L and ab, cropped and mirrored.

One operator, `torch.ops.unet_bench.rgb_to_lab`, with two kernels: Triton's below for CUDA, and
`lab.cpp` for a CPU. Both are held against `kernels.lab.rgb_to_lab` in every colour.

What bounds the one below: a pixel is 3 bytes in and 6 (fp16, bf16) or 12 (fp32) bytes out, none of
which is used twice, so that the best there can be is the rate of a copy. To come near it, bytes are
not loaded one by one (24 loads for 8 interleaved pixels) but as words of 4, whatever their
alignment; results are stored as vectors; and of the special functions, of which a multiprocessor
does 16 in a cycle, a pixel takes six: three cube roots as exp2(log2(t) / 3). sRGB's curve is a
table of the 256 values that it has.
"""

from typing import Any, Final

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import libdevice

from kernels import lab, native
from kernels.checks import check_part, check_scaling, check_tensor, check_windows
from kernels.windows import cut

LAYOUTS: Final = ("NHWC", "NCHW")
DTYPES: Final = (torch.float32, torch.float16, torch.bfloat16)

GROUPS: Final = 256
"""Of 4 pixels, for one program; a power of two."""

# Constants of kernels.lab, as a kernel can read them.
X_RED, X_GREEN, X_BLUE = map(tl.constexpr, lab.WHITE_FROM_RGB[0])
Y_RED, Y_GREEN, Y_BLUE = map(tl.constexpr, lab.WHITE_FROM_RGB[1])
Z_RED, Z_GREEN, Z_BLUE = map(tl.constexpr, lab.WHITE_FROM_RGB[2])
F_KNEE = tl.constexpr(lab.F_KNEE)
F_SLOPE = tl.constexpr(lab.F_SLOPE)
F_OFFSET = tl.constexpr(lab.F_OFFSET)


# A constant stands on the right: the interpreter takes one on the left for the whole product.


@triton.jit
def power(base, exponent, APPROXIMATE: tl.constexpr):
    """base^exponent of a normal base > 0, within 1e-6 of it; by two special functions on a GPU."""
    # tl.log2 is a polynomial of a dozen steps, exact to the last bits.
    logarithm = libdevice.fast_log2f(base) if APPROXIMATE else tl.log2(base)
    return tl.exp2(logarithm * exponent)


@triton.jit
def groups_of_program(HEIGHT: tl.constexpr, WIDTH: tl.constexpr, GROUPS: tl.constexpr):
    """Of the program's groups of 4 pixels: their image, and row and first column of each (G,)."""
    in_row: tl.constexpr = (WIDTH + 3) // 4
    tiles: tl.constexpr = (HEIGHT * in_row + GROUPS - 1) // GROUPS
    image = (tl.program_id(0) // tiles).to(tl.int64)
    group = (tl.program_id(0) % tiles) * GROUPS + tl.arange(0, GROUPS)
    return image, group // in_row, 4 * (group % in_row)


@triton.jit
def _f(t, APPROXIMATE: tl.constexpr):
    root = power(tl.maximum(t, F_KNEE), 1.0 / 3.0, APPROXIMATE)
    return tl.where(t > F_KNEE, root, t * F_SLOPE + F_OFFSET)


@triton.jit
def _word(words, at, begin, end, mask, ALIGNED: tl.constexpr):
    """The 4 bytes from byte `at` on; of a word that is all outside of the frames, none is read."""
    first = at >> 2
    inside = mask & (4 * first + 4 > begin) & (4 * first < end)
    low = tl.load(words + first, mask=inside, other=0)
    if ALIGNED:
        return low
    inside = mask & (4 * first + 8 > begin) & (4 * first + 4 < end)
    high = tl.load(words + first + 1, mask=inside, other=0)
    both = (high.to(tl.uint64) << 32) | low.to(tl.uint64)
    return (both >> (8 * (at & 3)).to(tl.uint64)).to(tl.uint32)


@triton.jit
def _in_turn(p0, p1, p2, p3, mirrored, WINDOWED: tl.constexpr):
    """What belongs to 4 pixels, each (G,), in their order or the other way round: (G, 4)."""
    if WINDOWED:
        p0, p3 = tl.where(mirrored, p3, p0), tl.where(mirrored, p0, p3)
        p1, p2 = tl.where(mirrored, p2, p1), tl.where(mirrored, p1, p2)
    return tl.reshape(tl.join(tl.join(p0, p2), tl.join(p1, p3)), (p0.shape[0], 4))


@triton.jit
def _linear_byte(linear, packed, number: tl.constexpr):
    return tl.load(linear + ((packed >> (8 * number)) & 255).to(tl.int32))


@triton.jit
def _rgb_to_lab(
    data,  # uint8: the storage of the frames; its address is a multiple of 4 unless BYTES is apart
    windows,  # int32 (N, 3): top, left, whether mirrored; not read unless WINDOWED
    linear,  # fp32 (256,)
    lightness,  # (N, 1, HEIGHT, WIDTH), contiguous
    ab,  # (N, 2, HEIGHT, WIDTH), contiguous or channels-last
    begin,  # byte of the first pixel of all
    end,  # and the one after the last
    stride_n,
    stride_c,
    stride_h,
    stride_w,
    l_factor,
    l_term,
    a_factor,
    b_factor,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    BYTES: tl.constexpr,  # "NHWC" or "NCHW" if those of a row lie side by side, else "apart"
    ALIGNED: tl.constexpr,  # every group of 4 pixels begins where a word does
    WINDOWED: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    APPROXIMATE: tl.constexpr,  # as a GPU does; Triton's interpreter cannot
    GROUPS: tl.constexpr,
):
    image, y, x = groups_of_program(HEIGHT, WIDTH, GROUPS)
    exists = y < HEIGHT
    if HEIGHT * WIDTH >= 2**29:  # a and b of one image may be more than int32 can count
        y, x = y.to(tl.int64), x.to(tl.int64)
    top, left, mirrored = 0, 0, False
    if WINDOWED:
        top = tl.load(windows + 3 * image)
        left = tl.load(windows + 3 * image + 1)
        mirrored = tl.load(windows + 3 * image + 2) != 0
    row = begin + image * stride_n + (top + y).to(tl.int64) * stride_h

    if BYTES == "apart":
        place = x[:, None] + tl.arange(0, 4)[None, :]
        column = left + tl.where(mirrored, WIDTH - 1 - place, place)
        at = row[:, None] + column.to(tl.int64) * stride_w
        mask = exists[:, None] & (place < WIDTH)
        red = tl.load(linear + tl.load(data + at, mask=mask, other=0).to(tl.int32))
        green = tl.load(linear + tl.load(data + at + stride_c, mask=mask, other=0).to(tl.int32))
        blue = tl.load(linear + tl.load(data + at + 2 * stride_c, mask=mask, other=0).to(tl.int32))
    else:
        words = data.to(tl.pointer_type(tl.uint32), bitcast=True)
        # A mirrored group is loaded as it lies, and turned round afterwards.
        at = row + (left + tl.where(mirrored, WIDTH - 4 - x, x)).to(tl.int64) * stride_w
        if BYTES == "NHWC":
            w0 = _word(words, at, begin, end, exists, ALIGNED)
            w1 = _word(words, at + 4, begin, end, exists, ALIGNED)
            w2 = _word(words, at + 8, begin, end, exists, ALIGNED)
            p1, p2 = (w0 >> 24) | (w1 << 8), (w1 >> 16) | (w2 << 16)
            packed = _in_turn(w0, p1, p2, w2 >> 8, mirrored, WINDOWED)
            red = _linear_byte(linear, packed, 0)
            green = _linear_byte(linear, packed, 1)
            blue = _linear_byte(linear, packed, 2)
        else:
            r = _word(words, at, begin, end, exists, ALIGNED)
            g = _word(words, at + stride_c, begin, end, exists, ALIGNED)
            b = _word(words, at + 2 * stride_c, begin, end, exists, ALIGNED)
            r = _in_turn(r, r >> 8, r >> 16, r >> 24, mirrored, WINDOWED)
            g = _in_turn(g, g >> 8, g >> 16, g >> 24, mirrored, WINDOWED)
            b = _in_turn(b, b >> 8, b >> 16, b >> 24, mirrored, WINDOWED)
            red = _linear_byte(linear, r, 0)
            green = _linear_byte(linear, g, 0)
            blue = _linear_byte(linear, b, 0)

    fx = _f(red * X_RED + green * X_GREEN + blue * X_BLUE, APPROXIMATE)
    fy = _f(red * Y_RED + green * Y_GREEN + blue * Y_BLUE, APPROXIMATE)
    fz = _f(red * Z_RED + green * Z_GREEN + blue * Z_BLUE, APPROXIMATE)
    l = l_factor * fy + l_term  # noqa: E741 (as it is called)
    a = a_factor * (fx - fy)
    b = b_factor * (fy - fz)

    area: tl.constexpr = HEIGHT * WIDTH
    kind = lightness.dtype.element_ty
    pixel = (y * WIDTH + x)[:, None] + tl.arange(0, 4)[None, :]
    mask = exists[:, None]
    if WIDTH % 4:
        mask = mask & (x[:, None] + tl.arange(0, 4)[None, :] < WIDTH)
    tl.store(lightness + image * area + pixel, l.to(kind), mask=mask)
    ab += 2 * image * area
    if CHANNELS_LAST:
        pairs = tl.reshape(tl.join(a, b), (GROUPS, 8))
        place = (2 * (y * WIDTH + x))[:, None] + tl.arange(0, 8)[None, :]
        mask = exists[:, None]
        if WIDTH % 4:
            mask = mask & (2 * x[:, None] + tl.arange(0, 8)[None, :] < 2 * WIDTH)
        tl.store(ab + place, pairs.to(kind), mask=mask)
    else:
        tl.store(ab + pixel, a.to(kind), mask=mask)
        tl.store(ab + area + pixel, b.to(kind), mask=mask)


def rgb_to_lab(
    frames: Tensor,
    *,
    layout: str = "NHWC",
    windows: Tensor | None = None,
    size: tuple[int, int] | None = None,
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.contiguous_format,
    l_center: float = 0.0,
    l_scale: float = 1.0,
    ab_scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Converts frames of companded sRGB to scaled CIELAB (D65, 2-degree observer).

    Args:
        frames: uint8 on a CPU or a CUDA device, (N, H, W, 3) or (N, 3, H, W), any strides.
        layout: Which of the two: "NHWC" or "NCHW".
        windows: What is taken of each frame: int64 (N, 3) in the host's memory of top, left, and 1
            where it is mirrored from left to right, else 0. `None` for the upper left, as it is.
        size: Height and width of that; `None` for those of the frames.
        dtype: Of the results: fp32, fp16 or bf16. All is computed in fp32.
        memory_format: Of the results: contiguous or channels-last.
        l_center: What the results hold is (L - l_center) / l_scale,
        l_scale: see `l_center`,
        ab_scale: a / ab_scale and b / ab_scale.

    Returns:
        L of shape (N, 1, h, w), and a and b of shape (N, 2, h, w).

    Raises:
        ValueError: Something else was given, in one line that says what.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout {layout!r}: expected one of {', '.join(LAYOUTS)}")
    check_tensor("frames", frames)
    shape, channels = tuple(frames.shape), layout.index("C")
    if frames.dtype is not torch.uint8 or len(shape) != 4 or shape[channels] != 3:
        wanted = "(N, H, W, 3)" if layout == "NHWC" else "(N, 3, H, W)"
        raise ValueError(
            f"frames: expected uint8 {wanted} by layout {layout!r}, got {frames.dtype} {shape}"
        )
    if frames.device.type not in ("cpu", "cuda"):
        raise ValueError(f"frames: expected a CPU or a CUDA device, got {frames.device}")
    planes = frames.permute(0, 3, 1, 2) if layout == "NHWC" else frames
    sides = tuple(planes.shape[2:]) if size is None else size
    if (
        not isinstance(sides, tuple | list)
        or len(sides) != 2
        or not all(isinstance(side, int | torch.SymInt) for side in sides)
    ):
        raise ValueError(f"size {size!r}: expected a height and a width, in whole pixels")
    height, width = sides
    if windows is not None:
        check_tensor("windows", windows)
        if (windows.dtype, windows.shape, windows.device.type) != (
            *(torch.int64, (shape[0], 3), "cpu"),
        ):
            raise ValueError(
                f"windows: expected int64 ({shape[0]}, 3) in the host's memory, got "
                f"{windows.dtype} {tuple(windows.shape)} on {windows.device}"
            )
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype}: expected one of {', '.join(map(str, DTYPES))}")
    if memory_format not in (torch.contiguous_format, torch.channels_last):
        raise ValueError(f"memory_format {memory_format}: expected contiguous or channels-last")
    check_scaling(l_center=l_center, l_scale=l_scale, ab_scale=ab_scale)
    channels_last = memory_format is torch.channels_last
    found: tuple[Tensor, Tensor] = _operator(
        planes, windows, height, width, l_center, l_scale, ab_scale, dtype, channels_last
    )
    return found


def kernel_on(device: torch.device) -> str:
    """What converts on a device: "triton", "c++", or "reference" where C++ cannot be compiled."""
    if device.type == "cuda":
        return "triton"
    return "c++" if native.library() else "reference"


@torch.library.custom_op("unet_bench::rgb_to_lab", mutates_args=())
def _operator(
    frames: Tensor,
    windows: Tensor | None,
    height: int,
    width: int,
    l_center: float,
    l_scale: float,
    ab_scale: float,
    dtype: torch.dtype,
    channels_last: bool,
) -> tuple[Tensor, Tensor]:
    """As `rgb_to_lab`, of frames (N, 3, H, W)."""
    check_part(frames, height, width)
    if windows is not None:
        check_windows(windows, frames, height, width)
    lightness, ab = _results(frames, height, width, dtype, channels_last)
    scaling = (116.0 / l_scale, -(16.0 + l_center) / l_scale, 500.0 / ab_scale, 200.0 / ab_scale)
    if not lightness.numel():
        return lightness, ab
    if frames.device.type == "cuda":
        with torch.cuda.device_of(frames):  # it need not be the current one
            launch(frames, windows, scaling, lightness, ab)
    elif library := native.library():
        native.rgb_to_lab(library, frames, windows, scaling, lightness, ab)
    else:
        found = lab.rgb_to_lab(cut(frames, windows, height, width).float() / 255)
        lightness.copy_((found[:, :1] - l_center) / l_scale)
        ab.copy_(found[:, 1:] / ab_scale)
    return lightness, ab


@_operator.register_fake
def _(
    frames: Tensor, _windows: Tensor | None, height: int, width: int, *others: Any
) -> tuple[Tensor, Tensor]:
    *_, dtype, channels_last = others
    return _results(frames, height, width, dtype, channels_last)


def _results(
    frames: Tensor, height: int, width: int, dtype: torch.dtype, channels_last: bool
) -> tuple[Tensor, Tensor]:
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    lightness, ab = (
        torch.empty(
            (len(frames), channels, height, width),
            dtype=dtype,
            device=frames.device,
            memory_format=memory_format,
        )
        for channels in (1, 2)
    )
    return lightness, ab


def launch(
    frames: Tensor,
    windows: Tensor | None,
    scaling: tuple[float, float, float, float],
    lightness: Tensor,
    ab: Tensor,
    groups: int = GROUPS,
) -> None:
    """Runs Triton's kernel; see `rgb_to_lab` for what is given.

    Args:
        frames: uint8 (N, 3, H, W), any strides.
        windows: int64 (N, 3) in the host's memory.
        scaling: Factor and term of L as a function of f(Y), factors of a and b.
        lightness: Where to write L.
        ab: Where to write a and b.
        groups: Of 4 pixels, for one program; a power of two.
    """
    height, width = lightness.shape[2:]
    stride_n, stride_c, stride_h, stride_w = frames.stride()
    begin = frames.storage_offset()
    reach = zip(frames.shape, frames.stride(), strict=True)
    end = begin + 1 + sum((size - 1) * stride for size, stride in reach)
    storage = torch.empty(0, dtype=torch.uint8, device=frames.device)
    storage.set_(frames.untyped_storage(), 0, (end,), (1,))
    layout, steps = "apart", [begin, stride_n, stride_h]
    if storage.data_ptr() % 4 == 0:
        if (stride_c, stride_w) == (1, 3):
            layout = "NHWC"
        elif stride_w == 1:
            layout = "NCHW"
            steps.append(stride_c)
    aligned = windows is None and not any(step % 4 for step in steps)
    on_device = None
    if windows is not None:
        on_device = windows.to(torch.int32)
        if frames.is_cuda:  # from pageable memory the host would wait for the copy
            on_device = on_device.pin_memory().to(frames.device, non_blocking=True)
    _rgb_to_lab[(programs(lightness, groups),)](
        storage,
        on_device,
        lab.linear_levels(frames.device),
        lightness,
        ab,
        begin,
        end,
        stride_n,
        stride_c,
        stride_h,
        stride_w,
        *scaling,
        HEIGHT=height,
        WIDTH=width,
        BYTES=layout,
        ALIGNED=aligned,
        WINDOWED=windows is not None,
        CHANNELS_LAST=ab.stride(1) == 1,
        APPROXIMATE=not triton.knobs.runtime.interpret,
        GROUPS=groups,
        enable_fp_fusion=True,  # whatever Triton's default is
    )


def programs(images: Tensor, groups: int) -> int:
    """How many programs cover images (N, C, H, W); see `groups_of_program`."""
    count, _, height, width = images.shape
    tiles: int = triton.cdiv(height * triton.cdiv(width, 4), groups)
    return count * tiles
