"""The table of a sweep under way: its rows so far, in as much room as there is."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.segment import Segment

from bench.journal import Row
from bench.trial import Status, Trial

Line = list[Segment]

_BEST, _HEADING, _QUIET, _REFUSED, _WRONG = "bold green", "bold", "dim", "yellow", "red"
_REFUSALS = (Status.OOM, Status.IMPLIED_OOM, Status.UNSUPPORTED, Status.INTERRUPTED)
"""Ends without a figure that are nobody's fault."""

_RATE = "images_per_s"
_STAY_LONGEST = ("final_mse", "peak_memory_gib", "utilization_percent", "step_ms")
"""Figures in a narrow terminal: all others go before these, and of these the last goes first."""

_GAP = "  "
_LEAST_VARIANT, _LEAST_REASON = 9, 16
"""Characters below which these say nothing."""


@dataclass(frozen=True)
class _Column:
    """A column with the text of every row, by row."""

    title: str
    texts: Sequence[str]
    width: int
    left: bool = False


def _column(title: str, texts: Sequence[str], *, left: bool = False) -> _Column:
    return _Column(title, texts, max(map(cell_len, (title, *texts))), left)


def fit(text: str, width: int, console: Console, *, left: bool = True) -> str:
    """A text in exactly so many characters, cut or filled; what is no letter is blank."""
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    if (missing := width - cell_len(text)) >= 0:
        return text + " " * missing if left else " " * missing + text
    dots = "." if console.options.ascii_only else "…"
    return set_cell_size(text, max(0, width - 1)) + dots[:width]


class GrowingTable:
    """Rows as they come; the fastest is bold, what failed says why.

    Figures are those of `bench.report.frame.trial_record`, formatted as in the result table.
    """

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._records: list[dict[str, Any]] = []
        self._differing: list[str] = []
        self._cached: tuple[object, list[Line]] = (None, [])

    def begin(self, trials: Sequence[Trial]) -> None:
        """What is to come: a setting that will differ between rows has its column at once."""
        asked = [_asked(trial) for trial in trials]
        names = asked[0] if asked else {}
        self._differing = [name for name in names if len({one[name] for one in asked}) > 1]

    def add(self, row: Row) -> None:
        """A row that has ended."""
        from bench.report.frame import trial_record  # pandas: not before it is needed

        self._rows.append(row)
        self._records.append(trial_record(row))

    def lines(self, console: Console, width: int, height: int) -> list[Line]:
        """The table in so many characters and lines; made once for every row and size."""
        state = len(self._rows), width, height
        if self._cached[0] != state:
            self._cached = state, self._render(console, width, height)
        return self._cached[1]

    def _render(self, console: Console, width: int, height: int) -> list[Line]:
        room = height - 2  # heading and rule
        if room < 1 or not self._rows:
            return []
        best = self._best()
        places = list(range(len(self._rows)))
        if len(places) > room:
            places = _newest_and(best, len(places), room - 1)  # a line says what is missing
        columns = _fitting(self._columns(), ["batch", *self._differing], width)
        used = sum(column.width for column in columns) + len(_GAP) * (len(columns) - 1)
        heading = [fit(column.title, column.width, console, left=column.left) for column in columns]
        rule = "-" if console.options.ascii_only else "─"
        quiet = console.get_style(_QUIET)
        lines = [
            [Segment(_GAP.join(heading), console.get_style(_HEADING))],
            [Segment(rule * used, quiet)],
        ]
        for place in places:
            row = self._rows[place]
            style = console.get_style(_BEST if place in best else _style(row.result.status))
            texts = [
                fit(column.texts[place], column.width, console, left=column.left)
                for column in columns
            ]
            line = [Segment(_GAP.join(texts), style)]
            if row.result.reason and width - used >= _LEAST_REASON:
                line.append(Segment(fit(_GAP + row.result.reason, width - used, console), quiet))
            lines.append(line)
        if hidden := len(self._rows) - len(places):
            text = f"and {hidden} {'rows' if hidden > 1 else 'row'} before"
            lines.append([Segment(fit(text, min(width, len(text)), console), quiet)])
        return lines

    def _best(self) -> set[int]:
        """The fastest row of each settings, as in the result table."""
        best: dict[str, int] = {}
        for place, (row, record) in enumerate(zip(self._rows, self._records, strict=True)):
            if row.result.status is Status.OK:
                other = best.setdefault(record["settings"], place)
                if record[_RATE] > self._records[other][_RATE]:
                    best[record["settings"]] = place
        return set(best.values())

    def _columns(self) -> dict[str, _Column]:
        from bench.report.page import IntervalColumn
        from bench.report.tables import COLUMNS

        trials = [row.trial for row in self._rows]
        columns = {
            "variant": _column("variant", [trial.variant for trial in trials], left=True),
            "batch": _column("batch", [str(trial.batch_size) for trial in trials]),
        }
        for name in self._differing:
            columns[name] = _column(name, [str(_asked(trial)[name]) for trial in trials])
        for column in COLUMNS:
            comparing = column.name not in self._records[0] or isinstance(column, IntervalColumn)
            if comparing:  # rows with others, which the final table does
                continue
            figures = [record[column.name] for record in self._records]
            texts = ["-" if figure is None else column.format(figure) for figure in figures]
            if column.name == _RATE:  # where the eye looks for the result
                texts = [
                    text if row.result.status is Status.OK else str(row.result.status)
                    for row, text in zip(self._rows, texts, strict=True)
                ]
            columns[column.name] = _column(column.title, texts)
        return columns


def _asked(trial: Trial) -> dict[str, object]:
    return {**trial.settings, "seed": trial.seed, "round": trial.round}


def _style(status: Status) -> str:
    if status is Status.OK:
        return ""
    return _REFUSED if status in _REFUSALS else _WRONG


def _newest_and(best: set[int], count: int, room: int) -> list[int]:
    """So many places: the best ones, and the last ones of `count`."""
    newest = room
    while newest and len(best.union(range(count - newest, count))) > room:
        newest -= 1
    return sorted(best.union(range(count - newest, count)))[:room]


def _fitting(columns: dict[str, _Column], identity: Sequence[str], width: int) -> list[_Column]:
    """The columns that have room: figures go first, then the variant is cut, then `identity`."""
    shown = dict(columns)

    def room() -> int:
        """For the variant."""
        others = (column.width + len(_GAP) for name, column in shown.items() if name != "variant")
        return width - sum(others)

    figures = [name for name in reversed(columns) if name not in ("variant", *identity, _RATE)]
    rank = {name: len(_STAY_LONGEST) - place for place, name in enumerate(_STAY_LONGEST)}
    for name in sorted(figures, key=lambda name: rank.get(name, 0)):
        if room() < shown["variant"].width:
            del shown[name]
    for name in reversed(identity):
        if room() < min(_LEAST_VARIANT, shown["variant"].width):
            del shown[name]
    narrow = max(1, min(room(), shown["variant"].width))
    shown["variant"] = replace(shown["variant"], width=narrow)
    return list(shown.values())
