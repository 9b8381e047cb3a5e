import io
import os
import random
import struct
import subprocess
import sys
import threading
import time
import warnings
import zlib
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.harness import LIMIT_S
from unet.folder import (
    BACKGROUND,
    Frame,
    UnreadableError,
    decode,
    natural_key,
    read_frame,
    read_frames,
    scan_folder,
)

SIZE = 8


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def encoded(image: Image.Image, format_: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    found: np.ndarray = np.random.default_rng(seed).integers(
        0, 256, (height, width, 3), dtype=np.uint8
    )
    return found


def one_colour(content: bytes, size: int = SIZE) -> tuple[int, ...]:
    """The colour of an image that has only one."""
    pixels = decode(content, size)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (size, size, 3)
    np.testing.assert_array_equal(pixels, np.broadcast_to(pixels[0, 0], pixels.shape))
    return tuple(pixels[0, 0].tolist())


# Which files.


def test_images_are_found_in_nested_folders_and_all_else_is_counted(tmp_path: Path) -> None:
    images = ["a.jpg", "b.JPEG", "c.png", "one/d.tif", "one/two/e.webp", "x.y/f.bmp"]
    others = ["notes.txt", "one/meta.json", "drive.mp4", "drive.mpg", "no_suffix", "page.pdf"]
    others += ["one/.hidden.png", "x.y/drawing.eps"]
    unseen = [".cache/g.png", "one/.git/h.txt"]
    touch(tmp_path, *images, *others, *unseen)
    names, ignored, _ = scan_folder(str(tmp_path))
    assert sorted(names) == sorted(images)
    assert ignored == len(others)


def test_a_folder_named_as_an_image_is_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "drive.png/a.jpg")
    assert scan_folder(str(tmp_path)) == (["drive.png/a.jpg"], 0, {})


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/a.png", "elsewhere/deep/b.png", "elsewhere/c.png")
    frames = tmp_path / "frames"
    touch(frames, "own.png")
    (frames / "drive").symlink_to(tmp_path / "elsewhere")
    (frames / "again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/up").symlink_to(frames)
    (frames / "file.png").symlink_to(tmp_path / "elsewhere/c.png")
    (frames / "lost.png").symlink_to(tmp_path / "gone.png")
    (frames / "self.png").symlink_to("self.png")
    names, ignored, _ = scan_folder(str(frames))
    files = ["own.png", "file.png", "lost.png", "self.png"]
    assert sorted(names) == sorted([*files, "again/a.png", "again/c.png", "again/deep/b.png"])
    assert ignored == 0


@pytest.mark.parametrize("name", ["gone", ""])
def test_what_is_no_folder_is_told(name: str) -> None:
    with pytest.raises(FileNotFoundError):
        scan_folder(name)


# Their order.


NATURAL = [
    "clip.png",
    "clip2.png",
    "frame.png",
    "frame_01.png",
    "frame_1.png",
    "frame_2.png",
    "frame_10.png",
    "frame_" + "0" * 5000 + "11.png",
    "frame_99999999999999999999.png",
    "frame_100000000000000000000.png",
    "frame_" + "1" * 5000 + ".png",
    "frame_" + "1" * 4999 + "2.png",
    "Frame_x.png",
    "frame_x.png",
    "img (1).png",
    "z2b10.png",
    "z10b2.png",
    "drive.2/1.png",
    "drive.10/1.png",
    "drive.10/2.png",
    "drive.10/a/0.png",
    "drive_1/0.png",
]


def test_frames_are_ordered_as_a_reader_would() -> None:
    for seed in range(5):
        shuffled = random.Random(seed).sample(NATURAL, len(NATURAL))
        assert sorted(shuffled, key=natural_key) == NATURAL


def test_no_two_names_are_alike() -> None:
    names = ["a1.png", "a01.png", "A1.png", "a1.PNG", "a1/x.png", "A1/x.png", "a01/x.png"]
    keys = sorted(natural_key(name) for name in names)
    assert all(key != after for key, after in pairwise(keys))


# Their pixels.


def test_an_image_of_the_size_asked_for_is_taken_as_it_is() -> None:
    pixels = noise(SIZE, SIZE)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(pixels)), SIZE), pixels)


def test_the_centre_is_cut_out() -> None:
    pixels = noise(SIZE, SIZE + 6)
    found = decode(encoded(Image.fromarray(pixels)), SIZE)
    np.testing.assert_array_equal(found, pixels[:, 3:-3])
    found = decode(encoded(Image.fromarray(pixels.transpose(1, 0, 2))), SIZE)
    np.testing.assert_array_equal(found, pixels[:, 3:-3].transpose(1, 0, 2))


@pytest.mark.parametrize("format_", ["PNG", "JPEG"])
@pytest.mark.parametrize(("factor", "tolerance"), [(3, 40), (24, 5)])
def test_resizing_averages_what_it_leaves_out(factor: int, tolerance: int, format_: str) -> None:
    # Were pixels merely dropped, every one would be off by 80.
    side = SIZE * factor
    rough = 120 + np.random.default_rng(0).choice([-80, 80], (side, side + 40))
    found = decode(encoded(Image.fromarray(rough.astype(np.uint8)), format_), SIZE)
    assert np.abs(found.astype(int) - 120).mean() < tolerance


def test_a_jpeg_decoded_at_a_fraction_is_close_to_the_whole() -> None:
    rows, columns = np.mgrid[0:480, 0:640] / 480
    smooth = np.stack([rows, columns / 1.34, 1 - rows * columns / 1.34], axis=-1)
    image = Image.fromarray((smooth * 255).astype(np.uint8))
    whole = decode(encoded(image), 32).astype(int)
    np.testing.assert_allclose(decode(encoded(image, "JPEG", quality=95), 32), whole, atol=4)


@pytest.mark.parametrize(
    ("width", "height"), [(1, 1), (1, 500), (500, 1), (3, 5), (4000, 2), (SIZE, SIZE - 1)]
)
def test_any_size_and_aspect_will_do(width: int, height: int) -> None:
    content = encoded(Image.new("RGB", (width, height), (10, 20, 30)))
    assert one_colour(content) == (10, 20, 30)


RED, PALE = (200, 40, 10), (228, 148, 133)  # PALE: RED at 128 / 255 over BACKGROUND


def palette(transparency: object = None) -> bytes:
    image = Image.new("P", (9, 9), 3)
    image.putpalette([0, 0, 0, 1, 1, 1, 2, 2, 2, *RED])
    return encoded(image) if transparency is None else encoded(image, transparency=transparency)


@pytest.mark.parametrize(
    ("content", "expected", "tolerance"),
    [
        (encoded(Image.new("RGB", (9, 9), RED)), RED, 0),
        (encoded(Image.new("RGB", (9, 9), RED), "JPEG", quality=95), RED, 2),
        (encoded(Image.new("RGB", (9, 9), RED), "WEBP", lossless=True), RED, 0),
        (encoded(Image.new("RGB", (9, 9), RED), "BMP"), RED, 0),
        (encoded(Image.new("L", (9, 9), 77)), (77,) * 3, 0),
        (encoded(Image.new("L", (9, 9), 77), "JPEG"), (77,) * 3, 1),
        (encoded(Image.new("1", (9, 9), 1)), (255,) * 3, 0),
        (encoded(Image.new("1", (9, 9), 0), "TIFF"), (0,) * 3, 0),
        (encoded(Image.new("LA", (9, 9), (77, 255))), (77,) * 3, 0),
        (encoded(Image.new("LA", (9, 9), (77, 0))), BACKGROUND, 0),
        (encoded(Image.new("RGBA", (9, 9), (*RED, 255))), RED, 0),
        (encoded(Image.new("RGBA", (9, 9), (*RED, 0))), BACKGROUND, 0),
        (encoded(Image.new("RGBA", (9, 9), (*RED, 128))), PALE, 1),
        (encoded(Image.new("RGB", (9, 9), RED), transparency=RED), BACKGROUND, 0),
        (palette(), RED, 0),
        (palette(transparency=3), BACKGROUND, 0),
        (palette(transparency=2), RED, 0),
        (palette(transparency=bytes([255, 255, 255, 128])), PALE, 1),
        (encoded(Image.new("CMYK", (9, 9), (0, 255, 255, 0)), "JPEG", quality=95), (255, 0, 0), 3),
        (encoded(Image.new("CMYK", (9, 9), (255, 0, 255, 0)), "TIFF"), (0, 255, 0), 0),
        (encoded(Image.new("YCbCr", (9, 9), (77, 128, 128)), "JPEG"), (77,) * 3, 1),
    ],
)
def test_every_mode_has_its_colours(
    content: bytes, expected: tuple[int, ...], tolerance: int
) -> None:
    np.testing.assert_allclose(one_colour(content), expected, rtol=0, atol=tolerance)


RAMP = np.linspace(0, 65535, SIZE * SIZE).astype(np.uint16).reshape(SIZE, SIZE)


@pytest.mark.parametrize(
    "content",
    [
        encoded(Image.fromarray(RAMP)),
        encoded(Image.fromarray(RAMP), "TIFF"),
        encoded(Image.fromarray(RAMP.astype(np.int32)), "TIFF"),
        encoded(Image.fromarray((RAMP / 65535).astype(np.float32)), "TIFF"),
        b"P5 8 8 65535\n" + RAMP.astype(">u2").tobytes(),
        b"P6 8 8 65535\n" + RAMP.astype(">u2").repeat(3).tobytes(),
        encoded(Image.fromarray(RAMP.astype(">u2")), "TIFF"),
    ],
)
def test_sixteen_bits_are_scaled_not_clipped(content: bytes) -> None:
    found = decode(content, SIZE)
    expected = np.rint(RAMP / 257)[..., None].repeat(3, axis=-1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.5)


def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_a_png_of_sixteen_bits_a_channel_keeps_the_upper_eight(kind: int, channels: int) -> None:
    # Pillow writes none but grey: signature, header, rows that each begin with their filter, end.
    values = RAMP[..., None].repeat(channels, axis=-1).astype(">u2")
    if channels % 2 == 0:
        values[..., -1] = 65535
    content = b"\x89PNG\r\n\x1a\n"
    content += chunk(b"IHDR", struct.pack(">IIBBBBB", SIZE, SIZE, 16, kind, 0, 0, 0))
    content += chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in values)))
    content += chunk(b"IEND", b"")
    expected = (RAMP / 257)[..., None].repeat(3, axis=-1)
    np.testing.assert_allclose(decode(content, SIZE), expected, rtol=0, atol=1)


@pytest.mark.parametrize(
    "values",
    [
        np.full((9, 9), 65536, np.int32),
        np.full((9, 9), -1, np.int32),
        np.full((9, 9), 1.5, np.float32),
        np.full((9, 9), np.nan, np.float32),
    ],
)
def test_grey_of_an_unknown_range_is_unreadable(values: np.ndarray) -> None:
    with pytest.raises(UnreadableError, match="grey"):
        decode(encoded(Image.fromarray(values), "TIFF"), SIZE)


def test_of_several_frames_the_first_is_taken() -> None:
    images = [Image.new("RGB", (9, 9), colour) for colour in ("red", "lime", "blue")]
    for format_ in ("GIF", "TIFF", "PNG", "WEBP"):
        content = encoded(images[0], format_, save_all=True, append_images=images[1:])
        np.testing.assert_allclose(one_colour(content), (255, 0, 0), atol=2, err_msg=format_)


# How a viewer shows an image whose EXIF tag has this value, by the standard's own words: which
# sides of what is shown row 0 and column 0 of what is stored are.
SHOWN = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: stored.transpose(1, 0, 2)[:, ::-1],
    7: lambda stored: stored[::-1, ::-1].transpose(1, 0, 2),
    8: lambda stored: stored.transpose(1, 0, 2)[::-1],
}


@pytest.mark.parametrize("orientation", [*SHOWN, 0, 9])
@pytest.mark.parametrize(("format_", "tolerance"), [("PNG", 0), ("TIFF", 0), ("JPEG", 3)])
def test_frames_are_upright(orientation: int, format_: str, tolerance: int) -> None:
    rows, columns = np.mgrid[0:16, 0:28] * 9
    stored = np.stack([rows, columns, 255 - columns], axis=-1).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if format_ == "JPEG" else {}
    found = decode(encoded(Image.fromarray(stored), format_, exif=exif, **options), 16)
    expected = SHOWN.get(orientation, SHOWN[1])(stored[:, 6:-6])
    np.testing.assert_allclose(found.astype(int), expected, rtol=0, atol=tolerance)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_frame_with_damaged_exif_is_still_a_frame() -> None:
    image = Image.new("RGB", (9, 9), RED)
    assert one_colour(encoded(image, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")) == RED


# What cannot be read.

WHOLE = encoded(Image.fromarray(noise(64, 64)))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"These are words.", "no image"),
        (WHOLE[: len(WHOLE) // 2], "truncated"),
        (encoded(Image.fromarray(noise(64, 64)), "JPEG")[:-800], "truncated"),
        (WHOLE[:20], "."),
        (WHOLE[:200] + bytes(300) + WHOLE[500:], "."),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "no image"),
    ],
)
def test_a_damaged_file_is_unreadable_in_one_line(content: bytes, reason: str) -> None:
    with pytest.raises(UnreadableError, match=reason) as caught:
        decode(content, SIZE)
    assert len(str(caught.value).splitlines()) == 1
    assert "0x" not in str(caught.value)


def test_an_image_too_large_to_be_safe_is_unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UnreadableError, match="4096 pixels"):
        decode(WHOLE, SIZE)


def test_what_is_no_file_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")  # to open it as a file is opened would wait for a writer
    (tmp_path / "self.png").symlink_to("self.png")
    for name in ("folder", "pipe", "self", "gone"):
        with pytest.raises(UnreadableError):
            read_frame(tmp_path / f"{name}.png", SIZE)


# In parallel.


def save(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"{index}.png" for index in range(count)]
    for index, path in enumerate(paths):
        # Each takes less time than the one before.
        Image.new("RGB", (4 * (count - index), 9), (index, 0, 0)).save(path)
    return paths


def test_frames_come_in_order_whether_readable_or_not(tmp_path: Path) -> None:
    paths = save(tmp_path, 60)
    paths[7].write_bytes(b"")
    paths[59].unlink()
    found = [
        int(frame.pixels[0, 0, 0]) if isinstance(frame, Frame) else str(frame)
        for frame in read_frames(paths, SIZE)
    ]
    expected: list[int | str] = list(range(60))
    expected[7], expected[59] = "empty file", "No such file or directory"
    assert found == expected


def test_several_are_read_at_once_and_few_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = threading.Barrier(3, timeout=LIMIT_S)  # broken unless three wait at the same time
    begun: list[Path] = []

    def meet(path: Path, size: int) -> Frame:
        begun.append(path)
        together.wait()
        return Frame(np.zeros((size, size, 3), np.uint8), b"", has_color=False)

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2})
    monkeypatch.setattr("unet.folder.read_frame", meet)
    with closing(read_frames([tmp_path] * 30, SIZE)) as frames:
        next(frames)
        time.sleep(0.3)  # in which all would be read, were nobody waited for
        assert len(begun) < 10
        assert len(list(frames)) == 29


def test_who_stops_taking_frames_waits_for_what_has_begun_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, begun = threading.active_count(), []
    go_on = threading.Event()

    def wait(path: Path, size: int) -> Frame:
        begun.append(path)
        if len(begun) > 1:
            go_on.wait(LIMIT_S)
        return Frame(np.zeros((size, size, 3), np.uint8), b"", has_color=False)

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    monkeypatch.setattr("unet.folder.read_frame", wait)
    with closing(read_frames([tmp_path] * 30, SIZE)) as frames:
        next(frames)
        threading.Timer(1, go_on.set).start()
    assert threading.active_count() <= before + 1  # the timer may be about to end
    assert len(begun) <= 2


NOISY = """
import sys
from pathlib import Path
from unet.folder import read_frames
print([type(frame).__name__ for frame in read_frames([Path(name) for name in sys.argv[1:]], 8)])
"""


def test_nothing_is_printed_about_damaged_frames(tmp_path: Path, repository: Path) -> None:
    # A large one, one with damaged EXIF, and one that Pillow logs an error of.
    Image.new("1", (9500, 9500)).save(tmp_path / "large.png")
    Image.new("L", (9, 9)).save(tmp_path / "exif.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff")
    tiff = bytearray(encoded(Image.new("RGB", (9, 9)), "TIFF"))
    tag = tiff.index(struct.pack("<HHI", 277, 3, 1))  # samples per pixel
    tiff[tag + 8 : tag + 10] = struct.pack("<H", 60_000)
    (tmp_path / "samples.tif").write_bytes(tiff)
    noisy = bytearray(encoded(Image.fromarray(noise(64, 64)), "TIFF", compression="tiff_lzw"))
    for place in range(20, len(noisy) - 300, 7):  # libtiff prints an error of such a one by itself
        noisy[place] ^= 0x5A
    (tmp_path / "lzw.tif").write_bytes(noisy)
    paths = [tmp_path / name for name in ("large.png", "exif.jpg", "samples.tif", "lzw.tif")]
    with warnings.catch_warnings(record=True) as caught:  # there is something to be silent about
        warnings.simplefilter("always")
        assert len([read_frame(path, SIZE) for path in paths[:2]]) == len(caught) == 2
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", NOISY, *paths],
        cwd=repository,
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "['Frame', 'Frame', 'UnreadableError', 'UnreadableError']\n"
    assert done.stderr == ""
