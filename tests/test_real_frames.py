"""The command line with the workload itself and a folder of images, as small as they may be."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.journal import FILE_NAME, read
from bench.trial import Status
from tests.test_cli import run_bench

IMAGES = 36

SMALL = shlex.split(
    "--set variants=fp32 --set batch_size=4 --set image_size=32 --set width=2 --set depth=1 "
    "--set gap=0 --set samples=24 --set warmup_steps=1 --set measured_steps=3 --device cpu "
    "--budget 2GiB"
)


def write_frames(folder: Path) -> Path:
    """Images of several sizes and kinds, in colours that change from one to the next."""
    folder.mkdir()
    rows, columns = np.mgrid[0:40, 0:56]
    for number in range(IMAGES):
        red = np.full_like(rows, 5 * number)
        pixels = np.stack([red, 4 * rows, 3 * columns], axis=-1).astype(np.uint8)
        suffix = ("png", "jpg")[number % 2]
        Image.fromarray(pixels[: 36 + number % 4]).save(folder / f"frame{number}.{suffix}")
    return folder


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_frames(tmp_path_factory.mktemp("frames") / "drive one")


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A folder of frames of which two cannot be read."""
    folder = write_frames(tmp_path / "broken")
    path = folder / "frame6.png"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    (folder / "frame8.png").write_bytes(b"")
    return folder


def test_a_folder_of_images_is_trained_on(frames: Path, tmp_path: Path, repository: Path) -> None:
    (frames / "notes.txt").write_text("no image")
    words = ["sweep", "quick", "--data", str(frames), "--out", "results", *SMALL]
    done = run_bench(words, tmp_path, repository)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Files in {frames} that are no images: 1." in done.stdout.splitlines()
    (row,) = read(tmp_path / "results")
    assert row.result.status is Status.OK
    assert row.data["source"] == "folder"
    assert (row.data["frames"], row.data["skipped"]) == (IMAGES, 0)
    assert row.workload["train_size"] == row.data["train_frames"]
    assert 0 < int(row.data["train_frames"]) < IMAGES
    assert row.trial.settings["data"] == str(frames)
    assert len(row.result.losses) == 6
    assert row.result.quality["final_mse"] > 0
    assert str(frames) in json.dumps(row.environment["command"])


def test_a_broken_image_is_named_and_nothing_is_measured_or_it_is_left_out(
    broken: Path, tmp_path: Path, repository: Path
) -> None:
    words = ["sweep", "quick", "--data", str(broken), "--out", "results", *SMALL]
    refused = run_bench(words, tmp_path, repository)
    assert refused.returncode == 2
    assert refused.stderr.startswith("unet-bench: ")
    assert refused.stderr.count("\n") == 1
    for name in ("frame6.png", "frame8.png"):
        assert name in refused.stderr
    assert "2 of 36 frames cannot be read" in refused.stderr
    assert not (tmp_path / "results" / FILE_NAME).exists()

    done = run_bench([*words, "--skip-bad-frames"], tmp_path, repository)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Unreadable frames left out: frame6.png, frame8.png." in done.stdout
    (row,) = read(tmp_path / "results")
    assert row.result.status is Status.OK
    assert (row.data["frames"], row.data["skipped"]) == (IMAGES - 2, 2)
