"""The noise floor of this machine: what equal processes differ by, per class of variants.

It depends on what is averaged: equal processes differ by more over one step than over twenty. A
floor therefore holds for rows of the same settings (image size and width among them), batch size,
samples, and least numbers of warm-up and measured steps, which decide how long the window is.

Measured by `unet-bench doctor --noise`, kept for each environment in the user's state folder, and
recorded in every row that is measured later, so that a report knows it wherever it is made.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from bench.environment import COMPARABLE, RECORDED_LATER
from bench.journal import Row
from bench.stats import Noise, paired_noise
from bench.trial import Status, Trial

CLASSES = ("eager", "compiled")

LEAST_PROCESSES = 10
"""Of a cell, to tell anything of its noise: five comparisons."""

WINDOW = ("batch_size", "samples", "warmup_steps", "measured_steps")
"""Fields of a trial that, beside its settings, decide what its rate is averaged over."""

_WINDOW_OF_OLD = {"batch_size": 16, "samples": 512, "warmup_steps": 5, "measured_steps": 20}
"""Those of the preset `noise`, which measured the floors in journals that do not record them."""

MOST_SPREAD = 0.2
"""Ratios of one round that scatter by more than 20 % are those of a machine at something else."""


def class_of(row: Row) -> str:
    """The class of the variant of a row that ended well."""
    return CLASSES[bool(row.result.compilation)]


def describe(rows: Sequence[Row]) -> dict[str, Any]:
    """What rows of equal processes tell of noise, as a row's environment records it.

    Args:
        rows: Of one environment; the rounds of a cell are equal processes.

    Returns:
        `measured_at`, and `cells`: for each with at least `LEAST_PROCESSES` that ended well its
        `class`, `settings`, `WINDOW`, `label` and `images_per_s` in the order of the rounds.
    """
    cells: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.trial.round):
        if row.result.status is Status.OK:
            cells.setdefault(row.trial.cell.key, []).append(row)
    return {
        "measured_at": max(row.result.started_at or "" for row in rows),
        "cells": [
            {
                "class": class_of(group[0]),
                "settings": dict(group[0].trial.settings),
                **window_of(group[0].trial),
                "label": group[0].trial.cell.label,
                "images_per_s": [row.result.images_per_s for row in group],
            }
            for group in cells.values()
            if len(group) >= LEAST_PROCESSES
        ],
    }


def window_of(trial: Trial) -> dict[str, int]:
    """What a trial's rate is averaged over; see `WINDOW`."""
    return {name: getattr(trial, name) for name in WINDOW}


def of_row(row: Row) -> Noise | None:
    """The noise of a row's class, if it was measured with the row's settings and window.

    Of several cells, the noisiest one's; `None` too where the row did not end well, so that its
    class is not known.
    """
    if row.result.status is not Status.OK:
        return None
    wanted = class_of(row), dict(row.trial.settings), window_of(row.trial)
    cells = (row.environment.get("noise") or {}).get("cells", [])
    found = (
        _paired_noise(tuple(cell["images_per_s"]))
        for cell in cells
        if (cell["class"], cell["settings"], _window(cell)) == wanted
    )
    return max(found, key=lambda noise: noise.floor(1), default=None)


_paired_noise = lru_cache(paired_noise)  # rows of a folder record the same


def _window(cell: Mapping[str, Any]) -> dict[str, int]:
    return {name: cell.get(name, _WINDOW_OF_OLD[name]) for name in WINDOW}


def of_rows(rows: Iterable[Row]) -> Noise | None:
    """The noise of the rows' class, by the first that knows of it."""
    return next(filter(None, map(of_row, rows)), None)


def is_hopeless(description: Mapping[str, Any]) -> bool:
    """Whether something else was going on, so that nothing is told of the machine's own noise."""
    cells = description["cells"]
    return any(paired_noise(cell["images_per_s"]).spread > MOST_SPREAD for cell in cells)


def read(environment: Mapping[str, Any]) -> dict[str, Any] | None:
    """What was measured in such an environment; `None` if nothing was, or it cannot be read."""
    try:
        found: dict[str, Any] = json.loads(_path(environment).read_text())
        for cell in found["cells"]:
            _ = cell["class"], cell["settings"], paired_noise(cell["images_per_s"])
            _ = [cell[name] for name in WINDOW]  # else measured anew: nothing tells by what it was
    except (OSError, ValueError, TypeError, KeyError, ArithmeticError):
        return None
    return found


def write(environment: Mapping[str, Any], description: Mapping[str, Any]) -> Path:
    """Keeps a description for rows that are measured in such an environment from now on."""
    path = _path(environment)
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_suffix(f".{os.getpid()}")
    whole.write_text(json.dumps(description))
    whole.replace(path)
    return path


def _path(environment: Mapping[str, Any]) -> Path:
    told = {name: environment.get(name) for name in COMPARABLE}
    for name in RECORDED_LATER:
        if told[name] is None:  # as all were before it was recorded
            del told[name]
    asked = json.dumps(told, sort_keys=True)
    name = hashlib.sha256(asked.encode()).hexdigest()[:16]
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    return Path(state) / "unet-bench" / "noise" / f"{name}.json"
