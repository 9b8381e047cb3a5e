"""What a reader must know to take a table for what it is, one line each."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import pandas as pd

from bench.report import Record, disturbance
from bench.report.cells import by_settings, label
from bench.report.contrast import COLUMNS as RATIO_COLUMNS
from bench.report.contrast import MARGIN, POOLED
from bench.report.frame import BUSY, OUTSIDE_GIT
from bench.stats import ALPHA, LEVEL
from bench.trial import Status

FEW = 3
"""So many cells, variants or reasons are named; of the others, their number."""


def machine_notes(cells: list[Record]) -> list[str]:
    """Where it was measured, and within which memory."""
    first = cells[0]
    found = [
        f"Measured on {first['device_name']}, torch {first['torch']}, budget "
        f"{first['budget_gib']:g} GiB, {first['samples']} training samples a row.",
    ]
    if pd.notna(first["malloc"]):
        found.append(f"The C library's allocator was told {first['malloc']}.")
    if pd.notna(first["variables"]):
        found.append(f"Measured with the environment variables {first['variables']}.")
    emulated = [
        f"Budget emulated: a card of {cell['card_gib']:.1f} GiB capped to "
        f"{cell['budget_gib']:g} GiB."
        for cell in cells
        if cell["memory_mode"] == "emulated"
    ]
    return [*found, *dict.fromkeys(emulated)]


def verdict_notes(records: Sequence[Record], *names: str) -> list[str]:
    """What the marks and the intervals of a table's ratios mean, and what is missing.

    Args:
        records: Lines of the table.
        names: Of its ratios.
    """
    told = _told(records, names)
    found: list[str] = []
    reasons = dict.fromkeys(ratio["why"] for ratio in told if ratio["verdict"] == "inconclusive")
    if reasons:
        found.append(f"~: not shown to be a difference ({', '.join(reasons)}).")
    if any(ratio["verdict"] == "same" for ratio in told):
        found.append(f"=: shown to lie within {100 * MARGIN:g} % of each other.")
    return [*found, *interval_notes(records, *names), *floor_notes(records, *names)]


def interval_notes(records: Sequence[Record], *names: str) -> list[str]:
    """How intervals were found, and what a verdict is held to; see `verdict_notes`."""
    if all(pd.isna(ratio["low"]) for ratio in _told(records, names)):
        return []
    return [
        f"Intervals: {100 * LEVEL:g} %, Student's t over rounds, of the ratios within each. What "
        f"is called a difference is one at {100 * ALPHA:g} % over its whole column, and lies "
        "beyond the noise floor."
    ]


def floor_notes(records: Sequence[Record], *names: str) -> list[str]:
    """The noise floors, and where they are from; see `verdict_notes`."""
    floors: dict[str, list[float]] = {}
    for ratio in _told(records, names):
        if pd.notna(ratio["floor_percent"]):
            floors.setdefault(ratio["floor_source"], []).append(ratio["floor_percent"])
    found = []
    for source, percents in floors.items():
        low, high = f"{min(percents):.1f}", f"{max(percents):.1f}"
        span = high if low == high else f"{low} to {high}"
        text = f"Noise floor at these rounds: {span} %, {source}."
        if source == POOLED:
            text += (
                " None was measured by `doctor --noise` at these settings, batch sizes, samples "
                "and steps."
            )
        found.append(text)
    return found


def _told(records: Sequence[Record], names: Sequence[str]) -> list[Record]:
    """What stands beside each ratio, of those that there are."""
    return [
        {end: record[f"{name}_{end}"] for end in RATIO_COLUMNS}
        for name in names
        for record in records
        if pd.notna(record[f"{name}_rounds"])
    ]


def compile_seconds_note() -> str:
    """What the columns of compile seconds hold."""
    return (
        "Compile seconds: what the steps before the measured window took beyond as many measured "
        "ones; cold with an empty compile cache, warm with a filled one."
    )


def caution_notes(cells: list[Record]) -> list[str]:
    """What makes figures less certain than they look, and which cells have none and why."""
    found = [
        f"{label(cell)}: steps took {cell['slowdown']:.1f}x their median on average: something "
        "else ran beside it."
        for cell in cells
        if pd.notna(cell["slowdown"]) and cell["slowdown"] > BUSY and not cell["rounds_busy"]
    ]
    found += disturbance.notes(cells)
    found += [
        f"{labels}: not readable here: {what}."
        for what, labels in _grouped([cell for cell in cells if cell["unreadable"]], _unreadable)
    ]
    found += [
        f"{labels}: flagged, and nothing is concluded from it: {flags}."
        for flags, labels in _grouped([cell for cell in cells if cell["flags"]], _flags)
    ]
    if unsettled := [cell for cell in cells if cell["settled"] is False]:
        count, rounds = (
            sum(cell[name] for cell in unsettled) for name in ("rounds_unsettled", "rounds_ok")
        )
        found.append(
            f"{names(unsettled)}: warm-up ended at its cap, before step times had settled, in "
            f"{count} of {rounds} rounds."
        )
    found += [
        f"{label(cell)}: {cell['skipped_steps']} of a round's measured steps updated no weights, "
        f"since gradients overflowed; the loss scale ended at {cell['loss_scale']:g}."
        for cell in cells
        if pd.notna(cell["skipped_steps"]) and cell["skipped_steps"]
    ]
    found += [
        f"{labels}: {caveat}" for caveat, labels in _grouped(cells, partial(_listed, "caveats"))
    ]
    return [*found, *_commit_notes(cells), *_compilation_notes(cells), *_failure_notes(cells)]


def _commit_notes(cells: list[Record]) -> list[str]:
    """Whether the rows come from one commit, and from nothing but it."""
    found: list[str] = []
    commits = {
        commit
        for cell in cells
        for commit in str(OUTSIDE_GIT if pd.isna(cell["commit"]) else cell["commit"]).split(",")
    }
    if len(commits) > 1:
        found.append(f"Rows come from several commits: {', '.join(sorted(commits))}.")
    if any(pd.notna(cell["dirty"]) and cell["dirty"] for cell in cells):
        found.append("Measured with uncommitted changes.")
    return found


def _compilation_notes(cells: list[Record]) -> list[str]:
    """Why graphs broke or were compiled again."""
    compiled = [cell for cell in cells if pd.notna(cell["graph_breaks"])]
    found: list[str] = []
    for kind in ("graph_break", "recompilation"):
        told = _grouped(compiled, partial(_listed, f"{kind}_reasons"))
        words = kind.replace("_", " ")
        found += [f"{names}: {words}: {_shortened(reason)}" for reason, names in told[:FEW]]
        if more := told[FEW:]:
            found.append(f"Reasons for a {words} that are only in the journal: {len(more)}.")
    return found


def _flags(cell: Record) -> list[str]:
    return [cell["flags"]]


def _unreadable(cell: Record) -> list[str]:
    return [cell["unreadable"]]


def _listed(column: str, cell: Record) -> list[str]:
    return list(json.loads(cell[column]))


def _failure_notes(cells: list[Record]) -> list[str]:
    """Cells that did not end well, one line for all that did so for the same reason."""
    failed = [cell for cell in cells if cell["status"] != Status.OK]
    words = {id(cell): words for words, group in by_settings(cells) for cell in group}
    told = _grouped(failed, lambda cell: [f"{cell['status']}: {cell['reason']}"], words)
    return [f"{names}: {reason}" for reason, names in told]


def _grouped(
    cells: Iterable[Record],
    reasons_of: Callable[[Record], list[str]],
    words: Mapping[int, str] | None = None,
) -> list[tuple[str, str]]:
    """Every reason with the names of its cells; where these are many, of a few variants."""
    groups: dict[str, list[Record]] = {}
    for cell in cells:
        for reason in reasons_of(cell):
            groups.setdefault(reason, []).append(cell)
    return [(reason, names(group, words)) for reason, group in groups.items()]


def names(cells: list[Record], words: Mapping[int, str] | None = None) -> str:
    """Cells by their labels; where there are many, by a few of their variants.

    Args:
        cells: At least one.
        words: By `id` of a cell, the settings that set it apart.
    """
    if len(cells) <= FEW:
        wheres = ((words or {}).get(id(cell)) for cell in cells)
        labels = (
            f"{label(cell)}{f' at {where}' if where else ''}"
            for cell, where in zip(cells, wheres, strict=True)
        )
        return ", ".join(dict.fromkeys(labels))  # seeds and settings may share one
    variants = list(dict.fromkeys(cell["variant"] for cell in cells))
    more = f" and {len(variants) - FEW} more variants" if len(variants) > FEW else ""
    return f"{', '.join(variants[:FEW])}{more} ({len(cells)} cells)"


def _shortened(reason: str) -> str:
    line = " ".join(reason.split())
    return line if len(line) <= 160 else line[:157] + "..."
