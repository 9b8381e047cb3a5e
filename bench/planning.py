"""What a sweep is going to do, in words."""

from collections.abc import Iterator, Sequence

from bench.budget import format_bytes
from bench.estimate import Durations, format_duration
from bench.journal import Row
from bench.spec import SweepSpec
from bench.trial import Status, Trial


def lines(
    asked: SweepSpec, trials: Sequence[Trial], rows: Sequence[Row], folder: str | None
) -> Iterator[str]:
    """One line a trial, then what they have in common, and how far they are.

    Args:
        asked: The sweep.
        trials: Its trials, in the order they run.
        rows: What is done already, in `folder`.
        folder: Where to go on, if anywhere.
    """
    statuses = {row.trial.key: row.result.status for row in rows}
    durations = Durations(rows)
    differing = [name for name in asked.workload.settings if len(asked.grid[name]) > 1]
    width = max(len(trial.label) for trial in trials)
    for number, trial in enumerate(trials, start=1):
        words = [f"{trial.steps} steps", *(f"{name}={trial.settings[name]}" for name in differing)]
        if rows:
            words.append(_expected(trial, statuses, durations))
        yield f"{number:4}  {trial.label:{width}}  {'  '.join(words)}"
    settings = ", ".join(
        f"{name}={'|'.join(map(str, values))}"
        for name, values in asked.grid.items()
        if name in asked.workload.settings
    )
    count = f"{len(trials)} trial{'s' * (len(trials) > 1)}"
    where = f"{trials[0].device} within {format_bytes(trials[0].budget_bytes)}"
    samples = f"{asked.one('samples')} samples each"
    yield f"{count} of {asked.workload.name} on {where}, {samples}; {settings}"
    if asked.ci_width:
        yield f"Rounds end when every interval is narrower than {100 * asked.ci_width:g} %."
    if limit_s := asked.one("time_limit_s"):
        yield f"No trial begins that is not expected to end within {limit_s} s."
    if rows:
        to_do = [trial for trial in trials if _is_to_do(trial, statuses)]
        left_s = durations.total_s(to_do)
        done = f"{len(trials) - len(to_do)} of {len(trials)} are done in {folder}"
        if to_do:
            length = "an unknown time" if left_s is None else f"about {format_duration(left_s)}"
            done += f"; the rest will take {length}"
        yield f"{done}."


def _is_to_do(trial: Trial, statuses: dict[str, Status]) -> bool:
    return statuses.get(trial.key, Status.INTERRUPTED) is Status.INTERRUPTED


def _expected(trial: Trial, statuses: dict[str, Status], durations: Durations) -> str:
    if not _is_to_do(trial, statuses):
        return f"done: {statuses[trial.key]}"
    seconds = durations.of(trial)
    return "" if seconds is None else f"about {format_duration(seconds)}"
