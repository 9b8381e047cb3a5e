import io
import json
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.color import rgb2lab
from torch import nn
from torch._dynamo.utils import counters

from bench.trial import Scalar, Trial
from bench.worker import sample_batches
from kernels.lab import lab_to_rgb
from tests.training import one_thread, without_inductor
from unet import colorize
from unet.colorize import PREVIEW_SIDE, Batch, ColorizationTask, learning_rate
from unet.constants import AB_SCALE, L_CENTER, L_SCALE
from unet.frames import FrameSet
from unet.workload import COLORIZATION, split

SETTINGS: Mapping[str, Scalar] = {
    **COLORIZATION.settings,
    "frames": 600,
    "image_size": 16,
    "width": 16,
    "depth": 2,
}
SAMPLES, BATCH_SIZE = 480, 4
TRAIN, HELD = split(SETTINGS, 600)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    # On a busy machine, threads that wait for each other take ten times as long as one alone.
    with one_thread():
        yield


@cache
def data() -> FrameSet:
    return COLORIZATION.prepare(SETTINGS, lambda done, total: None)


def frames() -> np.ndarray:
    found: np.ndarray = np.load(data().path)
    return found


def task(
    variant: str = "fp32",
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    device: str = "cpu",
    settings: Mapping[str, Scalar] = SETTINGS,
) -> ColorizationTask:
    torch.manual_seed(seed)
    return ColorizationTask(
        axes=COLORIZATION.parse_variant(variant),
        settings=settings,
        batch_size=batch_size,
        handle=data().handle,
        device=device,
    )


@pytest.fixture
def as_on_cuda(monkeypatch: pytest.MonkeyPatch) -> ColorizationTask:
    """A task of fp16 with a fused optimizer for a GPU, with its tensors left on the CPU."""
    monkeypatch.setattr(colorize, "apply_variant", lambda model, variant, device: model)
    monkeypatch.setattr(
        colorize, "grad_scaler", lambda variant, device: torch.amp.GradScaler("cpu")
    )
    return task("fp16+fused", device="cuda")


def load(working: ColorizationTask, indices: np.ndarray) -> Batch:
    return next(working.batches([indices]))


def train(working: ColorizationTask, samples: int = SAMPLES, seed: int = 0) -> list[float]:
    """Trains as the harness does; gives the losses."""
    trial = Trial(
        workload="unet.workload:COLORIZATION",
        variant=working.variant.name,
        axes=working.variant.axes(),
        settings=SETTINGS,
        batch_size=working.batch_size,
        seed=seed,
        round=0,
        samples=samples,
        warmup_steps=0,
        measured_steps=1,
        device="cpu",
        budget_bytes=2**33,
    )
    losses = []
    for step, indices in enumerate(sample_batches(trial, data().train_size)):
        loss = working.forward(load(working, indices))
        working.backward(loss)
        working.optimize(step / (trial.steps - 1))
        losses.append(float(loss.detach()))
    return losses


def reconstructed(batch: Batch) -> torch.Tensor:
    lab = torch.cat((batch.lightness * L_SCALE + L_CENTER, batch.ab * AB_SCALE), dim=1)
    return lab_to_rgb(lab.double())


# Batches.


@pytest.mark.parametrize("variant", ["fp32", "bf16+channels_last"])
def test_lightness_and_colour_of_a_batch_are_of_the_same_frame(variant: str) -> None:
    indices = np.array([7, 0, 401, 7])
    batch = load(task(variant), indices)
    assert batch.lightness.shape == (4, 1, 16, 16)
    assert batch.ab.shape == (4, 2, 16, 16)
    assert batch.lightness.dtype == batch.ab.dtype == torch.float32
    expected = torch.from_numpy(frames()[TRAIN[indices]]).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(reconstructed(batch), expected.double(), rtol=0, atol=1e-4)


def test_training_never_sees_a_validation_frame_or_the_gap() -> None:
    last = load(task(), np.array([data().train_size - 1]))
    expected = torch.from_numpy(frames()[TRAIN[-1:]]).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(reconstructed(last), expected.double(), rtol=0, atol=1e-4)
    assert data().train_size == len(TRAIN)
    with pytest.raises(IndexError):
        load(task(), np.array([data().train_size]))


def test_the_networks_input_is_scaled_as_recorded() -> None:
    working = task()
    lightness = load(working, np.arange(64)).lightness
    assert lightness.abs().max() <= 1.0 + 1e-5
    assert lightness.min() < -0.3
    assert working.facts["channel_scaling"] == {
        "l_center": L_CENTER,
        "l_scale": L_SCALE,
        "ab_scale": AB_SCALE,
    }


def test_batches_are_in_the_variants_memory_format() -> None:
    indices = np.arange(4)
    assert load(task("fp32+channels_last"), indices).ab.is_contiguous(
        memory_format=torch.channels_last
    )
    # A part of a larger tensor, but in the order of the dimensions.
    assert load(task("fp32"), indices).ab.stride()[1:] == (16 * 16, 16, 1)


# The learning rate.


def test_the_learning_rate_falls_from_a_thousandth_to_a_twentieth_of_it() -> None:
    rates = [learning_rate(progress) for progress in np.linspace(0, 1, 101)]
    assert rates[0] == pytest.approx(1e-3)
    assert rates[-1] == pytest.approx(1e-3 / 20)
    assert all(after < before for before, after in pairwise(rates))


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_a_step_is_taken_at_the_learning_rate_of_its_moment(progress: float) -> None:
    working = task()
    before = [parameter.detach().clone() for parameter in working.model.parameters()]
    working.backward(working.forward(load(working, np.arange(4))))
    working.optimize(progress)
    # Adam's first step moves every weight that has a gradient by the learning rate.
    after = working.model.parameters()
    moves = [(new - old).abs().max().item() for new, old in zip(after, before, strict=True)]
    assert max(moves) == pytest.approx(learning_rate(progress), rel=1e-2)


# Evaluation.


def lab64(indices: np.ndarray) -> np.ndarray:
    """CIELAB by scikit-image in float64, (frames, height, width, 3)."""
    found: np.ndarray = rgb2lab(frames()[indices].astype(np.float64) / 255)
    return found


def test_the_baselines_are_those_of_a_computation_by_hand() -> None:
    mean = lab64(TRAIN)[..., 1:].mean(axis=(0, 1, 2))
    ab = lab64(HELD)[..., 1:]
    found = task().evaluate()
    assert found["grey_mse"] == pytest.approx((ab**2).mean(), rel=1e-5)
    assert found["mean_color_mse"] == pytest.approx(((ab - mean) ** 2).mean(), rel=1e-5)


def head(working: ColorizationTask) -> nn.Conv2d:
    found = working.model.get_submodule("head")
    assert isinstance(found, nn.Conv2d)
    return found


@pytest.mark.parametrize("variant", ["fp32", "bf16"])
def test_a_network_that_says_grey_is_as_wrong_as_grey(variant: str) -> None:
    working = task(variant)
    with torch.no_grad():
        head(working).weight.zero_()
    found = working.evaluate()
    assert found["final_mse"] == pytest.approx(found["grey_mse"], rel=1e-6)
    assert found["final_mse"] != pytest.approx(found["mean_color_mse"], rel=1e-3)


def test_final_mse_is_in_squared_lab_units_over_both_channels() -> None:
    working = task()
    with torch.no_grad():
        head(working).weight.zero_()
        bias = head(working).bias
        assert bias is not None
        bias.copy_(torch.tensor([11.0, -22.0]) / AB_SCALE)  # says ab = (11, -22) everywhere
    expected = ((lab64(HELD)[..., 1:] - [11.0, -22.0]) ** 2).mean()
    assert working.evaluate()["final_mse"] == pytest.approx(expected, rel=1e-5)


def test_evaluation_does_not_depend_on_the_batch_size() -> None:
    assert len(HELD) % 7  # a smaller last batch
    trained = task()
    train(trained, samples=40)
    expected = trained.evaluate()
    for batch_size in (1, 7, 2 * len(HELD)):
        trained.batch_size = batch_size
        found = trained.evaluate()
        assert found == {name: pytest.approx(value, rel=1e-5) for name, value in expected.items()}


def test_no_tensor_of_an_evaluation_is_larger_than_eager_kernels_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    working = task(batch_size=8)
    seen: list[int] = []
    take = working._pixels

    def watched(frames: np.ndarray) -> torch.Tensor:
        seen.append(len(frames))
        return take(frames)

    monkeypatch.setattr(working, "_pixels", watched)
    monkeypatch.setattr("unet.colorize.MOST_ELEMENTS", 4 * working.frame_elements - 1)
    found = working.evaluate()
    assert max(seen) == 3
    assert found == {
        name: pytest.approx(value, rel=1e-5) for name, value in task().evaluate().items()
    }
    large = {**SETTINGS, "image_size": 256, "width": 64}
    working = ColorizationTask(
        axes=COLORIZATION.parse_variant("fp32"),
        settings=large,
        batch_size=512,
        handle={},
        device="cpu",
    )
    monkeypatch.undo()
    assert (working.batch_size, working.evaluation_size) == (512, 511)


def test_evaluation_leaves_the_network_as_it_was() -> None:
    working = task()
    before = {name: value.clone() for name, value in working.model.state_dict().items()}
    working.evaluate()
    for name, value in working.model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


# Training.


@pytest.mark.parametrize("variant", ["fp32", "bf16+channels_last"])
def test_a_short_training_beats_the_mean_colour(variant: str) -> None:
    working = task(variant)
    losses = train(working)
    found = working.evaluate()
    assert found["final_mse"] < 0.7 * found["mean_color_mse"]
    assert np.mean(losses[-20:]) < 0.7 * np.mean(losses[:20])


def test_the_same_seed_gives_the_same_losses_bit_by_bit() -> None:
    runs = [train(task(seed=seed), samples=80, seed=seed) for seed in (3, 3, 4)]
    assert runs[0] == runs[1]
    assert all(loss != other for loss, other in zip(runs[0], runs[2], strict=True))


def test_weights_and_order_both_follow_the_seed() -> None:
    plain = train(task(seed=3), samples=40, seed=3)
    assert train(task(seed=4), samples=40, seed=3) != plain
    assert train(task(seed=3), samples=40, seed=4) != plain


def test_fp16_trains_with_scaled_gradients() -> None:
    working = task("fp16")
    scale = float(working.scaler.get_scale())
    assert scale > 1
    loss = working.forward(load(working, np.arange(4)))
    working.backward(loss)
    plain = task("fp32")
    plain.backward(plain.forward(load(plain, np.arange(4))))
    found, expected = head(working).weight.grad, head(plain).weight.grad
    assert found is not None
    assert expected is not None
    torch.testing.assert_close(found / scale, expected, rtol=0.05, atol=1e-4)
    assert loss.item() < 1  # what is recorded is the loss itself

    losses = train(task("fp16"), samples=240)
    assert np.isfinite(losses).all()
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


@pytest.mark.parametrize("variant", ["fp32", "bf16"])
def test_only_fp16_scales_its_gradients(variant: str) -> None:
    assert task(variant).scaler.get_scale() == 1


def test_gradients_are_gone_after_a_step() -> None:
    # So that their memory serves the next forward pass.
    working = task()
    working.backward(working.forward(load(working, np.arange(4))))
    assert all(weight.grad is not None for weight in working.model.parameters())
    working.optimize(0.0)
    assert all(weight.grad is None for weight in working.model.parameters())


@pytest.mark.parametrize("variant", ["fp32", "fp32+blocks", "bf16+channels_last+high-res"])
def test_a_smaller_last_batch_is_trained_on_too(variant: str) -> None:
    losses = train(task(variant), samples=11)
    assert len(losses) == 3
    assert np.isfinite(losses).all()


# Compiled.


def test_a_compiled_task_compiles_its_training_step_once_and_nothing_else() -> None:
    tiny = {**SETTINGS, "width": 4, "depth": 1}
    expected = task(settings=tiny)
    losses = train(expected, samples=11)

    counters.clear()
    with without_inductor(), torch._dynamo.config.patch(error_on_recompile=True):
        compiled = task("fp32+compile", settings=tiny)
        # 4 + 4 + 3 samples: the last batch, and evaluation, go through the eager network.
        assert train(compiled, samples=11) == pytest.approx(losses, rel=1e-4)
        assert counters["stats"]["unique_graphs"] == 1
        found = compiled.evaluate()
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    assert found == {
        name: pytest.approx(error, rel=1e-3) for name, error in expected.evaluate().items()
    }


# On a GPU, the host never waits for the device within a step.


def test_for_a_gpu_a_fused_step_of_fp16_is_skipped_without_asking_the_device(
    as_on_cuda: ColorizationTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: torch.Tensor) -> float:
        raise AssertionError("the device was asked")

    working = as_on_cuda
    monkeypatch.setattr(torch.Tensor, "item", refuse)
    weight = head(working).weight
    before = weight.detach().clone()
    for gradient, moves in ((float("inf"), False), (1.0, True)):
        working.backward(weight.sum())
        assert weight.grad is not None
        weight.grad.mul_(gradient)
        working.optimize(0.0)
        assert torch.equal(weight, before) is not moves


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("variant", ["fp16", "fp16+fused"])
def test_an_overflow_skips_the_step_and_halves_the_scale(variant: str, device: str) -> None:
    working = task(variant, device=device)
    weight = head(working).weight
    for gradient, moves, factor in ((1.0, True, 1), (float("inf"), False, 0.5), (1.0, True, 1)):
        before, scale = weight.detach().clone(), working.scaler.get_scale()
        working.backward(weight.sum())
        assert weight.grad is not None
        weight.grad.mul_(gradient)
        working.optimize(0.0)
        assert torch.equal(weight, before) is not moves
        assert working.scaler.get_scale() == factor * scale
    assert working.facts["skipped_steps"] == [1]
    assert working.facts["loss_scale"] == working.scaler.get_scale()
    assert json.loads(json.dumps(working.facts)) == working.facts


def test_for_a_gpu_batches_are_pinned_before_they_are_copied(
    as_on_cuda: ColorizationTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pin(self: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError("pinned")

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    with pytest.raises(NotImplementedError, match="pinned"):
        load(as_on_cuda, np.arange(4))
    assert load(task(), np.arange(4)).ab.shape == (4, 2, 16, 16)


@pytest.mark.gpu
@pytest.mark.parametrize("variant", ["fp32", "fp32+fused", "fp16+fused", "bf16+channels_last"])
def test_on_a_gpu_nothing_in_a_step_synchronizes(variant: str) -> None:
    working = task(variant, device="cuda")

    def step() -> None:
        working.backward(working.forward(load(working, np.arange(4))))
        working.optimize(0.0)

    step()  # the first one may: it sets things up
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


# What is recorded.


@pytest.mark.parametrize(("variant", "fused"), [("fp32", False), ("bf16+fused", True)])
def test_the_optimizer_is_the_variants_at_the_recorded_rates(variant: str, fused: bool) -> None:
    working = task(variant)
    assert working.optimizer.defaults["fused"] is fused
    assert working.optimizer.defaults["foreach"] is not fused
    assert working.facts["optimizer"] == "adam"
    assert working.facts["learning_rate"] == [learning_rate(0), pytest.approx(learning_rate(1))]


def test_the_flags_in_force_are_recorded() -> None:
    flags = task().facts["flags"]
    assert flags["backends.cudnn.conv.fp32_precision"] == "ieee"
    assert flags["backends.cuda.matmul.fp32_precision"] == "ieee"
    assert flags["backends.cudnn.benchmark"] is False
    assert torch.backends.cuda.matmul.fp32_precision == "ieee"


def test_facts_are_plain_values() -> None:
    facts = task("bf16+channels_last").facts
    assert json.loads(json.dumps(facts)) == facts


def test_only_what_scales_its_loss_records_steps_that_were_skipped() -> None:
    for variant in ("fp32", "bf16+channels_last"):
        working = task(variant)
        working.backward(working.forward(load(working, np.arange(4))))
        working.optimize(0.0)
        assert not {"skipped_steps", "loss_scale"} & working.facts.keys()
    assert task("fp16").facts["skipped_steps"] == []


def test_parameters_are_counted() -> None:
    working = task()
    counted = sum(parameter.numel() for parameter in working.model.parameters())
    assert working.facts["parameters"] == counted > 10_000


def test_a_missing_cache_file_is_no_silent_default(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ColorizationTask(
            axes=COLORIZATION.parse_variant("fp32"),
            settings=SETTINGS,
            batch_size=4,
            handle={"path": str(tmp_path / "gone.npy")},
            device="cpu",
        )


def picture(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def test_previews_show_the_same_frames_in_grey_as_predicted_and_in_truth() -> None:
    working = task("bf16+channels_last")
    found = {name: picture(content) for name, content in working.previews(3).items()}
    assert list(found) == ["grey", "predicted", "true"]
    whole = frames()[HELD[[0, len(HELD) // 2 - (len(HELD) % 2 == 0), len(HELD) - 1]]]
    beside = np.concatenate(list(whole), axis=1)
    assert np.abs(found["true"].astype(int) - beside).max() <= 1
    assert found["grey"].shape == found["predicted"].shape == (16, 3 * 16, 3)
    assert np.ptp(found["grey"].astype(int), axis=2).max() <= 1
    assert np.ptp(found["predicted"].astype(int), axis=2).max() > 1
    for strip in found.values():  # colours are all that differs
        off = rgb2lab(strip)[..., 0] - rgb2lab(beside)[..., 0]
        assert np.median(np.abs(off)) < 1
    other = {name: picture(content) for name, content in task(seed=1).previews(3).items()}
    same = {name: np.array_equal(found[name], other[name]) for name in found}
    assert same == {"grey": True, "predicted": False, "true": True}


def test_previews_are_no_larger_than_they_need_be() -> None:
    large = {**SETTINGS, "image_size": 160, "frames": 80}
    settings_task = ColorizationTask(
        axes=COLORIZATION.parse_variant("fp32"),
        settings=large,
        batch_size=2,
        handle=COLORIZATION.prepare(large, lambda done, total: None).handle,
        device="cpu",
    )
    found = settings_task.previews(99)
    count = len(split(large, 80)[1])
    assert picture(found["true"]).shape == (PREVIEW_SIDE, count * PREVIEW_SIDE, 3)
