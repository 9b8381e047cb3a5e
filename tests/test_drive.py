"""The procedural drive: the same for everyone, a drive to the eye, colours that can be learnt."""

import hashlib
import math
import os
import subprocess
import sys
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

from unet.drive import SPEED_M, Drive
from unet.scenery import LAP_M

Frame: TypeAlias = npt.NDArray[np.uint8]
Cars: TypeAlias = npt.NDArray[np.uint8]
DAY_FRAMES = range(0, 960, 16)
HASH_FRAMES = """
import hashlib
from unet.drive import Drive
drive = Drive(size=48, seed=3)
print(hashlib.sha256(b"".join(drive.render(i).tobytes() for i in (0, 7, 450, 12345))).hexdigest())
"""


@pytest.fixture(scope="module")
def drive() -> Drive:
    return Drive(size=64, seed=0)


@pytest.fixture(scope="module")
def frames(drive: Drive) -> npt.NDArray[np.float64]:
    """Frames over three days and two towns, float64 (60, 64, 64, 3) in [0, 255]."""
    return np.stack([drive.render(index) for index in DAY_FRAMES]).astype(np.float64)


@pytest.fixture(scope="module")
def cars() -> list[Cars]:
    """The pixels that traffic covers in each of 240 frames, by comparison with an empty road."""
    drive, empty = Drive(size=96), Drive(size=96)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(empty, "_traffic", lambda along_m, index: np.empty((0, 10)))
        pairs = [(drive.render(i), empty.render(i)) for i in range(0, 960, 4)]
    return [full[np.abs(full.astype(float) - bare).max(axis=2) > 40] for full, bare in pairs]


def difference(one: Frame, other: Frame) -> float:
    return float(np.abs(one.astype(float) - other).mean())


def halved(frame: Frame) -> npt.NDArray[np.float64]:
    n = len(frame) // 2
    return np.asarray(frame.reshape(n, 2, n, 2, 3).mean(axis=(1, 3)))


def chroma(frames: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    return np.asarray(frames.max(axis=-1) - frames.min(axis=-1))


@pytest.mark.parametrize("size", [16, 37, 64, 200])
def test_a_frame_is_a_square_of_rgb_bytes_that_use_the_range(size: int) -> None:
    frame = Drive(size=size).render(40)
    assert frame.shape == (size, size, 3)
    assert frame.dtype == np.uint8
    assert frame.flags.c_contiguous
    assert frame.max() > 200
    assert frame.min() < 60


def test_processes_agree_bit_for_bit() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", HASH_FRAMES],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for hash_seed in ("1", "2")
    }
    here = Drive(size=48, seed=3)
    content = b"".join(here.render(index).tobytes() for index in (0, 7, 450, 12345))
    assert digests == {hashlib.sha256(content).hexdigest()}


def test_a_frame_does_not_depend_on_what_was_rendered_before(drive: Drive) -> None:
    forwards = [drive.render(index) for index in range(500, 510)]
    backwards = [drive.render(index) for index in reversed(range(500, 510))]
    np.testing.assert_array_equal(forwards, backwards[::-1])
    np.testing.assert_array_equal(Drive(size=64, seed=0).render(509), forwards[-1])


def test_a_frame_handed_out_is_not_touched_again(drive: Drive) -> None:
    frame = drive.render(5)
    kept = frame.copy()
    drive.render(6)
    np.testing.assert_array_equal(frame, kept)


def test_seeds_are_different_drives(drive: Drive) -> None:
    assert difference(drive.render(100), Drive(size=64, seed=1).render(100)) > 10


def test_neighbours_are_alike_and_far_frames_are_not(drive: Drive) -> None:
    starts = range(0, 1200, 60)
    near = np.mean([difference(drive.render(i), drive.render(i + 1)) for i in starts])
    far = np.mean([difference(drive.render(i), drive.render(i + 100)) for i in starts])
    assert 1 < near < 0.25 * far


def test_no_jump_between_neighbours(drive: Drive) -> None:
    steps = [difference(drive.render(i), drive.render(i + 1)) for i in range(0, 400, 3)]
    assert max(steps) < 4 * np.median(steps)


def test_no_jump_where_the_lap_closes(drive: Drive) -> None:
    close = math.ceil(LAP_M / SPEED_M)
    before, last, first = (drive.render(index) for index in (close - 2, close - 1, close))
    assert difference(last, first) < 1.5 * difference(before, last)


def test_dashes_move_towards_the_camera_and_repeat() -> None:
    # The scene repeats every 10 frames (8 m): follow the lowest bright pixels left of the middle.
    drive = Drive(size=128)

    def lowest(index: int) -> int:
        lane = drive.render(index)[75:125, 12:50].astype(int).min(axis=2)
        bright = lane > np.median(lane) + 60
        return int(np.flatnonzero(bright.any(axis=1)).max(initial=-1))

    rows = [lowest(index) for index in range(300, 321)]
    moves = np.diff(rows)
    assert len(set(rows)) >= 4
    assert (moves > 0).sum() > 2 * (moves < 0).sum()
    assert np.abs(np.subtract(rows[:11], rows[10:])).max() <= 4


def test_cars_come_grow_and_leave(cars: list[Cars]) -> None:
    counts = np.array([len(car) for car in cars])
    assert counts.max() > 200
    assert (counts < 40).sum() > 10
    assert np.median(np.abs(np.diff(counts))) < 40


def test_cars_are_painted_by_lot(cars: list[Cars]) -> None:
    # A car's most vivid quarter is its paint; one paint for all would lead in one channel only.
    leading = set()
    for car in cars:
        if len(car) > 60:
            strength = chroma(car.astype(int))
            paint = car[strength >= np.percentile(strength, 75)].mean(axis=0)
            leading |= {int(paint.argmax())} if chroma(paint) > 25 else set()
    assert leading == {0, 1, 2}


def test_sky_is_blue_and_verges_green_by_day(drive: Drive) -> None:
    noon = max(DAY_FRAMES, key=lambda index: drive.render(index)[:12, :, 2].mean())
    frame = drive.render(noon).astype(float)
    red, green, blue = np.moveaxis(frame[:12], -1, 0)
    assert blue.mean() > red.mean() + 40
    assert blue.mean() > green.mean() + 20
    country = drive.render(300).astype(float)
    verge = country[40:48, 58:].mean(axis=(0, 1))
    assert verge[1] > 1.15 * verge[0]
    assert verge[1] > 1.5 * verge[2]


def test_road_is_grey(frames: npt.NDArray[np.float64]) -> None:
    road = frames[:, 56:, 24:40].mean(axis=0)
    assert chroma(road).mean() < 0.35 * chroma(frames[:, :12]).mean()


def test_colours_are_far_from_grey_on_average(frames: npt.NDArray[np.float64]) -> None:
    assert chroma(frames).mean() > 35


def test_the_light_changes_through_the_day_but_night_never_falls(
    frames: npt.NDArray[np.float64],
) -> None:
    brightness = frames.mean(axis=(1, 2, 3))
    assert brightness.min() > 45
    assert brightness.max() > 1.5 * brightness.min()


def test_the_end_of_a_drive_is_like_the_rest(drive: Drive) -> None:
    means = np.stack([drive.render(i).mean(axis=(0, 1)) for i in range(0, 1200, 12)])
    rest, end = means[:80], means[80:]
    assert (np.abs(rest.mean(axis=0) - end.mean(axis=0)) < 25).all()


def test_every_size_shows_the_same_scene(drive: Drive) -> None:
    double = Drive(size=128, seed=0)
    for index in (20, 300, 450, 800):
        small, same = drive.render(index), halved(double.render(index))
        assert np.abs(small - same).mean() < 9
        assert np.corrcoef(small.ravel(), same.ravel())[0, 1] > 0.95


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 15}, "size must be an integer >= 16, got 15"),
        ({"size": 64.0}, "size must be an integer >= 16, got 64.0"),
        ({"size": 64, "seed": -1}, "seed must be an integer >= 0, got -1"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        Drive(**arguments)


def test_a_negative_index_is_named(drive: Drive) -> None:
    with pytest.raises(ValueError, match=r"^index must be an integer >= 0, got -1$"):
        drive.render(-1)
