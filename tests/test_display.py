import codecs
import fcntl
import io
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from rich.console import Console

from bench.display import LineDisplay, make_display, summary
from bench.events import JsonDisplay
from bench.live import LiveDisplay
from tests.displays import Clock, Stage, Terminal, failed, measured, reading, trials
from tests.harness import REPOSITORY, toy_trial, write_toml

# rich would take the first for a style, fall over the second, and draw a picture for the third.
REASONS = [
    "RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0",
    "not in [/tmp/a.so]",
    "C:warning:x",
]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.mark.parametrize("reason", REASONS)
def test_a_reason_is_shown_as_it_is(reason: str, clock: Clock) -> None:
    pipe = io.StringIO()
    stage = Stage(clock, width=160)
    row = failed(toy_trial(), reason=reason)
    displays: list[LineDisplay | LiveDisplay] = [
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
        "64 frames processed",
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


def test_a_row_that_something_disturbed_says_so_at_once() -> None:
    row = measured(trials(1)[0])
    assert "flagged" not in summary(row)
    row.result.step_phase_s[-2] = [0.001, 100.0, 0.02, 0.003]
    assert summary(row).endswith(", flagged: the machine was busy")


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
