"""The two sides of a comparison: whether they can be compared, and which cells they share."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.errors import UserError
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
        UserError: A variant is not there, or named twice.
    """
    known = list(dict.fromkeys(row.trial.variant for row in rows))
    asked = ["".join(name.split()) for name in names]
    for name in asked:
        if name not in known:
            raise UserError(f"--variants {name!r}: {suggest(name, known)}")
        if asked.count(name) > 1:
            raise UserError(f"--variants {' '.join(names)}: expected two that differ")
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
        UserError: Naming the other keys that differ, or an ignored one that there is not.
    """
    found = differences(there.rows[0], here.rows[0])
    known = {**there.rows[0].circumstances, **here.rows[0].circumstances}
    whole = {name.rpartition(".")[2]: name for name in known} | {name: name for name in known}
    for name in ignored:
        if name not in whole:
            raise UserError(f"--ignore {name!r}: {suggest(name, known)}")
    odd = {name: values for name, values in found.items() if name not in map(whole.get, ignored)}
    if odd:
        differ = "; ".join(f"{name} is {old!r} and {new!r}" for name, (old, new) in odd.items())
        how = " ".join(f"--ignore {name}" for name in odd)
        raise UserError(
            f"{there.name} and {here.name} cannot be compared: {differ}; {how} does so all the same"
        )
    return [
        f"Ignored: {name} is {old!r} in {there.name} and {new!r} in {here.name}."
        for name, (old, new) in found.items()
    ]


def matched(there: Side, here: Side) -> list[Pair]:
    """The cells that both sides have: at the same batch size and settings, of the same variant.

    Sides of one variant each are matched whatever these are.

    Raises:
        UserError: There is none.
    """
    one_each = all(len({row.trial.variant for row in side.rows}) == 1 for side in (there, here))
    groups: dict[tuple[Any, ...], tuple[list[Row], list[Row]]] = {}
    for number, side in enumerate((there, here)):
        for row in side.rows:
            trial = row.trial
            settings = json.dumps(trial.settings, sort_keys=True)
            place = ("" if one_each else trial.variant, trial.batch_size, settings)
            groups.setdefault(place, ([], []))[number].append(row)
    pairs = [Pair(*both) for both in groups.values() if all(both)]
    if not pairs:
        raise UserError(f"{there.name} and {here.name} have no cell in common{_odd(there, here)}")
    return pairs


def _odd(there: Side, here: Side) -> str:
    """Which of variants, batch sizes and settings have no value in common, in words."""
    found = []
    asked = [
        [{"variant": t.variant, "batch_size": t.batch_size, **t.settings} for t in trials]
        for trials in ([row.trial for row in side.rows] for side in (there, here))
    ]
    for name in dict.fromkeys(name for side in asked for one in side for name in one):
        old, new = ({str(one.get(name)) for one in side} for side in asked)
        if not old & new:
            found.append(
                f"{name} is {', '.join(sorted(old))} there and {', '.join(sorted(new))} here"
            )
    return f": {'; '.join(found)}" if found else ""


def only_in(side: Side, pairs: Sequence[Pair]) -> list[str]:
    """The labels of the cells that only one side has."""
    known = {id(row) for pair in pairs for row in (*pair.there, *pair.here)}
    labels = (
        f"{row.trial.variant} b{row.trial.batch_size}" for row in side.rows if id(row) not in known
    )
    return list(dict.fromkeys(labels))
