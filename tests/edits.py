"""Edits of a journal's line: what a person, a script or a broken disk may make of it."""

import contextlib
import copy
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bench.trial import Trial

DELETE = object()

VALUES: dict[str, Any] = {
    "deleted": DELETE,
    "null": None,
    "true": True,
    "text": "x",
    "empty text": "",
    "markup": "[/x] [enforce fail] :b: |<b>",
    "zero": 0,
    "minus": -1.5,
    "tiny": 1e-300,
    "large": 1e300,
    "whole": 10**40,
    "not a number": float("nan"),
    "infinite": float("inf"),
    "half a pair": "\ud800",
    "array": [],
    "array of null": [None],
    "object": {},
    "object of objects": {"x": {"y": []}},
}
"""What is put in the place of a value."""

Place = tuple[str | int, ...]


@dataclass(frozen=True)
class Edit:
    """A line with one change."""

    name: str
    text: str


def places(value: Any, here: Place = ()) -> Iterator[Place]:
    """Every place in a line; of an array the first and the last item stand for all."""
    if here:
        yield here
    if isinstance(value, dict):
        for name, item in value.items():
            yield from places(item, (*here, name))
    elif isinstance(value, list) and value:
        for number in sorted({0, len(value) - 1}):
            yield from places(value[number], (*here, number))


def edited(line: dict[str, Any], place: Place, value: Any) -> dict[str, Any]:
    """The line with another value in a place; its key is right for its trial, if it can be."""
    line = copy.deepcopy(line)
    there: Any = line
    for step in place[:-1]:
        there = there[step]
    if value is DELETE:
        del there[place[-1]]
    else:
        there[place[-1]] = value
    if place[0] == "trial":
        with contextlib.suppress(KeyError, ValueError, TypeError):
            line["key"] = Trial.from_json(line["trial"]).key
    return line


def edits(line: dict[str, Any], count: int) -> Iterator[Edit]:
    """So many of all values in all places, the same in each run, and what is no line at all."""
    everything = [(place, name) for place in places(line) for name in VALUES]
    for place, name in random.Random(0).sample(everything, count):
        text = json.dumps(edited(line, place, VALUES[name]))
        yield Edit(f"{'.'.join(map(str, place))}: {name}", text)
    whole = json.dumps(line)
    for name, text in {
        "nothing": "",
        "half": whole[: len(whole) // 2],
        "twice": whole + whole,
        "an array": f"[{whole}]",
        "a number": "3",
        "another schema": whole.replace('"schema": 1', '"schema": 2'),
        "deep": "[" * 100_000,
        "many digits": whole.replace('"schema": 1', f'"schema": {"1" * 5000}'),
        "no UTF-8": whole.replace("colorization", "\udcff"),
    }.items():
        yield Edit(name, text)
