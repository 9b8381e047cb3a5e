"""What tests of displays share: a terminal, and rows to show."""

import io
import re

from rich.console import Console
from rich.segment import Segment

from bench.journal import Row
from bench.live import LiveDisplay
from bench.monitor import Reading
from bench.trial import Status, Trial
from tests.harness import BUDGET_BYTES, row_of, toy_trial

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


def reading(step: int = 40, rate: float = 148.24) -> Reading:
    return Reading(step, rate, 0.5 * BUDGET_BYTES, 97.3)
