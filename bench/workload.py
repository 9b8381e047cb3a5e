"""The one protocol between the harness and what it measures.

A workload has two sides. The *description* (`Workload`) is read by the parent process and must
not import torch. The *task* (`Task`) is built in a trial's own process and does the work.
Both are structural: a workload needs to import nothing from here.
"""

import importlib
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from bench.errors import UserError
from bench.trial import Scalar

Progress = Callable[[int, int], None]
"""Called with (items done, items in all) while something long is prepared."""


class Data(Protocol):
    """Training data made ready for all trials of a sweep."""

    @property
    def train_size(self) -> int:
        """Samples to train on."""
        ...

    @property
    def provenance(self) -> Mapping[str, Scalar]:
        """What was read and how it was split; must be the same in every row of a folder."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What the user should know about it, in sentences; every row records them."""
        ...

    @property
    def handle(self) -> Mapping[str, Scalar]:
        """Whatever the task needs to open it; JSON types."""
        ...


@runtime_checkable
class Workload(Protocol):
    """The description of a workload, free of torch."""

    @property
    def name(self) -> str:
        """What it is called in reports."""
        ...

    @property
    def task(self) -> str:
        """The task's class as `module:attribute`, imported in a trial's process only."""
        ...

    @property
    def axes(self) -> Mapping[str, tuple[str, ...]]:
        """Axis -> its values. The first is the default; the defaults make the plain variant."""
        ...

    @property
    def preferences(self) -> Mapping[str, Mapping[str, tuple[str, ...]]]:
        """Axis -> word -> the values it may stand for, best first; may be empty.

        A sweep may name the word in place of a value. It then means the first of them that the
        device supports; the last is one that every device supports. Trials have values only.
        """
        ...

    @property
    def settings(self) -> Mapping[str, Scalar]:
        """Setting -> its default, whose type is the setting's type."""
        ...

    @property
    def data_settings(self) -> frozenset[str]:
        """The settings that decide what is learnt from: one value each in a sweep."""
        ...

    @property
    def baselines(self) -> Mapping[str, str]:
        """What needs no training, to be compared with `final_mse`; may be empty.

        A quality figure of `Task.evaluate` -> what it is, in words. The smallest of a row is the
        one to beat; to one that is 0 there is no ratio.
        """
        ...

    def variant_name(self, axes: Mapping[str, str]) -> str:
        """The name of a variant, derived from its axes."""
        ...

    def parse_variant(self, name: str) -> dict[str, str]:
        """The inverse of `variant_name`; raises `ValueError` naming what is wrong.

        A name may hold words of `preferences`, which are then among the values returned.
        """
        ...

    def compiles(self, axes: Mapping[str, str]) -> bool:
        """Whether a variant is made by torch.compile.

        Its compilation is then timed, and must happen: a variant that is called compiled and runs
        eagerly is a fault.
        """
        ...

    def eager_bound(self, axes: Mapping[str, str]) -> dict[str, str]:
        """The eager variant that takes no less memory than a compiled one does."""
        ...

    def check(self, settings: Mapping[str, Scalar]) -> None:
        """Raises `ValueError` naming the setting that is wrong or does not go with another."""
        ...

    def train_size(self, settings: Mapping[str, Scalar]) -> int:
        """How many samples there are to train on, without preparing them."""
        ...

    def prepare(self, settings: Mapping[str, Scalar], progress: Progress) -> Data:
        """Makes the data ready, once; safe when two processes do it at the same time."""
        ...


class Task(Protocol):
    """A workload at work, inside a trial's process.

    The harness takes a batch from `batches`, then calls `forward`, `backward`, `optimize` in this
    order for every step and times them apart; none of them may synchronize with the device.
    """

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the row shall record of this task: flags in force, scaling, parameters.

        Asked for when it has been built, and again after its last step. Reports know of
        `skipped_steps` (of the steps from 0 on, those that updated nothing, since gradients had
        overflowed), `loss_scale` (at the end) and `caveats` (sentences that a reader must know).
        """
        ...

    def batches(self, order: Sequence[np.ndarray]) -> Generator[Any, None, None]:
        """The batches of a run, on the device; closed when the last one has been trained on.

        Args:
            order: The samples of each (int64, below the training set's size).
        """
        ...

    def example(self) -> Any:
        """A batch as `batches` makes it, of any values; asked for instead of it by predictions.

        The task is then built on the CPU with an empty `handle`, and without memory: tensors are
        fake (`torch._subclasses.FakeTensorMode`), and no value of theirs may decide anything.
        """
        ...

    def forward(self, batch: Any) -> Any:
        """The batch's loss, a scalar tensor on the device."""
        ...

    def backward(self, loss: Any) -> None:
        """Gradients of the loss."""
        ...

    def optimize(self, progress: float) -> None:
        """One optimizer step; `progress` runs from 0 (first step) to 1 (last step)."""
        ...

    def evaluate(self) -> dict[str, float]:
        """Quality on the validation set, `final_mse` among it."""
        ...

    def previews(self, count: int) -> Mapping[str, bytes]:
        """What a person shall see of the trained workload, as PNG files; may be empty.

        Args:
            count: So many fixed samples, the same for all variants.

        Returns:
            By caption, such as "predicted" and "true".
        """
        ...


class TaskFactory(Protocol):
    """A task's class. Seeds are set before it is called."""

    def __call__(
        self,
        *,
        axes: Mapping[str, str],
        settings: Mapping[str, Scalar],
        batch_size: int,
        handle: Mapping[str, Scalar],
        device: str,
    ) -> Task:
        """Builds the task on a device."""
        ...

    def unsupported(self, axes: Mapping[str, str], device: str) -> str | None:
        """Why this device cannot do this variant, in words; `None` if it can."""
        ...


def load_object(entry: str) -> Any:
    """What `module:attribute` names.

    Raises:
        UserError: It cannot be found.
    """
    module_name, _, attribute = entry.partition(":")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"{entry!r}: expected MODULE:ATTRIBUTE of something that can be imported ({error})"
        ) from None
