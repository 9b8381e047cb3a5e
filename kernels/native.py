"""The conversion on a CPU in C++, compiled when it is first used and kept for later processes."""

import ctypes
import functools
import hashlib
import os
import secrets
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from kernels import lab
from kernels.cache import open_compiled_folder, open_trusted

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

_FUNCTIONS: Final = ("rgb_to_lab", "lab_to_rgb")


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
    name = os.environ.get("CXX") or "g++"
    compiler = shutil.which(name)
    if compiler is None:
        return f"{name!r} (CXX): no such program"
    try:
        try:
            return _kept(compiler)
        except OSError as error:  # no room for it, or what lies there may be anybody's
            why = " ".join(filter(None, (error.filename, error.strerror or str(error))))
            words = f"{why}; the Lab kernel is compiled for this process alone"
            warnings.warn(words, RuntimeWarning, stacklevel=3)
            with tempfile.TemporaryDirectory() as private:
                return _opened(str(_compile(compiler, Path(private))))
    except (OSError, subprocess.SubprocessError) as error:
        told = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        return next((line for line in told if "error" in line), told[0])


def lack() -> str | None:
    """Why there is no library, in words; `None` if there is one."""
    found = _load()
    return found if isinstance(found, str) else None


def _kept(compiler: str) -> Any:
    """The library in the cache, compiled unless a process has done so before."""
    name, folder = library_name(compiler), open_compiled_folder(make=True)
    try:
        with suppress(OSError):  # not there, another user's or damaged
            return _opened_in(folder, name)
        with tempfile.TemporaryDirectory() as scratch:
            content = _compile(compiler, Path(scratch)).read_bytes()
        partial = f"{secrets.token_hex(8)}.partial"
        fd = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600, dir_fd=folder)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(content)
            os.rename(partial, name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError:
            os.unlink(partial, dir_fd=folder)
            raise
        return _opened_in(folder, name)
    finally:
        os.close(folder)


def _opened_in(folder: int, name: str) -> Any:
    """Opens a library in an open folder."""
    # Left open: the loader knows libraries by their path, and the number must not be another's.
    fd = open_trusted(name, os.O_RDONLY, dir_fd=folder)
    return _opened(f"/proc/self/fd/{fd}")


def _opened(path: str) -> Any:
    library = ctypes.CDLL(path)
    if missing := [name for name in _FUNCTIONS if not hasattr(library, name)]:
        raise OSError(f"{path} has no {missing[0]}")
    return library


def library_name(compiler: str) -> str:
    """File name of the shared library: one for each source, compiler, flags and processor.

    A cache may be shared by machines, and what `native` is differs between them.
    """
    version = subprocess.run(
        [compiler, "--version"], capture_output=True, text=True, check=True, timeout=TIMEOUT_S
    ).stdout
    told = "\n".join((_source(), version, " ".join(FLAGS), _cpu()))
    return f"lab-{hashlib.sha256(told.encode()).hexdigest()[:16]}.so"


def _compile(compiler: str, folder: Path) -> Path:
    """Compiles the library in a folder that belongs to this process alone."""
    made = folder / "lab.so"
    subprocess.run(
        [compiler, *FLAGS, "-x", "c++", "-", "-o", str(made)],
        input=_source(),
        capture_output=True,
        text=True,
        check=True,
        timeout=TIMEOUT_S,
    )
    return made


def _source() -> str:
    return _constants() + SOURCE.read_text()


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
