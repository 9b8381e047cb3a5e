"""The largest batch that fits a budget: predicted, probed, certified.

Every probe is a trial like any other: a process of its own, the real network, a whole run with its
evaluation. What it is certified by is the same again, in further processes.
"""

import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from bench import journal, sweep
from bench.budget import format_bytes
from bench.predict import Prediction, Predictor, experiment
from bench.runner import Runner
from bench.sweep import Observer, Plan
from bench.trial import Status, Trial, TrialResult

PROBES = 12
"""At most so many of a variant at a time; three are typical."""

LEAST_ROUNDS = 2
"""The probe, and what certifies it."""

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
    """

    predict: Callable[[int], float]
    target_bytes: float
    step: int
    cap: int
    best: int = 0
    _too_large: int | None = field(default=None, init=False)
    _off_bytes: float = field(default=0.0, init=False)
    _refused: int = field(default=0, init=False)

    def next(self) -> int | None:
        """The batch to be probed now; `None` where the best is known.

        The largest that is expected to fit, by the prediction and by how much that was off where a
        peak was measured last. One between where that is known not to fit, or where it ends the
        search though the prediction was wrong.
        """
        size = self._expected()
        if self._too_large is not None:
            if self._too_large - self.best <= max(self.step, _NEAR * self.best):
                return None
            if size >= self._too_large or (self._refused and size <= self.best):
                share = _FIRST_TRY if self._refused == 1 and not self.best else 0.5
                size = round(self.best + share * (self._too_large - self.best))
                size = size // self.step * self.step
        return size if size - self.best > _NEAR * self.best else None

    def told(self, size: int, peak_bytes: float | None) -> None:
        """What a probe came to.

        Args:
            size: Its batch size.
            peak_bytes: Its peak; `None` where it did not fit the budget.
        """
        if peak_bytes is None:
            self._refused += 1
        else:
            self._off_bytes = peak_bytes - self.predict(size)
        if peak_bytes is not None and peak_bytes <= self.target_bytes:
            self.best = max(self.best, size)
            return
        self._too_large = min(size, self._too_large or size)
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


Probe = Callable[[Trial, int, int], list[TrialResult]]
"""Measures a variant at a batch size, in so many rounds."""


class InterruptedSearchError(Exception):
    """The user has had enough."""


def run(plan: Plan, limits: Limits, samples: int | None, observer: Observer) -> None:
    """Looks for the largest batch of each variant, the plain one first.

    Of the plain variant its largest power of two is measured too: what others are held against.

    Args:
        plan: Its `spec` has one combination of settings. All its rounds must end well at a batch
            size that is certified; the first one is the probe.
        limits: What is looked for.
        samples: Of each trial; `None` for as many as the largest batch needs.
        observer: Is told how it goes.

    Raises:
        ValueError: The user's mistake, in one line; rows that were written stay.
        InterruptedSearchError: By the user; likewise.
    """
    with Runner(plan.spec.workload.task, plan.timeout_s) as runner:
        _run(plan, limits, samples, observer, runner)


def _run(
    plan: Plan, limits: Limits, samples: int | None, observer: Observer, runner: Runner
) -> None:
    spec = plan.spec
    plain = {axis: values[0] for axis, values in spec.workload.axes.items()}
    spec = replace(spec, variants=(plain, *(axes for axes in spec.variants if axes != plain)))
    earlier = sweep.earlier_rows(plan.folder)
    environment, budget_bytes = sweep.situate(plan, runner, earlier, observer)
    trials = [t for t in spec.trials(environment["device"], budget_bytes) if not t.round]
    predictor = Predictor(runner, spec.workload, environment["device"])
    predictions = predictor.of_trials(trials, observer.note)
    trials = [trial for trial in trials if experiment(trial) in predictions]
    target_bytes = (1 - limits.margin) * budget_bytes
    _check_least(trials, predictions, limits, budget_bytes)
    train_size = spec.workload.train_size(trials[0].settings)
    cap = min(limits.cap or train_size, train_size)
    steps = 1 + spec.one("warmup_steps") + spec.one("measured_steps")
    if earlier:
        samples = earlier[0].trial.samples
    if samples is None:
        expected = max(predictions[experiment(t)].largest(target_bytes, cap) for t in trials)
        samples = steps * min(cap, max(limits.multiple_of, round(_ROOM * expected)))
    cap = min(cap, samples // steps)
    if cap < limits.multiple_of:
        raise ValueError(
            f"--multiple-of {limits.multiple_of}: expected at most {cap}, for which there are "
            f"samples ({samples}) and frames ({train_size})"
        )

    def probe(trial: Trial, size: int, rounds: int) -> list[TrialResult]:
        grid = {"batch_size": (size,), "rounds": (rounds,), "samples": (samples,)}
        one = replace(spec, variants=(trial.axes,), grid={**spec.grid, **grid})
        if not sweep.run(replace(plan, spec=one, predictions=predictions), observer, runner):
            raise InterruptedSearchError
        cell = replace(trial, batch_size=size, samples=samples)
        rows = journal.read(plan.folder)
        return [row.result for row in rows if row.trial.cell == cell][:rounds]

    found: list[tuple[Trial, Search]] = []
    for trial in trials:
        prediction = predictions[experiment(trial)]
        search = Search(prediction.peak_bytes, target_bytes, limits.multiple_of, cap)
        observer.note(f"{trial.variant}: batch {search.next() or 0} is expected to fit.")
        if reason := _narrow(search, probe, trial):
            observer.note(f"{trial.variant}: no largest batch: {reason}.")
        elif search.best:
            found.append((trial, search))
    for rounds in range(LEAST_ROUNDS, spec.one("rounds") + 1):
        runner.new_round()
        # In turn, so that a drift of the machine meets all alike.
        for trial, search in found:
            while search.best and not _holds(search, probe, trial, rounds):
                observer.note(f"{trial.variant}: a further process did not hold its batch.")
                _narrow(search, probe, trial)
            if trial.axes == plain and search.best:
                probe(trial, 1 << (search.best.bit_length() - 1), rounds)


_ROOM = 1.1
"""Trials have samples for a batch that is larger than expected, by this factor."""


def _check_least(
    trials: Sequence[Trial],
    predictions: Mapping[str, Prediction],
    limits: Limits,
    budget_bytes: int,
) -> None:
    """Raises `ValueError` if no variant fits at all."""
    if not trials:
        raise ValueError("max-batch: none of the variants can be predicted")
    size = limits.multiple_of
    needs = {trial.variant: predictions[experiment(trial)].peak_bytes(size) for trial in trials}
    least = min(needs, key=lambda variant: needs[variant])
    if needs[least] > (1 - limits.margin) * budget_bytes:
        raise ValueError(
            f"budget {format_bytes(budget_bytes)}: {least} at batch {size} needs "
            f"{format_bytes(needs[least])}, and {100 * limits.margin:g} % are to be left free"
        )


def _narrow(search: Search, probe: Probe, trial: Trial) -> str | None:
    """Probes until the largest batch is known; returns why it cannot be, in words."""
    for _ in range(PROBES):
        size = search.next()
        if size is None:
            return None
        (result,) = probe(trial, size, 1)
        if result.status not in (Status.OK, Status.OOM, Status.IMPLIED_OOM):
            return f"at {size} it ended as {result.status}: {result.reason}"
        search.told(size, _peak_bytes(result))
    return f"{PROBES} probes were not enough"


def _holds(search: Search, probe: Probe, trial: Trial, rounds: int) -> bool:
    """Whether the best batch fits in every round."""
    size = search.best
    for result in probe(trial, size, rounds):
        search.told(size, _peak_bytes(result))
    return search.best == size


def _peak_bytes(result: TrialResult) -> int | None:
    """How near a process came to its limit, in bytes of the budget; `None` if it did not fit it.

    That is so, too, if it only ran because torch's allocator emptied its cache in each step.
    """
    if result.status is not Status.OK or _retries(result):
        return None
    memory = {name: int(value) for name, value in result.memory.items() if isinstance(value, int)}
    if (
        "limit_vm_data_bytes" in memory
    ):  # on a CPU the limit is on memory that was only reserved too
        room = memory["limit_vm_data_bytes"] - memory["peak_vm_data_bytes"]
        return memory["budget_bytes"] - room
    peak = max(memory["peak_bytes"], memory["first_step_peak_bytes"])
    return peak + memory.get("context_bytes", 0)


def _retries(result: TrialResult) -> int:
    """Of the allocator on a GPU, in the measured window."""
    memory = result.memory
    return int(memory.get("alloc_retries") or 0) - int(memory.get("warmup_alloc_retries") or 0)
