"""Pairs: a cell beside its twin, which is plain on one axis and otherwise the same."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import geometric_mean
from typing import Any

import pandas as pd

from bench.errors import UserError
from bench.report import Record
from bench.report.cells import (
    axes,
    by_settings,
    differing,
    plain_axes,
    ran_out_of_memory,
    status_text,
)
from bench.report.contrast import ratios
from bench.report.notes import caution_notes, machine_notes, names, verdict_notes
from bench.report.page import NOT_READABLE, Column, IntervalColumn, Page, RatioColumn, shown
from bench.trial import Status, rate_text

BOTH = ("images_per_s", "twin_images_per_s")
"""What a figure of a pair needs: that both sides were measured."""

_FIGURES = ("images_per_s", "peak_memory_gib", "final_mse")
_TWIN, _OWN = ("twin_images_per_s",), ("images_per_s",)

Pair = tuple[Record, Record | None]
"""A cell and its twin, which may never have been asked for."""


@dataclass(frozen=True)
class Axis:
    """The axis that a view is about.

    Attributes:
        name: Of the axis.
        plain: Its value in the plain variant.
        changed: What the other values are called together, in headings.
        title: Of the column that names them.
    """

    name: str
    plain: str
    changed: str
    title: str

    def rate_columns(self) -> list[Column]:
        """Images a second on both sides, and their ratio."""
        return [
            Column("twin_images_per_s", f"{self.plain}\nimages/s", rate_text),
            Column("images_per_s", f"{self.changed}\nimages/s", rate_text),
            RatioColumn("speedup", "speedup", "{:.2f}x".format, needs=BOTH),
            IntervalColumn("speedup", "interval", "{:.2f}".format),
        ]

    def memory_columns(self) -> list[Column]:
        """Peak memory on both sides."""
        return [
            Column(
                "twin_peak_memory_gib", f"{self.plain}\nGiB", "{:.2f}".format, NOT_READABLE, _TWIN
            ),
            Column("peak_memory_gib", "GiB", "{:.2f}".format, NOT_READABLE, _OWN),
        ]

    def quality_columns(self) -> list[Column]:
        """The final MSE on both sides."""
        return [
            Column("twin_final_mse", f"{self.plain}\nMSE", "{:.1f}".format, needs=_TWIN),
            Column("final_mse", "MSE", "{:.1f}".format, needs=_OWN),
        ]


def find(cells: list[Record], view: str, name: str, changed: str, title: str) -> "Pairs":
    """Every cell that is not plain on an axis, with its twin.

    Args:
        cells: Of `cell_frame`.
        view: What the user asked for.
        name: Of the axis.
        changed: See `Axis`.
        title: See `Axis`.

    Raises:
        UserError: No such axis, or nothing that is not plain on it.
    """
    plain, there = plain_axes(cells[0]), axes(cells[0])
    if name not in there:
        raise UserError(f"--view {view}: no row has the axis {name}, only {', '.join(there)}")
    if name not in plain:
        raise UserError(
            f"--view {view}: the rows do not tell which {name} is plain; "
            f"measure {cells[0]['plain_variant']} too"
        )
    axis = Axis(name, plain[name], changed, title)
    by_place = {_place(cell, axes(cell)): cell for cell in cells}
    found = [
        (cell, by_place.get(_place(cell, axes(cell) | {name: axis.plain})))
        for cell in cells
        if axes(cell)[name] != axis.plain
    ]
    if not found:
        raise UserError(f"--view {view}: nothing to show, all rows have {name} {axis.plain}")
    cells = [cell for cell, _ in found]
    twins = [None if twin is None or ran_out_of_memory(twin) else twin for _, twin in found]
    lines = [
        _line(pair, name) | columns | _compared_rates(pair, columns["speedup"])
        for pair, columns in zip(found, ratios("speedup", cells, twins), strict=True)
    ]
    return Pairs(axis, found, lines)


def _place(cell: Record, chosen: dict[str, str]) -> tuple[Any, ...]:
    return tuple(sorted(chosen.items())), cell["batch_size"], cell["settings"], cell["seed"]


def _line(pair: Pair, axis: str) -> Record:
    """What all views of pairs have: both sides' figures, and whether they may be compared."""
    cell, twin = pair
    sides: Record = {}
    for name in _FIGURES:
        sides |= {f"twin_{name}": twin[name] if twin else None, name: cell[name]}
    sound = (
        side is not None and side["status"] == Status.OK and not side["flags"] for side in pair
    )
    return {
        **json.loads(cell["settings"]),
        "twin": twin["variant"] if twin else None,
        "variant": cell["variant"],
        axis: axes(cell)[axis],
        "batch_size": cell["batch_size"],
        **sides,
        "compared": all(sound),
        "twin_status": twin["status"] if twin else None,
        "status": cell["status"],
        "twin_flags": twin["flags"] if twin else None,
        "flags": cell["flags"],
        "device_name": cell["device_name"],
        "train_size": cell["train_size"],
        "seed": cell["seed"],
        "settings": cell["settings"],
    }


def _compared_rates(pair: Pair, speedup: float | None) -> Record:
    """Images/s of both sides in the rounds that both have, so that they tell what their ratio does.

    Args:
        pair: The cell and its twin.
        speedup: That ratio; `None` where they share no round.
    """
    cell, twin = pair
    if twin is None or speedup is None:
        return {}
    own, others = json.loads(cell["rates"]), json.loads(twin["rates"])
    rate = geometric_mean([others[number] for number in own.keys() & others.keys()])
    return {"twin_images_per_s": rate, "images_per_s": speedup * rate}


def ratio(value: float | None, reference: float | None) -> float | None:
    """`None` where either is absent, or there is nothing to divide by."""
    if value is None or reference is None or pd.isna(value) or pd.isna(reference):
        return None
    return value / reference if reference else None


@dataclass(frozen=True)
class Pairs:
    """All pairs of a journal on one axis.

    Attributes:
        axis: That axis.
        found: The pairs, in the order of the result table.
        lines: For each, the line of the view's DataFrame.
    """

    axis: Axis
    found: list[Pair]
    lines: list[Record]

    def page(
        self,
        columns: list[Column],
        dispensable: Sequence[Column],
        sentence: Callable[[list[Record]], str],
        notes: list[str],
    ) -> Page:
        """The view.

        Args:
            columns: Its figures.
            dispensable: Those to be left out of a narrow terminal, the first one first.
            sentence: From lines that share their settings to what follows from them.
            notes: What a reader must know of this view.
        """
        lines, axis = self.lines, self.axis
        best = [best_of(group) for _, group in by_settings(lines)]
        modes = [line[axis.name] for line in lines]
        texts = {
            "variant": [twin_name(line) for line in lines],
            "batch": [str(line["batch_size"]) for line in lines],
            axis.title: modes,
            **{name: [str(line[name]) for line in lines] for name in differing(lines, "seed")},
            **{
                column.title: [column.text(line) for line in lines]
                for column in shown(columns, lines)
            },
            "status": [self._status(pair) for pair in self.found],
        }
        alone = [cell for cell, twin in self.found if twin is None]
        if alone:
            notes = [*notes, f"{names(alone)}: not measured with {axis.plain}, otherwise the same."]
        sides = list({id(cell): cell for pair in self.found for cell in pair if cell}.values())
        return Page(
            pd.DataFrame(lines).drop(columns="device_name"),
            texts,
            [any(line is winner for winner in best) and line["speedup"] > 1 for line in lines],
            [
                *([axis.title] if len(set(modes)) == 1 else []),  # the sentence names it
                *(column.title for column in dispensable),
                "status",  # the notes tell too
            ],
            _by_settings(lines, sentence),
            [
                *machine_notes(sides),
                *verdict_notes(lines, "speedup"),
                *notes,
                *caution_notes(sides),
            ],
        )

    def _status(self, pair: Pair) -> str:
        """How the cell ended; how the twin did, where only that is in the way."""
        cell, twin = pair
        text = status_text(cell)
        if cell["status"] != Status.OK:
            return text
        if twin is None:
            return f"{text}; no {self.axis.plain}"
        if twin["status"] == Status.OK and not twin["flags"]:
            return text
        return f"{text}; {self.axis.plain} {status_text(twin)}"


def twin_name(line: Record) -> str:
    """What a pair has in common, as far as it has a name."""
    return str(line["twin"] or line["variant"])


def compared(lines: list[Record]) -> list[Record]:
    """The pairs that ended well on both sides, in all rounds, unflagged, and in one round both."""
    return [line for line in lines if line["compared"] and line["speedup"] is not None]


def best_of(lines: list[Record]) -> Record | None:
    """The pair with the highest speed-up, of those that are not shown to be slower."""
    candidates = [line for line in compared(lines) if line["speedup_verdict"] != "slower"]
    return max(candidates, key=lambda line: float(line["speedup"]), default=None)


def faster_or_slower(what: str, lines: list[Record]) -> str:
    """How many pairs are shown to be faster or slower; there must be one that may be compared."""
    judged = compared(lines)
    told = [
        f"{of_pairs(count, len(judged))} {word}"
        for word in ("faster", "slower")
        if (count := sum(line["speedup_verdict"] == word for line in judged))
    ]
    made = " and ".join(told) or "no pair faster or slower"
    return f"{what} is shown to make {made} on {judged[0]['device_name']}"


def of_pairs(count: int, total: int) -> str:
    """So many of all pairs, in words."""
    if not count:
        return "no pair"
    if count < total:
        return f"{count} of {total} pairs"
    return "the one pair" if total == 1 else f"all {total} pairs"


def _by_settings(lines: list[Record], sentence: Callable[[list[Record]], str]) -> str:
    found = []
    for words, group in by_settings(lines):
        text = sentence(group)
        found.append(f"At {words}: {text[0].lower()}{text[1:]}" if words else text)
    return " ".join(found)
