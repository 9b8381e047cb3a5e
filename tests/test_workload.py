import errno
import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.trial import Scalar
from bench.workload import Workload, load_object
from kernels.cache import COMPILED
from unet.colorize import ColorizationTask
from unet.constants import AB_SCALE
from unet.model import UNet, UNetConfig
from unet.shape import UPSAMPLINGS
from unet.variant import Variant
from unet.workload import COLORIZATION, split

SMALLEST_FRAME = 16


def settings(**changes: Scalar) -> dict[str, Scalar]:
    return {**COLORIZATION.settings, **changes}


def prepare(**changes: Scalar) -> Path:
    return COLORIZATION.prepare(settings(**changes), lambda done, total: None).path


def test_it_is_a_workload() -> None:
    workload: Workload = COLORIZATION  # for mypy, which sees more than the next line
    assert isinstance(workload, Workload)
    assert load_object("unet.workload:COLORIZATION") is COLORIZATION


def test_importing_it_never_imports_torch() -> None:
    code = "import sys, unet.workload; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_its_defaults_are_fine() -> None:
    COLORIZATION.check(COLORIZATION.settings)
    assert COLORIZATION.data_settings <= set(COLORIZATION.settings)


@pytest.mark.parametrize("depth", range(1, 8))
def test_the_smallest_image_is_the_networks_own(depth: int) -> None:
    side = max(UNetConfig(depth=depth).min_side, SMALLEST_FRAME)
    COLORIZATION.check(settings(depth=depth, image_size=side))
    with pytest.raises(ValueError, match=f"^image_size {side - 1}: "):
        COLORIZATION.check(settings(depth=depth, image_size=side - 1))


@pytest.mark.parametrize("depth", range(1, 5))
@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
def test_what_it_accepts_the_network_trains_on(depth: int, upsampling: str) -> None:
    side = max(UNetConfig(depth=depth).min_side, SMALLEST_FRAME)
    COLORIZATION.check(settings(depth=depth, image_size=side, width=1, upsampling=upsampling))
    network = UNet(UNetConfig(width=1, depth=depth, upsampling=upsampling)).train()
    assert network(torch.rand(1, 1, side, side)).isfinite().all()


def test_variants_and_their_names_are_inverse() -> None:
    for choice in itertools.product(*COLORIZATION.axes.values()):
        axes = dict(zip(COLORIZATION.axes, choice, strict=True))
        assert COLORIZATION.parse_variant(COLORIZATION.variant_name(axes)) == axes


def test_the_first_value_of_every_axis_is_the_plain_network() -> None:
    plain = {axis: choices[0] for axis, choices in COLORIZATION.axes.items()}
    assert COLORIZATION.variant_name(plain) == "fp32"
    assert Variant.from_axes(plain) == Variant()


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("frames", -1),
        ("frames", 9),
        ("bad_frames", "keep"),
        ("gap", -1),
        ("data_seed", -1),
        ("validation_percent", 0),
        ("validation_percent", 51),
        ("image_size", 15),
        ("width", 0),
        ("depth", 0),
        ("depth", 10**9),
        ("data", "Drive"),
        ("split", "blocks"),
        ("upsampling", "cubic"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(name: str, bad: Scalar) -> None:
    with pytest.raises(ValueError, match=f"^{name} {bad!r}: expected"):
        COLORIZATION.check(settings(**{name: bad}))


@pytest.mark.parametrize("kind", ["block", "random"])
def test_the_promised_training_size_is_what_is_prepared(kind: str) -> None:
    asked = settings(frames=40, gap=3, image_size=16, split=kind)
    data = COLORIZATION.prepare(asked, lambda done, total: None)
    train, held = split(asked, 40)
    assert data.train_size == COLORIZATION.train_size(asked) == len(train)
    assert data.provenance["train_frames"] == len(train)
    assert data.provenance["validation_frames"] == len(held) == 6
    assert data.provenance["split"] == kind
    assert np.load(data.handle["path"], mmap_mode="r").shape == (40, 16, 16, 3)


def test_provenance_tells_drives_apart_but_not_sizes() -> None:
    def fingerprint(**changes: Scalar) -> object:
        asked = settings(frames=10, gap=0, **{"image_size": 16, **changes})
        return dict(COLORIZATION.prepare(asked, lambda done, total: None).provenance)

    assert fingerprint() == fingerprint(image_size=17)
    assert fingerprint() != fingerprint(data_seed=1)
    assert prepare(frames=10, gap=0, image_size=16) != prepare(frames=10, gap=0, image_size=17)


def test_the_drive_is_as_long_as_ever_unless_told() -> None:
    assert COLORIZATION.train_size(settings()) == COLORIZATION.train_size(settings(frames=1200))
    assert COLORIZATION.train_size(settings(frames=600)) == 600 - 90 - 30


def test_a_drive_has_nothing_to_remark() -> None:
    data = COLORIZATION.prepare(settings(frames=10, gap=0, image_size=16), lambda done, total: None)
    assert data.notes == ()
    assert data.provenance["source"] == "drive"
    assert data.provenance["skipped"] == 0


# A folder of images.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """40 images, of which the first is red, the last is blue and the others are between."""
    found = tmp_path / "images"
    (found / "deeper").mkdir(parents=True)
    for index in range(40):
        path = found / ("deeper" if index >= 20 else "") / f"frame_{index}.png"
        Image.new("RGB", (20 + index, 30), (255 - 6 * index, 0, 6 * index)).save(path)
    return found


def of(folder: Path, **changes: Scalar) -> dict[str, Scalar]:
    small = {"image_size": 16, "width": 4, "depth": 1, "gap": 4}
    return settings(data=str(folder), **{**small, **changes})


def refusal(asked: dict[str, Scalar]) -> str:
    with pytest.raises(ValueError, match=r"\A[^\n]*\Z") as caught:
        COLORIZATION.check(asked)
    with pytest.raises(ValueError, match=r"\A[^\n]*\Z"):
        COLORIZATION.prepare(asked, lambda done, total: None)
    return str(caught.value)


def test_a_folder_is_prepared_whole_and_in_natural_order(folder: Path) -> None:
    asked = of(folder)
    COLORIZATION.check(asked)
    calls: list[tuple[int, int]] = []
    data = COLORIZATION.prepare(asked, lambda done, total: calls.append((done, total)))
    assert data.train_size == COLORIZATION.train_size(asked) == 40 - 6 - 4
    reds = np.load(data.handle["path"], mmap_mode="r")[:, 0, 0, 0]
    assert list(reds) == [255 - 6 * index for index in range(40)]
    assert calls[-1] == (40, 40)
    assert data.notes == ()
    provenance = dict(data.provenance)
    assert len(str(provenance.pop("fingerprint"))) == 16
    assert provenance == {
        "source": "folder",
        "frames": 40,
        "skipped": 0,
        "split": "block",
        "gap": 4,
        "train_frames": 30,
        "validation_frames": 6,
    }


def test_provenance_is_of_the_frames_not_of_where_they_are_or_how_large(folder: Path) -> None:
    def provenance(**changes: Scalar) -> dict[str, Scalar]:
        return dict(
            COLORIZATION.prepare(of(folder, **changes), lambda done, total: None).provenance
        )

    first = provenance()
    assert provenance(image_size=17) == first
    (folder / "notes.txt").touch()
    assert provenance() == first
    folder = folder.rename(folder.parent / "moved")
    assert provenance() == first
    assert provenance(frames=39) != first


def test_the_first_frames_of_a_folder_will_do(folder: Path) -> None:
    data = COLORIZATION.prepare(of(folder, frames=25), lambda done, total: None)
    reds = np.load(data.handle["path"], mmap_mode="r")[:, 0, 0, 0]
    assert list(reds) == [255 - 6 * index for index in range(25)]
    assert data.provenance["frames"] == 25


def test_no_more_frames_are_asked_for_than_there_are(folder: Path) -> None:
    assert refusal(of(folder, frames=41)) == f"frames 41: there are only 40 in {str(folder)!r}"


def test_a_folder_called_as_the_drive_can_be_told_apart(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    folder.rename("drive")
    assert COLORIZATION.train_size(of(Path("drive"), gap=30)) == 990
    asked = settings(data="./drive", gap=30)
    assert COLORIZATION.train_size(asked) == 4


def test_what_is_no_folder_of_images_is_told_in_one_line(tmp_path: Path) -> None:
    expected = "expected 'drive' or a folder of frames; "
    gone, file, empty = (tmp_path / name for name in ("gone", "file.png", "empty"))
    file.touch()
    empty.mkdir()
    assert refusal(of(gone)) == f"data {str(gone)!r}: {expected}{gone}: No such file or directory"
    assert refusal(of(file)) == f"data {str(file)!r}: {expected}{file}: Not a directory"
    few = f"data {str(empty)!r}: expected at least 10 images, found "
    assert refusal(of(empty)) == f"{few}0 and 0 other files"
    for name in ("a.txt", "b.txt", "c.png"):
        (empty / name).touch()
    assert refusal(of(empty)) == f"{few}1 and 2 other files"
    assert refusal(settings(data="")).startswith(f"data '': {expected}")


def test_a_folder_below_that_may_not_be_listed_is_refused_or_left_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed, scan = folder / "deeper", os.scandir

    def scandir(path: str | Path) -> "os._ScandirIterator[str]":
        if Path(path) == closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scan(str(path))

    monkeypatch.setattr(os, "scandir", scandir)
    message = refusal(of(folder))
    assert "deeper/ (Permission denied)" in message
    assert "--skip-bad-frames" in message
    data = COLORIZATION.prepare(of(folder, bad_frames="skip"), lambda done, total: None)
    assert (data.provenance["skipped"], data.provenance["frames"]) == (1, 20)
    (note,) = data.notes
    assert "deeper/" in note


def test_a_folder_for_compiled_kernels_that_others_can_write_to_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNET_BENCH_CACHE", str(tmp_path))
    asked = settings(frames=40, image_size=16, gap=2)
    assert COLORIZATION.prepare(asked, lambda done, total: None).notes == ()
    compiled = tmp_path / COMPILED
    compiled.mkdir()
    compiled.chmod(0o777)
    (note,) = COLORIZATION.prepare(asked, lambda done, total: None).notes
    assert str(compiled) in note
    assert "UNET_BENCH_CACHE" in note


def test_images_that_are_few_say_what_to_change(folder: Path) -> None:
    message = refusal(of(folder, gap=34))
    assert message.startswith("frames 40: nothing is left to train on with gap 34")
    assert "smaller gap" in message
    assert "'random'" in message
    COLORIZATION.check(of(folder, gap=34, split="random"))
    COLORIZATION.check(of(folder, gap=33))


def test_unreadable_frames_are_refused_or_left_out(folder: Path) -> None:
    (folder / "frame_3.png").write_bytes(b"")
    (folder / "deeper/frame_39.png").write_text("These are words.")
    (folder / "notes.txt").touch()
    COLORIZATION.check(of(folder))  # which opens nothing
    with pytest.raises(ValueError, match=r"2 of 40 .*frame_3\.png.*deeper/frame_39\.png"):
        COLORIZATION.prepare(of(folder), lambda done, total: None)
    asked = of(folder, bad_frames="skip")
    data = COLORIZATION.prepare(asked, lambda done, total: None)
    assert data.provenance["skipped"] == 2
    assert data.provenance["frames"] == 38
    assert data.train_size == data.provenance["train_frames"] == 38 - 5 - 4
    assert data.notes == (
        f"Files in {folder} that are no images: 1.",
        "Unreadable frames left out: frame_3.png, deeper/frame_39.png.",
    )


def test_too_little_left_of_a_folder_is_refused(folder: Path) -> None:
    for index in range(31):
        (folder / ("deeper" if index >= 20 else "") / f"frame_{index}.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"31 of 40 .* at least 10 that can"):
        COLORIZATION.prepare(of(folder, bad_frames="skip"), lambda done, total: None)
    Image.new("RGB", (9, 9)).save(folder / "frame_0.png")
    with pytest.raises(ValueError, match=r"^frames 10: nothing is left to train on"):
        COLORIZATION.prepare(of(folder, bad_frames="skip", gap=9), lambda done, total: None)


def test_a_task_learns_from_a_folder_with_frames_left_out(folder: Path) -> None:
    (folder / "frame_0.png").write_bytes(b"")
    asked = of(folder, bad_frames="skip")
    data = COLORIZATION.prepare(asked, lambda done, total: None)
    task = ColorizationTask(
        axes=COLORIZATION.parse_variant("fp32"),
        settings=asked,
        batch_size=4,
        handle=data.handle,
        device="cpu",
    )
    assert len(task.train) == data.train_size
    assert len(task.validation) == data.provenance["validation_frames"]
    batch = next(task.batches([np.arange(data.train_size)]))
    # From red to blue, b of Lab falls; the last validation frame is the folder's last.
    assert (batch.ab[1:, 1].mean(dim=(1, 2)) < batch.ab[:-1, 1].mean(dim=(1, 2))).all()
    assert task.validation[-1] == 38
    loss = task.forward(batch)
    task.backward(loss)
    task.optimize(0.0)
    assert 0 < loss.item() * AB_SCALE**2 < 2 * 110**2
    assert np.isfinite(task.evaluate()["final_mse"])
