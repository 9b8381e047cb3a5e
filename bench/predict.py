"""Peak memory without the device: what `bench.tracing` finds, at any batch size.

The parent's side, which has no torch.
"""

import bisect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.errors import UserError
from bench.runner import Runner
from bench.trial import Scalar, Trial
from bench.workload import Workload

Moment = dict[str, tuple[float, float]]
"""What lives at a moment of a training step: kind of memory -> its bytes at a batch of nothing, and
its bytes per sample."""

ACTIVATIONS = "activations"
"""Memory of the forward pass that the backward pass needs: a kind begins with it for each part of
the network."""

TEMPORARY = "temporary"
"""Memory that does not outlive the phase it is used in, workspaces of operations included."""


def experiment(trial: Trial) -> str:
    """What trials of a variant have in common, at whatever batch size."""
    return _key(trial.axes, trial.settings)


def _key(axes: Mapping[str, str], settings: Mapping[str, Scalar]) -> str:
    return json.dumps([dict(axes), dict(settings)], sort_keys=True)


_CHECK = 0.01
"""How far a prediction may be off at the batch size it is checked at."""


@dataclass(frozen=True)
class Prediction:
    """Memory that training a variant takes, by tracing it.

    Attributes:
        steady: Moments of a step, from the second step on; the largest at a batch size is the peak.
        first_step: The same of the first one, in which the optimizer has no state yet.
        resident: What lives between two steps, the batch included.
        process_bytes: What a process on the CPU has beside: measured, not traced. 0 for a GPU,
            whose context and workspaces are not in the allocator's peak.
        is_bound: Whether it is that of an eager variant which bounds a compiled one.
        check_error: By how much the model is off at the largest batch size asked for, which it was
            not made from, as a share of the peak there.
    """

    steady: Sequence[Moment]
    first_step: Sequence[Moment]
    resident: Moment
    process_bytes: int
    is_bound: bool
    check_error: float

    def breakdown(self, batch_size: int) -> dict[str, int]:
        """Bytes at the steady peak, by kind of memory, the process's own left out."""
        moment = max(self.steady, key=lambda moment: _total(moment, batch_size))
        return {kind: round(c + s * batch_size) for kind, (c, s) in moment.items()}

    def steady_bytes(self, batch_size: int) -> int:
        """The peak from the second step on, with the process's own."""
        return self._peak(self.steady, batch_size)

    def first_step_bytes(self, batch_size: int) -> int:
        """The peak of the first step, with the process's own."""
        return self._peak(self.first_step, batch_size)

    def _peak(self, moments: Sequence[Moment], batch_size: int) -> int:
        return self.process_bytes + round(max(_total(moment, batch_size) for moment in moments))

    def peak_bytes(self, batch_size: int) -> int:
        """The peak of all steps, with the process's own."""
        return max(self.steady_bytes(batch_size), self.first_step_bytes(batch_size))

    @property
    def baseline_bytes(self) -> int:
        """What a process on the CPU has after one step with a batch of one; 0 for a GPU."""
        return self.process_bytes and self.process_bytes + round(_total(self.resident, 1))

    def figures(self, batch_size: int) -> dict[str, int | str | None]:
        """What a row records of it."""
        return {
            "predicted_bytes": self.steady_bytes(batch_size),
            "predicted_first_step_bytes": self.first_step_bytes(batch_size),
            "predicted_baseline_bytes": self.baseline_bytes,
            "predicted_is_bound": self.is_bound,
        }

    def to_json(self, batch_size: int) -> dict[str, Any]:
        """The prediction at a batch size, as JSON types."""
        return {
            "peak_bytes": self.peak_bytes(batch_size),
            "steady_bytes": self.steady_bytes(batch_size),
            "first_step_bytes": self.first_step_bytes(batch_size),
            "process_bytes": self.process_bytes,
            "steady_breakdown_bytes": self.breakdown(batch_size),
            "is_bound": self.is_bound,
            "check_error": self.check_error,
        }

    def largest(self, budget_bytes: float, cap: int) -> int:
        """The largest batch up to `cap` whose peak is within a budget; 0 if none is."""
        sizes = range(1, cap + 1)
        return bisect.bisect_right(sizes, budget_bytes, key=self.peak_bytes)


def _total(moment: Moment, batch_size: int) -> float:
    return sum(constant + slope * batch_size for constant, slope in moment.values())


class Predictor:
    """Predicts variants, each once.

    Args:
        runner: Starts the processes in which they are traced.
        workload: Whose they are.
        device: The kind that is meant, `cpu` or `cuda...`; it need not be there.
    """

    def __init__(self, runner: Runner, workload: Workload, device: str) -> None:
        self._runner = runner
        self._workload = workload
        self._device = device.partition(":")[0]
        self._traced: dict[str, dict[str, Any]] = {}
        self._process_bytes: dict[str, int] = {}

    def of_trials(
        self, trials: Iterable[Trial], note: Callable[[str], None]
    ) -> dict[str, Prediction]:
        """The prediction of each trial's variant, by `experiment`, as far as there can be one.

        Args:
            trials: Each prediction is checked at their largest batch size.
            note: Is told of those that cannot be predicted, and of those that are off.
        """
        trials = list(trials)
        largest = max(trial.batch_size for trial in trials)
        found: dict[str, Prediction] = {}
        for name, trial in {experiment(trial): trial for trial in trials}.items():
            try:
                found[name] = self.predict(trial.axes, trial.settings, largest)
            except UserError as error:
                note(f"Not predicted: {trial.variant}: {error}.")
                continue
            if abs(off := found[name].check_error) > _CHECK:
                words = f"{100 * off:+.1f} % at batch {largest}"
                note(f"Predicted as linear in the batch, which is off by {words}: {trial.variant}.")
        return found

    def predict(
        self, axes: Mapping[str, str], settings: Mapping[str, Scalar], check: int
    ) -> Prediction:
        """The prediction of a variant.

        Args:
            axes: The variant.
            settings: The workload's.
            check: The batch size at which the prediction is checked.

        Raises:
            UserError: It cannot be traced.
        """
        compiled = self._workload.compiles(axes)
        traced = self._workload.eager_bound(axes) if compiled else axes
        found = self._trace(traced, settings, check)
        return Prediction(
            found["steady"],
            found["first_step"],
            found["resident"],
            self._process(settings, check) if self._device == "cpu" else 0,
            compiled,
            found["check_error"],
        )

    def _trace(
        self, axes: Mapping[str, str], settings: Mapping[str, Scalar], check: int
    ) -> dict[str, Any]:
        key = _key(axes, settings)
        if key not in self._traced:
            request = self._request(axes, settings) | {"device": self._device, "check": check}
            self._traced[key] = self._runner.ask("bench.tracing:predict", request)
        return self._traced[key]

    def _process(self, settings: Mapping[str, Scalar], check: int) -> int:
        """What a process has beside what is traced, from one step of the plain variant."""
        key = _key({}, settings)
        if key not in self._process_bytes:
            plain = {axis: values[0] for axis, values in self._workload.axes.items()}
            resident = self._trace(plain, settings, check)["resident"]
            request = self._request(plain, settings)
            measured = self._runner.ask("bench.tracing:measure_process", request)
            self._process_bytes[key] = round(measured["process_bytes"] - _total(resident, 1))
        return self._process_bytes[key]

    def _request(self, axes: Mapping[str, str], settings: Mapping[str, Scalar]) -> dict[str, Any]:
        return {"task": self._workload.task, "axes": dict(axes), "settings": dict(settings)}
