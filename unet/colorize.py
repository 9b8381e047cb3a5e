"""The workload at work: Lab batches, the training step, evaluation."""

import os
from collections.abc import Generator, Mapping, Sequence
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
import torch
import torch._dynamo  # an optimizer imports it at first use: seconds that belong to no trial
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from kernels import lab
from kernels.rgb_to_lab import kernel_on, rgb_to_lab
from kernels.windows import cut
from unet.apply import (
    Network,
    apply_variant,
    autocast,
    caveats,
    computed_in,
    grad_scaler,
    make_optimizer,
    memory_format,
    set_flags,
    to_input,
    uses_cuda_graphs,
)
from unet.apply import unsupported as variant_unsupported
from unet.constants import AB_SCALE, FINAL_LEARNING_RATE, L_CENTER, L_SCALE, LEARNING_RATE
from unet.model import UNet, UNetConfig
from unet.variant import Color, Variant
from unet.workload import Scalar, split


class Batch(NamedTuple):
    """A batch as the network takes it, on the device; fp32, or what the network computes in.

    Attributes:
        lightness: Scaled L of shape (N, 1, H, W).
        ab: Scaled a and b of shape (N, 2, H, W).
    """

    lightness: Tensor
    ab: Tensor


ROUNDING = 1e-4
"""Lab^2: grey pixels leave the conversion with a and b within some 0.003 of 0, and a mean square
below this is nothing but that."""

MOST_ELEMENTS = 2**31 - 2
"""Of a tensor, that a kernel which counts them in 32 bits takes: less than INT_MAX."""

PREVIEW_SIDE = 128
"""Pixels: more would make a report heavy, and show no more of colours."""


def learning_rate(progress: float) -> float:
    """Decays geometrically from 1e-3 (`progress` 0) to 1/20 of it (`progress` 1)."""
    return float(LEARNING_RATE * (FINAL_LEARNING_RATE / LEARNING_RATE) ** progress)


def random_windows(count: int, margin: int) -> Tensor:
    """Windows by torch's seed: int64 (N, 3) of top and left from 0 to `margin`, and 0 or 1."""
    rng = np.random.default_rng(torch.initial_seed())
    return torch.from_numpy(rng.integers((margin + 1, margin + 1, 2), size=(count, 3)))


def scaled_lab(frames: Tensor, windows: Tensor | None, side: int) -> tuple[Tensor, Tensor]:
    """uint8 RGB (N, 3, H, W) to scaled L and ab in fp32, of that side, by torch's operators."""
    found = lab.rgb_to_lab(cut(frames, windows, side, side).float() / 255)
    # By numbers: a tensor of them would have the host wait until it is on the device.
    return (found[:, :1] - L_CENTER) / L_SCALE, found[:, 1:] / AB_SCALE


def _png(rgb: Tensor) -> bytes:
    """Colours of shape (3, H, W), sRGB in [0, 1], as a PNG file."""
    levels = (rgb * 255).round().byte().permute(1, 2, 0).numpy()
    image, content = Image.fromarray(levels), BytesIO()
    if image.height > PREVIEW_SIDE:
        image = image.resize((image.width * PREVIEW_SIDE // image.height, PREVIEW_SIDE))
    image.save(content, "PNG", optimize=True)
    return content.getvalue()


class _Frames(Dataset[tuple[Tensor, Tensor]]):
    """Frames that are converted one at a time.

    Args:
        frames: uint8 (N, H, W, 3).
        windows: What is taken of the frame at each place of a run.
        side: Of that.
    """

    def __init__(self, frames: np.ndarray, windows: Tensor | None, side: int) -> None:
        self._frames, self._windows, self._side = frames, windows, side

    def __getitem__(self, wanted: tuple[int, int]) -> tuple[Tensor, Tensor]:
        frame, place = wanted
        pixels = torch.from_numpy(self._frames[[frame]]).permute(0, 3, 1, 2)
        windows = None if self._windows is None else self._windows[[place]]
        lightness, ab = scaled_lab(pixels, windows, self._side)
        return lightness[0], ab[0]


class ColorizationTask:
    """Trains the U-Net of one variant; see `bench.workload.Task` for how it is driven.

    Args:
        axes: The variant.
        settings: As in `unet.workload.Colorization.settings`.
        batch_size: Frames per step, also in evaluation where no tensor is too large for that.
        handle: `path` of the frames; empty for a task that is only given examples.
        device: Torch's name of the device.
    """

    def __init__(
        self,
        *,
        axes: Mapping[str, str],
        settings: Mapping[str, Scalar],
        batch_size: int,
        handle: Mapping[str, Scalar],
        device: str,
    ) -> None:
        self.variant = Variant.from_axes(axes)
        self.device = torch.device(device)
        self.batch_size = batch_size
        self.image_size = int(settings["image_size"])
        self.frame_elements = int(settings["width"]) * self.image_size**2
        self.margin = int(settings["crop_margin"])
        self.workers = int(settings["loader_workers"]) or len(os.sched_getaffinity(0))
        if handle:
            self.frames = np.load(str(handle["path"]), mmap_mode="r")
        else:
            side = self.image_size + self.margin
            self.frames = np.empty((0, side, side, 3), np.uint8)
        self.train, self.validation = split(settings, len(self.frames))

        flags = set_flags(self.variant)
        config = UNetConfig(
            width=int(settings["width"]),
            depth=int(settings["depth"]),
            upsampling=str(settings["upsampling"]),
        )
        self.model = UNet(config)
        self.network = apply_variant(self.model, self.variant, self.device)
        self.optimizer = make_optimizer(self.model, self.variant, LEARNING_RATE)
        self.scaler = grad_scaler(self.variant, self.device)
        self._overflows: list[Tensor] = []
        self._facts: dict[str, Any] = {
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "flags": flags,
            "channel_scaling": {"l_center": L_CENTER, "l_scale": L_SCALE, "ab_scale": AB_SCALE},
            "optimizer": "adam",
            "learning_rate": [LEARNING_RATE, FINAL_LEARNING_RATE],
        }
        if self.variant.color is Color.LOADER:
            self._facts["loader_workers"] = self.workers
        if self.variant.color is Color.FUSED:
            self._facts["lab_kernel"] = kernel_on(self.device)
        if told := caveats(self.variant, self.device):
            self._facts["caveats"] = told

    @property
    def facts(self) -> dict[str, Any]:
        """What the row shall record; of fp16 with the steps so far, for which it waits."""
        if not self.scaler.is_enabled():
            return self._facts
        found = torch.stack(self._overflows).tolist() if self._overflows else []
        return self._facts | {
            "skipped_steps": [step for step, overflow in enumerate(found) if overflow],
            "loss_scale": self.scaler.get_scale(),
        }

    @property
    def evaluation_size(self) -> int:
        """Frames at a time in evaluation: a batch, or fewer where an eager kernel refuses that."""
        return max(1, min(self.batch_size, MOST_ELEMENTS // self.frame_elements))

    @staticmethod
    def unsupported(axes: Mapping[str, str], device: str) -> str | None:
        """Why the device cannot do the variant, in words; `None` if it can."""
        return variant_unsupported(Variant.from_axes(axes), torch.device(device))

    def batches(self, order: Sequence[np.ndarray]) -> Generator[Batch, None, None]:
        """Training frames as batches, L and ab of the same frames.

        With `crop_margin` each frame is cut and mirrored at random: by the seed and its place in
        the order, and so alike in every variant and at every batch size.
        """
        count = sum(map(len, order))
        windows = random_windows(count, self.margin) if self.margin else None
        if self.variant.color is Color.LOADER:
            yield from self._loaded(order, windows)
            return
        start = 0
        for indices in order:
            own = None if windows is None else windows[start : start + len(indices)]
            start += len(indices)
            yield self._convert(self._pixels(self.train[indices]), own, computed_in(self.variant))

    def example(self) -> Batch:
        """A batch as `batches` makes it, of black frames; needs no data."""
        side = self.image_size
        if self.variant.color is Color.LOADER:
            lightness, ab = (torch.zeros(self.batch_size, count, side, side) for count in (1, 2))
            return self._input(lightness, ab)
        black = torch.zeros((self.batch_size, side, side, 3), dtype=torch.uint8)
        return self._convert(black, None, computed_in(self.variant))

    def forward(self, batch: Batch) -> Tensor:
        """Mean squared error of the scaled ab, in fp32.

        A smaller batch, as the last of a run may be, goes through the eager network: the compiled
        one would be compiled anew for it.
        """
        network: Network = self.network
        if len(batch.lightness) < self.batch_size:
            self._end_cuda_graphs()
            network = self.model
        prediction = self._predict(batch, network)
        return nn.functional.mse_loss(prediction, batch.ab.float())

    def backward(self, loss: Tensor) -> None:
        """Gradients, of the scaled loss where the precision needs it."""
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def optimize(self, progress: float) -> None:
        """One step of Adam at the learning rate of this moment of the run.

        With fp16 and without `fused`, torch's loss scaler waits here for the device's word on
        whether a gradient has overflowed.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(progress)
        self.scaler.step(self.optimizer)
        if self.scaler.is_enabled():
            # Kept on the device, and read when all is over: to ask now would be to wait.
            self._overflows += self.scaler._found_inf_per_device(self.optimizer).values()
        self.scaler.update()
        # Here rather than before the next backward, so that the forward pass has their memory.
        self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Errors on the validation frames, in squared Lab units.

        Returns:
            `final_mse`, the mean over pixels and both channels of (predicted - true)^2, with an
            eager forward in the variant's precision and the error in fp32; and beside it the same
            for two predictions without a network: `grey_mse` (ab = 0) and `mean_color_mse` (the
            training set's mean ab), each 0 where it is less than `ROUNDING`.
        """
        self._end_cuda_graphs()
        self.model.eval()
        mean = self._mean_ab()
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        for start in range(0, len(self.validation), self.evaluation_size):
            batch = self._batch(self.validation[start : start + self.evaluation_size])
            predicted, ab = self._predict(batch, self.model) * AB_SCALE, batch.ab * AB_SCALE
            errors = (predicted - ab, ab, mean - ab)
            sums += torch.stack([error.square().mean(dim=(1, 2, 3)).sum() for error in errors])
        final, *baselines = (sums / len(self.validation)).tolist()
        grey, mean_color = (0.0 if mse < ROUNDING else mse for mse in baselines)
        return {"final_mse": final, "grey_mse": grey, "mean_color_mse": mean_color}

    @torch.no_grad()
    def previews(self, count: int) -> dict[str, bytes]:
        """Validation frames from all over their part of the drive, beside each other, as PNG.

        Args:
            count: So many, if there are.

        Returns:
            `grey` (what the network saw), `predicted` and `true`, of at most `PREVIEW_SIDE` pixels
            in height.
        """
        self.model.eval()
        places = np.linspace(0, len(self.validation) - 1, min(count, len(self.validation)))
        frames = self.validation[places.astype(np.int64)]
        strips: dict[str, list[Tensor]] = {"grey": [], "predicted": [], "true": []}
        for frame in frames:  # one by one, which fits wherever training did
            batch = self._batch(frame[None])
            predicted = self._predict(batch, self.model)
            for strip, ab in zip(strips.values(), (0 * batch.ab, predicted, batch.ab), strict=True):
                lightness = batch.lightness.float() * L_SCALE + L_CENTER
                whole = torch.cat((lightness, ab.float() * AB_SCALE), dim=1).cpu()
                strip.append(lab.lab_to_rgb(whole)[0])
        return {name: _png(torch.cat(strip, dim=2)) for name, strip in strips.items()}

    def _end_cuda_graphs(self) -> None:
        """Lets go of what CUDA graphs hold, so that it is there for what runs eagerly after them.

        Raises:
            RuntimeError: There should be graphs, and torch has recorded none.
        """
        if not uses_cuda_graphs(self.variant, self.device):
            return
        if not torch._dynamo.utils.counters["inductor"]["cudagraph_recorded_non_static_inputs"]:
            raise RuntimeError("asked for CUDA graphs, the network ran without: none was recorded")
        torch.compiler.reset()
        torch.cuda.empty_cache()

    def _batch(self, frames: np.ndarray) -> Batch:
        """For evaluation, in fp32: the middle of frames."""
        windows = None
        if self.margin:
            windows = torch.tensor([[self.margin // 2, self.margin // 2, 0]]).repeat(len(frames), 1)
        return self._convert(self._pixels(frames), windows, torch.float32)

    def _pixels(self, frames: np.ndarray) -> Tensor:
        return torch.from_numpy(self.frames[frames])

    def _convert(self, pixels: Tensor, windows: Tensor | None, dtype: torch.dtype) -> Batch:
        """uint8 RGB of shape (N, H, W, 3) in the host's memory to a batch, on the device.

        Args:
            pixels: Frames.
            windows: What is taken of them; see `kernels.rgb_to_lab`.
            dtype: Of the batch, where one kernel makes it; the plain chain makes fp32.
        """
        if self.device.type == "cuda":
            # From pageable memory the host may wait for the copy, whatever `non_blocking` says.
            pixels = pixels.pin_memory()
        pixels = pixels.to(self.device, non_blocking=True)
        side = self.image_size
        if self.variant.color is not Color.FUSED:
            return self._input(*scaled_lab(pixels.permute(0, 3, 1, 2), windows, side))
        lightness, ab = rgb_to_lab(
            pixels,
            windows=windows,
            size=(side, side),
            dtype=dtype,
            memory_format=memory_format(self.variant),
            l_center=L_CENTER,
            l_scale=L_SCALE,
            ab_scale=AB_SCALE,
        )
        return Batch(lightness, ab)

    def _loaded(
        self, order: Sequence[np.ndarray], windows: Tensor | None
    ) -> Generator[Batch, None, None]:
        """As `batches`, by worker processes that convert frame by frame, some batches ahead."""
        starts = np.cumsum([0, *map(len, order)])
        places = [
            list(zip(self.train[indices].tolist(), range(start, start + len(indices)), strict=True))
            for indices, start in zip(order, starts.tolist(), strict=False)
        ]
        loader = DataLoader(
            _Frames(self.frames, windows, self.image_size),
            batch_sampler=places,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            multiprocessing_context="fork",
        )
        for parts in loader:
            yield self._input(*(part.to(self.device, non_blocking=True) for part in parts))

    def _input(self, lightness: Tensor, ab: Tensor) -> Batch:
        return Batch(to_input(lightness, self.variant), to_input(ab, self.variant))

    def _predict(self, batch: Batch, network: Network) -> Tensor:
        with autocast(self.variant, self.device):
            scaled = network(batch.lightness)
        return scaled.float()

    def _mean_ab(self) -> Tensor:
        """Mean ab of the training frames, fp32 of shape (1, 2, 1, 1)."""
        total = torch.zeros(2, dtype=torch.float64, device=self.device)
        for start in range(0, len(self.train), self.evaluation_size):
            ab = self._batch(self.train[start : start + self.evaluation_size]).ab * AB_SCALE
            total += ab.mean(dim=(2, 3)).sum(dim=0)
        return (total / len(self.train)).float().view(1, 2, 1, 1)
