"""The workload's description: axes, settings and data. Never imports torch."""

from collections.abc import Callable, Mapping

import numpy as np

from unet.frames import SPLITS, FrameSet, cache_drive, fingerprint_drive, split_frames
from unet.shape import UPSAMPLINGS, min_side
from unet.variant import Variant

Scalar = int | float | str

_RANGE = {
    "frames": (10, 1_000_000),
    "gap": (0, 1_000_000),
    "data_seed": (0, 2**32 - 1),
    "validation_percent": (1, 50),
    "image_size": (16, 8192),
    "width": (1, 4096),
    "depth": (1, 12),
}


class Colorization:
    """Colorizing driving frames: from L of CIELAB to a and b."""

    name = "colorization"
    task = "unet.colorize:ColorizationTask"
    axes: Mapping[str, tuple[str, ...]] = Variant.choices()
    settings: Mapping[str, Scalar] = {
        "data": "drive",
        "data_seed": 0,
        "frames": 1200,
        "split": "block",
        "validation_percent": 15,
        "gap": 30,
        "image_size": 64,
        "width": 16,
        "depth": 4,
        "upsampling": "bilinear",
    }
    data_settings = frozenset({"data", "data_seed", "frames", "split", "validation_percent", "gap"})
    baselines: Mapping[str, str] = {"mean_color_mse": "mean colour", "grey_mse": "grey"}

    def variant_name(self, axes: Mapping[str, str]) -> str:
        """See `Variant.name`."""
        return Variant.from_axes(axes).name

    def parse_variant(self, name: str) -> dict[str, str]:
        """See `Variant.parse`."""
        return Variant.parse(name).axes()

    def check(self, settings: Mapping[str, Scalar]) -> None:
        """Raises `ValueError` for settings out of range, or that do not go together."""
        for name, (minimum, maximum) in _RANGE.items():
            if not minimum <= int(settings[name]) <= maximum:
                raise ValueError(
                    f"{name} {settings[name]}: expected a whole number from {minimum} to {maximum}"
                )
        for name, choices in {
            "data": ("drive",),
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
        if self.train_size(settings) < 1:
            raise ValueError(
                f"frames {settings['frames']}: nothing is left to train on with gap "
                f"{settings['gap']} and validation_percent {settings['validation_percent']}"
            )

    def train_size(self, settings: Mapping[str, Scalar]) -> int:
        """Number of training frames."""
        train, _ = split(settings, int(settings["frames"]))
        return len(train)

    def prepare(
        self, settings: Mapping[str, Scalar], progress: Callable[[int, int], None]
    ) -> FrameSet:
        """Renders the frames once, into a cache that all trials share."""
        seed, count = int(settings["data_seed"]), int(settings["frames"])
        fingerprint = fingerprint_drive(seed)
        path = cache_drive(int(settings["image_size"]), count, seed, fingerprint, progress)
        train, validation = split(settings, count)
        provenance: dict[str, int | str] = {
            "source": str(settings["data"]),
            "fingerprint": fingerprint,
            "frames": count,
            "split": str(settings["split"]),
            "gap": int(settings["gap"]),
            "train_frames": len(train),
            "validation_frames": len(validation),
        }
        return FrameSet(path, len(train), provenance)


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
