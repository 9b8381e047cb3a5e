"""The workload at work: Lab batches, the training step, evaluation."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch._dynamo  # an optimizer imports it at first use: seconds that belong to no trial
from torch import Tensor, nn

from kernels.lab import rgb_to_lab
from unet.apply import (
    Network,
    apply_variant,
    autocast,
    grad_scaler,
    make_optimizer,
    set_flags,
    to_input,
    uses_cuda_graphs,
)
from unet.apply import unsupported as variant_unsupported
from unet.model import UNet, UNetConfig
from unet.variant import Variant
from unet.workload import Scalar, split

L_CENTER = 50.0
L_SCALE = 50.0
AB_SCALE = 110.0
"""The network sees (L - 50) / 50, in [-1, 1], and predicts ab / 110: a and b of sRGB reach 108."""

LEARNING_RATE = 1e-3
FINAL_LEARNING_RATE = LEARNING_RATE / 20


class Batch(NamedTuple):
    """A batch as the network takes it, both fp32 on the device.

    Attributes:
        lightness: Scaled L of shape (N, 1, H, W).
        ab: a and b in Lab units, of shape (N, 2, H, W).
    """

    lightness: Tensor
    ab: Tensor


def learning_rate(progress: float) -> float:
    """Decays geometrically from 1e-3 (`progress` 0) to 1/20 of it (`progress` 1)."""
    return float(LEARNING_RATE * (FINAL_LEARNING_RATE / LEARNING_RATE) ** progress)


class ColorizationTask:
    """Trains the U-Net of one variant; see `bench.workload.Task` for how it is driven.

    Args:
        axes: The variant.
        settings: As in `unet.workload.Colorization.settings`.
        batch_size: Frames per step, also in evaluation.
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
        if handle:
            self.frames = np.load(str(handle["path"]), mmap_mode="r")
        else:
            self.frames = np.empty((0, self.image_size, self.image_size, 3), np.uint8)
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
        self.facts: dict[str, Any] = {
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "flags": flags,
            "channel_scaling": {"l_center": L_CENTER, "l_scale": L_SCALE, "ab_scale": AB_SCALE},
            "optimizer": "adam",
            "learning_rate": [LEARNING_RATE, FINAL_LEARNING_RATE],
        }

    @staticmethod
    def unsupported(axes: Mapping[str, str], device: str) -> str | None:
        """Why the device cannot do the variant, in words; `None` if it can."""
        return variant_unsupported(Variant.from_axes(axes), torch.device(device))

    def load(self, indices: np.ndarray) -> Batch:
        """Training frames `indices` as a batch: L and ab of the same frames."""
        return self._batch(self.train[indices])

    def example(self) -> Batch:
        """A batch as `load` makes it, of black frames; needs no data."""
        side = self.image_size
        return self._convert(torch.zeros((self.batch_size, side, side, 3), dtype=torch.uint8))

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
        return nn.functional.mse_loss(prediction, batch.ab / AB_SCALE)

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
            training set's mean ab).
        """
        self._end_cuda_graphs()
        self.model.eval()
        mean = self._mean_ab()
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        for start in range(0, len(self.validation), self.batch_size):
            batch = self._batch(self.validation[start : start + self.batch_size])
            predicted = self._predict(batch, self.model) * AB_SCALE
            errors = (predicted - batch.ab, batch.ab, mean - batch.ab)
            sums += torch.stack([error.square().mean(dim=(1, 2, 3)).sum() for error in errors])
        final, grey, mean_color = (sums / len(self.validation)).tolist()
        return {"final_mse": final, "grey_mse": grey, "mean_color_mse": mean_color}

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
        return self._convert(torch.from_numpy(self.frames[frames]))

    def _convert(self, pixels: Tensor) -> Batch:
        """uint8 RGB of shape (N, H, W, 3) in the host's memory to a batch."""
        if self.device.type == "cuda":
            # From pageable memory the host may wait for the copy, whatever `non_blocking` says.
            pixels = pixels.pin_memory()
        pixels = pixels.to(self.device, non_blocking=True)
        lab = rgb_to_lab(pixels.permute(0, 3, 1, 2).float() / 255)
        lightness = (lab[:, :1] - L_CENTER) / L_SCALE
        return Batch(to_input(lightness, self.variant), to_input(lab[:, 1:], self.variant))

    def _predict(self, batch: Batch, network: Network) -> Tensor:
        with autocast(self.variant, self.device):
            scaled = network(batch.lightness)
        return scaled.float()

    def _mean_ab(self) -> Tensor:
        """Mean ab of the training frames, fp32 of shape (1, 2, 1, 1)."""
        total = torch.zeros(2, dtype=torch.float64, device=self.device)
        for start in range(0, len(self.train), self.batch_size):
            ab = self._batch(self.train[start : start + self.batch_size]).ab
            total += ab.mean(dim=(2, 3)).sum(dim=0)
        return (total / len(self.train)).float().view(1, 2, 1, 1)
