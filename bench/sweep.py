"""The parent: which trials are to run, in which order, and where their rows go."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bench import journal as journals
from bench.budget import BUDGET_STEP_BYTES, DEFAULT_BUDGET_BYTES, format_bytes
from bench.environment import describe_host
from bench.journal import Journal, Row, check_comparable
from bench.monitor import Reading, nvml_free_bytes
from bench.runner import Runner, StopRequest
from bench.spec import SweepSpec
from bench.trial import Scalar, Status, Trial, TrialResult
from bench.workload import Data

DEFAULT_TIMEOUT_S = 1800.0


class Observer(Protocol):
    """Hears how a sweep goes; the command line shows it."""

    def preparing(self, done: int, total: int) -> None:
        """So many of the frames are ready."""
        ...

    def note(self, text: str) -> None:
        """Something worth knowing, in a sentence."""
        ...

    def begin(self, to_do: Sequence[Trial], done: Sequence[Row]) -> None:
        """The trials that are to run, in order, and the rows of an earlier run that stand."""
        ...

    def trial(self, trial: Trial) -> None:
        """A trial starts."""
        ...

    def phase(self, name: str) -> None:
        """A phase of it begins."""
        ...

    def reading(self, reading: Reading) -> None:
        """How the trial under way is doing; a few times a second."""
        ...

    def row(self, row: Row) -> None:
        """A trial has ended and its row is on disk."""
        ...


@dataclass(frozen=True)
class Plan:
    """What a sweep is going to do.

    Attributes:
        spec: What was asked.
        folder: Where the journal is.
        timeout_s: Of one trial.
        retry: Trials that ended like this run again.
        command: The command line, for the record.
    """

    spec: SweepSpec
    folder: Path
    timeout_s: float
    retry: frozenset[Status]
    command: Sequence[str]


def run(plan: Plan, observer: Observer) -> bool:
    """Runs a sweep, or the rest of one.

    Returns:
        Whether it came to its end; `False` when the user interrupted it.

    Raises:
        ValueError: The user's mistake, in one line; rows that were written stay.
    """
    spec = plan.spec
    earlier = _earlier_rows(plan.folder)
    with Runner(spec.workload.task, plan.timeout_s) as runner:
        environment = describe_host(list(plan.command))
        found = runner.ask("bench.worker:probe", {"device": spec.one("device")})["environment"]
        device, free_bytes = found.pop("device"), found.pop("free_bytes")
        if note := found.pop("note"):
            observer.note(note)
        environment |= found
        gpu_uuid = environment["gpu_uuid"]
        if gpu_uuid:  # asked from here, where no CUDA context takes its share
            free_bytes = nvml_free_bytes(gpu_uuid) or free_bytes
        budget_bytes = _budget(spec, earlier, device, free_bytes, observer)
        runner.ask(
            "bench.worker:check_budget",
            {"device": device, "gpu_uuid": gpu_uuid, "budget_bytes": budget_bytes},
        )
        trials = spec.trials(device, budget_bytes)
        data = _prepare(spec, observer)
        workload = {
            "name": spec.workload.name,
            "plain": spec.workload.variant_name(
                {axis: values[0] for axis, values in spec.workload.axes.items()}
            ),
            "baselines": dict(spec.workload.baselines),
        }

        def row_of(trial: Trial, result: TrialResult) -> Row:
            provenance = dict(_data_of(trial, data).provenance)
            return Row(trial, workload, provenance, environment, result)

        with Journal(plan.folder) as journal, StopRequest() as stop:
            for row in list(journal.rows.values())[:1]:  # all others are like it
                new = row_of(trials[0], TrialResult(Status.OK))
                check_comparable(row, new, str(journal.path))
            to_do = _to_do(trials, journal, plan.retry)
            stale = {trial.key for trial in to_do}
            asked = {trial.key for trial in trials}
            observer.begin(
                to_do, [row for key, row in journal.rows.items() if key in asked - stale]
            )
            round_ = to_do[0].round if to_do else 0
            for trial in to_do:
                if stop.requested:
                    break
                if trial.round != round_:
                    runner.new_round()
                    round_ = trial.round
                observer.trial(trial)
                known = [row for key, row in journal.rows.items() if key not in stale]
                before = journal.rows.get(trial.key)
                forced = before is not None and before.result.status in (
                    plan.retry & {Status.IMPLIED_OOM}
                )
                result = None if forced else implied_oom(trial, known)
                if result is None:
                    ready = _data_of(trial, data)
                    result = runner.run(
                        trial,
                        ready.train_size,
                        dict(ready.handle),
                        gpu_uuid,
                        stop,
                        observer.phase,
                    )
                if before is not None and before.result.implied_by == result.implied_by is not None:
                    row = before  # its ground was tried again, and stands
                else:
                    row = row_of(trial, result)
                    journal.append(row)
                stale.discard(trial.key)
                observer.row(row)
        return not stop.requested


def implied_oom(trial: Trial, rows: Iterable[Row]) -> TrialResult | None:
    """A result without a run, if a smaller batch of the same variant ran out of memory."""
    for row in rows:
        if (
            row.result.status is Status.OOM
            and row.trial.batch_size < trial.batch_size
            and _experiment(row.trial) == _experiment(trial)
        ):
            return TrialResult(
                Status.IMPLIED_OOM,
                f"batch {row.trial.batch_size} of {trial.variant} ran out of memory",
                implied_by=row.trial.key,
            )
    return None


def _experiment(trial: Trial) -> tuple[Any, ...]:
    return dict(trial.axes), dict(trial.settings), trial.budget_bytes


def _earlier_rows(folder: Path) -> list[Row]:
    """What is in the folder already; tells at once if nothing could be written there."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ValueError(f"--out {folder}: expected a folder, {there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"--out {folder}: {there} cannot be written")
    return journals.read(folder) if (folder / journals.FILE_NAME).exists() else []


def _to_do(trials: list[Trial], journal: Journal, retry: frozenset[Status]) -> list[Trial]:
    """The trials that are missing, interrupted, to be tried again, or implied by one that is."""
    status = {key: row.result.status for key, row in journal.rows.items()}
    again = {None, Status.INTERRUPTED, *retry}
    missing = {trial.key for trial in trials if status.get(trial.key) in again}

    def groundless(trial: Trial) -> bool:
        if status.get(trial.key) is not Status.IMPLIED_OOM:
            return False
        ground = journal.rows[trial.key].result.implied_by
        return ground in missing or status.get(ground or "") is not Status.OOM

    return [trial for trial in trials if trial.key in missing or groundless(trial)]


def _budget(
    spec: SweepSpec, earlier: list[Row], device: str, free_bytes: int, observer: Observer
) -> int:
    asked = spec.budget_bytes
    if asked is not None:
        if asked > free_bytes:
            raise ValueError(
                f"budget {format_bytes(asked)}: {device} has {format_bytes(free_bytes)} free"
            )
        return asked
    if earlier:
        return earlier[0].trial.budget_bytes
    if free_bytes >= DEFAULT_BUDGET_BYTES:
        return DEFAULT_BUDGET_BYTES
    budget = free_bytes // BUDGET_STEP_BYTES * BUDGET_STEP_BYTES
    observer.note(f"Budget {format_bytes(budget)}: {device} has {format_bytes(free_bytes)} free.")
    return budget


def _prepare(spec: SweepSpec, observer: Observer) -> list[tuple[dict[str, Scalar], Data]]:
    """The data of every combination of settings; the cache makes repetitions cheap."""
    return [
        (settings, spec.workload.prepare(settings, observer.preparing))
        for settings in spec.settings()
    ]


def _data_of(trial: Trial, data: list[tuple[dict[str, Scalar], Data]]) -> Data:
    return next(ready for settings, ready in data if settings == trial.settings)
