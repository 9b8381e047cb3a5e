"""The command line: what can be asked, and what was asked, as values."""

import argparse
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from bench import kernel_times, search, spec, sweep
from bench.search import Limits
from bench.trial import Status

DESCRIPTION = "Which way of training a colorization U-Net is fastest in 8 GB, and costs no quality?"

DEFAULT_PRESETS = ("quick", "gpu-8gb")
"""On a CPU and on a GPU."""

NOISE_PRESETS = ("noise", "noise-gpu")
"""The same for `doctor --noise`."""

DEFAULT_PLAN = "gpu"

_WEEK_S = 7 * 24 * 3600.0

FORMATS = ("table", "md", "csv", "json")

VIEWS = (
    *("compiled-vs-eager", "amp", "ladder", "largest-batch", "memory"),  # see bench.report.views
    search.VIEW,
    kernel_times.VIEW,
)

GATES = {
    "fail-if-slower": "has so many fewer images/s",
    "fail-if-more-memory": "has so much higher a memory peak",
    "fail-if-mse-worse": "has so much higher a final MSE, by 5 seeds at least",
}


class Parser(argparse.ArgumentParser):
    """Raises `ValueError` for a mistake, so that it is told in one line like any other."""

    def error(self, message: str) -> NoReturn:
        """See the class."""
        raise ValueError(message)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Reads a command line.

    Returns:
        `command`, and its options as text.

    Raises:
        ValueError: What is unknown or missing, in one line.
    """
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
    for unit, words in (("images", "training images"), ("epochs", "passes over the training set")):
        command.add_argument(
            f"--{unit}",
            metavar="N",
            help=f"with --view compiled-vs-eager: what is done sooner in N {words}",
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
        command.add_argument(f"--{option}", metavar="PERCENT", help=f"exit with 1 if B {words}")
    command.add_argument(
        "--strict", action="store_true", help="exit with 3 if a gate or a verdict is inconclusive"
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


def overrides(options: argparse.Namespace) -> dict[str, list[str]]:
    """What `--set` and the options that stand for it ask for: values by name, as text."""
    asked: dict[str, list[str]] = {}
    for text in options.sets:
        name, _, values = text.partition("=")
        if not name or not all(values.split(",")):
            raise ValueError(f"--set {text!r}: expected NAME=VALUE or NAME=V1,V2")
        asked[name] = values.split(",")
    for name in ("data", "device", "budget", "rounds", "ci_width", "batch_size"):
        if (value := getattr(options, name, None)) is not None:
            asked[name] = [value]
    if (limit := getattr(options, "max_time", None)) is not None:
        asked["time_limit_s"] = [str(duration_s("--max-time", limit))]
    if options.skip_bad_frames:
        asked["bad_frames"] = ["skip"]
    return asked


def timeout_s(text: str) -> float:
    """The value of `--timeout`."""
    seconds = _number(text)
    if not 0 < seconds < float("inf"):
        raise ValueError(f"--timeout {text!r}: expected a positive number of seconds")
    return seconds


_SPELLED = {"source": "a preset", "sets": "--set"}
"""How the user knows an option, where that is not `--` and its name."""


def check_nothing_measured(options: argparse.Namespace) -> None:
    """Refuses what has a meaning only for `doctor --noise`."""
    for name in (
        *("source", "sets", "data", "skip_bad_frames", "budget"),
        *("out", "rounds", "ci_width", "max_time", "retry"),
    ):
        if getattr(options, name):
            what = (
                "a preset"
                if name == "source"
                else _SPELLED.get(name, f"--{name.replace('_', '-')}")
            )
            raise ValueError(f"doctor: expected --noise beside {what}")


_UNITS_S = {"s": 1, "m": 60, "min": 60, "h": 3600}


def duration_s(option: str, text: str) -> int:
    """A length of time of the command line, such as 90, 90s, 20m or 1h30m, in whole seconds."""
    parts = re.findall(r"([0-9.]+)(min|[smh]?)", text)
    whole = "".join(number + unit for number, unit in parts) == text
    clear = len(parts) == 1 or all(unit for _, unit in parts)
    seconds = sum(_number(number) * _UNITS_S[unit or "s"] for number, unit in parts)
    if not whole or not clear or not 1 <= seconds <= _WEEK_S:
        raise ValueError(f"{option} {text!r}: expected a length of time, such as 90s, 20m or 1h30m")
    return round(seconds)


def limit_s(text: str, least_s: float) -> float:
    """The value of `--minutes`, in seconds."""
    seconds = 60 * _number(text)
    if not least_s <= seconds <= _WEEK_S:
        most = f"{_WEEK_S / 60:.0f}"
        raise ValueError(f"--minutes {text!r}: expected a number from {least_s / 60:.2g} to {most}")
    return seconds


def _number(text: str) -> float:
    """A number; NaN, which fits nowhere, where it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def style(options: argparse.Namespace) -> str:
    """The value of `--format`."""
    if options.style not in FORMATS:
        raise ValueError(f"--format {options.style!r}: {spec.suggest(options.style, FORMATS)}")
    return str(options.style)


def retry(words: Sequence[str]) -> frozenset[Status]:
    """The values of `--retry`."""
    statuses = [status.value for status in Status]
    for word in words:
        if word not in statuses:
            raise ValueError(f"--retry {word!r}: {spec.suggest(word, statuses)}")
    return frozenset(map(Status, words))


_NOT_SEARCHED = ("batch_size", "variants", "ci_width", "time_limit_s", "unsupported")
"""What `max-batch` decides itself, or would be ended by."""


def limits(options: argparse.Namespace) -> Limits:
    """What `max-batch` is to keep to; refuses what does not go with it."""
    for text in options.sets:
        if (name := text.partition("=")[0]) in _NOT_SEARCHED:
            raise ValueError(f"--set {text}: max-batch finds or decides {name} itself")
    cap = None if options.cap is None else whole("--cap", options.cap)
    multiple = whole("--multiple-of", options.multiple_of)
    if cap is not None and cap < multiple:
        raise ValueError(f"--cap {cap}: expected at least --multiple-of {multiple}")
    return Limits(multiple, cap, spec.parse_share("--margin", options.margin))


def whole(option: str, text: str) -> int:
    """A whole number from 1 on, of an option."""
    if not re.fullmatch("0*[1-9][0-9]{0,8}", text):
        raise ValueError(f"{option} {text!r}: expected a whole number from 1 on")
    return int(text)


def run_length(options: argparse.Namespace, name: str) -> float | None:
    """The value of `--images` or `--epochs`; `None` where it was not given."""
    text = getattr(options, name)
    try:
        return None if text is None else float(text)
    except ValueError:
        raise ValueError(f"--{name} {text!r}: expected a number") from None
