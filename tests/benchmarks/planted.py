"""The workload with a slowdown planted in each training step, to try verdicts on a known truth."""

import time
from collections.abc import Mapping
from typing import Any

from unet.colorize import ColorizationTask
from unet.workload import Colorization, Scalar

CHOICES = ("undelayed", "delayed")


def undelayed(axes: Mapping[str, str]) -> dict[str, str]:
    """The axes that colorization knows."""
    return {axis: value for axis, value in axes.items() if axis != "delay"}


class PlantedTask(ColorizationTask):
    """Trains as `ColorizationTask`; a delayed one waits after each step."""

    def __init__(
        self, *, axes: Mapping[str, str], settings: Mapping[str, Scalar], **more: Any
    ) -> None:
        super().__init__(axes=undelayed(axes), settings=settings, **more)
        self.delay_s = int(settings["delay_us"]) / 1e6 if axes["delay"] == "delayed" else 0.0

    @staticmethod
    def unsupported(axes: Mapping[str, str], device: str) -> str | None:
        return ColorizationTask.unsupported(undelayed(axes), device)

    def optimize(self, progress: float) -> None:
        super().optimize(progress)
        end_s = time.perf_counter() + self.delay_s
        while time.perf_counter() < end_s:  # a sleep would be longer than asked
            pass


class Planted(Colorization):
    """Colorization with an axis more: whether each step waits for `delay_us` microseconds."""

    task = "tests.benchmarks.planted:PlantedTask"
    axes: Mapping[str, tuple[str, ...]] = {**Colorization.axes, "delay": CHOICES}
    settings: Mapping[str, Scalar] = {**Colorization.settings, "delay_us": 0}

    def variant_name(self, axes: Mapping[str, str]) -> str:
        name = super().variant_name(undelayed(axes))
        return name if axes["delay"] == CHOICES[0] else f"{name}+delayed"

    def parse_variant(self, name: str) -> dict[str, str]:
        own = name.removesuffix("+delayed")
        return super().parse_variant(own) | {"delay": CHOICES[own != name]}

    def compiles(self, axes: Mapping[str, str]) -> bool:
        return super().compiles(undelayed(axes))

    def eager_bound(self, axes: Mapping[str, str]) -> dict[str, str]:
        return super().eager_bound(undelayed(axes)) | {"delay": axes["delay"]}


PLANTED = Planted()
