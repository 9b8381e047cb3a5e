"""Frames without colour: what counts as one, and where it is said."""

import io
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench import sweep
from tests.harness import Recorder, toy_plan
from unet.colorize import ColorizationTask
from unet.folder import decode, has_color
from unet.frames import FrameSet
from unet.workload import COLORIZATION, Scalar

SIDE = 32


def grey(seed: int = 0) -> np.ndarray:
    """A frame with a full range of grey, uint8 of shape (SIDE, SIDE)."""
    found: np.ndarray = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
    return found


def with_chroma(levels: int) -> Image.Image:
    """Medium grey, off by so many levels up or down in both chroma channels of every pixel."""
    signs = np.random.default_rng(1).choice([-levels, levels], (2, SIDE, SIDE))
    planes = [grey() // 2 + 64, *(128 + signs).astype(np.uint8)]
    return Image.merge("YCbCr", [Image.fromarray(plane) for plane in planes])


def with_light(pixels: int) -> np.ndarray:
    """Grey, but for so many pixels that are 200 levels redder."""
    found = np.full((SIDE * SIDE, 3), 20, dtype=np.uint8)
    found[:pixels, 0] += 200
    return found.reshape(SIDE, SIDE, 3)


@pytest.mark.parametrize(
    ("mode", "format_"),
    [
        *(("L", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("RGB", "PNG"), ("I;16", "PNG")),
        *(("L", "JPEG"), ("RGB", "JPEG"), ("CMYK", "JPEG")),
    ],
)
def test_a_grey_picture_has_no_colour_in_any_format(mode: str, format_: str) -> None:
    wide = Image.fromarray(grey().astype(np.uint16) * 257)
    file = io.BytesIO()
    (wide if mode == "I;16" else Image.fromarray(grey()).convert(mode)).save(file, format_)
    assert not has_color(decode(file.getvalue(), SIDE))


@pytest.mark.parametrize(("levels", "colored"), [(0, False), (1, False), (2, True), (9, True)])
def test_chroma_noise_of_one_level_is_no_colour(levels: int, colored: bool) -> None:
    assert has_color(np.asarray(with_chroma(levels).convert("RGB"))) is colored


def test_the_limit_is_the_root_mean_square_of_the_spread() -> None:
    pixels = np.full((SIDE, SIDE, 3), 100, dtype=np.uint8)
    pixels[..., 2] += 4
    assert not has_color(pixels)
    pixels[0, 0, 0] -= 1
    assert has_color(pixels)


def test_a_light_in_a_grey_frame_is_colour() -> None:
    assert not has_color(with_light(0))
    assert has_color(with_light(math.ceil(0.001 * SIDE * SIDE)))


# Where it is said.


def asked(folder: Path, **more: Scalar) -> dict[str, Scalar]:
    small = {"image_size": SIDE, "width": 4, "depth": 1, "gap": 2}
    return {**COLORIZATION.settings, "data": str(folder), **small, **more}


def prepare(settings: dict[str, Scalar]) -> FrameSet:
    return COLORIZATION.prepare(settings, lambda done, total: None)


def drive(folder: Path, colorless: int, count: int = 20) -> Path:
    """Frames of which the first so many have no colour."""
    folder.mkdir()
    for index in range(count):
        pixels = np.stack([grey(index)] * 3, axis=2)
        if index >= colorless:
            pixels[..., 0] //= 2
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


@pytest.mark.parametrize(
    ("colorless", "notes"),
    [
        (0, ()),
        (3, ("Frames without colour: 3 of 20.",)),
        (20, ("Frames without colour: 20 of 20.",)),
    ],
)
def test_frames_without_colour_are_counted_and_told(
    colorless: int, notes: tuple[str, ...], tmp_path: Path
) -> None:
    settings = asked(drive(tmp_path / "frames", colorless))
    assert prepare(settings).notes == notes
    assert prepare(settings).notes == notes  # from the cache


def test_provenance_does_not_depend_on_them(tmp_path: Path) -> None:
    """Or journals of old could not be extended, and frame sizes not stand in one folder."""
    assert set(prepare(asked(drive(tmp_path / "frames", 3))).provenance) == {
        *("source", "fingerprint", "frames", "skipped", "split", "gap"),
        *("train_frames", "validation_frames"),
    }


@pytest.mark.parametrize("variant", ["fp32", "fused-lab"])
def test_without_colour_no_baseline_errs(variant: str, tmp_path: Path) -> None:
    settings = asked(drive(tmp_path / "frames", 20))
    task = ColorizationTask(
        axes=COLORIZATION.parse_variant(variant),
        settings=settings,
        batch_size=4,
        handle=prepare(settings).handle,
        device="cpu",
    )
    found = task.evaluate()
    assert found["grey_mse"] == found["mean_color_mse"] == 0.0
    assert found["final_mse"] > 0


def test_rows_record_what_is_to_know_of_the_data(tmp_path: Path) -> None:
    heard = Recorder()
    assert sweep.run(toy_plan(tmp_path / "out", batch_size=4, lost=3), heard)
    (row,) = heard.rows
    assert row.workload["notes"] == ["3 samples cannot be read."]
    older = replace(row, workload={"name": "toy", "plain": "none"})
    assert older.circumstances == row.circumstances
