"""Checks values against a JSON Schema: the part of the standard that `journal.schema.json` uses.

The package `jsonschema`, which is not on every machine, checks a line in 20 ms; a journal of
100,000 lines needs a hundredth of that. So a check here takes many values at once: whether all
items of an array are numbers in range is then a few calls of built-in functions.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

MOST = 2**63 - 1
"""No number of a line is larger, or a table could not hold it."""

_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
    "null": (type(None),),
}

_NUMBERS = frozenset(_TYPES["number"])

_NOTES = ("$schema", "$defs", "title", "description")
"""Keywords that check nothing."""

Check = Callable[[Sequence[Any]], str | None]
"""From values to what is wrong with one of them: its place in it, and words."""


def load(path: Path) -> Check:
    """The check of a schema that a file holds."""
    schema = json.loads(path.read_text())
    return _compile(schema, schema)


def _compile(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Check:
    """The check of a schema.

    Args:
        schema: With keywords that are known here.
        root: The whole document, which `$ref` refers to.
    """
    known = set(chain(_NOTES, *_STEPS))
    if unknown := set(schema) - known:
        raise NotImplementedError(f"keywords {sorted(unknown)}")
    steps = [
        make(schema, root)
        for keywords, make in _STEPS.items()
        if any(keyword in schema for keyword in keywords)
    ]

    def check(values: Sequence[Any]) -> str | None:
        if not values or not any(step(values) for step in steps):
            return None
        for value in values:  # which of them it is
            for step in steps:
                if found := step([value]):
                    return found
        return None

    return check


def _type(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Check:
    names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    types = {one for name in names for one in _TYPES[name]}
    words = f"expected {' or '.join(names)}"
    in_range = _range(schema, root) if int in types else None

    def check(values: Sequence[Any]) -> str | None:
        # The exact type: for Python a bool is a number, for JSON it is none.
        if not types.issuperset(map(type, values)):
            return f" {_shown(values[0])}: {words}"
        return in_range(values) if in_range else None

    return check


def _range(schema: Mapping[str, Any], _: Mapping[str, Any]) -> Check:
    least = schema.get("minimum", schema.get("exclusiveMinimum", -MOST))
    exclusive = "exclusiveMinimum" in schema
    words = f"expected a number {'above' if exclusive else 'of at least'} {least}"

    def check(values: Sequence[Any]) -> str | None:
        numbers = values
        if not _NUMBERS.issuperset(map(type, values)):
            numbers = [value for value in values if type(value) in _NUMBERS]
        if not numbers:
            return None
        if (smallest := min(numbers)) < least or (exclusive and smallest == least):
            return f" {_shown(values[0])}: {words}"
        return f" {_shown(values[0])}: expected at most {MOST}" if max(numbers) > MOST else None

    return check


def _text(schema: Mapping[str, Any], _: Mapping[str, Any]) -> Check:
    least, pattern = schema.get("minLength", 0), re.compile(schema.get("pattern", ""))

    def check(values: Sequence[Any]) -> str | None:
        texts = [value for value in values if isinstance(value, str)]
        if all(len(text) >= least and pattern.search(text) for text in texts):
            return None
        words = f"expected a text like {pattern.pattern}" if pattern.pattern else "is empty"
        return f" {_shown(values[0])}: {words}"

    return check


def _choice(schema: Mapping[str, Any], _: Mapping[str, Any]) -> Check:
    choices = schema["enum"] if "enum" in schema else [schema["const"]]
    words = f"expected {' or '.join(map(str, choices))}"

    def check(values: Sequence[Any]) -> str | None:
        fine = all(value in choices and not isinstance(value, bool) for value in values)
        return None if fine else f" {_shown(values[0])}: {words}"

    return check


def _array(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Check:
    least, most = schema.get("minItems", 0), schema.get("maxItems", MOST)
    items = _compile(schema.get("items", {}), root)

    def check(values: Sequence[Any]) -> str | None:
        arrays = [value for value in values if isinstance(value, list)]
        lengths = list(map(len, arrays))
        if lengths and (min(lengths) < least or max(lengths) > most):
            wanted = f"{least} items" if least == most else f"{least} to {most} items"
            wanted = f"at least {least} items" if most == MOST else wanted
            return f": {len(values[0])} items, expected {wanted}"
        if not (found := items(list(chain.from_iterable(arrays)))):
            return None
        places = ((place, items([item])) for place, item in enumerate(arrays[0]))
        return next((f"[{place}]{wrong}" for place, wrong in places if wrong), found)

    return check


def _object(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Check:
    named = {name: _compile(one, root) for name, one in schema.get("properties", {}).items()}
    matched = [
        (re.compile(pattern), _compile(one, root))
        for pattern, one in schema.get("patternProperties", {}).items()
    ]
    required, least = schema.get("required", ()), schema.get("minProperties", 0)
    more = schema.get("additionalProperties", True)
    others = _compile(more, root) if isinstance(more, dict) else None

    def check(values: Sequence[Any]) -> str | None:
        objects = [value for value in values if isinstance(value, dict)]
        for name in required:
            if not all(name in one for one in objects):
                return f": {name} is missing"
        if any(len(one) < least for one in objects):
            return f": expected at least {least} entries"
        for name, one in named.items():
            if wrong := one([value[name] for value in objects if name in value]):
                return f".{name}{wrong}"
        if more is True and not matched:
            return None
        for name in set().union(*objects).difference(named):
            checks = [one for pattern, one in matched if pattern.search(name)]
            if not checks and more is False:
                return f": unknown name {name[:40]!r}"
            for one in checks or ([others] if others else []):
                if wrong := one([value[name] for value in objects if name in value]):
                    return f".{name[:40]}{wrong}"
        return None

    return check


def _reference(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Check:
    place: Any = root
    for name in schema["$ref"].removeprefix("#/").split("/"):
        place = place[name]
    return _compile(place, root)


def _condition(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Check:
    applies, then = _compile(schema["if"], root), _compile(schema["then"], root)
    return lambda values: then([value for value in values if not applies([value])])


_STEPS: Mapping[tuple[str, ...], Callable[[Mapping[str, Any], Mapping[str, Any]], Check]] = {
    ("$ref",): _reference,
    ("type",): _type,
    ("const", "enum"): _choice,
    ("minimum", "exclusiveMinimum"): _range,
    ("minLength", "pattern"): _text,
    ("items", "minItems", "maxItems"): _array,
    (
        "properties",
        "patternProperties",
        "required",
        "minProperties",
        "additionalProperties",
    ): _object,
    ("if", "then"): _condition,
}
"""Keywords that are checked together, in order: what has the wrong type is told as that."""


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
