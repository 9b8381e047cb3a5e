"""Frames made ready for training: drawn or decoded once into a cache for all trials, and split."""

import hashlib
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import PIL

from kernels.cache import cache_folder
from unet.drive import Drive
from unet.folder import DECODING, UnreadableError, read_frames

SPLITS = ("block", "random")

_PROBES = 8  # frames that stand for the whole drive in its fingerprint
_PROBE_SIZE = 32
_DAY_S = 86_400
_WAY_OUT = "UNET_BENCH_CACHE names another folder"
_NAMED = 10  # unreadable frames that a message names


@dataclass(frozen=True)
class FrameSet:
    """Frames in a cache, with their split.

    Attributes:
        path: uint8 array of shape (frames, size, size, 3), sRGB, in numpy's file format.
        train: Number of training frames.
        provenance: What was drawn or read and how it was split.
        notes: What the user should know of them, a sentence each.
    """

    path: Path
    train: int
    provenance: Mapping[str, int | str]
    notes: tuple[str, ...] = ()

    @property
    def train_size(self) -> int:
        """Number of training frames."""
        return self.train

    @property
    def handle(self) -> dict[str, str]:
        """What a trial needs to open the frames."""
        return {"path": str(self.path)}


@dataclass(frozen=True)
class Cached:
    """Frames in the cache.

    Attributes:
        path: uint8 array of shape (count, size, size, 3), sRGB, in numpy's file format.
        count: Number of frames.
        fingerprint: Stands for the frames, at any size.
        colorless: How many of them have no colour; see `unet.folder.has_color`.
        skipped: Names, fit to be printed, of those that could not be read and are not among them.
    """

    path: Path
    count: int
    fingerprint: str
    colorless: int = 0
    skipped: tuple[str, ...] = ()


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
    path = cache_folder() / f"drive-{fingerprint}-{count}x{size}.npy"
    if not _is_sound(path, (count, size, size, 3)):
        with _partial_file() as partial:
            frames = _allocate(partial, (count, size, size, 3))
            drive = Drive(size=size, seed=seed)
            for index in range(count):
                frames[index] = drive.render(index)
                progress(index + 1, count)
            frames.flush()
            partial.replace(path)
    return path


def cache_images(
    folder: str,
    names: Sequence[str],
    size: int,
    least: int,
    skip: bool,
    progress: Callable[[int, int], None],
) -> Cached:
    """Decodes the images of a folder into the cache, unless they are there as they are now.

    The fingerprint is of the files' content in this order, so that frames which are moved or
    renamed are still the same frames. The cache is as safe as `cache_drive`'s.

    Args:
        folder: The folder.
        names: Its frames in their order, as paths relative to it.
        size: Side of the frames in pixels.
        least: Number of frames that must be readable.
        skip: Whether frames that cannot be read are left out.
        progress: Called with (frames done, frames in all).

    Raises:
        ValueError: Frames cannot be read, and may not be left out or are too many; or the cache
            cannot be written.
    """
    paths = [Path(folder, name) for name in names]
    place, key = cache_folder(), _key_of(folder, names, paths, size)
    found = _recall(place, key, size)
    if found is not None and (skip or not found.skipped):
        return found
    bad: dict[str, str] = {}
    digest = hashlib.sha256(f"{DECODING}".encode())
    with _partial_file() as partial:
        frames = _allocate(partial, (len(names), size, size, 3))
        count = colorless = 0
        with closing(read_frames(paths, size)) as results:
            for done, (name, result) in enumerate(zip(names, results, strict=True), start=1):
                if isinstance(result, UnreadableError):
                    bad[name] = str(result)
                else:
                    frames[count] = result.pixels
                    digest.update(result.digest)
                    count += 1
                    colorless += not result.has_color
                progress(done, len(names))
        if bad and (count < least or not skip):
            raise ValueError(_complaint(folder, bad, count, least))
        frames.flush()
        _shorten(partial, (count, size, size, 3))
        fingerprint = digest.hexdigest()[:16]
        partial.replace(_images_path(place, key, fingerprint))
    skipped = tuple(printable(name) for name in bad)
    note = {
        "fingerprint": fingerprint,
        "count": count,
        "colorless": colorless,
        "skipped": skipped,
    }
    with _partial_file() as partial:  # last, since it vouches for the frames
        partial.write_text(json.dumps(note))
        partial.replace(place / f"folder-{key}.json")
    path = _images_path(place, key, fingerprint)
    return Cached(path, count, fingerprint, colorless, skipped)


def printable(name: str) -> str:
    """A file's name, as itself or, where it would break a line or a terminal, quoted."""
    return name if name.isprintable() else ascii(name)


def name_some(names: Sequence[str]) -> str:
    """The first of many names, and how many more there are."""
    named = [*names[:_NAMED]]
    if len(names) > _NAMED:
        named.append(f"and {len(names) - _NAMED} more")
    return ", ".join(named)


def _complaint(folder: str, bad: Mapping[str, str], count: int, least: int) -> str:
    named = name_some([f"{printable(name)} ({reason})" for name, reason in bad.items()])
    found = f"data {folder!r}: {len(bad)} of {count + len(bad)} frames cannot be read"
    if count < least:
        return f"{found}, expected at least {least} that can: {named}"
    return f"{found}; --skip-bad-frames goes on without them: {named}"


def _key_of(folder: str, names: Sequence[str], paths: Sequence[Path], size: int) -> str:
    """Stands for the files as they are now, for how they are decoded and for how large."""
    states: list[tuple[int, ...]] = []
    for path in paths:
        try:
            state = path.stat()
        except OSError:  # which reading it will tell
            states.append(())
        else:
            # The last is the one that nobody can set: an archive's files may all be of one day.
            states.append((state.st_size, state.st_mtime_ns, state.st_ctime_ns))
    where = str(Path(folder).resolve())
    content = json.dumps([DECODING, PIL.__version__, size, where, list(names), states])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _images_path(place: Path, key: str, fingerprint: str) -> Path:
    return place / f"folder-{key}-{fingerprint}.npy"


def _recall(place: Path, key: str, size: int) -> Cached | None:
    """The frames in the cache, if what is noted beside them is whole, and they are."""
    try:
        note = json.loads((place / f"folder-{key}.json").read_text())
        fingerprint, count = str(note["fingerprint"]), int(note["count"])
        path = _images_path(place, key, fingerprint)
        found = Cached(path, count, fingerprint, int(note["colorless"]), tuple(note["skipped"]))
    except (OSError, ValueError, KeyError, TypeError):  # not there, or damaged: it is made anew
        return None
    return found if _is_sound(path, (count, size, size, 3)) else None


@contextmanager
def _partial_file() -> Iterator[Path]:
    """A new file in the cache's folder, to be filled and moved to its place; else it is removed.

    Raises:
        ValueError: The cache cannot be written.
    """
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        # Not named by the pid, which two containers that share the folder may both have.
        descriptor, name = tempfile.mkstemp(dir=folder, suffix=".partial")
        partial = Path(name)
        try:
            os.fchmod(descriptor, 0o666 & ~_umask())  # as of any new file; mkstemp's is private
            os.close(descriptor)
            yield partial
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise ValueError(f"frame cache {folder}: {error.strerror}; {_WAY_OUT}") from None


def _allocate(partial: Path, shape: tuple[int, ...]) -> np.memmap:
    needed, free = math.prod(shape), shutil.disk_usage(partial.parent).free
    if needed > free:  # told without taking the last byte from everybody
        raise ValueError(
            f"frame cache {partial.parent}: needs {_in_units(needed)} for frames, and "
            f"{_in_units(free)} are free; {_WAY_OUT}"
        )
    frames = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
    # A memory-mapped write to a full disk is a crash; claimed blocks make it an error.
    with partial.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, partial.stat().st_size)
    return frames


def _in_units(count: float) -> str:
    """A number of bytes, for a message."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def _shorten(partial: Path, shape: tuple[int, ...]) -> None:
    """Leaves the first frames only; numpy's header keeps its length, whatever their number."""
    with partial.open("r+b") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + math.prod(shape))


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
