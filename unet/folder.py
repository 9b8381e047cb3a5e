"""Frames of a folder: which files they are, in which order, and their pixels."""

import ctypes
import functools
import hashlib
import io
import logging
import os
import re
import stat
import warnings
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

DECODING = 1
"""Version of what `decode` makes of a file; another one is another cache."""

COLORLESS_LEVELS = 4.0
"""A frame has no colour if its pixels' largest channel exceeds their smallest by no more than this
in the root mean square, in levels of 255. JPEG or video that is off by one level in both chroma
channels of every pixel reaches 3.2; a light of 200 levels in 0.1 % of a grey frame reaches 6.3."""

BACKGROUND = (255, 255, 255)
"""What shows through transparent pixels: white, as on a page."""

# Pillow knows these by name only, or hands them to another program.
_NO_PICTURES = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})

# Down to this many times the target, pixels are averaged in blocks, and JPEG decodes at a fraction
# of its size. Pillow calls 3 close to what resampling at once gives, for a part of its time.
_REDUCING_GAP = 3

_ORIENTATION = 0x0112  # EXIF's tag; its values, and the turn that undoes each:
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableError(Exception):
    """A frame that cannot be read; its text says why."""


@dataclass(frozen=True)
class Frame:
    """A frame that was read.

    Attributes:
        pixels: uint8 of shape (size, size, 3), sRGB.
        digest: SHA-256 of the file's content.
        has_color: Whether it is more than grey; see `COLORLESS_LEVELS`.
    """

    pixels: np.ndarray
    digest: bytes
    has_color: bool


class Scan(NamedTuple):
    """What is in a folder and the folders below it.

    Attributes:
        names: Paths of the images relative to the folder, parted by `/`, in no order.
        ignored: Number of other files.
        unlisted: Why folders below it cannot be listed, by their paths relative to it.
    """

    names: list[str]
    ignored: int
    unlisted: dict[str, str]


def scan_folder(folder: str) -> Scan:
    """The images in a folder and the folders below it, by the suffixes that Pillow can decode.

    Nothing is opened, so that 100,000 files take no second. What begins with a dot is passed
    over. A folder that links lead to more than once is entered once.

    Args:
        folder: The folder, as the user gave it.

    Raises:
        OSError: The folder cannot be listed.
    """
    formats = _formats()
    suffixes = {suffix for suffix, name in Image.registered_extensions().items() if name in formats}
    names: list[str] = []
    ignored = 0
    unlisted: dict[str, str] = {}
    entered = set()
    to_do = [""]
    while to_do:
        below = to_do.pop()
        path = Path(folder, below)
        try:
            with os.scandir(path if below else folder) as opened:
                entries, identity = list(opened), path.stat()
        except OSError as error:
            if not below:
                raise
            unlisted[below] = error.strerror or str(error)
            continue
        if (identity.st_dev, identity.st_ino) in entered:
            continue
        entered.add((identity.st_dev, identity.st_ino))
        folders = []
        for entry in entries:
            hidden = entry.name.startswith(".")
            _, dot, suffix = entry.name.lower().rpartition(".")
            if _is_folder(entry):
                if not hidden:
                    folders.append(f"{below}{entry.name}/")
            elif hidden or dot + suffix not in suffixes:
                ignored += 1
            else:
                names.append(below + entry.name)
        # The order decides by which of several links a folder is known.
        to_do.extend(sorted(folders, reverse=True))
    return Scan(names, ignored, unlisted)


def natural_key(path: str) -> tuple[object, ...]:
    """Sorts paths of images as a reader would: `frame_2` before `frame_10`, folder by folder.

    A folder's own frames come before those of the folders in it. Runs of digits compare as whole
    numbers of any length, letters without regard to case; what is then still alike compares
    character by character.
    """
    *folders, name = path.split("/")
    stem = name.rpartition(".")[0]
    return *((1, _runs(part), part) for part in folders), (0, _runs(stem), name)


def _runs(text: str) -> list[tuple[str, int, str]]:
    runs = re.findall("([^0-9]*)([0-9]*)", text.casefold())
    numbers = ((letters, digits.lstrip("0")) for letters, digits in runs)
    # Longer is larger; int() refuses more than some thousand digits.
    return [(letters, len(number), number) for letters, number in numbers]


def read_frames(paths: Sequence[Path], size: int) -> Generator[Frame | UnreadableError]:
    """Reads frames on all CPUs that this process may use, a few ahead of who takes them.

    Close it (`contextlib.closing`) where it may not be read to its end.

    Args:
        paths: The files.
        size: See `decode`.

    Yields:
        What each file holds, or why it cannot be read, in the order of `paths`.
    """
    workers = len(os.sched_getaffinity(0))
    _formats()  # here, since threads that look for them at once get in each other's way
    with _silence():
        pool = ThreadPoolExecutor(workers)
        try:
            ahead: deque[Future[Frame | UnreadableError]] = deque()
            for path in paths:
                ahead.append(pool.submit(_try_frame, path, size))
                if len(ahead) > 2 * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _try_frame(path: Path, size: int) -> Frame | UnreadableError:
    try:
        return read_frame(path, size)
    except UnreadableError as error:
        return error


def read_frame(path: Path, size: int) -> Frame:
    """Reads a frame; see `decode`.

    Raises:
        UnreadableError: It cannot be read.
    """
    try:
        # Without waiting for the other end, should it have become a pipe.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as f:
            if not stat.S_ISREG(os.fstat(f.fileno()).st_mode):
                raise UnreadableError("not a file")
            content = f.read()
    except OSError as error:
        raise UnreadableError(error.strerror or str(error)) from None
    pixels = decode(content, size)
    return Frame(pixels, hashlib.sha256(content).digest(), has_color(pixels))


def has_color(pixels: np.ndarray) -> bool:
    """Whether a frame is more than grey; see `COLORLESS_LEVELS`.

    Args:
        pixels: uint8 of shape (height, width, 3), sRGB.
    """
    spread = (pixels.max(axis=2) - pixels.min(axis=2)).astype(np.float64)
    return bool(np.square(spread).mean() > COLORLESS_LEVELS**2)


def decode(content: bytes, size: int) -> np.ndarray:
    """The pixels of an image, upright, its shorter side resized and its centre cut out.

    Of several frames or pages the first is taken. Transparent pixels are laid over `BACKGROUND`.
    Colour profiles are not applied. Grey of 16 bits is scaled to 8; floating-point grey runs from
    0 to 1.

    Args:
        content: The file's content.
        size: Side of the result in pixels.

    Returns:
        uint8 of shape (size, size, 3), sRGB.

    Raises:
        UnreadableError: It is damaged, no image, or has more pixels than Pillow thinks safe.
    """
    if not content:
        raise UnreadableError("empty file")
    try:
        image = Image.open(io.BytesIO(content), formats=_formats())
        image.draft(None, (size * _REDUCING_GAP, size * _REDUCING_GAP))
        image.load()
        turn = _turn(image)
        square = _square(_to_rgb(image), size)
    except UnreadableError:
        raise
    except UnidentifiedImageError:
        raise UnreadableError("no image that Pillow knows") from None
    except Exception as error:  # noqa: BLE001 - a damaged file makes Pillow raise anything
        reason = " ".join(str(error).split())
        raise UnreadableError(reason or type(error).__name__) from None
    return np.asarray(square if turn is None else square.transpose(turn))


def _square(image: Image.Image, size: int) -> Image.Image:
    side = min(image.size)
    left, top = ((length - side) / 2 for length in image.size)
    return image.resize(
        (size, size),
        Image.Resampling.BICUBIC,
        box=(left, top, left + side, top + side),
        reducing_gap=_REDUCING_GAP,
    )


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What brings a loaded image upright; a TIFF is so already."""
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - what is written beside the pixels is damaged, they are not
        return None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        image = Image.fromarray(_from_16_bits(np.asarray(image)))
    elif image.mode == "F":
        image = Image.fromarray(_from_floats(np.asarray(image)))
    elif image.has_transparency_data:
        page = Image.new("RGBA", image.size, BACKGROUND)
        page.alpha_composite(image.convert("RGBA"))
        image = page
    return image.convert("RGB")


def _from_16_bits(values: np.ndarray) -> np.ndarray:
    if values.min() < 0 or values.max() > 0xFFFF:
        raise UnreadableError("grey of more than 16 bits")
    wide = values.astype(np.uint32) * 0xFF + 0x7FFF
    return (wide // 0xFFFF).astype(np.uint8)


def _from_floats(values: np.ndarray) -> np.ndarray:
    if not (values.min() >= 0 and values.max() <= 1):  # nor if there is a NaN
        raise UnreadableError("floating-point grey beyond 0 to 1")
    return (values * 0xFF + 0.5).astype(np.uint8)


@functools.cache
def _formats() -> tuple[str, ...]:
    """What Pillow can decode by itself."""
    Image.init()
    return tuple(sorted(Image.OPEN.keys() - _NO_PICTURES))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or to where one may not look
        return False


@functools.cache
def _silence_libtiff() -> None:
    """Takes from libtiff its way to print errors, as Pillow does with its warnings."""
    with Path("/proc/self/maps").open() as maps:
        found = re.search(r"/.*/libtiff[^/\n]*$", maps.read(), re.MULTILINE)
    if found:
        with suppress(OSError, AttributeError):  # another one by that name: it goes on printing
            ctypes.CDLL(found[0]).TIFFSetErrorHandler(None)


@contextmanager
def _silence() -> Iterator[None]:
    """Nothing that Pillow remarks on damaged files is printed: they are reported by name."""
    _silence_libtiff()
    logger, handler = logging.getLogger("PIL"), logging.NullHandler()
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.removeHandler(handler)
