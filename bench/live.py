"""A sweep under way in a terminal: progress, the trial that runs, and the table so far."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.control import Control
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.segment import ControlType, Segment

from bench.budget import GIB
from bench.estimate import Durations, without
from bench.growing import GrowingTable, Line, fit
from bench.journal import Row
from bench.monitor import Reading
from bench.output import print_line
from bench.trial import Trial, rate_text

INTERVAL_S = 1.0
"""Between two drawings when nothing has happened but time."""

NEWS_INTERVAL_S = 0.1
"""Between two drawings at the most: trials that need no run end by the hundred in a second."""

_GAP = "  "
_LEAST_BAR, _MOST_BAR = 8, 48
_LABEL_WIDTH = len("evaluating")  # so that the bars stay where they are
_NEARLY_FULL = 0.9


@dataclass(frozen=True)
class Progress:
    """A line with a bar.

    Attributes:
        label: What progresses.
        done: Of `total`, with a part of the next one.
        total: At least 1.
        unit: What is counted; empty where there is nothing to count yet.
        elapsed_s: Since it began.
        left_s: Until it ends; `None` if nobody knows.
        style: Of the bar.
    """

    label: str
    done: float
    total: int
    unit: str
    elapsed_s: float
    left_s: float | None
    style: str


class _UnderWay:
    """The trial that runs, as far as it has come."""

    def __init__(self, trial: Trial, began_s: float, estimate_s: float | None) -> None:
        self.trial = trial
        self.began_s = began_s
        self.phase = "starting"
        self.reading = Reading(0, None, None, None)
        self._estimate_s = estimate_s
        self._pace_from: tuple[float, int] | None = None

    def read(self, reading: Reading, now_s: float) -> None:
        self.reading = reading
        if self._pace_from is None and reading.step > 1:  # the first step is like no other
            self._pace_from = now_s, reading.step
        self._read_s = now_s

    def left_s(self, now_s: float) -> float | None:
        """By the pace of its steps; before there is one, and after them, by what is usual."""
        step, steps = self.reading.step, self.trial.steps
        if self._pace_from and self._pace_from[1] < step < steps:
            since_s, first = self._pace_from
            at_step_s = (self._read_s - since_s) / (step - first) * (steps - step)
            return max(0.0, at_step_s - (now_s - self._read_s))
        if self._estimate_s is None:
            return None
        left_s = self._estimate_s - (now_s - self.began_s)
        return left_s if left_s > 0 else None  # it was wrong


class LiveDisplay:
    """Drawn in the calling thread: once a second, when a phase begins, and when the size changes.

    So it costs next to nothing between two calls, and the measured process shares its cores with no
    thread of it. The area is as high as the terminal has room for, and goes away at the end.

    Args:
        console: An interactive terminal.
        clock: Seconds; monotonic.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        # Nothing is drawn but by `_draw`, where resizing is dealt with.
        self._live = Live(
            self, console=console, auto_refresh=False, transient=True, vertical_overflow="crop"
        )
        self._table = GrowingTable()
        self._prepared: tuple[int, int] | None = None
        self._began_s = clock()
        self._rows: list[Row] = []
        self._to_do: list[Trial] = []
        self._under_way: _UnderWay | None = None
        self._rest_s: float | None = None
        self._news = False
        self._drawn_at_s = -math.inf
        self._drawn_size = console.size
        self._drawn_widths: list[int] = []

    def __enter__(self) -> "LiveDisplay":
        self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._clear_overhang()
        self._live.stop()

    def preparing(self, done: int, total: int) -> None:
        """See `bench.sweep.Observer`."""
        if self._prepared is None:
            self._began_s = self._clock()
        self._prepared = done, total
        self._tick(news=done == total)

    def note(self, text: str) -> None:
        """See `bench.sweep.Observer`."""
        self._clear_overhang()
        print_line(self._console, text)

    def begin(self, to_do: Sequence[Trial], done: Sequence[Row]) -> None:
        """See `bench.sweep.Observer`."""
        self._prepared = None
        self._began_s = self._clock()
        self._to_do, self._rows = list(to_do), list(done)
        self._table.begin([*(row.trial for row in done), *to_do])
        for row in done:
            self._table.add(row)
        self._rest_s = Durations(self._rows).total_s(self._to_do)
        self._tick(news=True)

    def trial(self, trial: Trial) -> None:
        """See `bench.sweep.Observer`."""
        durations = Durations(self._rows)
        self._under_way = _UnderWay(trial, self._clock(), durations.of(trial))
        self._rest_s = durations.total_s(without(trial, self._to_do))
        self._tick(news=True)

    def phase(self, name: str) -> None:
        """See `bench.sweep.Observer`."""
        if self._under_way:
            self._under_way.phase = name
            self._tick(news=True)

    def reading(self, reading: Reading) -> None:
        """See `bench.sweep.Observer`."""
        if self._under_way:
            self._under_way.read(reading, self._clock())
        self._tick()

    def row(self, row: Row) -> None:
        """See `bench.sweep.Observer`."""
        self._under_way = None
        self._to_do = without(row.trial, self._to_do)
        self._rows.append(row)
        self._table.add(row)
        self._news = True  # drawn with the next trial, which follows at once

    def _tick(self, *, news: bool = False) -> None:
        self._news |= news
        due_s = NEWS_INTERVAL_S if self._news else INTERVAL_S
        resized = self._console.size != self._drawn_size
        if resized or self._clock() - self._drawn_at_s >= due_s:
            self._clear_overhang()
            self._live.refresh()
            self._drawn_at_s = self._clock()
            self._news = False

    def _clear_overhang(self) -> None:
        """Goes up over what a narrower terminal has made of the lines that were drawn.

        Terminals wrap lines anew when they become narrower, so the area is higher than it was
        drawn; rich only goes up as many lines as it has written.
        """
        width = self._console.width
        now = sum(max(1, math.ceil(drawn / width)) for drawn in self._drawn_widths)
        if overhang := now - len(self._drawn_widths):
            erase = (ControlType.ERASE_IN_LINE, 2)
            up = (ControlType.CURSOR_UP, 1), erase
            self._console.control(Control(ControlType.CARRIAGE_RETURN, erase, *(up * overhang)))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """What `Live` draws, at the size of the moment."""
        width, height = options.size.width, options.size.height - 1  # one for where it stands
        lines = self._head(console, width)
        table = self._table.lines(console, width, height - len(lines) - 1)
        if table:
            lines += [[], *table]
        lines = [_trimmed(line) for line in lines[:height]]
        self._drawn_size = options.size
        self._drawn_widths = [Segment.get_line_length(line) for line in lines]
        for line in lines:
            yield from line
            yield Segment.line()

    def _head(self, console: Console, width: int) -> list[Line]:
        if self._prepared:
            done, total = self._prepared
            elapsed_s = self._clock() - self._began_s
            left_s = elapsed_s / done * (total - done) if done else None
            bar = Progress("preparing", done, total, "frames", elapsed_s, left_s, "cyan")
            return bar_lines([bar], console, width)
        if not self._rows and not self._to_do:
            return [[Segment("starting", console.get_style("dim"))]]
        now_s, under_way = self._clock(), self._under_way
        done, total = len(self._rows), len(self._rows) + len(self._to_do)
        share, left_s, bars = 0.0, self._rest_s, []
        if under_way:
            step, steps = under_way.reading.step, under_way.trial.steps
            trial_left_s = under_way.left_s(now_s)
            share = max(0, step - 1) / steps  # the last step that began has not ended
            left_s = None if left_s is None or trial_left_s is None else left_s + trial_left_s
            bars = [
                Progress(
                    under_way.phase.replace("_", " "),
                    step,
                    steps,
                    "steps" if step else "",
                    now_s - under_way.began_s,
                    trial_left_s,
                    "cyan",
                )
            ]
        elapsed_s = now_s - self._began_s
        overall = Progress("overall", done + share, total, "rows", elapsed_s, left_s, "green")
        lines = bar_lines([overall, *bars], console, width)
        return [*lines, *_flow(_figures(under_way), console, width)] if under_way else lines


def bar_lines(bars: Sequence[Progress], console: Console, width: int) -> list[Line]:
    """Lines with aligned bars, and of their other parts what there is room for."""
    counts = [
        f"{int(bar.done):{len(str(bar.total))}}/{bar.total}" if bar.unit else "" for bar in bars
    ]
    columns = {
        "label": [f"{bar.label:{_LABEL_WIDTH}}" for bar in bars],
        "bar": [""] * len(bars),
        "count": counts,
        "unit": [bar.unit for bar in bars],
        "elapsed": [f"{_clock_text(bar.elapsed_s)} elapsed" for bar in bars],
        "left": ["" if bar.left_s is None else f"~{_clock_text(bar.left_s)} left" for bar in bars],
    }
    widths = {name: max(map(len, texts)) for name, texts in columns.items()}
    widths = {name: size for name, size in widths.items() if size or name == "bar"}

    def room() -> int:
        """For the bar."""
        return width - sum(widths.values()) - len(_GAP) * (len(widths) - 1)

    for name in ("elapsed", "unit", "bar", "left", "count"):
        if room() < (_LEAST_BAR if "bar" in widths else 0):
            widths.pop(name, None)
    bar_width = min(_MOST_BAR, room())
    lines = []
    for place, bar in enumerate(bars):
        line: Line = []
        for name, size in widths.items():
            if line:
                line.append(Segment(_GAP))
            if name == "bar":
                line += _bar(bar, console, bar_width)
            else:
                left = name in ("label", "unit")
                quiet = None if name == "label" else console.get_style("dim")
                line.append(Segment(fit(columns[name][place], size, console, left=left), quiet))
        lines.append(line)
    return lines


def _bar(bar: Progress, console: Console, width: int) -> Line:
    drawn = ProgressBar(
        total=bar.total,
        completed=bar.done,
        width=width,
        complete_style=bar.style,
        finished_style=bar.style,
    )
    # Without colours rich leaves out what is still to come.
    return Segment.adjust_line_length(list(console.render(drawn)), width)


def _figures(under_way: _UnderWay) -> Iterator[tuple[str, str]]:
    """Texts with their styles: the trial, and how it is doing."""
    reading, budget = under_way.reading, under_way.trial.budget_bytes
    yield under_way.trial.label, "bold"
    if reading.images_per_s is not None:
        yield f"{rate_text(reading.images_per_s)} images/s", ""
    if reading.memory_bytes is not None:
        style = "yellow" if reading.memory_bytes > _NEARLY_FULL * budget else ""
        yield f"{reading.memory_bytes / GIB:.2f} of {budget / GIB:.3g} GiB", style
    elif reading.card_bytes is not None:  # no part of it need be the trial's
        yield f"{reading.card_bytes / GIB:.2f} GiB in use on the card", ""
    if reading.utilization_percent is not None:
        yield f"{reading.utilization_percent:.0f} % busy", ""


def _flow(parts: Iterator[tuple[str, str]], console: Console, width: int) -> list[Line]:
    """Parts side by side, in as many lines as they need."""
    lines: list[Line] = []
    for text, style_name in parts:
        shown = fit(text, min(width, cell_len(text)), console)
        used = Segment.get_line_length(lines[-1]) + len(_GAP) if lines else 0
        part = Segment(shown, console.get_style(style_name))
        if lines and used + cell_len(shown) <= width:
            lines[-1] += [Segment(_GAP), part]
        else:
            lines.append([part])
    return lines


def _trimmed(line: Line) -> Line:
    """Without blanks at its end, which a terminal that becomes narrower would wrap."""
    line = list(line)
    while line and not line[-1].text.rstrip():
        line.pop()
    if line:
        line[-1] = Segment(line[-1].text.rstrip(), line[-1].style)
    return line


def _clock_text(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
