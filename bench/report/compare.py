"""Two folders, or two variants of one, cell by cell: what is shown to differ, and by how much.

A cell's rounds are its replicates, of all seeds, in speed and memory. In quality its seeds are:
rounds of one seed learn the same from the same, so that they tell nothing of another seed.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

import pandas as pd

from bench.journal import Row, differences
from bench.noise import class_of, of_class
from bench.report.cells import differing
from bench.report.contrast import FASTER, Contrast, Verdict, Words, absent, judge_all
from bench.report.frame import Record, trial_record
from bench.report.notes import machine_notes, verdict_notes
from bench.report.page import NOT_READABLE, Column, IntervalColumn, Page, shown
from bench.spec import suggest
from bench.stats import Direction, estimate, paired_logs
from bench.trial import Status

Place = tuple[Any, ...]
"""What two cells that are compared have in common."""

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


_NOT_IN_TURN = (
    "A and B were not measured in turn, round by round: nothing tells a difference from a drift of "
    "the machine in between (see --drift)."
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
class Side:
    """What is compared, or what it is compared with.

    Attributes:
        name: In sentences.
        rows: All of one environment.
    """

    name: str
    rows: Sequence[Row]


@dataclass(frozen=True)
class Pair:
    """A cell on both sides.

    Attributes:
        there: The rows of what it is compared with.
        here: Its own.
    """

    there: Sequence[Row]
    here: Sequence[Row]

    @property
    def label(self) -> str:
        """What a person calls it."""
        trial = self.here[0].trial
        return f"{trial.variant} b{trial.batch_size}"


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


def by_variant(rows: Sequence[Row], names: Sequence[str]) -> list[Side]:
    """The sides of variants of one folder.

    Raises:
        ValueError: A variant is not there, or named twice.
    """
    known = list(dict.fromkeys(row.trial.variant for row in rows))
    asked = ["".join(name.split()) for name in names]
    for name in asked:
        if name not in known:
            raise ValueError(f"--variants {name!r}: {suggest(name, known)}")
        if asked.count(name) > 1:
            raise ValueError(f"--variants {' '.join(names)}: expected two that differ")
    return [Side(name, [row for row in rows if row.trial.variant == name]) for name in asked]


def check(there: Side, here: Side, ignored: Sequence[str]) -> list[str]:
    """Refuses what cannot be compared.

    Args:
        there: One side.
        here: The other.
        ignored: Keys that may differ, such as `environment.torch` or just `torch`.

    Returns:
        Of each key that is ignored and differs, a sentence.

    Raises:
        ValueError: Naming the first other key that differs, or an ignored one that there is not.
    """
    found = differences(there.rows[0], here.rows[0])
    known = {**there.rows[0].circumstances, **here.rows[0].circumstances}
    whole = {name.rpartition(".")[2]: name for name in known} | {name: name for name in known}
    for name in ignored:
        if name not in whole:
            raise ValueError(f"--ignore {name!r}: {suggest(name, known)}")
    may_differ = {whole[name] for name in ignored}
    for name, (old, new) in found.items():
        if name not in may_differ:
            raise ValueError(
                f"{name} is {old!r} in {there.name} and {new!r} in {here.name}, so that they "
                f"cannot be compared; --ignore {name} does so all the same"
            )
    return [
        f"Ignored: {name} is {old!r} in {there.name} and {new!r} in {here.name}."
        for name, (old, new) in found.items()
    ]


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
        there: What is compared with; A in the table. A side of one variant is matched with any
            other, and else each variant with itself.
        here: What is compared; B.
        margin: See `bench.stats.judge`.
        drift: How much the machine may have changed, as a share, where the sides were not measured
            in turn. Unless it is known, nothing is concluded of their speed.
        gates: What shall not be.
        ignored: See `check`.

    Raises:
        ValueError: They cannot be compared, or have no cell in common.
    """
    notes = check(there, here, ignored)
    pairs = _pairs(there, here)
    unknown = math.inf if drift is None else math.log1p(drift)
    floor = None if _in_turn(pairs) else unknown
    contrasts = {
        SPEED: [_speed(pair, floor) for pair in pairs],
        MEMORY: [Contrast(_logs(MEMORY, pair), "", None) for pair in pairs],
        QUALITY: [_quality(pair) for pair in pairs],
    }
    verdicts = {
        figure: judge_all(found, margin, figure.words, figure.unit)
        for figure, found in contrasts.items()
    }
    records = [
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
    if floor is not None:
        notes.append(
            _NOT_IN_TURN if drift is None else f"{_NOT_IN_TURN} Assumed: {100 * drift:g} %."
        )
    notes += _alone(there, here, pairs)
    return Comparison(
        _page(there, here, records, notes),
        failed,
        undecided,
        any(record["ratio_verdict"] in (None, "inconclusive") for record in records),
    )


def _pairs(there: Side, here: Side) -> list[Pair]:
    one_each = (
        len({row.trial.variant for row in there.rows})
        == 1
        == len({row.trial.variant for row in here.rows})
    )
    groups: dict[Place, tuple[list[Row], list[Row]]] = {}
    for number, side in enumerate((there, here)):
        for row in side.rows:
            trial = row.trial
            place = ("" if one_each else trial.variant, trial.batch_size, str(trial.settings))
            groups.setdefault(place, ([], []))[number].append(row)
    pairs = [Pair(*both) for both in groups.values() if all(both)]
    if not pairs:
        raise ValueError(f"{there.name} and {here.name} have no cell in common")
    return pairs


def _alone(there: Side, here: Side, pairs: Sequence[Pair]) -> list[str]:
    """Which cells only one side has."""
    matched = {id(row) for pair in pairs for row in (*pair.there, *pair.here)}
    found = []
    for side in (there, here):
        labels = dict.fromkeys(
            f"{row.trial.variant} b{row.trial.batch_size}"
            for row in side.rows
            if id(row) not in matched
        )
        if labels:
            found.append(f"Only in {side.name}: {', '.join(labels)}.")
    return found


def _in_turn(pairs: Sequence[Pair]) -> bool:
    """Whether each round began on both sides before the next one on either."""
    began: dict[int, list[str]] = {}
    for pair in pairs:
        for row in (*pair.there, *pair.here):
            began.setdefault(row.trial.round, []).append(row.result.started_at or "")
    rounds = [began[number] for number in sorted(began)]
    return all(max(one) <= min(following) for one, following in pairwise(rounds))


def _replicates(rows: Iterable[Row]) -> Replicates:
    return {
        (row.trial.seed, row.trial.round): trial_record(row)
        for row in rows
        if row.result.status is Status.OK
    }


def _values(figure: Figure, rows: Iterable[Row]) -> dict[tuple[int, int], float]:
    values = {key: record[figure.source] for key, record in _replicates(rows).items()}
    return {key: value for key, value in values.items() if value}


def _logs(figure: Figure, pair: Pair) -> list[float]:
    return paired_logs(_values(figure, pair.here), _values(figure, pair.there))


def _speed(pair: Pair, floor: float | None) -> Contrast:
    """With the given noise floor, or the one that was measured for both sides' classes."""
    logs = _logs(SPEED, pair)
    if floor is None and logs:
        noises = [of_class(row.environment, class_of(row)) for row in (pair.there[0], pair.here[0])]
        known = [noise.floor(len(logs)) for noise in noises if noise]
        floor = max(known) if len(known) == len(noises) else None
    return Contrast(logs, class_of(pair.here[0]), floor)


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
            *verdict_notes(records, *(figure.name for figure in FIGURES)),
            *notes,
        ],
    )


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
