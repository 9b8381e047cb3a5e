"""The largest batch that fits a budget: predicted, probed, certified.

Every probe is a trial like any other: a process of its own, the real network, a whole run with its
evaluation. What it is certified by is the same again, in further processes.
"""

import bisect
import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench import journal, support, sweep
from bench.budget import format_bytes
from bench.errors import UserError, as_user_error
from bench.predict import Prediction, Predictor, experiment
from bench.runner import Runner
from bench.sweep import Observer, Plan
from bench.trial import Status, Trial, TrialResult

PROBES = 12
"""At most so many of a variant at a time; three are typical."""

VIEW = "max-batch"
"""The report's view of what was found, which is in this file."""

FILE_NAME = "max-batch.json"

_LOCK_NAME = ".max-batch.lock"

LEAST_ROUNDS = 2
"""The probe, and what certifies it."""

_CHECKED_AT = 32
"""The batch size at which predictions are checked."""

_NEAR = 0.02
"""Batches that differ by less than this share are not worth a probe."""

_FIRST_TRY = 0.85
"""Of a batch that did not fit though it was expected to."""


@dataclass
class Search:
    """Narrows down the largest batch of one variant.

    Attributes:
        predict: Batch size -> its expected peak in bytes; never falls.
        target_bytes: What a peak may be.
        step: Batches are multiples of it.
        cap: And at most this.
        best: The largest batch that is known to fit; 0 if none is.
        seen: What probes came to, as they were `told`.
        too_large: The smallest batch that is known not to fit; `None` if none is.
    """

    predict: Callable[[int], float]
    target_bytes: float
    step: int
    cap: int
    best: int = 0
    seen: dict[int, float | None] = field(default_factory=dict, init=False)
    too_large: int | None = field(default=None, init=False)
    _off_bytes: float = field(default=0.0, init=False)
    _refused: int = field(default=0, init=False)

    def next(self) -> int | None:
        """The batch to be probed now; `None` where the best is known.

        The largest that is expected to fit, by the prediction and by how much that was off where a
        peak was measured last. One between where that is known not to fit, or where it ends the
        search though the prediction was wrong.
        """
        size = self._expected()
        if self.too_large is not None:
            if self.too_large - self.best <= max(self.step, _NEAR * self.best):
                return None
            if size >= self.too_large or (self._refused and size <= self.best):
                share = _FIRST_TRY if self._refused == 1 and not self.best else 0.5
                size = round(self.best + share * (self.too_large - self.best))
                size = size // self.step * self.step
        return size if size - self.best > _NEAR * self.best else None

    def told(self, size: int, peak_bytes: float | None) -> None:
        """What a probe came to.

        Args:
            size: Its batch size.
            peak_bytes: Its peak; `None` where it did not fit the budget.
        """
        self.seen[size] = peak_bytes
        if peak_bytes is None:
            self._refused += 1
        else:
            self._off_bytes = peak_bytes - self.predict(size)
        fits = peak_bytes is not None and peak_bytes <= self.target_bytes
        if fits and not (self.too_large and size >= self.too_large):
            self.best = max(self.best, size)
            return
        self.too_large = min(size, self.too_large or size)
        if self.best >= size:
            self.best = 0

    def _expected(self) -> int:
        sizes = range(self.step, self.cap + 1, self.step)
        fitting = bisect.bisect_right(
            sizes, self.target_bytes, key=lambda size: self.predict(size) + self._off_bytes
        )
        return fitting * self.step


@dataclass(frozen=True)
class Limits:
    """What a batch must keep to.

    Attributes:
        multiple_of: It is a multiple of this.
        cap: And at most this; `None` for the size of the training set.
        margin: Share of the budget that its peak leaves free.
    """

    multiple_of: int
    cap: int | None
    margin: float


@dataclass(frozen=True)
class Certificate:
    """What the search found for a variant.

    Attributes:
        batch_size: The largest batch; 0 where none is certified.
        because: Why it is no larger (`MEMORY`, or what else was its end), or why there is none.
    """

    batch_size: int
    because: str


MEMORY = "memory"


class InterruptedSearchError(Exception):
    """The user has had enough."""


def run(
    plan: Plan, limits: Limits, samples: int | None, observer: Observer
) -> dict[str, Certificate]:
    """Looks for the largest batch of each variant, the plain one first.

    Of the plain variant its largest power of two is measured too: what others are held against.
    What was found is kept in the folder, see `read`.

    Args:
        plan: Its `spec` has one combination of settings. All its rounds must end well at a batch
            size that is certified; the first one is the probe.
        limits: What is looked for.
        samples: Of each trial; `None` for as many as the largest batch needs.
        observer: Is told how it goes.

    Returns:
        By the name of the variant, of those asked for.

    Raises:
        UserError: The user's mistake, in one line; rows that were written stay.
        InterruptedSearchError: By the user; likewise.
    """
    with _alone(plan.folder), Runner(plan.spec.workload.task, plan.timeout_s) as runner:
        hunt = _Hunt(plan, limits, samples, observer, runner)
        hunt.probe_all()
        hunt.certify_all()
    found = hunt.certificates()
    told = {name: vars(certificate) for name, certificate in found.items()}
    text = json.dumps({"limits": vars(limits), "variants": told}, indent=1)
    (plan.folder / FILE_NAME).write_text(text + "\n")
    nothing = Certificate(0, "its memory cannot be predicted")
    return {name: found.get(name, nothing) for name in hunt.asked}


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps a second search out of a folder, which is made when needed.

    The journal's own lock is taken and released with each of a search's many sweeps.
    """
    sweep.earlier_rows(folder)  # told now, if nothing can be written there
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _LOCK_NAME
    with path.open("ab") as file:
        in_use = f"--out {folder}: another max-batch is searching there"
        journal.lock(file.fileno(), path, in_use)
        yield


def read(folder: Path) -> dict[str, Certificate]:
    """What `run` has found in a folder, by the name of the variant.

    Raises:
        UserError: It has found nothing there.
    """
    path = folder / FILE_NAME
    try:
        told = json.loads(path.read_text())["variants"]
        return {
            name: Certificate(int(certificate["batch_size"]), str(certificate["because"]))
            for name, certificate in told.items()
        }
    except FileNotFoundError:
        words = "as max-batch writes when it has come to its end"
        raise UserError(f"{folder}: expected a {FILE_NAME} in it, {words}") from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UserError(f"{path}: expected it as max-batch writes it") from None


@dataclass
class _Variant:
    """A variant whose largest batch is looked for.

    `failed` tells in words why that has ended, `unsupported` why the device cannot do a batch size.
    """

    trial: Trial
    search: Search
    failed: str | None = None
    unsupported: dict[int | None, str] = field(default_factory=dict)


class _Hunt:
    """The search for all variants: one after the other, then certified in turn."""

    def __init__(
        self, plan: Plan, limits: Limits, samples: int | None, observer: Observer, runner: Runner
    ) -> None:
        self._plain = {axis: values[0] for axis, values in plan.spec.workload.axes.items()}
        self._observer, self._runner = observer, runner
        earlier = sweep.earlier_rows(plan.folder)
        environment, budget_bytes = sweep.situate(plan, runner, earlier, observer)
        device = environment["device"]
        spec = plan.spec.resolved(support.resolve(plan.spec, runner, device, observer.note))
        for name, reason in support.unsupported(spec, runner, device).items():
            raise UserError(f"{name}: {reason}")
        self.asked = [spec.workload.variant_name(axes) for axes in spec.variants]
        others = [axes for axes in spec.variants if axes != self._plain]
        spec = replace(spec, variants=(self._plain, *others))
        context_bytes = sweep.check_budget(runner, environment, budget_bytes)
        target_bytes = (1 - limits.margin) * budget_bytes - context_bytes
        trials = [t for t in spec.trials(device, budget_bytes) if not t.round]
        predictor = Predictor(runner, spec.workload, device)
        checked = [replace(trial, batch_size=_CHECKED_AT) for trial in trials]
        predictions = predictor.of_trials(checked, observer.note)
        trials = [trial for trial in trials if experiment(trial) in predictions]
        _check_least(trials, predictions, limits, target_bytes)
        (settings,) = spec.settings()
        with as_user_error():
            frames = spec.workload.prepare(settings, observer.preparing).train_size
        self._cap, self._end = frames, "training set"
        if limits.cap is not None and limits.cap < frames:
            self._cap, self._end = limits.cap, "--cap"
        steps = 1 + spec.one("warmup_steps") + spec.one("measured_steps")
        expected = [
            _expected(predictions[experiment(trial)], target_bytes, limits.multiple_of, self._cap)
            for trial in trials
        ]
        if earlier and samples != earlier[0].trial.samples:  # else they limit it, as at first
            samples = earlier[0].trial.samples
            if samples < (needed := steps * max(size for size, _ in expected)):
                raise UserError(
                    f"--out {plan.folder}: its trials have {samples} samples, of which this search "
                    f"needs {needed}; expected another folder"
                )
        self._samples = samples or steps * max(with_room for _, with_room in expected)
        if self._samples // steps < self._cap:
            self._cap, self._end = self._samples // steps, "samples"
        if self._cap < limits.multiple_of:
            raise UserError(
                f"--multiple-of {limits.multiple_of}: expected at most {self._cap} ({self._end})"
            )
        self._plan = replace(plan, spec=spec, predictions=predictions)
        self._variants = []
        for trial in trials:
            predict = predictions[experiment(trial)].peak_bytes
            search = Search(predict, target_bytes, limits.multiple_of, self._cap)
            self._variants.append(_Variant(trial, search))

    def probe_all(self) -> None:
        """Looks for the largest batch of each variant."""
        for variant in self._variants:
            expected = variant.search.next() or 0
            self._observer.note(f"{variant.trial.variant}: batch {expected} is expected to fit.")
            self._narrow(variant)

    def certify_all(self) -> None:
        """Runs what was found in all rounds, in turn, so that a drift meets all alike."""
        for rounds in range(LEAST_ROUNDS, self._plan.spec.one("rounds") + 1):
            self._runner.new_round()
            for variant in self._variants:
                self._certify(variant, rounds)
                best = 0 if variant.failed else variant.search.best
                if variant.trial.axes == self._plain and best:
                    self._measure(variant, 1 << (best.bit_length() - 1), rounds)

    def certificates(self) -> dict[str, Certificate]:
        """What was found, by the name of the variant."""
        found = {}
        for variant in self._variants:
            size = 0 if variant.failed else variant.search.best
            because = variant.failed or variant.unsupported.get(variant.search.too_large, MEMORY)
            if not size and because == MEMORY:
                least, peak = min(variant.search.seen.items(), default=(0, None))
                if peak is not None:  # it ran, and left too little
                    because = f"{MEMORY}: batch {least} came to {format_bytes(peak)}"
            if size and size + variant.search.step > self._cap:
                because = self._end
            found[variant.trial.variant] = Certificate(size, because)
        return found

    def _narrow(self, variant: _Variant) -> None:
        for _ in range(PROBES):
            size = variant.search.next()
            if size is None or variant.failed:
                return
            self._tell(variant, size, 1)

    def _certify(self, variant: _Variant, rounds: int) -> None:
        while not variant.failed and (size := variant.search.best):
            self._tell(variant, size, rounds)
            if variant.search.best == size:
                return
            words = f"a further process did not hold batch {size}"
            self._observer.note(f"{variant.trial.variant}: {words}.")
            self._narrow(variant)
            self._runner.new_round()

    def _tell(self, variant: _Variant, size: int, rounds: int) -> None:
        """Measures a batch size, and tells the search the worst that it came to."""
        peaks = []
        for result in self._measure(variant, size, rounds):
            if result.status is Status.UNSUPPORTED:  # at this size: the variant itself is not
                variant.unsupported[size] = str(result.reason)
            elif result.status not in (Status.OK, Status.OOM, Status.IMPLIED_OOM):
                variant.failed = f"at batch {size} {result.status}: {result.reason}"
                return
            peaks.append(_peak_bytes(result))
        variant.search.told(size, None if None in peaks else max(filter(None, peaks)))

    def _measure(self, variant: _Variant, size: int, rounds: int) -> list[TrialResult]:
        grid = {"batch_size": (size,), "rounds": (rounds,), "samples": (self._samples,)}
        spec = self._plan.spec
        one = replace(spec, variants=(variant.trial.axes,), grid={**spec.grid, **grid})
        if not sweep.run(replace(self._plan, spec=one), self._observer, self._runner):
            raise InterruptedSearchError
        cell = replace(variant.trial, batch_size=size, samples=self._samples)
        rows = journal.read(self._plan.folder)
        return [row.result for row in rows if row.trial.cell == cell][:rounds]


def _check_least(
    trials: Sequence[Trial],
    predictions: Mapping[str, Prediction],
    limits: Limits,
    target_bytes: float,
) -> None:
    """Raises `UserError` if nothing fits at all, as far as that is not only a bound."""
    if not trials:
        raise UserError("max-batch: expected a variant that can be predicted")
    size = limits.multiple_of
    needs = {
        trial.variant: prediction.peak_bytes(size)
        for trial in trials
        if not (prediction := predictions[experiment(trial)]).is_bound
    }
    least = min(needs, key=lambda variant: needs[variant], default=None)
    if least is not None and needs[least] > target_bytes:
        raise UserError(
            f"budget {format_bytes(trials[0].budget_bytes)}: {least} at batch {size} needs "
            f"{format_bytes(needs[least])}, and {100 * limits.margin:g} % are to be left free"
        )


def _expected(
    prediction: Prediction, target_bytes: float, least: int, most: int
) -> tuple[int, int]:
    """The largest batch by the prediction, and one that it will hardly exceed; by far, of a bound.

    Both are from `least` to `most`.
    """
    size = prediction.largest(target_bytes, most)
    room = round((2 if prediction.is_bound else 1.1) * size)
    return min(most, max(least, size)), min(most, max(least, room))


def _peak_bytes(result: TrialResult) -> int | None:
    """How near a process came to its limit, in bytes; `None` if the budget was too small for it.

    That is so, too, if it only ran because torch's allocator emptied its cache in each step. On a
    GPU the context is left out, as it is in what is aimed at.
    """
    if result.status is not Status.OK or _retries(result):
        return None
    memory = {name: int(value) for name, value in result.memory.items() if isinstance(value, int)}
    # Not every sandbox lets a process's peak be tracked.
    peak = max(memory.get("peak_bytes", 0), memory.get("first_step_peak_bytes", 0))
    if "peak_vm_data_bytes" in memory:  # on a CPU the limit holds for what is only reserved, too
        room = memory["limit_vm_data_bytes"] - memory["peak_vm_data_bytes"]
        peak = max(peak, memory["budget_bytes"] - room)
    return peak


def _retries(result: TrialResult) -> int:
    """Of the allocator on a GPU, in the measured window."""
    memory = result.memory
    return int(memory.get("alloc_retries") or 0) - int(memory.get("warmup_alloc_retries") or 0)
