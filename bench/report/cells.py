"""What every table says of cells: which belong together, and what they are called."""

import json
from typing import cast

import pandas as pd

from bench.report import Record
from bench.trial import Status


def records(frame: pd.DataFrame) -> list[Record]:
    """The lines of a frame."""
    return cast("list[Record]", frame.to_dict("records"))


def differing(cells: list[Record], *more: str) -> list[str]:
    """The settings (and other columns) that are not the same in all cells."""
    names = (*more, *json.loads(cells[0]["settings"]))
    return [name for name in names if len({cell[name] for cell in cells}) > 1]


def settings_words(cell: Record, names: list[str]) -> str:
    """The named settings of a cell in words, such as "image_size 64"."""
    return ", ".join(f"{name} {cell[name]}" for name in names)


def by_settings(cells: list[Record]) -> list[tuple[str, list[Record]]]:
    """The cells that may be compared with each other, with what sets them apart, in words."""
    names = differing(cells)
    groups: dict[str, list[Record]] = {}
    for cell in cells:
        groups.setdefault(settings_words(cell, names), []).append(cell)
    return list(groups.items())


def where(words: str) -> str:
    """In a sentence: at the settings that set a group apart, or here if there is one group."""
    return f"at {words}" if words else "here"


def label(cell: Record) -> str:
    """What a person calls a cell, such as "bf16 b16"."""
    return f"{cell['variant']} b{cell['batch_size']}"


def status_text(cell: Record) -> str:
    """How the rounds of a cell ended, such as "ok 4/5, oom 1/5", and whether it is flagged."""
    total = f"/{cell['rounds']}"
    parts = [
        f"{status} {count}{total}" if cell["rounds"] > 1 else status
        for status, count in json.loads(cell["outcomes"]).items()
    ]
    return ", ".join([*parts, *(["flagged"] if cell["flags"] else [])])


def ran_out_of_memory(cell: Record) -> bool:
    """Whether any round of a cell did, or a smaller batch of the same variant."""
    return not {Status.OOM, Status.IMPLIED_OOM}.isdisjoint(json.loads(cell["outcomes"]))


def is_measured(cell: Record | None) -> bool:
    """Whether there is a cell and any round of it ended well."""
    return cell is not None and bool(cell["rounds_ok"])


def plain_axes(cell: Record) -> dict[str, str]:
    """Axis -> its value in the plain variant; empty where rows of old do not tell."""
    return dict(json.loads(cell["plain_axes"])) if pd.notna(cell["plain_axes"]) else {}


def axes(cell: Record) -> dict[str, str]:
    """Axis -> value; an axis that a row of old does not have is as in the plain variant."""
    return plain_axes(cell) | dict(json.loads(cell["axes"]))
