"""The toy workload at work; see `tests.toy`."""

import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.toy import Scalar


class ToyTask:
    """Fits one number to the mean of the sample indices."""

    def __init__(
        self,
        *,
        axes: Mapping[str, str],
        settings: Mapping[str, Scalar],
        batch_size: int,
        handle: Mapping[str, Scalar],
        device: str,
    ) -> None:
        self.fault = axes["fault"]
        self.sleep_s = float(settings["sleep_ms"]) / 1000
        self.too_large = batch_size >= int(settings["oom_from"])
        self.device = torch.device(device)
        self.weight = torch.zeros(1, device=self.device, requires_grad=True)
        self.facts: dict[str, Any] = {"batch_size": batch_size}

    @staticmethod
    def unsupported(axes: Mapping[str, str], device: str) -> str | None:
        return f"{device} cannot do this" if axes["fault"] == "unsupported" else None

    def load(self, indices: np.ndarray) -> Tensor:
        return torch.from_numpy(indices).to(self.device).float()

    def forward(self, batch: Tensor) -> Tensor:
        time.sleep(self.sleep_s)
        if self.fault == "raise":
            raise RuntimeError("the task is broken\nin two lines")
        if self.fault == "abort":
            os.abort()
        if self.fault == "exit":
            os._exit(7)
        if self.fault == "hang":
            time.sleep(3600)
        if self.fault == "oom" and self.too_large:
            torch.ones(1 << 40, dtype=torch.uint8)
        loss = (batch / 64 - self.weight).square().mean()
        return loss / 0 if self.fault == "nan" else loss

    def backward(self, loss: Tensor) -> None:
        self.weight.grad = None
        loss.backward()  # type: ignore[no-untyped-call]

    def optimize(self, progress: float) -> None:
        with torch.no_grad():
            assert self.weight.grad is not None
            self.weight -= 0.1 * (1 - progress) * self.weight.grad

    def evaluate(self) -> dict[str, float]:
        error = (self.weight - 0.5).square().item()
        return {"final_mse": error, "grey_mse": 1.0, "mean_color_mse": 0.5}
