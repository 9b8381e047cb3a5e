import codecs
import fcntl
import io
import json
import math
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.segment import Segment

from bench.display import LineDisplay, make_display
from bench.events import JsonDisplay
from bench.growing import GrowingTable, Line
from bench.journal import Row
from bench.live import LiveDisplay
from bench.monitor import Reading
from bench.report.frame import cell_frame
from bench.report.tables import to_markdown
from bench.trial import Status, Trial
from tests.harness import BUDGET_BYTES, REPOSITORY, row_of, toy_trial, write_toml

# rich would take the first for a style and fall over the second.
REASONS = ["RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0", "not in [/tmp/a.so]"]

ENVIRONMENT = {
    "torch": "2.0",
    "device_name": "a device",
    "commit": None,
    "dirty": None,
    "cpus_allowed": 2,
}


class Clock:
    """Stands still until it is told."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Terminal(io.StringIO):
    """Understands what the display writes, and wraps lines anew when it is resized.

    As VTE, kitty, tmux and most others do.
    """

    def __init__(self, width: int, height: int) -> None:
        super().__init__()
        self.width, self.height = width, height
        self.lines: list[list[str]] = [[]]  # with what has scrolled out at the top
        self.goes_on = [False]  # whether a line is continued by the next one
        self.row = self.column = 0
        self.writes = 0

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.writes += 1
        for control, letter in re.findall(r"\x1b\[([?\d;]*[A-Za-z])|([^\x1b])", text):
            self._control(control) if control else self._letter(letter)
        return len(text)

    def _control(self, control: str) -> None:
        if control.endswith("A"):
            self.row = max(self._top(), self.row - int(control[:-1]))
        elif control == "2K":
            self.lines[self.row], self.goes_on[self.row] = [], False
        else:
            assert control.endswith("m") or control in ("?25l", "?25h"), control

    def _letter(self, letter: str) -> None:
        if letter == "\r":
            self.column = 0
        elif letter == "\n":
            self._down()
        else:
            if self.column == self.width:
                self.goes_on[self.row] = True
                self._down()
            line = self.lines[self.row]
            line += [" "] * (self.column + 1 - len(line))
            line[self.column] = letter
            self.column += 1

    def _down(self) -> None:
        self.row, self.column = self.row + 1, 0
        if self.row == len(self.lines):
            self.lines.append([])
            self.goes_on.append(False)

    def _top(self) -> int:
        return max(0, len(self.lines) - self.height)

    def resize(self, width: int, height: int) -> None:
        lines: list[list[str]] = []
        goes_on: list[bool] = []
        whole: list[str] = []
        row = column = 0
        for place, line in enumerate(self.lines):
            if place == self.row:
                at = len(whole) + self.column
                row, column = len(lines) + max(0, at - 1) // width, at
                column = at - (row - len(lines)) * width
            whole = whole + line
            if self.goes_on[place]:
                continue
            pieces = [whole[at : at + width] for at in range(0, max(1, len(whole)), width)]
            lines += pieces
            goes_on += [True] * (len(pieces) - 1) + [False]
            whole = []
        self.lines, self.goes_on, self.row, self.column = lines, goes_on, row, column
        self.width, self.height = width, height

    def screen(self) -> list[str]:
        lines = ["".join(line).rstrip() for line in self.lines[self._top() :]]
        while lines and not lines[-1]:
            lines.pop()
        return lines


def measured(trial: Trial, images_per_s: float = 100.0, duration_s: float = 10.0) -> Row:
    """A row with every figure there can be on a CPU."""
    row = row_of(trial, environment=ENVIRONMENT)
    result, window_s = row.result, 4 * trial.batch_size / images_per_s
    result.duration_s = duration_s
    result.phase_at_s = {"measuring": 10.0, "training": 10.0 + window_s}
    result.step_phase_s = [[0.001, 0.01, 0.02, 0.003]] * 6
    result.step_samples = [trial.batch_size] * 6
    result.window = [1, 5]
    result.memory = {"peak_bytes": 2**28}
    result.quality = {"final_mse": 123.4}
    sample = {"cpu_s": 0.0, "rss_anon_bytes": 2**28}
    result.monitor = [
        {**sample, "phase": "measuring", "at_s": 10.0},
        {**sample, "phase": "training", "at_s": 12.0, "cpu_s": 3.0},
    ]
    return row


def failed(trial: Trial, status: Status = Status.CRASH, reason: str = "exit code 3") -> Row:
    row = row_of(trial, status, ENVIRONMENT)
    row.result.reason = reason
    return row


def trials(count: int) -> list[Trial]:
    return [toy_trial(batch_size=4 + number, samples=640) for number in range(count)]


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Stage:
    """A live display on a terminal."""

    def __init__(self, clock: Clock, width: int = 100, height: int = 30) -> None:
        self.terminal = Terminal(width, height)
        self.console = Console(
            file=self.terminal, force_terminal=True, width=width, height=height, _environ={}
        )
        self.display = LiveDisplay(self.console, clock)

    def resize(self, width: int, height: int) -> None:
        self.terminal.resize(width, height)
        self.console.size = (width, height)

    def lines(self) -> list[str]:
        """As it would be drawn now."""
        return ["".join(s.text for s in line).rstrip() for line in self.segments()]

    def segments(self) -> list[list[Segment]]:
        return self.console.render_lines(self.display, pad=False)

    def screen(self) -> str:
        return "\n".join(self.terminal.screen())


@pytest.fixture
def stage(clock: Clock) -> Iterator[Stage]:
    stage = Stage(clock)
    with stage.display:
        yield stage


def reading(step: int = 40, rate: float = 148.24) -> Reading:
    return Reading(step, rate, 0.5 * BUDGET_BYTES, 97.3)


@pytest.mark.parametrize("reason", REASONS)
def test_a_reason_is_shown_as_it_is(reason: str, clock: Clock) -> None:
    pipe = io.StringIO()
    stage = Stage(clock, width=160)
    row = failed(toy_trial(), reason=reason)
    displays: Sequence[LineDisplay | LiveDisplay] = [
        LineDisplay(Console(file=pipe, width=60)),
        stage.display,
    ]
    for display in displays:
        with display:
            display.preparing(64, 64)
            display.note(reason)
            display.begin([toy_trial(round=1)], [row])
            display.trial(toy_trial(round=1))
            clock.now_s += 1
            display.phase("first_step")
            if display is stage.display:
                assert reason in stage.screen().splitlines()  # the note
                line = next(line for line in stage.screen().splitlines() if "crash" in line)
                assert line.endswith(reason)
            display.row(failed(toy_trial(round=1), reason=reason))
    assert pipe.getvalue().splitlines() == [
        "64 frames ready",
        reason,
        "1 of 2 trials are done already.",
        f"[2/2] none b4 round 1: crash, {reason}",
    ]


def test_a_pipe_tells_how_long_it_will_take() -> None:
    pipe = io.StringIO()
    to_do = trials(3)
    with LineDisplay(Console(file=pipe, width=60)) as display:
        display.begin(to_do, [])
        for trial in to_do[:2]:
            display.trial(trial)
            display.phase("measuring")
            display.reading(reading())
            display.row(measured(trial, duration_s=90.0))
    assert [line.partition("]")[0] for line in pipe.getvalue().splitlines()] == [
        "[1/3, about 3 min left",
        "[2/3, about 1 min 30 s left",
    ]


def test_the_trial_under_way(stage: Stage, clock: Clock) -> None:
    to_do = trials(4)
    clock.now_s += 100  # nothing of the sweep
    stage.display.begin(to_do[1:], [measured(to_do[0], duration_s=60.0)])
    clock.now_s += 5
    stage.display.trial(to_do[1])
    assert "~3:00 left" in stage.terminal.screen()[0]  # three like the one that is done
    clock.now_s += 0.2
    stage.display.phase("compiling")
    assert stage.terminal.screen()[1].startswith("compiling")
    clock.now_s += 9.8
    stage.display.phase("warming_up")
    overall, trial, figures, *_ = stage.terminal.screen()
    assert overall.startswith("overall")
    assert "1/4  rows" in overall
    assert "0:15 elapsed" in overall
    assert "~2:50 left" in overall
    assert trial.startswith("warming up")
    assert "0:10 elapsed" in trial
    assert "~0:50 left" in trial
    assert figures == "none b5"
    stage.display.reading(reading(step=8))
    clock.now_s += 10
    stage.display.reading(reading(step=28))
    overall, trial, figures, *_ = stage.terminal.screen()
    assert " 28/128  steps" in trial
    assert "~0:50 left" in trial  # 100 steps at 2 a second
    assert "~2:50 left" in overall
    assert figures == "none b5  148.2 images/s  0.50 of 1 GiB  97 % busy"


def test_memory_that_is_nearly_gone_is_marked(stage: Stage) -> None:
    stage.display.begin(trials(1), [])
    stage.display.trial(trials(1)[0])
    styles = []
    for share in (0.5, 0.95):
        stage.display.reading(Reading(1, None, share * BUDGET_BYTES, None))
        part = next(part for part in stage.segments()[2] if "GiB" in part.text)
        styles.append(part.style.color.name if part.style and part.style.color else None)
    assert styles == [None, "yellow"]


def test_nothing_is_guessed_before_there_is_a_row(stage: Stage, clock: Clock) -> None:
    stage.display.begin(trials(2), [])
    stage.display.trial(trials(2)[0])
    clock.now_s += 2
    stage.display.reading(reading(step=1))
    assert "left" not in stage.screen()


def test_a_row_is_done_when_it_has_ended(stage: Stage) -> None:
    stage.display.begin(trials(1), [])
    stage.display.trial(trials(1)[0])
    stage.display.reading(reading(step=trials(1)[0].steps))
    assert "0/1  rows" in stage.lines()[0]
    stage.display.row(measured(trials(1)[0]))
    assert "1/1  rows" in stage.lines()[0]


def test_time_goes_on_while_nothing_else_does(stage: Stage, clock: Clock) -> None:
    stage.display.begin(trials(1), [])
    stage.display.trial(trials(1)[0])
    stage.display.phase("compiling")
    for _ in range(160):  # 40 s
        clock.now_s += 0.25
        stage.display.reading(Reading(0, None, None, None))
    assert re.search(r"compiling .* 0:(39|40) elapsed", stage.screen())


def test_frames_are_counted(stage: Stage, clock: Clock) -> None:
    clock.now_s += 100  # before the first of them
    for done in range(1, 601):
        clock.now_s += 0.01
        stage.display.preparing(done, 1200)
    assert re.search(r"preparing .* 5\d\d/1200  frames  0:0\d elapsed  ~0:0\d left", stage.screen())
    stage.display.begin(trials(1), [])
    clock.now_s += 1
    stage.display.trial(trials(1)[0])
    assert "preparing" not in stage.screen()


def test_rows_show_the_figures_of_the_final_table(stage: Stage) -> None:
    row = measured(toy_trial(), 77.7)
    stage.display.begin([], [row])
    titles, _, figures = (re.split(r"\s{2,}", line.strip()) for line in stage.lines()[-3:])
    final = [
        [text.strip(" *") for text in line.strip("|").split("|")]
        for line in to_markdown(cell_frame([row])).splitlines()
        if line.startswith("|")
    ]
    table = dict(zip(final[0], final[2], strict=True))
    shown = dict(zip(titles, figures, strict=True))
    assert set(shown) >= {"variant", "images/s", "step ms", "peak GiB", "budget %", "util %", "MSE"}
    assert shown == {title: table[title] for title in shown}


def test_the_fastest_row_is_marked(stage: Stage) -> None:
    a, b, c, d = trials(4)
    other = toy_trial(settings={"size": 128, "sleep_ms": 1, "oom_from": 1}, batch_size=9)
    rows = [measured(a, 10.0), measured(b, 30.0), measured(c, 20.0), failed(d), measured(other, 5)]
    stage.display.begin([], rows)
    marked = [
        line[0].text.split()[1]
        for line in stage.segments()
        if line and line[0].style and line[0].style.bold and line[0].style.color
    ]
    assert marked == ["5", "9"]  # one of each settings, by batch size
    crashed = next(line for line in stage.segments() if line and "crash" in line[0].text)
    assert crashed[0].style == stage.console.get_style("red")


def test_what_differs_has_a_column(stage: Stage) -> None:
    first = measured(toy_trial())
    stage.display.begin([toy_trial(round=1)], [first])
    heading = next(line for line in stage.lines() if "variant" in line)
    assert "round" in heading
    assert "seed" not in heading


@pytest.mark.parametrize("width", [5, 20, 33, 40, 60, 80, 120, 200])
@pytest.mark.parametrize("height", [1, 2, 6, 12, 40])
def test_it_fits(width: int, height: int, clock: Clock) -> None:
    stage = Stage(clock, width, height)
    rows = [measured(trial, 1000.0 + trial.batch_size) for trial in trials(30)]
    rows[3] = failed(trials(30)[3], reason="größer als 8 GiB " * 10)
    rows[5] = failed(trials(30)[5], Status.IMPLIED_OOM)
    with stage.display:
        stage.display.preparing(3, 1200)
        stage.display.begin(trials(60)[30:], rows)
        stage.display.trial(trials(31)[30])
        clock.now_s += 100
        stage.display.reading(reading())
        lines = stage.lines()
        assert len(lines) <= max(0, height - 1)
        assert max(map(len, lines), default=0) <= width
        # Blanks at an end would be wrapped by a terminal that becomes narrower.
        ends = [line[-1].text for line in stage.segments() if line]
        assert width < 20 or ends == [text.rstrip() for text in ends]
    assert stage.terminal.lines[-1] == []


def test_a_narrow_terminal_keeps_what_matters(clock: Clock) -> None:
    stage = Stage(clock, 20, 16)
    stage.display.begin(trials(2)[1:], [measured(toy_trial(samples=640), 99.9)])
    stage.display.trial(trials(2)[1])
    stage.display.phase("measuring")
    stage.display.reading(reading())
    assert stage.lines() == [
        "overall         1/2",
        "measuring    40/128",
        "none b5",
        "148.2 images/s",
        "0.50 of 1 GiB",
        "97 % busy",
        "",
        "variant  images/s",
        "─────────────────",
        "none         99.9",
    ]


def test_the_least_telling_columns_go_first(clock: Clock) -> None:
    headings = []
    for width in (100, 60, 50, 42, 35):
        stage = Stage(clock, width)
        stage.display.begin([], [measured(toy_trial())])
        headings.append(re.split(r"\s{2,}", stage.lines()[-3]))
    figures = ["images/s", "step ms", "peak GiB", "budget %", "util %", "MSE"]
    assert headings == [
        ["variant", "batch", *figures],
        ["variant", "batch", *(name for name in figures if name != "budget %")],
        ["variant", "batch", "images/s", "peak GiB", "util %", "MSE"],
        ["variant", "batch", "images/s", "peak GiB", "MSE"],
        ["variant", "batch", "images/s", "MSE"],
    ]


def test_a_reason_needs_room(clock: Clock) -> None:
    row = failed(toy_trial(), reason="a\treason\nof \x1b[31mmany words")
    ends = []
    for more in (40, 16, 15):
        stage = Stage(clock)
        stage.display.begin([], [row])
        width = len(stage.lines()[-2])
        stage.resize(width + more, 20)
        ends.append(stage.lines()[-1][width:])
    assert ends == ["  a reason of  [31mmany words", "  a reason of  …", ""]


def test_more_rows_than_lines(clock: Clock) -> None:
    stage = Stage(clock, 80, 14)
    rows = [measured(trial, 100.0 - abs(trial.batch_size - 6)) for trial in trials(30)]
    stage.display.begin([], rows)
    _, _, _, _, *shown, last = stage.lines()
    assert [int(line.split()[1]) for line in shown] == [6, *range(34 - len(shown) + 1, 34)]
    assert last == f"and {30 - len(shown)} rows before"
    assert len(stage.lines()) == 13


@pytest.mark.parametrize("size", [(60, 30), (30, 30), (140, 30), (100, 12), (45, 10), (200, 50)])
def test_resizing_leaves_nothing_behind(size: tuple[int, int], stage: Stage, clock: Clock) -> None:
    stage.display.note("A note.")
    rows = [failed(trial, reason="for a long reason " * 4) for trial in trials(12)]
    stage.display.begin(trials(14)[12:], rows)
    stage.display.trial(trials(14)[12])
    clock.now_s += 1
    stage.display.reading(reading())
    before = stage.terminal.screen()
    assert before == ["A note.", *stage.lines()]
    stage.resize(*size)
    clock.now_s += 0.01
    stage.display.reading(reading())  # drawn at once
    assert stage.terminal.screen()[-len(stage.lines()) :] == stage.lines()
    above = stage.terminal.screen()[: -len(stage.lines())]
    assert above == ["A note."][: len(above)]
    stage.resize(max(20, size[0] // 2), size[1])
    stage.display.note("Another note.")
    assert stage.terminal.screen()[-len(stage.lines()) - 1 :] == ["Another note.", *stage.lines()]
    assert stage.screen().count("overall") == 1


@pytest.mark.parametrize("width", [100, 50])
def test_nothing_remains_at_the_end_but_notes(width: int, clock: Clock) -> None:
    stage = Stage(clock)
    with stage.display:
        stage.display.note("A note.")
        stage.display.begin(trials(2)[1:], [failed(toy_trial(), reason="why " * 30)])
        stage.display.trial(trials(2)[1])
        stage.display.row(failed(trials(2)[1]))
        stage.resize(width, 30)
    assert stage.terminal.screen() == ["A note."]


def test_it_is_drawn_once_a_second(stage: Stage, clock: Clock) -> None:
    stage.display.begin(trials(1), [])
    clock.now_s += 1
    stage.display.trial(trials(1)[0])
    before = stage.terminal.writes
    for _ in range(400):  # 100 s
        clock.now_s += 0.25
        stage.display.reading(reading())
    assert 95 <= stage.terminal.writes - before <= 101


def test_trials_without_a_run_are_not_drawn_one_by_one(stage: Stage, clock: Clock) -> None:
    stage.display.begin(trials(100), [])
    before = stage.terminal.writes
    for trial in trials(100):
        clock.now_s += 0.001
        stage.display.trial(trial)
        stage.display.row(failed(trial, Status.IMPLIED_OOM))
    assert stage.terminal.writes - before <= 2
    clock.now_s += 0.25
    stage.display.reading(reading())  # but the last state is
    assert "100/100" in stage.screen()


def test_the_table_is_made_once_a_row(
    stage: Stage, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    render = GrowingTable._render

    def counted(table: GrowingTable, console: Console, width: int, height: int) -> list[Line]:
        made.append(height)
        return render(table, console, width, height)

    monkeypatch.setattr(GrowingTable, "_render", counted)
    stage.display.begin(trials(10)[5:], [measured(trial) for trial in trials(5)])
    clock.now_s += 1
    stage.display.trial(trials(6)[5])
    for number in range(40):
        clock.now_s += 1
        stage.display.reading(Reading(number, 10.0, 1e8, 97.3))
    assert len(made) == 1 + 1  # before the trial there is more room


def test_there_is_something_to_see_before_anything_is_known(stage: Stage) -> None:
    assert stage.screen() == "starting"


def test_what_comes_out_of_order_is_no_error(clock: Clock) -> None:
    stage = Stage(clock)
    with stage.display:
        stage.display.reading(reading())
        stage.display.phase("starting")
        stage.display.begin([], [])
        clock.now_s += 2
        stage.display.reading(reading())
    assert stage.screen() == ""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_an_encoding_without_the_letters(encoding: str, clock: Clock) -> None:
    raw = io.BytesIO()
    console = Console(
        file=io.TextIOWrapper(raw, encoding=encoding), force_terminal=True, width=99, height=24
    )
    make_display(console)
    row = failed(toy_trial(), reason="größer als “8 GiB”, 時間 " * 5)
    for display in (LiveDisplay(console, clock), LineDisplay(console)):
        with display:
            display.note("→ größer")
            display.begin(trials(1), [row])
            display.trial(trials(1)[0])
            display.row(row)
    row = failed(toy_trial(), reason="long " * 20)
    stage = LiveDisplay(console, clock)
    stage.begin([], [row])
    end = console.render_lines(stage, pad=False)[-1][-1].text
    assert end.startswith("  long long")
    assert end.endswith(".")
    text = raw.getvalue().decode(encoding)
    assert "variant" in text
    assert "? gr" in text


def test_the_display_suits_who_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    controller, terminal = pty.openpty()
    reader, writer = os.pipe()
    with open(terminal, "w") as screen, open(writer, "w") as pipe:  # noqa: PTH123
        assert isinstance(make_display(Console(file=screen)), LiveDisplay)
        assert isinstance(make_display(Console(file=pipe)), LineDisplay)
        assert isinstance(make_display(Console(file=screen), pipe), JsonDisplay)
        monkeypatch.setenv("FORCE_COLOR", "1")  # colours in a pipe, but no cursor
        assert isinstance(make_display(Console(file=pipe)), LineDisplay)
        monkeypatch.setenv("TERM", "dumb")
        assert isinstance(make_display(Console(file=screen)), LineDisplay)
    os.close(controller)
    os.close(reader)


def test_a_sweep_in_a_terminal_that_is_resized(tmp_path: Path) -> None:
    """The whole way: a pseudo-terminal, its size read from the kernel, the table at the end."""
    config = write_toml(
        tmp_path / "toy.toml", variants=["none"], batch_size=[4, 8], samples=128, sleep_ms=20
    )
    controller, fd = pty.openpty()
    terminal = Terminal(110, 40)

    def resize(width: int, height: int) -> None:
        fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        terminal.resize(width, height)

    resize(110, 40)
    plain = {"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"}
    environ = {name: value for name, value in os.environ.items() if name not in plain}
    sweep = subprocess.Popen(
        [sys.executable, "-m", "bench", "sweep", config, "--out", tmp_path / "out"],
        cwd=REPOSITORY,
        env=environ | {"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"},
        stdin=fd,
        stdout=fd,
        stderr=fd,
    )
    os.set_blocking(controller, False)
    decoder = codecs.getincrementaldecoder("utf-8")()
    seen = set()
    while sweep.poll() is None or select.select([controller], [], [], 0.1)[0]:
        if not select.select([controller], [], [], 1)[0]:
            continue
        terminal.write(decoder.decode(os.read(controller, 1 << 16)))
        screen = "\n".join(terminal.screen())
        if "0/2" in screen and "narrow" not in seen:
            seen.add("narrow")
            resize(50, 40)
        if "1/2" in screen and "variant" in screen:
            seen.add("table")
    os.close(fd)
    os.close(controller)
    assert sweep.returncode == 0, terminal.screen()
    assert seen == {"narrow", "table"}
    everything = [text for line in terminal.lines if (text := "".join(line).rstrip())]
    assert not [line for line in everything if re.match("overall|starting|training", line)]
    assert everything[0].lstrip().startswith("variant"), everything  # the final table, and it alone
    assert sum(line.lstrip().startswith("variant") for line in everything) == 1


def events_of(stream: io.StringIO) -> list[dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in stream.getvalue().splitlines()]


def test_events(clock: Clock) -> None:
    stream = io.StringIO()
    before, good, bad = trials(3)
    with JsonDisplay(stream, clock) as display:
        display.note("A note.")
        display.preparing(64, 64)
        display.begin([good, bad], [measured(before)])
        display.trial(good)
        display.phase("measuring")
        clock.now_s += 0.5
        display.reading(Reading(3, math.nan, None, 97.3))
        display.row(measured(good, 50.0, duration_s=10.0))
        display.row(failed(bad))
    events = events_of(stream)
    assert all("at_s" in event for event in events)
    note, preparing, begin, trial, phase, seen, ok, crash, end = events
    assert [note.pop("at_s"), seen["at_s"]] == [1000.0, 1000.5]
    assert note == {"event": "note", "text": "A note."}
    assert (preparing["event"], preparing["done"], preparing["total"]) == ("preparing", 64, 64)
    assert (begin["event"], begin["done"], begin["total"]) == ("begin", 1, 3)
    assert (begin["to_do"], begin["done_keys"]) == ([good.key, bad.key], [before.key])
    assert (trial["event"], trial["key"], trial["label"]) == ("trial", good.key, "none b5")
    assert Trial.from_json(trial["trial"]) == good
    assert trial["steps"] == good.steps
    assert (phase["event"], phase["key"], phase["phase"]) == ("phase", good.key, "measuring")
    assert {field.name for field in fields(Reading)} < set(seen)
    assert (seen["event"], seen["key"], seen["phase"]) == ("reading", good.key, "measuring")
    assert (seen["step"], seen["images_per_s"], seen["memory_bytes"]) == (3, None, None)
    assert (ok["event"], ok["key"], ok["status"], ok["reason"]) == ("row", good.key, "ok", None)
    assert (ok["done"], ok["total"], ok["left_s"]) == (2, 3, 10.0)
    final = cell_frame([measured(good, 50.0)]).iloc[0]
    for name in ("images_per_s", "step_ms", "peak_memory_gib", "utilization_percent", "final_mse"):
        assert ok[name] == pytest.approx(final[name])
    assert (crash["status"], crash["reason"], crash["images_per_s"]) == (
        "crash", "exit code 3", None,
    )  # fmt: skip
    assert (end["event"], end["done"], end["total"], end["complete"]) == ("end", 3, 3, True)


def test_a_sweep_that_ends_early_says_so(clock: Clock) -> None:
    stream = io.StringIO()
    with JsonDisplay(stream, clock) as display:
        display.begin(trials(2), [])
        display.row(measured(trials(2)[0]))
    assert events_of(stream)[-1] == {
        "event": "end", "at_s": clock.now_s, "done": 1, "total": 2, "complete": False,
    }  # fmt: skip


def test_not_every_frame_is_an_event(clock: Clock) -> None:
    stream = io.StringIO()
    display = JsonDisplay(stream, clock)
    for done in range(1, 1201):
        clock.now_s += 0.0025  # 3 s in all
        display.preparing(done, 1200)
    assert 3 <= len(events_of(stream)) <= 5
    assert events_of(stream)[-1]["done"] == 1200


def test_events_come_at_once_and_a_reader_may_leave() -> None:
    reader, writer = os.pipe()
    with open(writer, "w") as stream:  # noqa: PTH123
        display = JsonDisplay(stream)
        display.note("at once")
        assert b"at once" in os.read(reader, 1000)
        os.close(reader)
        for _ in range(3):
            display.note("to nobody")
        display.__exit__()
        stream.flush()  # as at the end of the program
