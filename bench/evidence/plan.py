"""What shall be gathered: a plan in TOML, checked before a minute of a rare machine is spent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import spec
from bench.budget import parse_bytes
from bench.environment import ROOT
from bench.errors import UserError
from bench.evidence.parts import Budget, Kernels, Part, Suite, Sweep
from bench.kernel_times import check_rounds
from bench.report.views import VIEWS

PLANS = Path(__file__).parent / "plans"

_NUMBER = int | float
_WORDS = {
    str: "a text",
    int: "a whole number",
    dict: "a table",
    list: "a list",
    bool: "true or false",
    _NUMBER: "a number",
}
_PLAN = {"device": str, "budget": str, "set": dict, "part": list}
_PART = {"kind": str, "name": str, "minutes": _NUMBER}
_KINDS: Mapping[str, Mapping[str, Any]] = {
    "tests": {"mark": str, "paths": list, "last": list},
    "budget": {},
    "kernels": {"rounds": int},
    "sweep": {"preset": str, "set": dict, "view": str, "fastest": bool},
}


@dataclass(frozen=True)
class Plan:
    """What shall be gathered.

    Attributes:
        name: The plan's or the file's name.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        parts: In the order they run.
    """

    name: str
    device: str
    parts: tuple[Part, ...]


def plan_names() -> list[str]:
    """The names of the plans that come with the suite."""
    return sorted(path.stem for path in PLANS.glob("*.toml"))


def load(source: str) -> Plan:
    """A plan.

    Args:
        source: A plan's name, or a path ending in `.toml`.

    Raises:
        UserError: One line that names what was given, what was expected and where.
    """
    if source.endswith(".toml"):
        path = Path(source)
    elif source in plan_names():
        path = PLANS / f"{source}.toml"
    else:
        raise UserError(f"plan {source!r}: {spec.suggest(source, plan_names())}, or a .toml file")
    content = spec.read_toml(path)
    try:
        return _build(path.stem, content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _build(name: str, content: dict[str, Any]) -> Plan:
    _check(content, _PLAN)
    device, budget = content.get("device", "auto"), content.get("budget", "")
    if budget:
        parse_bytes(budget)
    common = _texts(content.get("set", {})) | {"device": [device]}
    common |= {"budget": [budget]} if budget else {}
    parts: list[Part] = []
    for number, part in enumerate(content.get("part", []), start=1):
        try:
            parts.append(_part(part, common, budget, parts))
        except UserError as error:
            raise UserError(f"part {number}: {error}") from None
    if not parts:
        raise UserError("expected at least one [[part]]")
    return Plan(name, device, tuple(parts))


def _part(part: Any, common: Mapping[str, list[str]], budget: str, earlier: Sequence[Part]) -> Part:
    kind = str(part.get("kind")) if isinstance(part, dict) else ""
    if kind not in _KINDS:
        raise UserError(f"kind {kind!r}: {spec.suggest(kind, _KINDS)}")
    _check(part, {**_PART, **_KINDS[kind]})
    name, minutes = part.get("name", kind), part.get("minutes", 0)
    if name in [other.name for other in earlier]:
        raise UserError(f"name {name!r}: expected another, there is such a part already")
    if not 0 < minutes < float("inf"):
        raise UserError(f"minutes {minutes!r}: expected a number above 0")
    if kind == "budget":
        return Budget(name, minutes, budget)
    if kind == "kernels":
        return Kernels(name, minutes, check_rounds("rounds", part.get("rounds", 10)))
    if kind == "tests":
        paths = tuple(map(str, part.get("paths", [ROOT / "tests"])))
        for path in paths:
            if not Path(path).exists():
                raise UserError(f"{path}: no such tests; expected a checkout")
        return Suite(name, minutes, part.get("mark", ""), paths, tuple(part.get("last", ())))
    if "preset" not in part:
        raise UserError(f"preset missing: {spec.suggest('', spec.preset_names())}, or a .toml file")
    view = part.get("view")
    if view is not None and view not in VIEWS:
        raise UserError(f"view {view!r}: {spec.suggest(view, VIEWS)}")
    values = {**common, **_texts(part.get("set", {}))}
    spec.load(part["preset"], values)  # told now, if there is a mistake in it
    rivals = [other for other in earlier if isinstance(other, Sweep)]
    found = tuple(rivals) if part.get("fastest") else ()
    return Sweep(name, minutes, part["preset"], values, view, found)


def _check(given: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if name not in known:
            raise UserError(f"unknown name {name!r}: {spec.suggest(name, known)}")
        fits = isinstance(value, known[name])
        if isinstance(value, bool):  # which Python takes for a number
            fits = known[name] is bool
        if not fits:
            raise UserError(f"{name} {value!r}: expected {_WORDS[known[name]]}")


def _texts(values: Mapping[str, Any]) -> dict[str, list[str]]:
    """Values as `--set` would give them."""
    lists = {name: value if isinstance(value, list) else [value] for name, value in values.items()}
    return {name: [str(value) for value in texts] for name, texts in lists.items()}
