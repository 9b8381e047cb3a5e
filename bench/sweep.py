"""The parent: which trials are to run, in which order, and where their rows go."""

import contextlib
import os
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from bench import journal as journals
from bench import noise, previews, stopping, support
from bench.budget import (
    DEFAULT_BUDGET_BYTES,
    WSL_MARGIN_BYTES,
    default_budget,
    format_bytes,
    usable_bytes,
)
from bench.environment import describe_host, is_wsl
from bench.errors import UserError, as_user_error
from bench.estimate import estimate_s
from bench.journal import Journal, Row, check_comparable
from bench.nvml import nvml_describe, nvml_free_bytes
from bench.predict import Prediction, Predictor, experiment
from bench.runner import Listener, Runner, StopRequest
from bench.spec import SweepSpec
from bench.stopping import Stop
from bench.trial import Scalar, Status, Trial, TrialResult
from bench.workload import Data

DEFAULT_TIMEOUT_S = 1800.0


class Observer(Listener, Protocol):
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
        predict: Whether to predict every cell's memory first. Rows then record it, and those that
            are not expected to fit come last in their round.
        predictions: Where that is done already; see `Predictor.of_trials`.
    """

    spec: SweepSpec
    folder: Path
    timeout_s: float
    retry: frozenset[Status]
    command: Sequence[str]
    predict: bool = False
    predictions: Mapping[str, Prediction] = field(default_factory=dict)


def run(plan: Plan, observer: Observer, runner: Runner | None = None) -> bool:
    """Runs a sweep, or the rest of one.

    Args:
        plan: What to do.
        observer: Is told how it goes.
        runner: One that is there already, and stays; `None` for one of the sweep's own.

    Returns:
        Whether it came to its end; `False` when the user interrupted it.

    Raises:
        UserError: The user's mistake, in one line; rows that were written stay.
    """
    spec = plan.spec
    began_at = datetime.now(UTC).isoformat(timespec="seconds")
    clock = _TimeLimit(spec.one("time_limit_s"))
    earlier = earlier_rows(plan.folder)
    with contextlib.ExitStack() as stack:
        if runner is None:
            runner = stack.enter_context(Runner(spec.workload.task, plan.timeout_s))
        environment, budget_bytes = situate(plan, runner, earlier, observer)
        device, gpu_uuid = environment.pop("device"), environment["gpu_uuid"]
        check_budget(runner, environment | {"device": device}, budget_bytes)
        meanings = support.resolve(spec, runner, device, observer.note)
        spec = support.supported(spec.resolved(meanings), runner, device, observer.note)
        trials = spec.trials(device, budget_bytes)
        data = _prepare(spec, observer)
        predictions = plan.predictions
        if plan.predict:
            predictions = Predictor(runner, spec.workload, device).of_trials(trials, observer.note)
        trials.sort(key=lambda trial: (trial.round, not _may_fit(trial, predictions)))
        plain = {axis: values[0] for axis, values in spec.workload.axes.items()}
        workload = {
            "name": spec.workload.name,
            "axes": plain,
            "plain": spec.workload.variant_name(plain),
            "meanings": meanings,
            "baselines": dict(spec.workload.baselines),
        }

        def row_of(trial: Trial, result: TrialResult) -> Row:
            ready = _data_of(trial, data)
            described = workload | {"train_size": ready.train_size, "notes": list(ready.notes)}
            return Row(trial, described, dict(ready.provenance), environment, result)

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

            def widest(rounds: int) -> float | None:
                """The widest interval of the first so many rounds, where it is asked for."""
                rows = (row for key, row in journal.rows.items() if key in asked)
                return stopping.widest_interval(rows, plain, rounds) if spec.ci_width else None

            round_, ended_by = None, Stop.ROUNDS
            for trial in to_do:
                if stop.requested:
                    break
                if trial.round != round_:
                    width = widest(trial.round - stopping.CONFIRMING_ROUNDS)
                    if spec.ci_width and width is not None and width < spec.ci_width:
                        ended_by = Stop.CI_WIDTH
                        break
                    if round_ is not None:
                        runner.new_round()
                    round_ = trial.round
                if not clock.allows(trial, journal.rows.values()):
                    ended_by = Stop.MAX_TIME
                    continue
                observer.trial(trial)
                known = [row for key, row in journal.rows.items() if key not in stale]
                before = journal.rows.get(trial.key)
                forced = before is not None and before.result.status in (
                    plan.retry & {Status.IMPLIED_OOM}
                )
                result = None if forced else implied_oom(trial, known)
                if result is None:
                    compiled = spec.workload.compiles(trial.axes)
                    ready = _data_of(trial, data)
                    again = trial.round + 1 < spec.one("rounds")
                    # Rounds of a cell learn the same, so that one has pictures for all.
                    count = 0 if trial.round else spec.one("previews")
                    result = runner.run(
                        trial,
                        ready,
                        gpu_uuid,
                        stop,
                        observer,
                        compiled=compiled,
                        again=again,
                        previews=(plan.folder / previews.FOLDER, count) if count else None,
                    )
                if prediction := predictions.get(experiment(trial)):
                    result.memory |= prediction.figures(trial.batch_size)
                if before is not None and _stands(before.result, result):
                    row = before
                else:
                    row = journal.append(row_of(trial, result))
                stale.discard(trial.key)
                observer.row(row)
            if to_do:
                rounds = _whole_rounds(trials, journal.rows)
                run = stopping.Run(
                    environment["command"],
                    began_at,
                    datetime.now(UTC).isoformat(timespec="seconds"),
                    Stop.INTERRUPTED if stop.requested else ended_by,
                    rounds,
                    spec.ci_width,
                    widest(rounds),
                )
                stopping.record(plan.folder, run)
                if spec.ci_width is not None:
                    observer.note(run.sentence)
            if clock.left_out:
                observer.note(
                    f"{clock.left_out} of {len(trials)} trials are not measured: the time limit of "
                    f"{clock.limit_s} s leaves no room for them. To go on: the same command with "
                    f"--out {shlex.quote(str(plan.folder))}"
                )
        return not stop.requested


def situate(
    plan: Plan, runner: Runner, earlier: Sequence[Row], observer: Observer
) -> tuple[dict[str, Any], int]:
    """Where a sweep is.

    Args:
        plan: What is asked.
        runner: Starts the process that looks.
        earlier: Rows that are there.
        observer: Is told what is not simply what was asked for.

    Returns:
        The environment, `device` in it, and the budget in bytes.
    """
    environment = describe_host(list(plan.command))
    found = runner.probe(plan.spec.one("device"))
    free_bytes = found.free_bytes
    if found.note:
        observer.note(found.note)
    environment |= found.environment | {"device": found.device}
    environment["noise"] = noise.read(environment)
    gpu_uuid, place = environment["gpu_uuid"], environment["device"]
    if gpu_uuid:  # asked from here, where no CUDA context takes its share
        by_nvml = nvml_free_bytes(gpu_uuid)
        free_bytes = usable_bytes(free_bytes if by_nvml is None else by_nvml)
        if is_wsl():
            observer.note(
                "On WSL2 Windows may move a GPU's memory to the host instead of refusing more: "
                f"{format_bytes(WSL_MARGIN_BYTES)} of it count as not free."
            )
        if nvml_describe(gpu_uuid).get("display_active"):
            place = f"{place}, which drives a display,"
    return environment, _budget(plan.spec, earlier, place, free_bytes, observer)


class _TimeLimit:
    """Lets a trial begin as long as it is expected to end in time; 0 seconds are no limit.

    The first one may always begin, so that a sweep that is run again and again comes to its end.
    """

    def __init__(self, limit_s: int) -> None:
        self.limit_s = limit_s
        self.left_out = 0
        self._first = True
        self._began_s = time.monotonic()

    def allows(self, trial: Trial, rows: Iterable[Row]) -> bool:
        if not self.limit_s or self._first:
            self._first = False
            return True
        spent_s = time.monotonic() - self._began_s
        in_time = spent_s + (estimate_s(trial, rows) or 0.0) < self.limit_s
        self.left_out += not in_time
        return in_time


def _whole_rounds(trials: Iterable[Trial], rows: Mapping[str, Row]) -> int:
    """How many rounds, from the first on, have a row that stands of every trial."""
    missing = [
        trial.round
        for trial in trials
        if trial.key not in rows or rows[trial.key].result.status is Status.INTERRUPTED
    ]
    return min(missing, default=1 + max(trial.round for trial in trials))


def _stands(before: TrialResult, now: TrialResult) -> bool:
    """Whether a trial that was not carried out has not been for the same reason as before."""
    not_run = (Status.IMPLIED_OOM, Status.UNSUPPORTED)
    return now.status in not_run and (before.status, before.reason, before.implied_by) == (
        now.status,
        now.reason,
        now.implied_by,
    )


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


def earlier_rows(folder: Path) -> list[Row]:
    """What is in the folder already; tells at once if nothing could be written there."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise UserError(f"--out {folder}: expected a folder, {there} is a file")
    probe = there / f".unet-bench-{os.getpid()}"
    try:  # permissions alone do not tell: of /proc they allow everything to root
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise UserError(f"--out {folder}: {there} cannot be written: {error.strerror}") from None
    return journals.read_if_any(folder)


def _to_do(trials: list[Trial], journal: Journal, retry: frozenset[Status]) -> list[Trial]:
    """Trials that are missing, have not run, shall run again, or are implied by one that does."""
    status = {key: row.result.status for key, row in journal.rows.items()}
    # What was not supported may be by now (a compiler was installed), and is told in no time.
    again = {None, Status.INTERRUPTED, Status.UNSUPPORTED, *retry}
    missing = {trial.key for trial in trials if status.get(trial.key) in again}

    def groundless(trial: Trial) -> bool:
        if status.get(trial.key) is not Status.IMPLIED_OOM:
            return False
        ground = journal.rows[trial.key].result.implied_by
        return ground in missing or status.get(ground or "") is not Status.OOM

    return [trial for trial in trials if trial.key in missing or groundless(trial)]


def _budget(
    spec: SweepSpec, earlier: Sequence[Row], place: str, free_bytes: int, observer: Observer
) -> int:
    """What was asked for, else what the rows of an earlier run had, else the default.

    Args:
        spec: What was asked.
        earlier: Rows that are there.
        place: The device, in words.
        free_bytes: There; what a display or others use is no part of it.
        observer: Is told where this is not simply what was asked for.
    """
    free = f"{place} has {format_bytes(free_bytes)} free"
    budget = spec.budget_bytes or (earlier[0].trial.budget_bytes if earlier else None)
    if budget is None:
        budget = default_budget(free_bytes)
        if budget < DEFAULT_BUDGET_BYTES:
            observer.note(f"Budget {format_bytes(budget)}: {free}.")
    elif budget > free_bytes:
        observer.note(
            f"Budget {format_bytes(budget)}: {free}, so that memory may run out before the budget."
        )
    return budget


def check_budget(runner: Runner, environment: Mapping[str, Any], budget_bytes: int) -> int:
    """Raises `UserError` if a trial's process does not fit the budget at all.

    Returns:
        Bytes of the budget that the CUDA context takes; 0 on a CPU.
    """
    request = {"device": environment["device"], "gpu_uuid": environment["gpu_uuid"]}
    asked = request | {"budget_bytes": budget_bytes}
    return int(runner.ask("bench.worker:check_budget", asked)["context_bytes"])


def _may_fit(trial: Trial, predictions: Mapping[str, Prediction]) -> bool:
    prediction = predictions.get(experiment(trial))
    return prediction is None or prediction.peak_bytes(trial.batch_size) <= trial.budget_bytes


def _prepare(spec: SweepSpec, observer: Observer) -> list[tuple[dict[str, Scalar], Data]]:
    """The data of every combination of settings; the cache makes repetitions cheap."""
    with as_user_error():
        data = [
            (settings, spec.workload.prepare(settings, observer.preparing))
            for settings in spec.settings()
        ]
    for note in dict.fromkeys(note for _, ready in data for note in ready.notes):
        observer.note(note)
    for _, ready in data:  # some frames may have been left out
        spec.check_train_size(ready.train_size)
    return data


def _data_of(trial: Trial, data: list[tuple[dict[str, Scalar], Data]]) -> Data:
    return next(ready for settings, ready in data if settings == trial.settings)
