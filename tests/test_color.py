"""Where frames become Lab: the three ways give the same batches, and so the same training."""

from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from bench import journal
from bench.trial import Status
from kernels import lab
from tests.commands import main
from tests.harness import wait_until_dead
from unet.colorize import Batch, ColorizationTask, random_windows
from unet.constants import AB_SCALE, L_CENTER, L_SCALE
from unet.variant import Color
from unet.workload import COLORIZATION

SETTINGS = {**COLORIZATION.settings, "frames": 120, "gap": 5, "image_size": 16, "width": 4}
SETTINGS |= {"depth": 2, "crop_margin": 6}
ORDER = [np.array([3, 0, 50, 3]), np.array([7, 8, 9, 10]), np.array([1, 2])]


def task(variant: str, **changes: int) -> ColorizationTask:
    torch.manual_seed(5)
    settings = {**SETTINGS, **changes}
    data = COLORIZATION.prepare(settings, lambda done, total: None)
    return ColorizationTask(
        axes=COLORIZATION.parse_variant(variant),
        settings=settings,
        batch_size=4,
        handle=data.handle,
        device="cpu",
    )


def whole(batches: list[Batch]) -> torch.Tensor:
    """Lab of all batches in a row, in float64."""
    parts = [
        torch.cat((batch.lightness * L_SCALE + L_CENTER, batch.ab * AB_SCALE), dim=1)
        for batch in batches
    ]
    return torch.cat(parts).double()


@pytest.mark.parametrize("margin", [0, 6])
@pytest.mark.parametrize("color", Color)
def test_every_way_gives_the_frames_that_the_seed_cuts_out(color: Color, margin: int) -> None:
    working = task(f"fp32+{color}", crop_margin=margin)
    frames = torch.from_numpy(working.frames[working.train[np.concatenate(ORDER)]])
    expected = lab.rgb_to_lab(frames.permute(0, 3, 1, 2).double() / 255)
    if margin:
        torch.manual_seed(5)
        windows = random_windows(10, margin).tolist()
        assert {mirrored for _, _, mirrored in windows} == {0, 1}
        assert len({(top, left) for top, left, _ in windows}) > 5
        cut = [
            frame[:, top : top + 16, left : left + 16].flip(-1 if mirrored else ())
            for frame, (top, left, mirrored) in zip(expected, windows, strict=True)
        ]
        expected = torch.stack(cut)
    found = list(working.batches(ORDER))
    assert [len(batch.ab) for batch in found] == [4, 4, 2]
    torch.testing.assert_close(whole(found), expected, rtol=0, atol=1e-3)


def test_what_is_cut_out_does_not_depend_on_the_batch_size() -> None:
    one_by_one = [np.array([index]) for index in np.concatenate(ORDER)]
    working = task("fp32")
    large, small = whole(list(working.batches(ORDER))), whole(list(working.batches(one_by_one)))
    assert torch.equal(large, small)


@pytest.mark.parametrize("color", [Color.LOADER, Color.FUSED])
def test_evaluation_is_of_the_middle_of_frames_and_the_same(color: Color) -> None:
    plain, other = task("bf16").evaluate(), task(f"bf16+{color}").evaluate()
    assert other == pytest.approx(plain, rel=1e-3)
    assert plain["grey_mse"] != pytest.approx(task("bf16", crop_margin=5).evaluate()["grey_mse"])


@pytest.mark.parametrize(
    ("variant", "dtype"),
    [("fp32+fused-lab", torch.float32), ("bf16+channels_last+fused-lab", torch.bfloat16)],
)
def test_one_kernel_makes_what_the_network_computes_in(variant: str, dtype: torch.dtype) -> None:
    working = task(variant)
    for batch in (next(working.batches(ORDER)), working.example()):
        assert batch.lightness.dtype is batch.ab.dtype is dtype
        assert batch.ab.is_contiguous(memory_format=torch.channels_last) == (dtype != torch.float32)
    assert working.facts["lab_kernel"] == "c++"


def test_a_loaders_workers_end_with_its_batches() -> None:
    working = task("fp32+loader-lab", loader_workers=2)
    batches = working.batches(ORDER)
    next(batches)
    workers = [child.pid for child in psutil.Process().children()]
    assert len(workers) == working.facts["loader_workers"] == 2
    batches.close()
    wait_until_dead(*workers)


def test_a_sweep_tells_them_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = {"frames": 120, "gap": 5, "image_size": 16, "width": 4, "depth": 2, "crop_margin": 4}
    values |= {"batch_size": 4, "samples": 32, "warmup_steps": 1, "measured_steps": 3}
    words = ["sweep", "--device", "cpu", "--out", str(tmp_path)]
    words += ["--set", "variants=fp32,fp32+loader-lab,fp32+fused-lab"]
    for name, value in values.items():
        words += ["--set", f"{name}={value}"]
    code, _, error = main(words, capsys)
    assert code == 0, error
    rows = journal.read(tmp_path)
    assert [row.result.status for row in rows] == [Status.OK] * 3, [r.result.detail for r in rows]
    plain, *others = (np.array(row.result.losses, float) for row in rows)
    for losses in others:
        np.testing.assert_allclose(losses, plain, rtol=1e-3)
