"""The command line: which commands there are, and their options."""

import argparse
from pathlib import Path
from typing import NoReturn

from bench import spec, sweep
from bench.arguments import (
    DEFAULT_PLAN,
    DEFAULT_PRESETS,
    FORMATS,
    GATES,
    NOISE_PRESETS,
    VIEWS,
)
from bench.errors import UserError

DESCRIPTION = "Which way of training a colorization U-Net is fastest in 8 GB, and costs no quality?"

EXIT_CODES = (
    "Exit codes: 0 fine; 1 a gate or all trials failed; 2 a mistake in what was asked for or in a "
    "file; 3 a gate is inconclusive; 70 an internal error of unet-bench; 130 interrupted."
)


class Parser(argparse.ArgumentParser):
    """Raises `UserError` for a mistake, so that it is told in one line like any other."""

    def error(self, message: str) -> NoReturn:
        """See the class."""
        raise UserError(message)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Reads a command line.

    Returns:
        `command`, and its options as text.

    Raises:
        UserError: What is unknown or missing, in one line.
    """
    parser, commands = _parsers()
    if not arguments:
        raise UserError(f"command missing: expected one of {', '.join(commands)}")
    if not arguments[0].startswith("-") and arguments[0] not in commands:
        raise UserError(f"command {arguments[0]!r}: {spec.suggest(arguments[0], commands)}")
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        actions = commands[options.command]._actions
        known = [text for action in actions for text in action.option_strings]
        raise UserError(
            f"{options.command}: unexpected {unknown[0]!r}: {spec.suggest(unknown[0], known)}"
        )
    return options


def _parsers() -> tuple[Parser, dict[str, Parser]]:
    parser = Parser(
        prog="unet-bench", description=DESCRIPTION, epilog=EXIT_CODES, allow_abbrev=False
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands: dict[str, Parser] = {}

    def add(name: str, summary: str) -> Parser:
        command = subparsers.add_parser(
            name, help=summary, description=f"{summary}.", allow_abbrev=False
        )
        commands[name] = command
        return command

    command = add("sweep", "Measure every cell of a grid")
    _add_source(command)
    _add_values(command)
    _add_running(command)
    _add_predict(command, "predict memory first; what is not expected to fit comes last")
    command.add_argument("--json", action="store_true", help="events as they come, one a line")

    command = add("plan", "List every cell of a sweep and run nothing")
    _add_source(command)
    _add_values(command)
    command.add_argument(
        "--out", metavar="DIR", help="what is done there, and how long the rest will take"
    )
    _add_predict(command, "predict every cell's peak memory, for any --device")
    command.add_argument("--json", action="store_true", help="one JSON object a line")

    command = add("trial", "Measure one cell")
    command.add_argument("variant", metavar="VARIANT", help="for instance bf16+channels_last")
    command.add_argument("--batch-size", metavar="N", required=True, help="images per step")
    _add_values(command)
    _add_running(command)
    command.add_argument("--json", action="store_true", help="the table as JSON")

    command = add("max-batch", "Find the largest batch that fits the budget, and certify it")
    command.add_argument(
        "variants",
        nargs="*",
        metavar="VARIANT",
        help="beside plain ones (default: those of the preset max-batch)",
    )
    command.add_argument("--multiple-of", metavar="K", default="1", help="only multiples of K")
    command.add_argument("--cap", metavar="N", help="at most N")
    command.add_argument(
        "--margin",
        metavar="PERCENT",
        default="5%",
        help="share of the budget that stays free (default: 5%%); batches less than 2 %% apart are "
        "not told apart",
    )
    command.add_argument(
        "--rounds", metavar="N", help="processes that must end well at it (default: 2)"
    )
    _add_values(command)
    _add_running(command)
    command.add_argument("--json", action="store_true", help="the table as JSON")

    command = add("report", "Print the table of a folder")
    command.add_argument("folder", type=Path, metavar="DIR", help="what a sweep has written")
    command.add_argument("--format", metavar="|".join(FORMATS), default=FORMATS[0], dest="style")
    command.add_argument(
        "--view",
        metavar="NAME",
        help=", ".join(VIEWS),
    )
    command.add_argument(
        "--html", action="store_true", help="write DIR/report.html: all in one page"
    )
    command.add_argument("--plots", action="store_true", help="write DIR/plots/*.svg and *.png")
    command.add_argument("--out", metavar="FOLDER", help="write these there instead")
    for unit, words in (("images", "training images"), ("epochs", "passes over the training set")):
        command.add_argument(
            f"--{unit}",
            metavar="N",
            help=f"with --view compiled-vs-eager: what is done sooner in N {words}",
        )

    command = add("recommend", "Tell which configuration to use, and why")
    command.add_argument("folder", type=Path, metavar="DIR", help="what a sweep has written")
    command.add_argument(
        "--budget",
        metavar="SIZE",
        help="at most so much memory (default: what was measured within)",
    )
    command.add_argument(
        "--quality-margin",
        metavar="PERCENT",
        default="2%",
        help="by so much the final MSE may be worse than the seed's setup's (default: 2%%)",
    )
    command.add_argument("--format", metavar="|".join(FORMATS), default=FORMATS[0], dest="style")

    command = add("publish", "Put a folder among the published results, if it is fit for that")
    command.add_argument("folder", type=Path, metavar="DIR", help="what a sweep has written")
    command.add_argument(
        "--name", metavar="THEME", help="last part of its name (default: what the sweep was)"
    )
    command.add_argument(
        "--about", metavar="TEXT", help="what it shows, in a sentence, for the index"
    )
    command.add_argument(
        "--to", metavar="FOLDER", help="where they are (default: results, of a checkout)"
    )

    command = add("compare", "Judge one folder against another, or one variant against another")
    command.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="A, and then B")
    command.add_argument(
        "--variants", nargs=2, metavar=("A", "B"), help="two of one folder, instead of two folders"
    )
    command.add_argument(
        "--margin",
        metavar="PERCENT",
        default="2%",
        help="what lies within it, and is not shown to differ, is the same (default: 2%%)",
    )
    command.add_argument(
        "--drift",
        metavar="PERCENT",
        help="of two folders not measured in turn: how much the machine may have changed",
    )
    command.add_argument(
        "--ignore", action="append", default=[], metavar="KEY", help="compare though this differs"
    )
    for option, words in GATES.items():
        command.add_argument(
            f"--{option}",
            metavar="PERCENT",
            help=f"exit with 1 if B {words}, with 3 if that is inconclusive",
        )
    command.add_argument(
        "--allow-inconclusive",
        action="store_true",
        help="exit with 0, not 3, if a gate is inconclusive",
    )
    command.add_argument("--format", metavar="|".join(FORMATS), default=FORMATS[0], dest="style")

    command = add("doctor", "Tell what on this machine would disturb a measurement")
    command.add_argument(
        "--noise", action="store_true", help="measure what equal processes differ by (minutes)"
    )
    _add_source(command, NOISE_PRESETS)
    _add_values(command)
    _add_running(command)
    command.add_argument("--json", action="store_true", help="what was found as JSON")

    command = add("kernels", "Time the Lab kernel beside what others offer")
    command.add_argument("--device", help="cpu, cuda or cuda:N (default: the best one there is)")
    command.add_argument(
        "--rounds", metavar="N", default="10", help="of each, in turn (default: %(default)s)"
    )
    command.add_argument(
        "--out", metavar="DIR", help="folder to keep it in, for `report DIR --view kernels`"
    )
    command.add_argument("--json", action="store_true", help="what was measured, and the table")

    command = add("evidence", "Make the most of a few minutes on a machine that is there only now")
    command.add_argument(
        "source",
        nargs="?",
        metavar="PLAN|FILE.toml",
        default=DEFAULT_PLAN,
        help=f"{DEFAULT_PLAN} (default), rehearsal (the same, tiny, for any CPU), or your own",
    )
    command.add_argument("--out", metavar="DIR", help="folder to write or to go on in")
    command.add_argument(
        "--minutes",
        metavar="N",
        default="8",
        help="it ends within so many minutes (default: %(default)s)",
    )
    return parser, commands


def _add_source(command: Parser, presets: tuple[str, str] = DEFAULT_PRESETS) -> None:
    names = ", ".join(spec.preset_names())
    command.add_argument(
        "source",
        nargs="?",
        metavar="PRESET|FILE.toml",
        help=f"a preset ({names}) or a TOML file "
        f"(default: {presets[0]}; {presets[1]} where there is a GPU)",
    )
    command.add_argument("--rounds", metavar="N", help="independent repetitions of every cell")
    command.add_argument(
        "--ci-width",
        metavar="PERCENT",
        help="as many rounds as it takes for every interval to be narrower",
    )
    command.add_argument(
        "--max-time",
        metavar="TIME",
        help="begin nothing that is not expected to end in time, such as 20m, 1h30m, 90 (s)",
    )


def _add_values(command: Parser) -> None:
    command.add_argument(
        "--set",
        dest="sets",
        metavar="NAME=V1,V2",
        action="append",
        default=[],
        help="values of any name that a TOML file may hold; may be repeated",
    )
    command.add_argument(
        "--data", metavar="DIR", help="a folder of frames to train on (default: the rendered drive)"
    )
    command.add_argument(
        "--skip-bad-frames",
        action="store_true",
        help="go on without those frames of --data that cannot be read",
    )
    command.add_argument("--device", help="cpu, cuda or cuda:N (default: the best one there is)")
    command.add_argument(
        "--budget",
        metavar="SIZE",
        help="memory budget, such as 6GiB (default: 8GiB, less if less is free)",
    )


def _add_predict(command: Parser, words: str) -> None:
    command.add_argument("--predict", action="store_true", help=words)


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
