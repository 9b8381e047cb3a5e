"""The child: runs one trial in a process of its own and tells the parent how it goes.

Small events go to the parent as JSON lines: a `phase` with its moment on the monotonic clock
whenever one begins, and at the end one `result`.
"""

import json
import random
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import torch

from bench import budget as memory_budget
from bench import previews
from bench.compilation import Compilation, use_compile_cache
from bench.environment import ROOT, describe_device
from bench.errors import UserError
from bench.stats import SETTLED_STEPS, has_settled
from bench.steps import StepBoard
from bench.tensor_limits import too_large
from bench.trial import PHASES, Status, Trial, TrialResult
from bench.workload import TaskFactory, load_object

MARKS = len(PHASES) + 1
"""Of a step: where it begins, and where each of its phases ends."""


_ELSEWHERE = "Traceback (most recent call last):"
"""Begins the traceback of another process in an exception's text."""


class StepClock(Protocol):
    """Marks the boundaries of phases and tells their lengths after the last step."""

    def mark(self) -> None:
        """One boundary: the end of a phase and the beginning of the next."""
        ...

    def synchronize(self) -> None:
        """Waits until the device has done all it was given."""
        ...

    def intervals_s(self, first: int = 0) -> list[float]:
        """Seconds between consecutive marks, from mark `first` on."""
        ...


class CpuClock:
    """On CPU an operation has ended when it returns."""

    def __init__(self) -> None:
        self._marks: list[float] = []

    def mark(self) -> None:
        """See `StepClock`."""
        self._marks.append(time.perf_counter())

    def synchronize(self) -> None:
        """Nothing runs behind our back."""

    def intervals_s(self, first: int = 0) -> list[float]:
        """See `StepClock`."""
        return [end - start for start, end in pairwise(self._marks[first:])]


class CudaClock:
    """Events in the device's stream, read when all is over, so that nothing waits for them."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.current_stream(device)
        self._marks: list[torch.cuda.Event] = []

    def mark(self) -> None:
        """See `StepClock`."""
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(self._stream)
        self._marks.append(event)

    def synchronize(self) -> None:
        """See `StepClock`."""
        torch.cuda.synchronize(self._stream.device)

    def intervals_s(self, first: int = 0) -> list[float]:
        """See `StepClock`."""
        self.synchronize()
        return [start.elapsed_time(end) / 1000 for start, end in pairwise(self._marks[first:])]


class Events:
    """The child's end of the event pipe."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe

    def begin(self, phase: str) -> None:
        """Tells the parent that a phase begins now."""
        self.send({"event": "phase", "phase": phase, "at_s": time.monotonic()})

    def send(self, event: dict[str, Any]) -> None:
        """Sends one event, whole."""
        line = memoryview(json.dumps(event, default=str).encode() + b"\n")
        while line:
            line = line[self._pipe.write(line) :]


def probe(request: dict[str, Any], pipe: IO[bytes]) -> None:
    """Describes the device, for the parent, which has no torch.

    Args:
        request: `device`, as on the command line.
        pipe: Gets `{"environment": ...}` or `{"error": ...}`.
    """
    events = Events(pipe)
    try:
        events.send({"environment": describe_device(request["device"])})
    except UserError as error:
        events.send({"error": str(error)})


def check_budget(request: dict[str, Any], pipe: IO[bytes]) -> None:
    """Tells the parent whether a trial's process fits the budget at all.

    Args:
        request: `device`, `gpu_uuid` and `budget_bytes`.
        pipe: Gets `{"context_bytes": ...}`, what a CUDA context takes of it, or `{"error": ...}`.
    """
    events = Events(pipe)
    try:
        budget = memory_budget.enforce(
            request["device"], request["budget_bytes"], request["gpu_uuid"]
        )
        events.send({"context_bytes": budget.limits.get("context_bytes") or 0})
    except UserError as error:
        events.send({"error": str(error)})


def unsupported(request: dict[str, Any], pipe: IO[bytes]) -> None:
    """Tells the parent which variants the device cannot do.

    Args:
        request: `workload` and `task` (as `module:attribute`), `device`, and `variants`, by name.
        pipe: Gets `{"reasons": ...}`: why not, by the name of the variant.
    """
    workload, factory = load_object(request["workload"]), load_object(request["task"])
    reasons = {
        name: factory.unsupported(workload.parse_variant(name), request["device"])
        for name in request["variants"]
    }
    found = {name: reason for name, reason in reasons.items() if reason}
    Events(pipe).send({"reasons": found})


def run(request: dict[str, Any], pipe: IO[bytes]) -> None:
    """Runs one trial and sends its result.

    Args:
        request: `trial`, `task` (as `module:attribute`), `train_size` and `handle` of the data,
            `gpu_uuid`, `board` (path of the `StepBoard`), of a compiled variant `compile_cache` (a
            folder of its own), and `previews` (a folder, and the number of samples) or `None`.
        pipe: Gets the events.
    """
    events = Events(pipe)
    events.begin("starting")
    _run(request, events)


def compile_cold(request: dict[str, Any], pipe: IO[bytes]) -> None:
    """Runs the steps of a compiled trial that come before its measured window, and times them.

    A process of its own, so that the trial itself finds its kernels on disk, with nothing left in
    memory of how they were made.

    Args:
        request: As of `run`; `compile_cache` is empty.
        pipe: Gets the events.
    """
    events = Events(pipe)
    events.begin("compiling")
    _run(request | {"cold": True}, events)


def _run(request: dict[str, Any], events: Events) -> None:
    trial = Trial.from_json(request["trial"])
    result = TrialResult(Status.OK)
    try:
        budget = memory_budget.enforce(trial.device, trial.budget_bytes, request["gpu_uuid"])
    except UserError as error:  # the device has filled up since the sweep began
        result.status, result.reason = Status.OOM, str(error)
    else:
        result.memory.update(budget.limits)
        _attempt(request, trial, budget, events, result)
    events.send({"event": "result", "result": vars(result)})


def _attempt(
    request: dict[str, Any],
    trial: Trial,
    budget: memory_budget.MemoryBudget,
    events: Events,
    result: TrialResult,
) -> None:
    """Runs the trial and makes a status of whatever happens."""
    try:
        factory: TaskFactory = load_object(request["task"])
        if reason := factory.unsupported(trial.axes, trial.device):
            result.status, result.reason = Status.UNSUPPORTED, reason
        else:
            _train(request, trial, factory, budget, events, result)
    except Exception as error:  # noqa: BLE001 (whatever it was becomes the row's status)
        budget.lift()  # first of all, so that what follows has memory to work with
        result.status, result.reason = Status.CRASH, one_line(error)
        if memory_budget.is_out_of_memory(error):
            result.status = Status.OOM
        elif reason := too_large(error):
            result.status, result.reason = Status.UNSUPPORTED, reason
        result.detail = _traceback()


def _train(
    request: dict[str, Any],
    trial: Trial,
    factory: TaskFactory,
    budget: memory_budget.MemoryBudget,
    events: Events,
    result: TrialResult,
) -> None:
    """First step, warm-up, measured window, the rest of the samples, evaluation."""
    cold, compile_cache = "cold" in request, request["compile_cache"]
    if not cold:
        events.begin("building")
    if compile_cache:
        use_compile_cache(Path(compile_cache), cold=cold)
    random.seed(trial.seed)
    np.random.seed(trial.seed)  # noqa: NPY002 (a workload of others may use the global one)
    torch.manual_seed(trial.seed)
    task = factory(
        axes=trial.axes,
        settings=trial.settings,
        batch_size=trial.batch_size,
        handle=request["handle"],
        device=trial.device,
    )
    result.facts = dict(task.facts)

    device = torch.device(trial.device)
    batches = list(sample_batches(trial, request["train_size"]))
    last = measured_until(trial)
    latest = last - trial.measured_steps
    tested = trial.warmup_steps >= 2
    earliest = 1 + trial.warmup_steps
    if cold:
        batches = batches[:earliest]
    elif tested:
        earliest = min(latest, max(earliest, 1 + SETTLED_STEPS))
    result.step_samples = [len(indices) for indices in batches]
    losses = torch.full((len(batches),), float("nan"), device=device)
    clock: StepClock = CudaClock(device) if device.type == "cuda" else CpuClock()
    board = StepBoard(Path(request["board"]))
    phases = {0: "first_step", 1: "warming_up", last: "training"}
    compilations: dict[str, Compilation] = {}

    def settled(step: int) -> bool | None:
        """Whether step times have, by the last steps of warm-up before this one."""
        if not tested:
            return None
        seen = min(step - 1, SETTLED_STEPS)
        recent = by_step(clock.intervals_s((step - seen) * MARKS))
        return has_settled([sum(phases_s) for phases_s in recent])

    def enter(phase: str) -> None:
        """Notes what belongs to the phase that ends; its end is no part of the measured window."""
        clock.synchronize()
        ends_window = phase == "training"
        if ends_window:
            events.begin(phase)
            result.memory.update(budget.peak())
        if phase == "measuring" and "alloc_retries" in (peaks := budget.peak()):
            # Counted from the beginning; those of the warm-up are none of the window's.
            result.memory["warmup_alloc_retries"] = peaks["alloc_retries"]
        if compile_cache:
            compilations[phase] = Compilation.now()
        if not ends_window:
            events.begin(phase)

    with closing(task.batches(batches)) as stream:
        for step in range(len(batches)):
            if step == 1 and not cold:
                clock.synchronize()
                peaks = budget.peak()
                result.memory.update({f"first_step_{name}": peaks[name] for name in peaks})
                budget.reset_peak()
            if step >= earliest and not result.window and not cold:
                result.settled = settled(step)
                if result.settled is not False or step == latest:
                    result.window = [step, last]
                    phases[step] = "measuring"  # without warm-up, in the place of it
            if step in phases and not cold:
                enter(phases[step])
            board.begin(step + 1)
            clock.mark()
            batch = next(stream)
            clock.mark()
            loss = task.forward(batch)
            clock.mark()
            task.backward(loss)
            clock.mark()
            task.optimize(step / max(1, len(batches) - 1))
            losses[step].copy_(loss.detach())
            clock.mark()
    if last == len(batches) and not cold:
        enter("training")
    result.step_phase_s = by_step(clock.intervals_s())
    result.facts = dict(task.facts)
    if compile_cache:
        done = Compilation.now()
        if not done.graphs:
            raise RuntimeError("asked to compile, the network ran eagerly: no graph was compiled")
        result.compilation = {"cold_step_s": None} | done.to_json()
    if cold:
        return
    if compile_cache:
        in_window = compilations["training"].events_since(compilations["measuring"])
        result.compilation["in_window"] = in_window
    events.begin("evaluating")
    values = losses.tolist()
    result.losses = [value if np.isfinite(value) else None for value in values]
    if None in result.losses:
        step = result.losses.index(None)
        result.status = Status.DIVERGED
        result.reason = f"the loss of step {step + 1} of {len(batches)} is {values[step]}"
        return
    result.quality = task.evaluate()
    if not np.isfinite(result.quality["final_mse"]):
        result.status = Status.DIVERGED
        result.reason = f"final_mse is {result.quality['final_mse']}"
        result.quality = {}
    elif request["previews"]:
        folder, count = request["previews"]
        try:
            result.previews = previews.write(Path(folder), task.previews(count))
        except Exception as error:  # noqa: BLE001 (all is measured, and must not be lost for this)
            result.facts["no_previews"] = one_line(error)


def sample_batches(trial: Trial, train_size: int) -> Iterator[np.ndarray]:
    """Indices of each step's samples: seeded passes over the training set, cut into batches.

    The sequence of samples does not depend on the batch size, so that all rows learn from the
    same samples in the same order. The last batch holds what is left.

    Args:
        trial: Its `seed`, `samples` and `batch_size` count.
        train_size: Samples in the training set.

    Yields:
        int64 arrays of shape (batch,).
    """
    order = np.random.default_rng(trial.seed)
    passes = -(-trial.samples // train_size)
    stream = np.concatenate([order.permutation(train_size) for _ in range(passes)])
    for start in range(0, trial.samples, trial.batch_size):
        yield stream[start : min(start + trial.batch_size, trial.samples)]


def by_step(intervals_s: list[float]) -> list[list[float]]:
    """The phases of each step, by intervals between its marks; what lies between steps is left out.

    Args:
        intervals_s: From the first mark of a step to the last one of another.
    """
    width = len(PHASES)
    return [intervals_s[i : i + width] for i in range(0, len(intervals_s), MARKS)]


def measured_until(trial: Trial) -> int:
    """The step after the measured window: all whole batches of the run are measured.

    A smaller last batch stays outside, since its step is another experiment.
    """
    return trial.samples // trial.batch_size


def _traceback() -> str:
    """Of the exception under way; files by where they are imported from, as rows are published."""
    text = traceback.format_exc()
    for folder in sorted({str(ROOT), *filter(None, sys.path)}, key=len, reverse=True):
        text = text.replace(f'File "{folder}/', 'File "')
    return text


def one_line(error: BaseException) -> str:
    """What an exception says, in a line; of one that passes on another, what that one says."""
    error = getattr(error, "inner_exception", error)  # torch.compile's own says nothing
    text = str(error).strip()
    if "exited unexpectedly" in text and isinstance(error.__cause__, RuntimeError):
        error, text = error.__cause__, str(error.__cause__)  # by which signal
    if _ELSEWHERE in text:  # of a data loader's worker
        lines = text.rpartition(_ELSEWHERE)[2].splitlines()
        return next((line for line in lines if line and not line[0].isspace()), lines[0])
    lines = text.splitlines() or [""]
    # A compiler's own words come late, and tell more than "C++ compile error".
    telling = [line for line in lines if memory_budget.says_out_of_memory(line)]
    if lines[0].endswith("compile error"):
        telling += [line for line in lines if "error: " in line]
    first = next(iter(telling), lines[0]).strip()
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
