"""Peak memory without the device: what `bench.tracing` finds, at any batch size.

The parent's side, which has no torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.runner import Runner
from bench.trial import Scalar
from bench.workload import Workload

Moment = dict[str, tuple[float, float]]
"""What lives at a moment of a training step: kind of memory -> its bytes at a batch of nothing, and
its bytes per sample."""

ACTIVATIONS = "activations"
"""Memory of the forward pass that the backward pass needs: a kind begins with it for each part of
the network."""

TEMPORARY = "temporary"
"""Memory that does not outlive the phase it is used in, workspaces of operations included."""


@dataclass(frozen=True)
class Prediction:
    """Memory that training a variant takes, by tracing it.

    Attributes:
        steady: Moments of a step; the largest at a batch size is the peak. From the second step on.
        first_step: The same of the first one, in which the optimizer has no state yet.
        process_bytes: What a process on the CPU has beside: measured, not traced; 0 for a GPU,
            whose context and workspaces are not in the allocator's peak.
        is_bound: Whether it is the eager form's, of a compiled variant.
        check_error: By how much the model is off at another batch size than it was made from, as a
            share of the peak there.
    """

    steady: Sequence[Moment]
    first_step: Sequence[Moment]
    process_bytes: int
    is_bound: bool
    check_error: float

    def breakdown(self, batch_size: int) -> dict[str, int]:
        """Bytes at the steady peak by kind of memory, the process's own left out."""
        moment = max(self.steady, key=lambda moment: _total(moment, batch_size))
        return {kind: round(c + s * batch_size) for kind, (c, s) in moment.items()}

    def tensors_bytes(self, batch_size: int) -> int:
        """The peak of all steps."""
        moments = (*self.steady, *self.first_step)
        return round(max(_total(moment, batch_size) for moment in moments))

    def peak_bytes(self, batch_size: int) -> int:
        """As `tensors_bytes`, with the process's own."""
        return self.process_bytes + self.tensors_bytes(batch_size)

    def largest(self, budget_bytes: float) -> int:
        """The largest batch whose peak is within a budget; 0 if none is."""
        fits, too_large = 0, 1
        while self.peak_bytes(too_large) <= budget_bytes:
            fits, too_large = too_large, 2 * too_large
        while too_large - fits > 1:
            middle = (fits + too_large) // 2
            if self.peak_bytes(middle) <= budget_bytes:
                fits = middle
            else:
                too_large = middle
        return fits


def _total(moment: Moment, batch_size: int) -> float:
    return sum(constant + slope * batch_size for constant, slope in moment.values())


class Predictor:
    """Predicts variants, each once.

    Args:
        runner: Starts the processes in which they are traced.
        workload: Whose they are.
        device: The kind that is meant, `cpu` or `cuda...`; it need not be there.
        check: A batch size at which every prediction is checked.
    """

    def __init__(self, runner: Runner, workload: Workload, device: str, check: int) -> None:
        self._runner = runner
        self._workload = workload
        self._device = device.partition(":")[0]
        self._check = check
        self._known: dict[str, Prediction] = {}
        self._process_bytes: dict[str, int] = {}

    def predict(self, axes: Mapping[str, str], settings: Mapping[str, Scalar]) -> Prediction:
        """The prediction for a variant.

        Raises:
            ValueError: It cannot be traced.
        """
        key = str((sorted(axes.items()), sorted(settings.items())))
        if key not in self._known:
            found = self._trace(axes, settings)
            self._known[key] = Prediction(
                found["steady"],
                found["first_step"],
                self._process(settings) if self._device == "cpu" else 0,
                self._workload.compiles(axes),
                found["check_error"],
            )
        return self._known[key]

    def _trace(self, axes: Mapping[str, str], settings: Mapping[str, Scalar]) -> dict[str, Any]:
        request = {"task": self._workload.task, "axes": dict(axes), "settings": dict(settings)}
        asked = request | {"device": self._device, "check": self._check}
        return self._runner.ask("bench.tracing:predict", asked)

    def _process(self, settings: Mapping[str, Scalar]) -> int:
        """What a process has beside what is traced: after one step of the plain variant."""
        key = str(sorted(settings.items()))
        if key not in self._process_bytes:
            plain = {axis: values[0] for axis, values in self._workload.axes.items()}
            request = {"task": self._workload.task, "axes": plain, "settings": dict(settings)}
            measured = self._runner.ask("bench.tracing:measure_process", request)
            resident = self._trace(plain, settings)["resident"]
            self._process_bytes[key] = round(measured["process_bytes"] - _total(resident, 1))
        return self._process_bytes[key]
