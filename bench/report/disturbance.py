"""What a row knows of others on its machine: CPU time, waiting, a CPU quota, too many threads."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from bench.journal import Row
from bench.monitor import Sample, cpu_percent, window_of
from bench.report import Record
from bench.report.cells import label

LIMIT_PERCENT = 5.0
"""Beyond it a round is disturbed. Its threads then lose more time than rounds of a calm machine
differ by (`doctor --noise` finds 1 to 4 %), and an idle machine's own housekeeping takes less (see
`bench.doctor.BUSY_PERCENT`)."""

BUSY_FLAG = "the machine was busy"
THROTTLED_FLAG = "a CPU quota stopped it"
CROWDED_FLAG = "more threads than CPUs"

PERCENTS = ("waited_percent", "others_percent", "stolen_percent", "throttled_percent")
COUNTS = ("threads", "rounds_busy", "rounds_throttled")

ABSENT: Record = dict.fromkeys((*PERCENTS, "threads", "cpus", "unreadable"))
"""What a row has in these columns that did not end well."""


def of_row(row: Row) -> Record:
    """The columns of a trial that ended well.

    Rows of old have no such samples, and windows below a tenth of a second are too short to tell.
    """
    first, last = window_of(row.result.monitor)
    environment = row.environment
    allowed = int(environment["cpus_allowed"])
    wall_s = _grown(first, last, "at_s") or 0.0
    cpu_s, waited_s = _grown(first, last, "cpu_s") or 0.0, _grown(first, last, "wait_s")
    busy_s, stolen_s = (_grown(first, last, f"machine_{kind}_s") for kind in ("busy", "stolen"))
    periods, throttled = (_grown(first, last, f"quota_{kind}") for kind in ("periods", "throttled"))
    found: Record = dict(ABSENT)
    if cpu_percent(first, last, allowed) is not None:
        if waited_s is not None:
            found["waited_percent"] = _percent(waited_s, waited_s + cpu_s)
        if busy_s is not None:
            found["others_percent"] = _percent(max(0.0, busy_s - cpu_s), wall_s * allowed)
        if stolen_s is not None:
            found["stolen_percent"] = _percent(stolen_s, wall_s * allowed)
    if periods is not None and throttled is not None:
        found["throttled_percent"] = _percent(throttled, periods)
    quota = environment.get("cpu_quota")
    if row.trial.device == "cpu":  # elsewhere it is not threads of a CPU that compute
        found["threads"] = environment.get("threads")
        found["cpus"] = min(allowed, quota) if isinstance(quota, int | float) else allowed
    unreadable = []
    if "wait_s" in last and waited_s is None and busy_s is None:
        unreadable.append("whether others used its CPUs")
    if "quota_periods" in last and periods is None:
        unreadable.append("whether a CPU quota stopped it")
    found["unreadable"] = "; ".join(unreadable)
    return found


def _grown(first: Sample, last: Sample, name: str) -> float | None:
    """By how much a counter has grown in the window."""
    before, after = first.get(name), last.get(name)
    return None if before is None or after is None else float(after) - float(before)


def _percent(part: float, whole: float) -> float:
    return 100 * part / whole if whole > 0 else 0.0


def of_rounds(good: Sequence[Record]) -> Record:
    """How many rounds were disturbed, by how much at most, and what could not be read in any.

    Args:
        good: Its rounds that ended well, with the columns of `of_row`.
    """
    unreadable = (part for one in good for part in (one["unreadable"] or "").split("; ") if part)
    most = {
        name: max((one[name] for one in good if one[name] is not None), default=None)
        for name in PERCENTS
    }
    return {
        **most,
        "rounds_busy": sum(map(_was_busy, good)),
        "rounds_throttled": sum(map(_was_throttled, good)),
        "unreadable": "; ".join(dict.fromkeys(unreadable)),
    }


def flags(cell: Record) -> dict[str, bool]:
    """What flags a cell: what disturbed at least half of its rounds.

    The interval over rounds accounts for a single disturbed round of many.
    """
    half = max(1.0, cell["rounds_ok"] / 2)
    return {
        BUSY_FLAG: cell["rounds_busy"] >= half,
        THROTTLED_FLAG: cell["rounds_throttled"] >= half,
        CROWDED_FLAG: (_number(cell["threads"]) or 0) > (_number(cell["cpus"]) or math.inf),
    }


def _was_busy(record: Record) -> bool:
    """Whether others kept it from its CPUs: it waited, and they ran.

    Threads of one trial wait for each other too, and others may run where it does not: only both
    together mean a disturbance. Where only one of them can be read, that decides.
    """
    told = [
        percent > LIMIT_PERCENT
        for name in ("waited_percent", "others_percent")
        if (percent := _number(record[name])) is not None
    ]
    return (bool(told) and all(told)) or (_number(record["stolen_percent"]) or 0.0) > LIMIT_PERCENT


def _was_throttled(record: Record) -> bool:
    return (_number(record["throttled_percent"]) or 0.0) > LIMIT_PERCENT


def _number(value: Any) -> float | None:
    """A column's value; `None` where there is none, as a frame holds it too."""
    return None if pd.isna(value) else float(value)


def notes(cells: Iterable[Record]) -> list[str]:
    """What disturbed each cell, in figures: of each the largest of all rounds."""
    found = []
    for cell in cells:
        rounds = f"of {cell['rounds_ok']} rounds"
        if cell["rounds_busy"]:
            parts = [
                text.format(percent)
                for text, name in _TEXTS
                if (percent := _number(cell[name])) and percent >= 0.5  # less would read as 0 %
            ]
            found.append(
                f"{label(cell)}: {', '.join(parts)}: disturbed in {cell['rounds_busy']} {rounds}."
            )
        if cell["rounds_throttled"]:
            found.append(
                f"{label(cell)}: a CPU quota stopped it in up to {cell['throttled_percent']:.0f} % "
                f"of the quota's periods: throttled in {cell['rounds_throttled']} {rounds}."
            )
        if flags(cell)[CROWDED_FLAG]:
            found.append(
                f"{label(cell)}: {cell['threads']:g} threads on {cell['cpus']:g} CPUs wait for "
                "each other."
            )
    return found


_TEXTS = (
    (
        "its threads waited for a CPU for up to {:.0f} % of the time in which they were ready",
        PERCENTS[0],
    ),
    ("others used up to {:.0f} % of its CPUs", PERCENTS[1]),
    ("other machines on its host took up to {:.0f} % of them", PERCENTS[2]),
)
