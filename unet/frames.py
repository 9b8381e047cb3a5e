"""Frames made ready for training: rendered once into a cache that all trials share, and split."""

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from unet.drive import Drive

SPLITS = ("block", "random")

_PROBES = 8  # frames that stand for the whole drive in its fingerprint
_PROBE_SIZE = 32
_DAY_S = 86_400


@dataclass(frozen=True)
class FrameSet:
    """Frames in a cache, with their split.

    Attributes:
        path: uint8 array of shape (frames, size, size, 3), sRGB, in numpy's file format.
        train: Number of training frames.
        provenance: What was rendered and how it was split.
    """

    path: Path
    train: int
    provenance: Mapping[str, int | str]

    @property
    def train_size(self) -> int:
        """Number of training frames."""
        return self.train

    @property
    def handle(self) -> dict[str, str]:
        """What a trial needs to open the frames."""
        return {"path": str(self.path)}


def split_frames(
    count: int, split: str, validation_percent: int, gap: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Which frames are trained on and which are held back.

    Args:
        count: Frames in all, in the order they were taken.
        split: `block` holds back the end of the drive, after a gap of unused frames, since
            neighbouring frames are alike; `random` draws frames, which leaks between the parts.
        validation_percent: Share that is held back, 1 to 50.
        gap: Frames left out between the two parts of `block`.
        seed: Seed of the draw of `random`.

    Returns:
        Indices of training and validation frames, int64, ascending.
    """
    held_back = max(1, count * validation_percent // 100)
    order = np.arange(count)
    if split == "random":
        order = np.random.default_rng(seed).permutation(count)
        gap = 0
    return np.sort(order[: max(0, count - held_back - gap)]), np.sort(order[count - held_back :])


def fingerprint_drive(seed: int) -> str:
    """A hash of the renderer, which stands for its frames at any size and number.

    It is taken of what it draws and of its source. Drawing alone misses a detail that is too fine
    or too rare for the few small probes; the source alone misses what other software, such as
    another numpy, makes of it.
    """
    drive = Drive(size=_PROBE_SIZE, seed=seed)
    digest = hashlib.sha256()
    for source in ("drive.py", "scenery.py"):
        digest.update(resources.files("unet").joinpath(source).read_bytes())
    for probe in range(_PROBES):
        digest.update(drive.render(probe * 151).tobytes())
    return digest.hexdigest()[:16]


def cache_drive(
    size: int, count: int, seed: int, fingerprint: str, progress: Callable[[int, int], None]
) -> Path:
    """Renders the drive into the cache, unless it is there.

    The file appears whole or not at all, and two processes may make it at the same time.

    Args:
        size: Side of the frames in pixels.
        count: Number of frames.
        seed: The drive's seed.
        fingerprint: Of `fingerprint_drive`.
        progress: Called with (frames done, frames in all).

    Returns:
        The cache file.

    Raises:
        ValueError: The cache cannot be written.
    """
    folder = cache_folder()
    path = folder / f"drive-{fingerprint}-{count}x{size}.npy"
    if _is_sound(path, (count, size, size, 3)):
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        # Not named by the pid, which two containers that share the folder may both have.
        descriptor, name = tempfile.mkstemp(dir=folder, suffix=".partial")
        partial = Path(name)
        try:
            os.fchmod(descriptor, 0o666 & ~_umask())  # as of any new file; mkstemp's is private
            os.close(descriptor)
            frames = np.lib.format.open_memmap(
                partial, mode="w+", dtype=np.uint8, shape=(count, size, size, 3)
            )
            # A memory-mapped write to a full disk is a crash; claimed blocks make it an error.
            with partial.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, partial.stat().st_size)
            drive = Drive(size=size, seed=seed)
            for index in range(count):
                frames[index] = drive.render(index)
                progress(index + 1, count)
            frames.flush()
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise ValueError(f"frame cache {folder}: {error.strerror}") from None
    return path


def _remove_leftovers(folder: Path) -> None:
    """Removes what writers that were killed have left; what is a day old is nobody's."""
    for partial in folder.glob("*.partial"):
        with suppress(OSError):  # another process was first, or it is another user's
            if time.time() - partial.stat().st_mtime > _DAY_S:
                partial.unlink()


def _umask() -> int:
    mask = os.umask(0o077)  # it can only be read by setting it
    os.umask(mask)
    return mask


def _is_sound(path: Path, shape: tuple[int, ...]) -> bool:
    try:
        return bool(np.load(path, mmap_mode="r").shape == shape)
    except (OSError, ValueError, EOFError):  # not there, or damaged: it is made anew
        return False


def cache_folder() -> Path:
    """Where frames are kept: `UNET_BENCH_CACHE`, or a folder in the user's cache."""
    if own := os.environ.get("UNET_BENCH_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "unet-bench"
