"""A page: one DataFrame, and the table, the sentence and the notes made from it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd
from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from bench.report import Record
from bench.report.contrast import MARKS

NOT_MEASURED = "not measured"
NOT_READABLE = "not readable"
NOT_COMPARABLE = "not comparable"

LEFT = ("variant", "mode", "precision", "change", "case", "by", "role", "status")
"""Titles of columns that hold words."""

_GAP = 2
"""Characters between two columns in a terminal."""


@dataclass(frozen=True)
class Column:
    """A printed column of figures.

    Attributes:
        name: In the DataFrame.
        title: In the heading; a line break in it is one in a terminal.
        format: From a number to its text.
        absent: The text of a missing value.
        needs: Columns without whose values none is expected here: a dash says so.
    """

    name: str
    title: str
    format: Callable[[float], str]
    absent: str = NOT_MEASURED
    needs: tuple[str, ...] = ()

    def text(self, record: Record) -> str:
        """What stands in the table for a line of the DataFrame."""
        if pd.notna(record[self.name]):
            return self.format(float(record[self.name]))
        return self.absent if all(pd.notna(record[name]) for name in self.needs) else "-"


@dataclass(frozen=True)
class RatioColumn(Column):
    """A ratio, marked where it is not shown to be a difference.

    It is absent where what was measured has no baseline that counts, or shares no round with it.
    """

    absent: str = NOT_COMPARABLE

    def text(self, record: Record) -> str:
        """See `Column.text`."""
        return MARKS.get(record[f"{self.name}_verdict"], "") + super().text(record)


class IntervalColumn(Column):
    """The interval of the figure `name`; a dash where rounds are too few to have one."""

    def text(self, record: Record) -> str:
        """See `Column.text`."""
        ends = [record[f"{self.name}_{end}"] for end in ("low", "high")]
        return "-" if any(map(pd.isna, ends)) else f"[{', '.join(map(self.format, ends))}]"


class SpreadColumn(IntervalColumn):
    """The larger side of the interval of the figure `name`, in percent of it."""

    def text(self, record: Record) -> str:
        """See `Column.text`."""
        low, high = (record[f"{self.name}_{end}"] for end in ("low", "high"))
        if pd.isna(low):
            return "-"
        value = record[self.name]
        return self.format(100 * max(high / value - 1, 1 - low / value))


def shown(columns: Sequence[Column], records: Sequence[Record]) -> list[Column]:
    """The columns without those of intervals where no record has one."""
    return [
        column
        for column in columns
        if not isinstance(column, IntervalColumn)
        or any(pd.notna(record[f"{column.name}_low"]) for record in records)
    ]


def ratio_text(record: Record, name: str) -> str:
    """A ratio in a sentence: marked, and with its interval if it has one."""
    text = RatioColumn(name, "", "{:.2f}x".format).text(record)
    interval = IntervalColumn(name, "", "{:.2f}".format).text(record)
    return text if interval == "-" else f"{text} {interval}"


@dataclass(frozen=True)
class Page:
    """What a report says, before it is put into a format.

    Attributes:
        frame: All figures, under the names of `results/README.md`.
        columns: The printed table: title -> its texts.
        bold: For each row, whether it stands out.
        dispensable: Titles that may be left out of a narrow terminal, the first one first; those
            that the table does not have count for nothing.
        verdict: What follows from the table, in plain words.
        notes: What a reader must know to take it for what it is.
    """

    frame: pd.DataFrame
    columns: dict[str, list[str]]
    bold: list[bool]
    dispensable: list[str]
    verdict: str
    notes: list[str]

    def to_rich(self, width: int | None) -> Table:
        """The table for a terminal.

        Args:
            width: Characters to a line; columns that do not fit are left out, and named below the
                table. `None` keeps all.
        """
        widths = {
            title: max(map(cell_len, (*title.splitlines(), *texts))) + _GAP
            for title, texts in self.columns.items()
        }
        hidden = [] if width is None else _too_many(widths, self.dispensable, width)
        shown = [title for title in self.columns if title not in hidden]
        left_out = ", ".join(map(_one_line, hidden))
        table = Table(
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            collapse_padding=True,
            caption=Text(f"not shown for lack of width: {left_out}", "table.caption")
            if hidden
            else None,
            caption_justify="left",
        )
        for title in shown:
            table.add_column(
                Text(title),
                justify="left" if title in LEFT else "right",
                vertical="bottom",  # of a heading with fewer lines than others
                no_wrap=True,
            )
        for place, bold in enumerate(self.bold):
            # As `Text`, in which rich finds no markup: a cell may hold any name.
            texts = [Text(self.columns[title][place]) for title in shown]
            table.add_row(*texts, style="bold green" if bold else None)
        return table

    def to_markdown(self) -> str:
        """The table, the sentence and the notes."""
        lines = [
            "| " + " | ".join(map(_one_line, self.columns)) + " |",
            "|" + "|".join(":--" if title in LEFT else "--:" for title in self.columns) + "|",
        ]
        for place, bold in enumerate(self.bold):
            texts = [
                _as_text(column[place]).replace("|", r"\|") for column in self.columns.values()
            ]
            shown = [f"**{text}**" for text in texts] if bold else texts
            lines.append("| " + " | ".join(shown) + " |")
        notes = (f"- {_as_text(note)}" for note in self.notes)
        return "\n".join([*lines, "", _as_text(self.verdict), "", *notes, ""])


def _as_text(text: str) -> str:
    """A text that Markdown takes for text, in one line; a row's reason may be anything."""
    return " ".join(text.split()).replace("<", "&lt;").replace("](", "]\\(")


def _too_many(widths: dict[str, int], dispensable: list[str], width: int) -> list[str]:
    """The titles to be left out, so that the rest fits a line."""
    excess = sum(widths.values()) - width
    hidden = []
    for title in dispensable:
        if excess > 0 and title in widths:
            hidden.append(title)
            excess -= widths[title]
    for title in reversed(hidden.copy()):  # a wide column that had to go may have left room
        if excess + widths[title] <= 0:
            hidden.remove(title)
            excess += widths[title]
    return hidden


def _one_line(title: str) -> str:
    return " ".join(title.splitlines())
