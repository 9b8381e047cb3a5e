"""What a sweep shall measure: presets, TOML and `--set`, validated, unfolded into trials.

One flat namespace of names serves presets, files and the command line: `variants`, the
workload's axes (`precision = ["fp32", "bf16"]`), its settings (`image_size = 64`) and the
harness's own names below. A list makes a grid.
"""

import dataclasses
import difflib
import itertools
import math
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.budget import parse_bytes
from bench.errors import UserError, as_user_error
from bench.stats import LEAST_ROUNDS
from bench.trial import Scalar, Trial
from bench.workload import Workload, load_object

if TYPE_CHECKING:
    from bench.journal import Row

DEFAULT_WORKLOAD = "unet.workload:COLORIZATION"

PRESETS = Path(__file__).parent / "presets"

HARNESS_SETTINGS: Mapping[str, Scalar] = {
    "batch_size": 16,
    "seed": 0,
    "rounds": 1,
    "samples": 1536,
    "warmup_steps": 5,
    "measured_steps": 20,
    "ci_width": "",  # none
    "time_limit_s": 0,  # none
    "unsupported": "row",
    "previews": 4,
    "device": "auto",
    "budget": "",  # the default of the device
}
"""The harness's own names and their defaults."""

_MINIMUM = {"seed": 0, "warmup_steps": 0, "time_limit_s": 0, "previews": 0}
"""Of the whole numbers; 1 for all others."""

_MAXIMUM = {"rounds": 10_000, "previews": 16}
_SEED_MAXIMUM = 2**32 - 1  # numpy's for a seed; more than enough for all others

_ADAPTIVE_ROUNDS = 30
"""At most, where their number is left to `ci_width`."""

_UNSUPPORTED = ("row", "skip")

_LISTS = ("batch_size", "seed")  # of the names above; the others have one value per sweep


@dataclass(frozen=True)
class SweepSpec:
    """A validated sweep.

    Attributes:
        name: The preset's or the file's name.
        entry: Where the workload is, as `module:attribute`.
        workload: Its description.
        variants: The variants' axes, in the order of the table.
        grid: Name -> its values, for the workload's settings and the harness's names.
    """

    name: str
    entry: str
    workload: Workload
    variants: tuple[Mapping[str, str], ...]
    grid: Mapping[str, tuple[Scalar, ...]]

    def one(self, name: str) -> Any:
        """The value of a name that has one value per sweep."""
        return self.grid[name][0]

    @property
    def budget_bytes(self) -> int | None:
        """The budget asked for; `None` where the device's default shall hold."""
        text = self.one("budget")
        return parse_bytes(text) if text else None

    @property
    def ci_width(self) -> float | None:
        """How wide intervals may be, as a share; `None` where the number of rounds is fixed."""
        text = self.one("ci_width")
        return parse_share("ci_width", text) if text else None

    @property
    def preferences(self) -> set[tuple[str, str]]:
        """The words of the workload's preferences in `variants`, as (axis, word)."""
        known = self.workload.preferences
        return {
            (axis, value)
            for axes in self.variants
            for axis, value in axes.items()
            if value in known.get(axis, {})
        }

    def resolved(self, meanings: Mapping[str, str]) -> "SweepSpec":
        """The sweep with a value in place of every word of a preference.

        Variants that thereby become equal are one.

        Args:
            meanings: Word -> value. A word that is not in it means the best it can.
        """
        known = self.workload.preferences

        def value_of(axis: str, value: str) -> str:
            candidates = known.get(axis, {}).get(value)
            return meanings.get(value, candidates[0]) if candidates else value

        variants = [
            {axis: value_of(axis, value) for axis, value in axes.items()} for axes in self.variants
        ]
        return dataclasses.replace(self, variants=tuple(_unique(variants)))

    def settings(self) -> list[dict[str, Scalar]]:
        """Every combination of the workload's settings."""
        names = list(self.workload.settings)
        values = itertools.product(*(self.grid[name] for name in names))
        return [dict(zip(names, combination, strict=True)) for combination in values]

    def trials(self, device: str, budget_bytes: int) -> list[Trial]:
        """All trials in the order they run, of a sweep that is `resolved`.

        Rounds come one after the other, and in each the variants alternate within a batch size,
        so that a drift of the machine meets all alike. Every second round runs them backwards, so
        that of two variants each comes first as often, and every two begin with another one.
        Batch sizes come as they were asked for, so that the most telling ones may be first.
        """
        trials = []
        for round_ in range(self.one("rounds")):
            shift = round_ // 2 % len(self.variants)
            variants = self.variants[shift:] + self.variants[:shift]
            if round_ % 2:
                variants = variants[::-1]
            for settings, seed, batch_size, axes in itertools.product(
                self.settings(), self.grid["seed"], self.grid["batch_size"], variants
            ):
                trials.append(
                    Trial(
                        workload=self.entry,
                        variant=self.workload.variant_name(axes),
                        axes=dict(axes),
                        settings=settings,
                        batch_size=int(batch_size),
                        seed=int(seed),
                        round=round_,
                        samples=self.one("samples"),
                        warmup_steps=self.one("warmup_steps"),
                        measured_steps=self.one("measured_steps"),
                        device=device,
                        budget_bytes=budget_bytes,
                    )
                )
        return trials

    def trials_like(self, row: "Row") -> list[Trial]:
        """All trials as they would run beside a row.

        It says what "auto" and the words of preferences meant, and how much memory there was.
        """
        device, trial = self.one("device"), row.trial
        if device == "auto" or trial.device.startswith(device):
            device = trial.device
        meanings = row.workload.get("meanings", {})
        return self.resolved(meanings).trials(device, self.budget_bytes or trial.budget_bytes)

    def check(self) -> None:
        """Raises `UserError` for values that are fine one by one but not together."""
        needed = 1 + self.one("warmup_steps") + self.one("measured_steps")
        largest = max(int(size) for size in self.grid["batch_size"])
        for settings in self.settings():
            with as_user_error():
                self.workload.check(settings)
                train_size = self.workload.train_size(settings)
            self.check_train_size(train_size)
        if self.one("samples") < needed * largest:
            raise UserError(
                f"samples {self.one('samples')}: batch_size {largest} needs at least "
                f"{needed * largest} for its first, {self.one('warmup_steps')} warm-up and "
                f"{self.one('measured_steps')} measured steps"
            )

    def check_train_size(self, train_size: int) -> None:
        """Raises `UserError` if a batch would not find enough samples in the training set."""
        largest = max(int(size) for size in self.grid["batch_size"])
        if largest > train_size:
            raise UserError(f"batch_size {largest}: the training set has only {train_size} samples")


def preset_names() -> list[str]:
    """The names of the presets that come with the suite."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def load(source: str | None, overrides: Mapping[str, Sequence[str]]) -> SweepSpec:
    """A sweep from a preset or a TOML file, with overrides from the command line.

    Args:
        source: A preset's name, or a path ending in `.toml`; `None` for the defaults alone.
        overrides: Name -> values as text, as `--set name=v1,v2` gives them.

    Raises:
        UserError: One line that names what was given, what was expected and where.
    """
    path = _find(source) if source is not None else Path("defaults")
    content = read_toml(path) if source is not None else {}
    entry = content.pop("workload", DEFAULT_WORKLOAD)
    if "workload" in overrides:
        entry = ",".join(overrides["workload"])
    workload = _load_workload(entry)
    names = _names(workload)
    values: dict[str, list[Any]] = {}
    for name, value in content.items():
        _known(name, names, str(path))
        values[name] = value if isinstance(value, list) else [value]
    try:  # before the overrides, so that a mistake in the file is told as the file's
        _build(path.stem, entry, workload, values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if "variants" in overrides and source in preset_names():
        values.pop("unsupported", None)  # what the user names gets a row, whatever comes of it
    for name, texts in overrides.items():
        if name != "workload":
            _known(name, names, "--set")
            values[name] = [_from_text(name, text, workload) for text in texts]
    spec = _build(path.stem, entry, workload, values)
    spec.check()
    return spec


def suggest(given: str, valid: Iterable[str]) -> str:
    """Names the nearest valid value and all the others, for an error message."""
    valid = list(valid)
    near = difflib.get_close_matches(given.lower(), valid, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}expected one of {', '.join(valid)}"


def _find(source: str) -> Path:
    if source.endswith(".toml"):
        return Path(source)
    if source not in preset_names():
        raise UserError(f"preset {source!r}: {suggest(source, preset_names())}")
    return PRESETS / f"{source}.toml"


def _load_workload(entry: Any) -> Workload:
    if type(entry) is not str:
        raise UserError(f"workload {entry!r}: expected one text, MODULE:ATTRIBUTE")
    try:
        found = load_object(entry)
    except UserError as error:
        raise UserError(f"workload {error}") from None
    described = isinstance(found, Workload) and not isinstance(found, type)
    if not described:
        raise UserError(f"workload {entry!r}: expected an object as bench.workload.Workload is")
    workload: Workload = found
    return workload


def read_toml(path: Path) -> dict[str, Any]:
    """What a TOML file holds; raises `UserError` naming the file if that cannot be told."""
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not TOML: {error}") from None


def _names(workload: Workload) -> list[str]:
    return ["variants", "workload", *workload.axes, *HARNESS_SETTINGS, *workload.settings]


def _known(name: str, names: list[str], where: str) -> None:
    if name not in names:
        raise UserError(f"{where}: unknown name {name!r}: {suggest(name, names)}")


def _from_text(name: str, text: str, workload: Workload) -> Scalar:
    if not text:
        raise UserError(f"{name} {text!r}: expected a value")
    default = {**HARNESS_SETTINGS, **workload.settings}.get(name, "")
    if isinstance(default, str):
        return text
    try:
        return int(text) if isinstance(default, int) else float(text)
    except ValueError:
        raise UserError(f"{name} {text!r}: expected {_expected(default)}") from None


def _expected(default: Scalar) -> str:
    return {int: "a whole number", float: "a number", str: "a text"}[type(default)]


def _check_harness(name: str, values: Sequence[Scalar]) -> None:
    if name not in _LISTS and len(values) > 1:
        raise UserError(f"{name} {', '.join(map(str, values))}: expected one value per sweep")
    minimum, maximum = _MINIMUM.get(name, 1), _MAXIMUM.get(name, _SEED_MAXIMUM)
    for value in values:
        if isinstance(value, int) and value < minimum:
            raise UserError(f"{name} {value}: expected a whole number of at least {minimum}")
        if isinstance(value, int) and value > maximum:
            raise UserError(f"{name} {value}: expected a whole number of at most {maximum}")


def _build(name: str, entry: str, workload: Workload, values: Mapping[str, list[Any]]) -> SweepSpec:
    for key, given in values.items():
        if not given:
            raise UserError(f"{key}: expected at least one value")
    grid: dict[str, tuple[Scalar, ...]] = {}
    for key, default in {**HARNESS_SETTINGS, **workload.settings}.items():
        given = _unique(values.get(key, [default]))
        for value in given:
            if type(value) is not type(default):  # isinstance would take True for a number
                raise UserError(f"{key} {value!r}: expected {_expected(default)}")
        if key in workload.data_settings and len(given) > 1:
            raise UserError(f"{key} {', '.join(map(str, given))}: expected one value per sweep")
        grid[key] = tuple(given)
    if grid["ci_width"][0] and "rounds" not in values:
        grid["rounds"] = (_ADAPTIVE_ROUNDS,)
    for key in HARNESS_SETTINGS:
        _check_harness(key, grid[key])
    _check_device(str(grid["device"][0]))
    if (choice := str(grid["unsupported"][0])) not in _UNSUPPORTED:
        raise UserError(f"unsupported {choice!r}: {suggest(choice, _UNSUPPORTED)}")
    spec = SweepSpec(name, entry, workload, _variants(workload, values), grid)
    _ = spec.budget_bytes  # read now, so that a typing mistake is told now
    if spec.ci_width and spec.one("rounds") < LEAST_ROUNDS:
        raise UserError(f"rounds {spec.one('rounds')}: ci_width needs at least {LEAST_ROUNDS}")
    return spec


def _variants(workload: Workload, values: Mapping[str, list[Any]]) -> tuple[Mapping[str, str], ...]:
    """The variants listed, each unfolded over the axes that are given values."""
    plain = {axis: choices[0] for axis, choices in workload.axes.items()}
    with as_user_error():
        listed = [workload.parse_variant(str(text)) for text in values.get("variants", [])]
    listed = listed or [plain]
    for axis, choices in workload.axes.items():
        if axis in values:
            valid = (*choices, *workload.preferences.get(axis, ()))
            for value in values[axis]:
                if value not in valid:
                    raise UserError(f"{axis} {value!r}: {suggest(str(value), valid)}")
            listed = [{**axes, axis: value} for axes in listed for value in values[axis]]
    return tuple(_unique(listed))


def parse_share(name: str, text: str) -> float:
    """A percentage, such as 5% or 5, as a share.

    Raises:
        UserError: It is none, or not above 0 and below 100; naming what it was given as.
    """
    try:
        percent = float(text.removesuffix("%"))
    except ValueError:
        percent = math.nan
    if not 0 < percent < 100:
        raise UserError(f"{name} {text!r}: expected a percentage above 0 and below 100")
    return percent / 100


def _unique(items: Iterable[Any]) -> list[Any]:
    unique = []
    for item in items:
        if item not in unique:
            unique.append(item)
    return unique


def _check_device(device: str) -> None:
    if not re.fullmatch(r"auto|cpu|cuda(:(0|[1-9][0-9]?))?", device):
        raise UserError(f"device {device!r}: {suggest(device, ('auto', 'cpu', 'cuda', 'cuda:N'))}")
