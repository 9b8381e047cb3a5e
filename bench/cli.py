"""Every command. The only file that decides what is printed and how the program exits."""

import argparse
import contextlib
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console

from bench import journal, spec, sweep
from bench.budget import DEFAULT_BUDGET_BYTES, format_bytes
from bench.display import make_display
from bench.trial import Status

if TYPE_CHECKING:
    from pandas import DataFrame

EXIT_FAILED, EXIT_MISTAKE, EXIT_INTERRUPTED = 1, 2, 130

DESCRIPTION = "Which way of training a colorization U-Net is fastest in 8 GB, and costs no quality?"

DEFAULT_PRESET = "quick"

FORMATS = ("table", "md", "csv", "json")


class Output(Console):
    """A console whose reader may go away: a sweep is not ended by `| head`, as rich would."""

    def on_broken_pipe(self) -> None:
        """See the class."""
        _discard_output()


class Parser(argparse.ArgumentParser):
    """Raises `ValueError` for a mistake, so that it is told in one line like any other."""

    def error(self, message: str) -> NoReturn:
        """See the class."""
        raise ValueError(message)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command and exits: 0 fine, 1 failed, 2 the caller's mistake, 130 interrupted."""
    errors = Output(stderr=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    try:
        options = _parse(list(sys.argv[1:] if arguments is None else arguments))
        code = options.run(options)
        sys.stdout.flush()
    except ValueError as error:
        errors.print(f"unet-bench: {error}", markup=False, highlight=False, soft_wrap=True)
        code = EXIT_MISTAKE
    except KeyboardInterrupt:
        errors.print("unet-bench: interrupted")
        code = EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe has seen enough
        _discard_output()
        code = 0
    except OSError as error:  # no permission, no space: the machine's answer to what was asked
        where = f"{error.filename}: " if error.filename else ""
        errors.print(f"unet-bench: {where}{error.strerror}", markup=False, soft_wrap=True)
        _discard_output()  # it may be what is full
        code = EXIT_MISTAKE
    sys.exit(code)


def _discard_output() -> None:
    with contextlib.suppress(io.UnsupportedOperation):  # a stand-in that is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser, commands = _parsers()
    if not arguments:
        raise ValueError(f"command missing: expected one of {', '.join(commands)}")
    if not arguments[0].startswith("-") and arguments[0] not in commands:
        raise ValueError(f"command {arguments[0]!r}: {spec.suggest(arguments[0], commands)}")
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        actions = commands[options.command]._actions
        known = [text for action in actions for text in action.option_strings]
        raise ValueError(
            f"{options.command}: unexpected {unknown[0]!r}: {spec.suggest(unknown[0], known)}"
        )
    return options


def _parsers() -> tuple[Parser, dict[str, Parser]]:
    parser = Parser(prog="unet-bench", description=DESCRIPTION, allow_abbrev=False)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands: dict[str, Parser] = {}

    def add(name: str, run: Callable[[argparse.Namespace], int], summary: str) -> Parser:
        command = subparsers.add_parser(
            name, help=summary, description=f"{summary}.", allow_abbrev=False
        )
        command.set_defaults(run=run)
        commands[name] = command
        return command

    command = add("sweep", _sweep, "Measure every cell of a grid")
    _add_source(command)
    _add_values(command)
    _add_running(command)

    command = add("plan", _plan, "List every cell of a sweep and run nothing")
    _add_source(command)
    _add_values(command)
    command.add_argument("--json", action="store_true", help="one JSON object a line")

    command = add("trial", _trial, "Measure one cell")
    command.add_argument("variant", metavar="VARIANT", help="for instance bf16+channels_last")
    command.add_argument("--batch-size", metavar="N", required=True)
    _add_values(command)
    _add_running(command)
    command.add_argument("--json", action="store_true", help="the table as JSON")

    command = add("report", _report, "Print the table of a folder")
    command.add_argument("folder", type=Path, metavar="DIR", help="what a sweep has written")
    command.add_argument("--format", metavar="|".join(FORMATS), default=FORMATS[0], dest="style")
    return parser, commands


def _add_source(command: Parser) -> None:
    presets = ", ".join(spec.preset_names())
    command.add_argument(
        "source",
        nargs="?",
        metavar="PRESET|FILE.toml",
        default=DEFAULT_PRESET,
        help=f"a preset ({presets}) or a TOML file (default: {DEFAULT_PRESET})",
    )
    command.add_argument("--rounds", metavar="N", help="independent repetitions of every cell")


def _add_values(command: Parser) -> None:
    command.add_argument(
        "--set",
        dest="sets",
        metavar="NAME=V1,V2",
        action="append",
        default=[],
        help="values of an axis or a setting; may be repeated",
    )
    command.add_argument("--data", metavar="drive", help="what to train on")
    command.add_argument("--device", help="cpu, cuda or cuda:N (default: the best one there is)")
    command.add_argument("--budget", metavar="SIZE", help="memory budget (default: 8GiB)")


def _add_running(command: Parser) -> None:
    command.add_argument("--out", metavar="DIR", help="folder to write or to go on in")
    command.add_argument(
        "--timeout",
        metavar="SECONDS",
        default=str(sweep.DEFAULT_TIMEOUT_S),
        help="kill a trial that takes longer (default: %(default)s)",
    )
    command.add_argument(
        "--retry",
        action="append",
        default=[],
        metavar="STATUS",
        help="run the trials of --out that ended so once more; may be repeated",
    )


def _overrides(options: argparse.Namespace) -> dict[str, list[str]]:
    overrides: dict[str, list[str]] = {}
    for text in options.sets:
        name, _, values = text.partition("=")
        if not name or not all(values.split(",")):
            raise ValueError(f"--set {text!r}: expected NAME=VALUE or NAME=V1,V2")
        overrides[name] = values.split(",")
    for name in ("data", "device", "budget", "rounds", "batch_size"):
        if (value := getattr(options, name, None)) is not None:
            overrides[name] = [value]
    return overrides


def _timeout_s(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"--timeout {text!r}: expected a positive number of seconds")
    return seconds


def _retry(words: Sequence[str]) -> frozenset[Status]:
    statuses = [status.value for status in Status]
    for word in words:
        if word not in statuses:
            raise ValueError(f"--retry {word!r}: {spec.suggest(word, statuses)}")
    return frozenset(map(Status, words))


def _sweep(options: argparse.Namespace) -> int:
    asked = spec.load(options.source, _overrides(options))
    rows, code = _measure(options, asked, asked.name)
    if code == 0 and not any(row.result.status is Status.OK for row in rows):
        return EXIT_FAILED
    return code


def _trial(options: argparse.Namespace) -> int:
    overrides = _overrides(options) | {"variants": [options.variant]}
    asked = spec.load(None, overrides)
    if asked.variants != (asked.workload.parse_variant(options.variant),):
        raise ValueError(f"--set: the axes are those of {options.variant}; see `sweep` for others")
    if (cells := len(asked.trials("cpu", 1)) // asked.one("rounds")) > 1:
        raise ValueError(f"--set: expected one cell, got {cells}; see `sweep` for more")
    rows, code = _measure(options, asked, "trial")
    if code == 0:
        # The folder may hold others' rows too.
        result = next(
            row.result
            for row in reversed(rows)
            if row.trial in asked.trials(row.trial.device, row.trial.budget_bytes)
        )
        if result.status is Status.UNSUPPORTED:
            raise ValueError(f"{options.variant}: {result.reason}")
        if result.status is not Status.OK:
            return EXIT_FAILED
    return code


def _measure(
    options: argparse.Namespace, asked: spec.SweepSpec, name: str
) -> tuple[list[journal.Row], int]:
    """Runs the sweep, then prints and writes its tables."""
    as_json = getattr(options, "json", False)
    console = Output(stderr=as_json)
    if options.out == "":
        raise ValueError("--out '': expected a folder")
    if options.retry and options.out is None:
        raise ValueError("--retry: expected --out with the folder of an earlier sweep")
    now = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    folder = Path(options.out or f"results/local/{now}_{name}")
    plan = sweep.Plan(
        spec=asked,
        folder=folder,
        timeout_s=_timeout_s(options.timeout),
        retry=_retry(options.retry),
        command=["unet-bench", *sys.argv[1:]],
    )
    with make_display(console) as display:
        complete = sweep.run(plan, display)
    rows = journal.read(folder)
    if rows:
        _show(console, folder, rows, as_json=as_json)
    if not complete:
        _line(console, f"Interrupted. To go on: the same command with --out {folder}", "bold")
    return rows, 0 if complete else EXIT_INTERRUPTED


def _show(console: Console, folder: Path, rows: list[journal.Row], *, as_json: bool) -> None:
    # pandas takes most of a second to import, which `plan` and `--help` need not pay.
    from bench.report.frame import cell_frame
    from bench.report.tables import to_csv, to_json, to_markdown

    cells = cell_frame(rows)
    formats = {"md": to_markdown(cells), "csv": to_csv(cells), "json": to_json(cells)}
    for suffix, text in formats.items():
        try:
            (folder / f"table.{suffix}").write_text(text)
        except OSError as error:
            raise ValueError(f"{folder}: {error.strerror}; the journal there is safe") from None
    if as_json:
        sys.stdout.write(formats["json"])
        return
    _print_table(console, cells)
    names = [journal.FILE_NAME, *(f"table.{suffix}" for suffix in formats)]
    _line(console, "Written: " + ", ".join(str(folder / name) for name in names))


def _print_table(console: Console, cells: "DataFrame") -> None:
    from bench.report.tables import notes, to_rich, verdict

    width = console.width if console.is_terminal else None
    # A pipe has no width: the lines are as long as they are.
    wide = Output(file=console.file, width=width or 10_000, force_terminal=console.is_terminal)
    wide.print(to_rich(cells, width))
    for note in notes(cells):
        _line(console, note, style="dim")
    _line(console, verdict(cells), style="bold")


def _line(console: Console, text: str, style: str | None = None) -> None:
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _plan(options: argparse.Namespace) -> int:
    asked = spec.load(options.source, _overrides(options))
    budget_bytes = asked.budget_bytes or DEFAULT_BUDGET_BYTES
    trials = asked.trials(asked.one("device"), budget_bytes)
    if options.json:
        for trial in trials:
            sys.stdout.write(json.dumps({"key": trial.key, **trial.to_json()}) + "\n")
        return 0
    console = Output()
    differing = [name for name in asked.workload.settings if len(asked.grid[name]) > 1]
    for number, trial in enumerate(trials, start=1):
        settings = " ".join(f"{name}={trial.settings[name]}" for name in differing)
        _line(console, f"{number:4}  {trial.label:40}  {trial.steps} steps  {settings}".rstrip())
    settings = ", ".join(
        f"{name}={'|'.join(map(str, values))}"
        for name, values in asked.grid.items()
        if name in asked.workload.settings
    )
    _line(
        console,
        f"{len(trials)} trials of {asked.workload.name} on {asked.one('device')} within "
        f"{format_bytes(budget_bytes)}, {asked.one('samples')} samples each; {settings}",
    )
    return 0


def _report(options: argparse.Namespace) -> int:
    from bench.report.frame import cell_frame
    from bench.report.tables import to_csv, to_json, to_markdown

    if options.style not in FORMATS:
        raise ValueError(f"--format {options.style!r}: {spec.suggest(options.style, FORMATS)}")
    cells = cell_frame(journal.read(options.folder))
    if options.style == "table":
        _print_table(Output(), cells)
    else:
        render = {"md": to_markdown, "csv": to_csv, "json": to_json}[options.style]
        sys.stdout.write(render(cells))
    return 0
