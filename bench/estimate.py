"""How long trials will take, judged by those that have run."""

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable
from statistics import fmean, median

from bench.journal import Row
from bench.trial import Status, Trial, TrialResult

_RAN = (Status.OK, Status.DIVERGED, Status.TIMEOUT)
"""Ends of trials that took as long as their kind takes: their like will take as long."""

Key = tuple[Hashable, ...]

Experiment = tuple[Key, Key]
"""Axes and settings. With the batch size they set the time of a sample; rounds and seeds do not."""


class Durations:
    """What rows tell of the time that trials take.

    Args:
        rows: Of one folder, so that samples, device and budget are the same in all.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self._ended_s: dict[tuple[Experiment, int], list[float]] = defaultdict(list)
        self._ran_s: dict[tuple[Experiment, int], list[float]] = defaultdict(list)
        self._compile_s: dict[Experiment, float] = {}
        self._unsupported: set[Experiment] = set()
        self._too_large: dict[Experiment, int] = {}
        for row in rows:
            self._add(row.trial, row.result)

    def _add(self, trial: Trial, result: TrialResult) -> None:
        experiment, size = _experiment(trial), trial.batch_size
        if result.status is Status.INTERRUPTED:
            return
        if result.status is Status.UNSUPPORTED and not result.step_samples:
            self._unsupported.add(experiment)
        elif result.status in (Status.OOM, Status.UNSUPPORTED):  # the second: of a tensor's size
            self._too_large[experiment] = min(size, self._too_large.get(experiment, size))
        compile_s = _compile_s(result)
        run_s = (result.duration_s or 0.0) - compile_s
        self._ended_s[experiment, size].append(run_s)
        if result.status in _RAN:
            self._ran_s[experiment, size].append(run_s)
            if compile_s:
                self._compile_s[experiment] = compile_s

    def of(self, trial: Trial) -> float | None:
        """Seconds that a trial will take; `None` if nothing has run that could tell.

        The same cell in another round knows best, and has its compiled code already; then the same
        variant at the nearest other batch size; then the variants most like it at the same batch
        size; then those most like it. What ran at other settings knows nothing.
        """
        experiment, size = _experiment(trial), trial.batch_size
        if ended_s := self._ended_s.get((experiment, size)):
            return median(ended_s)
        if experiment in self._unsupported or size > self._too_large.get(experiment, math.inf):
            return 0.0  # it will not even start
        compile_s = self._compile_s.get(experiment, 0.0)
        sizes = [other for found, other in self._ran_s if found == experiment]
        if sizes:
            nearest = min(sizes, key=lambda other: abs(math.log(other / size)))
            run_s = median(self._ran_s[experiment, nearest])
            return run_s * self._ratio(experiment[1], size, nearest) + compile_s
        at_settings = [cell for cell in self._ran_s if cell[0][1] == experiment[1]]
        at_size = [cell for cell in at_settings if cell[1] == size]
        cells = at_size or at_settings
        if not cells:
            return None
        # Those that differ least know best: a compiled variant takes after compiled ones.
        alike = {cell: len({*cell[0][0]} & {*experiment[0]}) for cell in cells}
        cells = [cell for cell in cells if alike[cell] == max(alike.values())]
        return fmean(median(self._ran_s[c]) + self._compile_s.get(c[0], 0.0) for c in cells)

    def total_s(self, trials: Iterable[Trial]) -> float | None:
        """Seconds that all these trials will take; `None` if nothing has run that could tell."""
        total_s = 0.0
        for trial in trials:
            trial_s = self.of(trial)
            if trial_s is None:
                return None
            total_s += trial_s
        return total_s

    def _ratio(self, settings: Key, size: int, reference: int) -> float:
        """How other variants' times at two batch sizes relate; 1 if none has run at both."""
        ratios = [
            median(run_s) / median(self._ran_s[experiment, reference])
            for (experiment, other), run_s in self._ran_s.items()
            if other == size
            and experiment[1] == settings
            and (experiment, reference) in self._ran_s
        ]
        return median(ratios) if ratios else 1.0


def estimate_s(trial: Trial, rows: Iterable[Row]) -> float | None:
    """Seconds that a trial will take, by the rows there are; see `Durations.of`."""
    return Durations(rows).of(trial)


def remaining_s(to_do: Iterable[Trial], rows: Iterable[Row]) -> float | None:
    """Seconds that all these trials will take; `None` if nothing has run that could tell."""
    return Durations(rows).total_s(to_do)


def without(ended: Trial, trials: Iterable[Trial]) -> list[Trial]:
    """The other trials. They need not end in their order: time may be too short for some."""
    return [trial for trial in trials if trial.key != ended.key]


def format_duration(seconds: float) -> str:
    """A duration in words, no finer than an estimate is: `8 s`, `4 min 10 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def _experiment(trial: Trial) -> Experiment:
    return tuple(sorted(trial.axes.items())), tuple(sorted(trial.settings.items()))


def _compile_s(result: TrialResult) -> float:
    """Time of the cold compile, which is done once for all rounds."""
    marks = result.phase_at_s
    if "compiling" not in marks:
        return 0.0
    later = [at_s for at_s in marks.values() if at_s > marks["compiling"]]
    return min(later, default=marks["compiling"]) - marks["compiling"]
