"""The two sides of a comparison: whether they can be compared, and which cells they share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.journal import Row, differences
from bench.spec import suggest


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


def matched(there: Side, here: Side) -> list[Pair]:
    """The cells that both sides have: at the same batch size and settings, of the same variant.

    Sides of one variant each are matched whatever these are.

    Raises:
        ValueError: There is none.
    """
    one_each = all(len({row.trial.variant for row in side.rows}) == 1 for side in (there, here))
    groups: dict[tuple[Any, ...], tuple[list[Row], list[Row]]] = {}
    for number, side in enumerate((there, here)):
        for row in side.rows:
            trial = row.trial
            place = ("" if one_each else trial.variant, trial.batch_size, str(trial.settings))
            groups.setdefault(place, ([], []))[number].append(row)
    pairs = [Pair(*both) for both in groups.values() if all(both)]
    if not pairs:
        raise ValueError(f"{there.name} and {here.name} have no cell in common")
    return pairs


def alone(there: Side, here: Side, pairs: Sequence[Pair]) -> list[str]:
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


def rounds_in_turn(pairs: Sequence[Pair]) -> set[int]:
    """The rounds in which nothing of another round began between the first cell and the last."""
    began: dict[int, list[str]] = {}
    for pair in pairs:
        for row in (*pair.there, *pair.here):
            began.setdefault(row.trial.round, []).append(row.result.started_at or "")
    return {
        number
        for number, own in began.items()
        if not any(
            min(own) < moment < max(own)
            for other, moments in began.items()
            if other != number
            for moment in moments
        )
    }
