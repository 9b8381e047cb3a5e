"""What the command line asked for, as values; `bench.parsers` reads it."""

import argparse
import math
import re
from collections.abc import Sequence

from bench import kernel_times, search, spec
from bench.errors import UserError
from bench.search import Limits
from bench.trial import Status

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


def overrides(options: argparse.Namespace) -> dict[str, list[str]]:
    """What `--set` and the options that stand for it ask for: values by name, as text."""
    asked: dict[str, list[str]] = {}
    for text in options.sets:
        name, _, values = text.partition("=")
        if not name or not all(values.split(",")):
            raise UserError(f"--set {text!r}: expected NAME=VALUE or NAME=V1,V2")
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
    if not 0 < seconds <= _WEEK_S:
        raise UserError(
            f"--timeout {text!r}: expected a number of seconds above 0, and at most "
            f"{_WEEK_S:.0f} (a week)"
        )
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
            raise UserError(f"doctor: expected --noise beside {what}")


_UNITS_S = {"s": 1, "m": 60, "min": 60, "h": 3600}


def duration_s(option: str, text: str) -> int:
    """A length of time of the command line, such as 90, 90s, 20m or 1h30m, in whole seconds."""
    parts = re.findall(r"([0-9.]+)(min|[smh]?)", text)
    whole = "".join(number + unit for number, unit in parts) == text
    clear = len(parts) == 1 or all(unit for _, unit in parts)
    seconds = sum(_number(number) * _UNITS_S[unit or "s"] for number, unit in parts)
    if not whole or not clear or not 1 <= seconds <= _WEEK_S:
        raise UserError(f"{option} {text!r}: expected a length of time, such as 90s, 20m or 1h30m")
    return round(seconds)


def limit_s(text: str, least_s: float) -> float:
    """The value of `--minutes`, in seconds."""
    seconds = 60 * _number(text)
    if not least_s <= seconds <= _WEEK_S:
        most = f"{_WEEK_S / 60:.0f}"
        raise UserError(f"--minutes {text!r}: expected a number from {least_s / 60:.2g} to {most}")
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
        raise UserError(f"--format {options.style!r}: {spec.suggest(options.style, FORMATS)}")
    return str(options.style)


def retry(words: Sequence[str]) -> frozenset[Status]:
    """The values of `--retry`."""
    statuses = [status.value for status in Status]
    for word in words:
        if word not in statuses:
            raise UserError(f"--retry {word!r}: {spec.suggest(word, statuses)}")
    return frozenset(map(Status, words))


_NOT_SEARCHED = ("batch_size", "variants", "ci_width", "time_limit_s", "unsupported")
"""What `max-batch` decides itself, or would be ended by."""


def limits(options: argparse.Namespace) -> Limits:
    """What `max-batch` is to keep to; refuses what does not go with it."""
    for text in options.sets:
        if (name := text.partition("=")[0]) in _NOT_SEARCHED:
            raise UserError(f"--set {text}: max-batch finds or decides {name} itself")
    cap = None if options.cap is None else whole("--cap", options.cap)
    multiple = whole("--multiple-of", options.multiple_of)
    if cap is not None and cap < multiple:
        raise UserError(f"--cap {cap}: expected at least --multiple-of {multiple}")
    return Limits(multiple, cap, spec.parse_share("--margin", options.margin))


def whole(option: str, text: str) -> int:
    """A whole number from 1 on, of an option."""
    if not re.fullmatch("0*[1-9][0-9]{0,8}", text):
        raise UserError(f"{option} {text!r}: expected a whole number from 1 on")
    return int(text)


def run_length(options: argparse.Namespace, name: str) -> float | None:
    """The value of `--images` or `--epochs`; `None` where it was not given."""
    text = getattr(options, name)
    try:
        return None if text is None else float(text)
    except ValueError:
        raise UserError(f"--{name} {text!r}: expected a number") from None
