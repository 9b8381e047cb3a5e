"""The workload's description: axes, settings and data. Never imports torch."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from kernels.cache import compiled_folder_problem
from unet.folder import Scan, natural_key, scan_folder
from unet.frames import (
    SPLITS,
    Cached,
    FrameSet,
    cache_drive,
    cache_images,
    fingerprint_drive,
    name_some,
    printable,
    split_frames,
)
from unet.shape import UPSAMPLINGS, min_side
from unet.snippet import snippet
from unet.variant import PREFERENCES, Compile, Variant, parse_axes

Scalar = int | float | str

DRIVE = "drive"
"""The value of `data` that means the procedural drive; any other is a folder."""

DRIVE_FRAMES = 1200
LEAST_FRAMES = 10
BAD_FRAMES = ("refuse", "skip")

_RANGE = {
    "frames": (0, 1_000_000),
    "gap": (0, 1_000_000),
    "data_seed": (0, 2**32 - 1),
    "validation_percent": (1, 50),
    "image_size": (16, 8192),
    "crop_margin": (0, 8192),
    "loader_workers": (0, 256),
    "width": (1, 4096),
    "depth": (1, 12),
}


class Colorization:
    """Colorizing driving frames: from L of CIELAB to a and b."""

    name = "colorization"
    task = "unet.colorize:ColorizationTask"
    axes: Mapping[str, tuple[str, ...]] = Variant.choices()
    preferences = PREFERENCES
    settings: Mapping[str, Scalar] = {
        "data": DRIVE,
        "data_seed": 0,
        "frames": 0,  # the first so many; 0 is all of a folder, and DRIVE_FRAMES of the drive
        "bad_frames": BAD_FRAMES[0],
        "split": "block",
        "validation_percent": 15,
        "gap": 30,
        "image_size": 64,
        "crop_margin": 0,  # frames are so many pixels larger than what is cut out of them at random
        "loader_workers": 0,  # of color loader-lab; 0 is one for each core
        "width": 16,
        "depth": 4,
        "upsampling": "bilinear",
    }
    data_settings = frozenset(
        {
            "data",
            "data_seed",
            "frames",
            "bad_frames",
            "split",
            "validation_percent",
            "gap",
            "crop_margin",
        }
    )
    baselines: Mapping[str, str] = {"mean_color_mse": "mean colour", "grey_mse": "grey"}

    def variant_name(self, axes: Mapping[str, str]) -> str:
        """See `Variant.name`."""
        return Variant.from_axes(axes).name

    def parse_variant(self, name: str) -> dict[str, str]:
        """See `parse_axes`."""
        return parse_axes(name)

    def compiles(self, axes: Mapping[str, str]) -> bool:
        """Whether a variant is made by torch.compile."""
        return Variant.from_axes(axes).compile is not Compile.EAGER

    def eager_bound(self, axes: Mapping[str, str]) -> dict[str, str]:
        """The eager form that computes nothing again.

        Compiled checkpointing takes more than eager checkpointing does: the compiler may make all
        that was forgotten before it uses any of it.
        """
        plain = Variant()
        same = replace(
            Variant.from_axes(axes),
            compile=Compile.EAGER,
            checkpointing=plain.checkpointing,
            activation_budget=plain.activation_budget,
        )
        return same.axes()

    def snippet(
        self, axes: Mapping[str, str], settings: Mapping[str, Scalar], batch_size: int, device: str
    ) -> str:
        """PyTorch code for a report; see `unet.snippet`."""
        return snippet(Variant.from_axes(axes), {**self.settings, **settings}, batch_size, device)

    def check(self, settings: Mapping[str, Scalar]) -> None:
        """Raises `ValueError` for settings out of range, or that do not go together."""
        for name, (minimum, maximum) in _RANGE.items():
            if not minimum <= int(settings[name]) <= maximum:
                raise ValueError(
                    f"{name} {settings[name]}: expected a whole number from {minimum} to {maximum}"
                )
        if 0 < int(settings["frames"]) < LEAST_FRAMES:
            raise ValueError(
                f"frames {settings['frames']}: expected at least {LEAST_FRAMES}, or 0 for all"
            )
        for name, choices in {
            "bad_frames": BAD_FRAMES,
            "split": SPLITS,
            "upsampling": UPSAMPLINGS,
        }.items():
            if settings[name] not in choices:
                raise ValueError(f"{name} {settings[name]!r}: expected one of {', '.join(choices)}")
        depth, size = int(settings["depth"]), int(settings["image_size"])
        if size < min_side(depth):
            raise ValueError(
                f"image_size {size}: depth {depth} needs at least {min_side(depth)}, "
                "or its lowest level would hold a single pixel"
            )
        _parts(settings, _count(settings))

    def train_size(self, settings: Mapping[str, Scalar]) -> int:
        """Number of training frames; fewer are prepared if unreadable ones are left out."""
        train, _ = split(settings, _count(settings))
        return len(train)

    def prepare(
        self, settings: Mapping[str, Scalar], progress: Callable[[int, int], None]
    ) -> FrameSet:
        """Draws or decodes the frames once, into a cache that all trials share."""
        size = int(settings["image_size"]) + int(settings["crop_margin"])
        notes: list[str] = []
        unlisted: tuple[str, ...] = ()
        if problem := compiled_folder_problem():
            notes.append(
                f"{problem}, so that each process compiles the Lab kernel anew; "
                "UNET_BENCH_CACHE names another folder."
            )
        if settings["data"] == DRIVE:
            count, seed = _count(settings), int(settings["data_seed"])
            fingerprint = fingerprint_drive(seed)
            path = cache_drive(size, count, seed, fingerprint, progress)
            cached = Cached(path, count, fingerprint)
        else:
            folder, skip = str(settings["data"]), settings["bad_frames"] == "skip"
            found = _images(settings)
            chosen = sorted(found.names, key=natural_key)[: int(settings["frames"]) or None]
            cached = cache_images(folder, chosen, size, LEAST_FRAMES, skip, progress)
            unlisted = tuple(map(printable, found.unlisted))
            if found.ignored:
                notes.append(f"Files in {printable(folder)} that are no images: {found.ignored}.")
            if unlisted:
                notes.append(f"Folders left out, which cannot be listed: {name_some(unlisted)}.")
            if cached.skipped:
                notes.append(f"Unreadable frames left out: {name_some(cached.skipped)}.")
            if cached.colorless:
                notes.append(f"Frames without colour: {cached.colorless} of {cached.count}.")
        train, validation = _parts(settings, cached.count)
        provenance: dict[str, int | str] = {
            "source": DRIVE if settings["data"] == DRIVE else "folder",  # which may be moved
            "fingerprint": cached.fingerprint,
            "frames": cached.count,
            "skipped": len(cached.skipped) + len(unlisted),
            "split": str(settings["split"]),
            "gap": int(settings["gap"]),
            "train_frames": len(train),
            "validation_frames": len(validation),
        }
        return FrameSet(cached.path, len(train), provenance, tuple(notes))


def _images(settings: Mapping[str, Scalar]) -> Scan:
    """What is in the folder, if it is enough."""
    folder, asked = str(settings["data"]), int(settings["frames"])
    try:
        found = scan_folder(folder)
    except OSError as error:
        raise ValueError(
            f"data {folder!r}: expected {DRIVE!r} or a folder of frames; "
            f"{printable(str(error.filename))}: {error.strerror}"
        ) from None
    count = len(found.names)
    if found.unlisted and settings["bad_frames"] != "skip":
        named = [f"{printable(name)} ({reason})" for name, reason in found.unlisted.items()]
        raise ValueError(
            f"data {folder!r}: folders in it cannot be listed; --skip-bad-frames goes on without "
            f"them: {name_some(named)}"
        )
    if count < LEAST_FRAMES:
        raise ValueError(
            f"data {folder!r}: expected at least {LEAST_FRAMES} images, found {count} "
            f"and {found.ignored} other files"
        )
    if asked > count:
        raise ValueError(f"frames {asked}: there are only {count} in {folder!r}")
    return found


def _count(settings: Mapping[str, Scalar]) -> int:
    """Number of frames that are drawn or decoded."""
    asked = int(settings["frames"])
    if settings["data"] == DRIVE:
        return asked or DRIVE_FRAMES
    found = _images(settings)
    return asked or len(found.names)


def _parts(settings: Mapping[str, Scalar], count: int) -> tuple[np.ndarray, np.ndarray]:
    """As `split`, refusing to leave nothing to train on."""
    train, validation = split(settings, count)
    if not len(train):
        raise ValueError(
            f"frames {count}: nothing is left to train on with gap {settings['gap']} and "
            f"validation_percent {settings['validation_percent']}; expected a smaller gap, or "
            "split 'random' for images that are no drive"
        )
    return train, validation


def split(settings: Mapping[str, Scalar], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Training and validation frames, of `count` in the cache; see `split_frames`."""
    return split_frames(
        count=count,
        split=str(settings["split"]),
        validation_percent=int(settings["validation_percent"]),
        gap=int(settings["gap"]),
        seed=int(settings["data_seed"]),
    )


COLORIZATION = Colorization()
