"""The noise floor of this machine: what equal processes differ by, per class of variants.

Measured by `unet-bench doctor --noise`, kept for each environment in the user's state folder, and
recorded in every row that is measured later, so that a report knows it wherever it is made.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.environment import COMPARABLE
from bench.journal import Row
from bench.stats import Noise, paired_noise
from bench.trial import Status

CLASSES = ("eager", "compiled")

LEAST_PROCESSES = 4
"""Of a cell, to tell anything of its noise."""


def class_of(row: Row) -> str:
    """The class of a row's variant."""
    return CLASSES[bool(row.result.compilation)]


def describe(rows: Sequence[Row]) -> dict[str, Any]:
    """What rows of equal processes tell of noise, as a row's environment records it.

    Args:
        rows: Of one environment; the rounds of a cell are equal processes.

    Returns:
        `measured_at`, and `cells`: for each with at least `LEAST_PROCESSES` that ended well its
        `class`, `label` and `images_per_s` in the order of the rounds.
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
                "label": group[0].trial.cell.label,
                "images_per_s": [row.result.images_per_s for row in group],
            }
            for group in cells.values()
            if len(group) >= LEAST_PROCESSES
        ],
    }


def of_class(environment: Mapping[str, Any], name: str) -> Noise | None:
    """The noise of a class, by its noisiest cell; `None` where it was not measured.

    Args:
        environment: Of a row.
        name: One of `CLASSES`.
    """
    found = map(paired_noise, _cells(environment, name))
    return max(found, key=lambda noise: noise.floor(1), default=None)


def _cells(environment: Mapping[str, Any], name: str) -> list[list[float]]:
    """The images/s of a class's cells."""
    cells = (environment.get("noise") or {}).get("cells", [])
    return [cell["images_per_s"] for cell in cells if cell["class"] == name]


def read(environment: Mapping[str, Any]) -> dict[str, Any] | None:
    """What was measured in such an environment; `None` if nothing was, or it cannot be read."""
    try:
        found: dict[str, Any] = json.loads(_path(environment).read_text())
    except (OSError, ValueError):
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
    asked = json.dumps({name: environment.get(name) for name in COMPARABLE}, sort_keys=True)
    name = hashlib.sha256(asked.encode()).hexdigest()[:16]
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    return Path(state) / "unet-bench" / "noise" / f"{name}.json"
