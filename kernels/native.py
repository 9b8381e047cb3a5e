"""The conversion on a CPU in C++, compiled when it is first used and kept for later processes."""

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from kernels import lab
from kernels.cache import cache_folder

SOURCE: Final = Path(__file__).with_name("lab.cpp")

FLAGS: Final = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-fopenmp",
    "-fno-math-errno",  # or a square root is a call
    "-fno-trapping-math",  # or a choice between two values is a jump
    "-ffp-contract=fast",
    "-shared",
    "-fPIC",
)

TIMEOUT_S: Final = 120


@functools.cache
def library() -> Any | None:
    """The compiled kernels, made by `$CXX`, or `g++`; takes seconds where they are not there yet.

    Returns:
        `None`, after a warning, where they cannot be compiled.
    """
    found = _load()
    if not isinstance(found, str):
        return found
    words = "Lab conversion on the CPU is slow, since its kernel could not be compiled and kept"
    warnings.warn(f"{words}: {found}", RuntimeWarning, stacklevel=2)
    return None


@functools.cache
def _load() -> Any | str:
    """The library, or why there is none."""
    name = os.environ.get("CXX", "g++")
    compiler = shutil.which(name)
    if compiler is None:
        return f"{name!r} (CXX): no such program"
    try:
        path = _compiled(compiler)
        try:
            return ctypes.CDLL(str(path))
        except OSError:  # what is kept is damaged
            path.unlink()
            return ctypes.CDLL(str(_compiled(compiler)))
    except (OSError, subprocess.SubprocessError) as error:
        told = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        return next((line for line in told if "error" in line), told[0])


def lack() -> str | None:
    """Why there is no library, in words; `None` if there is one."""
    found = _load()
    return found if isinstance(found, str) else None


def _compiled(compiler: str) -> Path:
    """Path of the shared library, compiled unless a process has done so before."""
    source = _constants() + SOURCE.read_text()
    version = subprocess.run(
        [compiler, "--version"], capture_output=True, text=True, check=True, timeout=TIMEOUT_S
    ).stdout
    # A cache may be shared by machines: what `native` is differs between them.
    told = "\n".join((source, version, " ".join(FLAGS), _cpu()))
    folder = cache_folder()
    path = folder / f"lab-{hashlib.sha256(told.encode()).hexdigest()[:16]}.so"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch) / "lab.so"
        command = [compiler, *FLAGS, "-x", "c++", "-", "-o", str(made)]
        subprocess.run(
            command, input=source, capture_output=True, text=True, check=True, timeout=TIMEOUT_S
        )
        made.replace(path)
    return path


def _constants() -> str:
    """Definitions in C++ of the constants of `kernels.lab`, the white within the matrices."""
    names = ("SRGB_SLOPE", "SRGB_OFFSET", "LINEAR_KNEE", "F_KNEE", "F_INVERSE_KNEE")
    values = {name: getattr(lab, name) for name in (*names, "F_SLOPE", "F_OFFSET")}
    xyz, rgb = ("X", "Y", "Z"), ("RED", "GREEN", "BLUE")
    for rows, columns, matrix in (
        (xyz, rgb, lab.WHITE_FROM_RGB),
        (rgb, xyz, lab.RGB_FROM_WHITE),
    ):
        for row, line in zip(rows, matrix, strict=True):
            values |= {f"{row}_{name}": value for name, value in zip(columns, line, strict=True)}
    return "".join(f"constexpr float {name} = {value!r};\n" for name, value in values.items())


def _cpu() -> str:
    """What the processor can do, as the system lists it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


_CODES: Final = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


def rgb_to_lab(
    library: Any,
    frames: Tensor,
    windows: Tensor | None,
    scaling: tuple[float, float, float, float],
    lightness: Tensor,
    ab: Tensor,
) -> None:
    """As `kernels.rgb_to_lab.launch`, on a CPU, by a `library()`."""
    count, _, height, width = lightness.shape
    if windows is None:
        windows = torch.zeros((count, 3), dtype=torch.int64)
    windows, linear = windows.contiguous(), lab.linear_levels(frames.device)
    library.rgb_to_lab(
        _address(frames),
        _longs(frames.stride()),
        _address(windows),
        *map(ctypes.c_int64, (count, height, width)),
        _address(linear),
        (ctypes.c_float * 4)(*scaling),
        _CODES[lightness.dtype],
        _address(lightness),
        _address(ab),
        ab.stride(1) == 1,
        torch.get_num_threads(),
    )


def lab_to_rgb(
    library: Any,
    lightness: Tensor,
    ab: Tensor,
    scaling: tuple[float, float, float, float],
    rgb: Tensor,
    layout: str,
) -> None:
    """As `kernels.lab_to_rgb.launch`, on a CPU, by a `library()`."""
    count, _, height, width = lightness.shape
    planes = rgb.permute(0, 3, 1, 2) if layout == "NHWC" else rgb
    library.lab_to_rgb(
        _address(lightness),
        _longs(lightness.stride()),
        _address(ab),
        _longs(ab.stride()),
        *map(ctypes.c_int64, (count, height, width)),
        (ctypes.c_float * 4)(*scaling),
        _CODES[lightness.dtype],
        _address(rgb),
        _longs(planes.stride()),
        torch.get_num_threads(),
    )


def _address(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _longs(values: Sequence[int]) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(values))(*values)
