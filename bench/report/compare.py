"""Two folders, or two variants of one, cell by cell: what is shown to differ, and by how much."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from bench.journal import Row
from bench.report import Record
from bench.report.cells import differing, records
from bench.report.contrast import (
    Contrast,
    Verdict,
    absent,
    judge_all,
    turns,
)
from bench.report.figures import (
    MEMORY,
    QUALITY,
    SPEED,
    Figure,
    Gate,
    judge_gate,
    logs_of,
    quality_of,
    rates_of,
    replicates,
    speed_of,
    status_of,
    values_of,
)
from bench.report.frame import cell_frame, trial_record
from bench.report.notes import caution_notes, floor_notes, interval_notes, machine_notes
from bench.report.page import NOT_READABLE, Column, IntervalColumn, Page, shown
from bench.report.sides import Pair, Side, check, matched, only_in
from bench.stats import estimate
from bench.trial import rate_text

_COLUMNS = (
    Column("there_images_per_s", "A\nimages/s", rate_text),
    Column("here_images_per_s", "B\nimages/s", rate_text),
    Column("ratio", "B / A", "{:.3f}x".format, needs=("there_images_per_s", "here_images_per_s")),
    IntervalColumn("ratio", "interval", "{:.3f}".format),
)


@dataclass(frozen=True)
class Comparison:
    """What was found.

    Attributes:
        page: The table.
        failed: Of each gate that is broken, a sentence.
        undecided: Of each gate that is neither broken nor shown to hold, a sentence.
    """

    page: Page
    failed: list[str]
    undecided: list[str]


def compare(
    there: Side,
    here: Side,
    margin: float,
    drift: float | None = None,
    gates: Sequence[Gate] = (),
    ignored: Sequence[str] = (),
) -> Comparison:
    """Judges every cell's speed, memory and quality, and the gates by them.

    The three are corrected for the number of cells each by itself.

    Args:
        there: What is compared with; A in the table.
        here: What is compared; B.
        margin: See `bench.stats.judge`.
        drift: How much the machine may have changed, as a share, where the sides were not measured
            in turn. Unless it is known, nothing is concluded of their speed.
        gates: What shall not be.
        ignored: See `bench.report.sides.check`.

    Raises:
        UserError: They cannot be compared, or have no cell in common.
    """
    notes = check(there, here, ignored)
    pairs = matched(there, here)
    known = None if drift is None else math.log1p(drift)
    contrasts = {
        SPEED: [speed_of(pair, known) for pair in pairs],
        MEMORY: [Contrast(logs_of(MEMORY, pair), "") for pair in pairs],
        QUALITY: [quality_of(pair) for pair in pairs],
    }
    verdicts = {
        figure: judge_all(found, margin, figure.words, figure.unit)
        for figure, found in contrasts.items()
    }
    cells = [*_cells(pair.there for pair in pairs), *_cells(pair.here for pair in pairs)]
    flagged = {
        (cell["variant"], cell["batch_size"], cell["settings"]) for cell in cells if cell["flags"]
    }
    verdicts[SPEED] = [
        verdict.withheld("flagged")
        if verdict and flagged & {_place(pair.there[0]), _place(pair.here[0])}
        else verdict
        for verdict, pair in zip(verdicts[SPEED], pairs, strict=True)
    ]
    lines = [
        _record(pair, {figure: verdicts[figure][place] for figure in verdicts})
        for place, pair in enumerate(pairs)
    ]
    measured = [
        place for place, pair in enumerate(pairs) if replicates(pair.there) or replicates(pair.here)
    ]
    failed: list[str] = []
    undecided: list[str] = []
    for gate in gates:
        for place in measured:
            told, text = judge_gate(gate, pairs[place], verdicts[gate.figure][place])
            if told is not True:
                (undecided if told is None else failed).append(text)
    gone = only_in(there, pairs)
    if gates:
        undecided += [f"{name} was not measured in B" for name in gone]
        if not measured:
            undecided.append("no cell ended well on either side")
    notes += filter(None, [_not_in_turn(pairs, drift)])
    for side in (there, here):
        if names := only_in(side, pairs):
            notes.append(f"Only in {side.name}: {', '.join(names)}.")
    notes += caution_notes(cells)
    return Comparison(
        _page(there, here, lines, notes),
        failed,
        undecided,
    )


def _not_in_turn(pairs: Sequence[Pair], drift: float | None) -> str:
    """What it means that some trials were not measured in turn; empty if all were."""
    odd = total = 0
    for pair in pairs:
        here, there = rates_of(pair.here), rates_of(pair.there)
        common = len(here.keys() & there.keys())
        total, odd = total + common, odd + common - sum(map(len, turns(here, there)))
    if not odd:
        return ""
    text = (
        f"{odd} of {total} pairs of trials were not measured in turn, first on one side and then "
        "on the other: nothing tells a difference in them from a drift of the machine"
    )
    if drift is not None:
        return f"{text}, which is taken to be {100 * drift:g} % at most."
    return f"{text}. Measure both in turn (see README), or tell by --drift what it can be."


def _cells(rows: Iterable[Sequence[Row]]) -> list[Record]:
    """The cells of a side, as in its own table."""
    return records(cell_frame([row for cell in rows for row in cell]))


def _place(row: Row) -> tuple[str, int, str]:
    return row.trial.variant, row.trial.batch_size, json.dumps(dict(row.trial.settings))


def _record(pair: Pair, verdicts: dict[Figure, Verdict | None]) -> Record:
    """A line of the DataFrame."""
    trial = pair.here[0].trial
    record: Record = {
        **trial.settings,
        "variant": trial.variant,
        "there_variant": pair.there[0].trial.variant,
        "batch_size": trial.batch_size,
        "settings": json.dumps(dict(trial.settings)),
    }
    for side, rows in (("there", pair.there), ("here", pair.here)):
        for figure in verdicts:
            values = values_of(figure, rows)
            # Of the rounds that the ratio is of, where there are any.
            common = values_of(figure, pair.here).keys() & values_of(figure, pair.there).keys()
            logs = [math.log(value) for key, value in values.items() if key in (common or values)]
            record[f"{side}_{figure.source}"] = estimate(logs).value if logs else None
        record[f"{side}_status"] = status_of(rows)
    for figure, verdict in verdicts.items():
        record |= verdict.columns(figure.name) if verdict else absent(figure.name)
    return record


def _page(there: Side, here: Side, records: list[Record], notes: list[str]) -> Page:
    columns = shown(_COLUMNS, records)
    texts = {
        "variant": [_variant(record) for record in records],
        "batch": [str(record["batch_size"]) for record in records],
        **{name: [str(record[name]) for record in records] for name in differing(records)},
        "rounds": [str(record["ratio_rounds"] or 0) for record in records],
        **{column.title: [column.text(record) for record in records] for column in columns},
        "speed": [record["ratio_verdict"] or "not measured" for record in records],
        **{
            title: [_compact(record, figure) for record in records]
            for title, figure in (("memory", MEMORY), ("MSE", QUALITY))
        },
        "status": [_both(record) for record in records],
    }
    words = [record["ratio_verdict"] or "not measured" for record in records]
    counts = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))
    return Page(
        pd.DataFrame(records),
        texts,
        [record["ratio_verdict"] == "slower" for record in records],
        ["status", "A\nimages/s", "B\nimages/s", "rounds", "memory", "MSE", "interval"],
        f"B against A, {len(records)} cell{'s' if len(records) > 1 else ''}: {counts}.",
        [
            f"A: {there.name}. B: {here.name}.",
            *dict.fromkeys(
                note
                for side in (there, here)
                for note in machine_notes([trial_record(side.rows[0])])
            ),
            *_reasons(records),
            *interval_notes(records, SPEED.name),
            *floor_notes(records, SPEED.name),
            *notes,
        ],
    )


def _reasons(records: list[Record]) -> list[str]:
    """Why verdicts are inconclusive."""
    found = []
    for figure, title in ((SPEED, "speed"), (MEMORY, "memory"), (QUALITY, "MSE")):
        whys = (record[f"{figure.name}_why"] for record in records)
        if reasons := dict.fromkeys(why for why in whys if why):
            found.append(f"Inconclusive {title}: {', '.join(reasons)}.")
    return found


def _variant(record: Record) -> str:
    there, here = record["there_variant"], record["variant"]
    return here if there == here else f"{there} -> {here}"


def _compact(record: Record, figure: Figure) -> str:
    """A ratio and its verdict."""
    if record[figure.name] is None:
        return NOT_READABLE
    return f"{record[figure.name]:.3f}x {record[f'{figure.name}_verdict']}"


def _both(record: Record) -> str:
    there, here = record["there_status"], record["here_status"]
    return there if there == here else f"{there} -> {here}"
