"""Two folders, or two variants of one, cell by cell: what is shown to differ, and by how much.

A cell's rounds are its replicates, of all seeds, in speed and memory. In quality its seeds are:
rounds of one seed learn the same from the same, so that they tell nothing of another seed.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

import pandas as pd

from bench.journal import Row
from bench.noise import class_of, of_class
from bench.report import Record
from bench.report.cells import differing, records
from bench.report.contrast import FASTER, Contrast, Verdict, Words, absent, judge_all
from bench.report.frame import cell_frame, trial_record
from bench.report.notes import caution_notes, floor_notes, interval_notes, machine_notes
from bench.report.page import NOT_READABLE, Column, IntervalColumn, Page, shown
from bench.report.sides import Pair, Side, alone, check, matched, rounds_in_turn
from bench.stats import Direction, estimate, paired_logs
from bench.trial import Status

Replicates = dict[tuple[int, int], Record]
"""(seed, round) -> a trial that ended well."""


@dataclass(frozen=True, eq=False)
class Figure:
    """What is compared.

    Attributes:
        name: Of the ratio's column.
        source: Of the figure's column in a trial's record.
        words: For what is known of it.
        worse: The direction that nobody wants.
        unit: What is one observation of it.
    """

    name: str
    source: str
    words: Words
    worse: Direction
    unit: str = "round"

    def harm(self, ratio: float) -> float:
        """By what share it is worse; negative where it is better."""
        return 1 - ratio if self.worse is Direction.LOWER else ratio - 1


SPEED = Figure("ratio", "images_per_s", FASTER, Direction.LOWER)
MEMORY = Figure(
    "memory_ratio",
    "peak_memory_gib",
    {**FASTER, Direction.HIGHER: "more", Direction.LOWER: "less"},
    Direction.HIGHER,
)
QUALITY = Figure(
    "mse_ratio",
    "final_mse",
    {**FASTER, Direction.HIGHER: "worse", Direction.LOWER: "better"},
    Direction.HIGHER,
    "seed",
)
FIGURES = (SPEED, MEMORY, QUALITY)

_COLUMNS = (
    Column("there_images_per_s", "A\nimages/s", "{:.1f}".format),
    Column("here_images_per_s", "B\nimages/s", "{:.1f}".format),
    Column("ratio", "B / A", "{:.3f}x".format, needs=("there_images_per_s", "here_images_per_s")),
    IntervalColumn("ratio", "interval", "{:.3f}".format),
)


@dataclass(frozen=True)
class Gate:
    """A change that shall not be.

    Attributes:
        option: By which it was asked for.
        figure: What must not be worse.
        share: By this or more.
    """

    option: str
    figure: Figure
    share: float


@dataclass(frozen=True)
class Comparison:
    """What was found.

    Attributes:
        page: The table.
        failed: Of each gate that is broken, a sentence.
        undecided: Of each gate that is neither broken nor shown to hold, a sentence.
        inconclusive: Whether the verdict on any cell's speed is.
    """

    page: Page
    failed: list[str]
    undecided: list[str]
    inconclusive: bool


def compare(
    there: Side,
    here: Side,
    margin: float,
    drift: float | None = None,
    gates: Sequence[Gate] = (),
    ignored: Sequence[str] = (),
) -> Comparison:
    """Judges every cell's speed, memory and quality, and the gates by them.

    Args:
        there: What is compared with; A in the table.
        here: What is compared; B.
        margin: See `bench.stats.judge`.
        drift: How much the machine may have changed, as a share, where the sides were not measured
            in turn. Unless it is known, nothing is concluded of their speed.
        gates: What shall not be.
        ignored: See `bench.report.sides.check`.

    Raises:
        ValueError: They cannot be compared, or have no cell in common.
    """
    notes = check(there, here, ignored)
    pairs = matched(there, here)
    rounds, turns = {row.trial.round for pair in pairs for row in pair.here}, rounds_in_turn(pairs)
    if rounds - turns:
        notes.append(_not_in_turn(len(rounds - turns), len(rounds), drift))
    counted = rounds if drift is not None else (rounds & turns or rounds)
    floor = None if drift is None else math.log1p(drift)
    contrasts = {
        SPEED: [_speed(pair, counted, floor) for pair in pairs],
        MEMORY: [Contrast(_logs(MEMORY, pair, rounds), "", None) for pair in pairs],
        QUALITY: [_quality(pair) for pair in pairs],
    }
    verdicts = {
        figure: judge_all(found, margin, figure.words, figure.unit)
        for figure, found in contrasts.items()
    }
    if drift is None and not rounds & turns:
        verdicts[SPEED] = [
            verdict and verdict.withheld("not measured in turn") for verdict in verdicts[SPEED]
        ]
    verdicts[SPEED] = [
        verdict and (verdict.withheld("flagged") if _flags(pair) else verdict)
        for verdict, pair in zip(verdicts[SPEED], pairs, strict=True)
    ]
    lines = [
        _record(pair, {figure: verdicts[figure][place] for figure in verdicts})
        for place, pair in enumerate(pairs)
    ]
    failed: list[str] = []
    undecided: list[str] = []
    for gate in gates:
        for pair, verdict in zip(pairs, verdicts[gate.figure], strict=True):
            told, text = _judge(gate, pair, verdict)
            if told is not True:
                (undecided if told is None else failed).append(text)
    notes += [*alone(there, here, pairs), *caution_notes(_cells(pairs))]
    return Comparison(
        _page(there, here, lines, notes),
        failed,
        undecided,
        any(line["ratio_verdict"] in (None, "inconclusive") for line in lines),
    )


def _replicates(rows: Iterable[Row]) -> Replicates:
    return {
        (row.trial.seed, row.trial.round): trial_record(row)
        for row in rows
        if row.result.status is Status.OK
    }


def _values(figure: Figure, rows: Iterable[Row]) -> dict[tuple[int, int], float]:
    values = {key: record[figure.source] for key, record in _replicates(rows).items()}
    return {key: value for key, value in values.items() if value}


def _logs(figure: Figure, pair: Pair, rounds: Collection[int]) -> list[float]:
    """Of each replicate's ratio, in these rounds."""
    values = (
        {key: value for key, value in _values(figure, rows).items() if key[1] in rounds}
        for rows in (pair.here, pair.there)
    )
    return paired_logs(*values)


def _not_in_turn(odd: int, rounds: int, drift: float | None) -> str:
    """What it means that some rounds were not measured in turn."""
    text = (
        f"{odd} of {rounds} rounds were not measured in turn, first on one side and then on the "
        "other: nothing tells a difference in them from a drift of the machine"
    )
    if drift is not None:
        return f"{text}, which is taken to be {100 * drift:g} % at most."
    return f"{text}; they do not count for speed." if odd < rounds else f"{text} (see --drift)."


def _speed(pair: Pair, rounds: Collection[int], drift: float | None) -> Contrast:
    """With the noise floor that was measured for both sides' classes, if one was.

    Args:
        pair: The cell.
        rounds: That count.
        drift: Logarithm of what the machine may have drifted by, as the floor instead.
    """
    logs, floor = _logs(SPEED, pair, rounds), None
    if drift is not None:
        return Contrast(logs, "", drift, "assumed, for drift")
    noises = [of_class(row.environment, class_of(row)) for row in (pair.there[0], pair.here[0])]
    known = [noise.floor(len(logs)) for noise in noises if noise and logs]
    if len(known) == len(noises):
        floor = max(known)
    return Contrast(logs, class_of(pair.here[0]), floor)


def _flags(pair: Pair) -> list[str]:
    """Why nothing may be concluded from its speed, in words."""
    return [cell["flags"] for cell in _cells([pair]) if cell["flags"]]


def _cells(pairs: Sequence[Pair]) -> list[Record]:
    """The cells of both sides, as in their own tables."""
    sides = [row for pair in pairs for row in pair.there], [r for pair in pairs for r in pair.here]
    return [cell for rows in sides for cell in records(cell_frame(rows))]


def _quality(pair: Pair) -> Contrast:
    """Seeds as replicates, each by the mean of its rounds."""

    def by_seed(rows: Iterable[Row]) -> dict[int, float]:
        groups: dict[int, list[float]] = {}
        for (seed, _), value in _values(QUALITY, rows).items():
            groups.setdefault(seed, []).append(value)
        return {seed: fmean(values) for seed, values in groups.items()}

    return Contrast(paired_logs(by_seed(pair.here), by_seed(pair.there)), "", None)


def _record(pair: Pair, verdicts: dict[Figure, Verdict | None]) -> Record:
    """A line of the DataFrame."""
    trial = pair.here[0].trial
    described = trial_record(pair.here[0])
    record: Record = {
        **trial.settings,
        "variant": trial.variant,
        "there_variant": pair.there[0].trial.variant,
        "batch_size": trial.batch_size,
        **{
            name: described[name]
            for name in (
                *("settings", "device_name", "torch", "budget_gib", "samples"),
                *("memory_mode", "card_gib"),
            )
        },
    }
    for side, rows in (("there", pair.there), ("here", pair.here)):
        for figure in verdicts:
            values = _values(figure, rows).values()
            mean = estimate([math.log(value) for value in values]).value if values else None
            record[f"{side}_{figure.source}"] = mean
        record[f"{side}_status"] = _status(rows)
    for figure, verdict in verdicts.items():
        record |= verdict.columns(figure.name) if verdict else absent(figure.name)
    return record


def _status(rows: Iterable[Row]) -> str:
    """`ok`, or how those rounds ended that did not end so."""
    odd = dict.fromkeys(row.result.status for row in rows if row.result.status is not Status.OK)
    return ", ".join(odd) or Status.OK.value


def _judge(gate: Gate, pair: Pair, verdict: Verdict | None) -> tuple[bool | None, str]:
    """Whether a gate holds for a cell, or `None` where that is not shown; and a sentence."""
    limit, what = f"{gate.option} {100 * gate.share:g}%", gate.figure.source
    if _status(pair.there) == Status.OK != _status(pair.here):
        return False, f"{limit}: {pair.label} ended {_status(pair.here)} in B, well in A"
    if verdict is None:
        return None, f"{limit}: {pair.label} has no {what} to compare"
    judgement = verdict.judgement
    harm = gate.figure.harm(judgement.ratio.value)
    text = (
        f"{limit}: {pair.label} is {verdict.word} by {100 * abs(harm):.1f}%"
        if verdict.word != "inconclusive"
        else f"{limit}: {pair.label} is inconclusive ({judgement.why})"
    )
    if judgement.direction is gate.figure.worse and harm >= gate.share:
        return False, text
    if judgement.strict:
        ends = (judgement.strict.low, judgement.strict.high)
        if max(map(gate.figure.harm, ends)) < gate.share:
            return True, text
        text += f", at most {100 * max(map(gate.figure.harm, ends)):.1f}% worse"
    return None, text


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
        ["status", "A\nimages/s", "B\nimages/s", "interval"],
        f"B against A, {len(records)} cell{'s' if len(records) > 1 else ''}: {counts}.",
        [
            f"A: {there.name}. B: {here.name}.",
            *machine_notes(records),
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
