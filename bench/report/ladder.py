"""The view `ladder`: variants in the order they were asked for, each against the ones before it."""

import json
from itertools import groupby

import pandas as pd

from bench.errors import UserError
from bench.report import Record
from bench.report.cells import (
    axes,
    by_settings,
    differing,
    plain_axes,
    status_text,
    where,
)
from bench.report.contrast import ratios
from bench.report.notes import (
    caution_notes,
    compile_seconds_note,
    machine_notes,
    names,
    verdict_notes,
)
from bench.report.page import (
    NOT_READABLE,
    Column,
    IntervalColumn,
    Page,
    RatioColumn,
    SpreadColumn,
    ratio_text,
    shown,
)
from bench.report.speedups import is_reference
from bench.report.tables import COMPILE_COLUMNS
from bench.trial import Status, rate_text

NAME = "ladder"

_MEASURED = ("images_per_s",)
_FIRST, _BEFORE = "speedup_vs_first", "speedup_vs_before"
_KEPT = (
    "variant",
    "batch_size",
    "images_per_s",
    "images_per_s_low",
    "images_per_s_high",
    "peak_memory_gib",
    "final_mse",
    "cold_compile_s",
    "warm_compile_s",
    "graph_breaks",
    "status",
    "reason",
    "flags",
    "rounds",
    "rounds_ok",
    "outcomes",
    "fastest",
    "seed",
    "settings",
)

_COLUMNS = (
    Column("images_per_s", "images/s", rate_text),
    SpreadColumn("images_per_s", "±%", "{:.1f}".format),
    RatioColumn(_FIRST, "vs first", "{:.2f}x".format, needs=_MEASURED),
    RatioColumn(_BEFORE, "vs before", "{:.2f}x".format, needs=(*_MEASURED, "before_variant")),
    IntervalColumn(_BEFORE, "interval", "{:.2f}".format),
    Column("peak_memory_gib", "peak GiB", "{:.2f}".format, NOT_READABLE, _MEASURED),
    Column("final_mse", "MSE", "{:.1f}".format, needs=_MEASURED),
)


def ladder(cells: list[Record]) -> Page:
    """What each step from variant to variant brings, at every batch size.

    A rung is compared with the last one before it that others may be compared with; see
    `bench.report.speedups.is_reference`.

    Raises:
        UserError: There is only one variant.
    """
    if len({cell["variant"] for cell in cells}) == 1:
        raise UserError(f"--view {NAME}: expected several variants, got {cells[0]['variant']}")
    lines: list[Record] = []
    firsts: list[Record | None] = []
    befores: list[Record | None] = []
    skipped: dict[str, list[Record]] = {}
    for _, rungs in groupby(
        cells, lambda cell: (cell["settings"], cell["seed"], cell["batch_size"])
    ):
        first = before = previous = None
        for cell in rungs:
            first = first or cell
            lines.append(_line(cell, first, before))
            firsts.append(first if is_reference(first) else None)
            befores.append(before)
            if before is not previous and before is not None:
                skipped.setdefault(before["variant"], []).append(cell)
            previous = cell
            if is_reference(cell):
                before = cell
    for name, references in ((_FIRST, firsts), (_BEFORE, befores)):
        for line, found in zip(lines, ratios(name, cells, references), strict=True):
            line.update(found)
    compiled = any(pd.notna(cell["graph_breaks"]) for cell in cells)
    seconds = COMPILE_COLUMNS if compiled else ()
    columns = shown((*_COLUMNS, *seconds), lines)
    notes = [compile_seconds_note()] if compiled else []
    notes += verdict_notes(lines, _FIRST, _BEFORE)
    notes += [
        f"{names(rungs)}: compared with {variant}, the last rung before that was measured, fits "
        "in all rounds and is not flagged."
        for variant, rungs in skipped.items()
    ]
    texts = {
        "batch": [str(line["batch_size"]) for line in lines],
        "change": [line["change"] for line in lines],
        "variant": [line["variant"] for line in lines],
        **{name: [str(line[name]) for line in lines] for name in differing(lines, "seed")},
        **{column.title: [column.text(line) for line in lines] for column in columns},
        "status": [status_text(line) for line in lines],
    }
    return Page(
        pd.DataFrame(lines),
        texts,
        [_is_best(line) for line in lines],
        [
            *(column.title for column in reversed(seconds)),
            "variant",
            "peak GiB",
            "MSE",
            "±%",
            "vs first",
            "interval",
            "status",  # the notes tell too
        ],
        " ".join(_sentence(words, group) for words, group in by_settings(lines)),
        [*machine_notes(cells), *notes, *caution_notes(cells)],
    )


def _line(cell: Record, first: Record, before: Record | None) -> Record:
    return {
        **json.loads(cell["settings"]),
        **{name: cell[name] for name in _KEPT},
        "change": _change(cell, before),
        "first_variant": first["variant"],
        "before_variant": before["variant"] if before else None,
    }


def _change(cell: Record, before: Record | None) -> str:
    """What was switched on, off or over since another rung; the whole name if there is none."""
    if before is None:
        return str(cell["variant"])
    plain, then, now = plain_axes(cell), axes(before), axes(cell)
    found = []
    for axis, value in now.items():
        old = then.get(axis, value)
        if old == value:
            continue
        if old == plain.get(axis):
            found.append(f"+{value}")
        elif value == plain.get(axis):
            found.append(f"-{old}")
        else:
            found.append(f"{old} -> {value}")
    return ", ".join(found)


def _is_best(line: Record) -> bool:
    """Whether it is the fastest, and no slower than a first rung that must not win itself."""
    return bool(line["fastest"]) and line[f"{_FIRST}_verdict"] != "slower"


def _sentence(words: str, lines: list[Record]) -> str:
    """Which rung is the fastest, and which step brought the most."""
    best = next((line for line in lines if _is_best(line)), None)
    if best is None:
        return (
            f"No rung is called fastest {where(words)}: none ended well, in all rounds, unflagged."
        )
    text = (
        f"Fastest {where(words)}: {best['variant']} at batch {best['batch_size']} with "
        f"{rate_text(best['images_per_s'])} images/s"
    )
    if best["variant"] != best["first_variant"] and pd.notna(best["speedup_vs_first"]):
        text += f", {ratio_text(best, _FIRST)} {best['first_variant']}, the first rung"
    top = max(_gains(lines), key=lambda line: float(line[_BEFORE]), default=None)
    if top is not None and top[_BEFORE] > 1:
        text += (
            "; of the steps to a rung faster than all before, the largest was "
            f"{top['change']} over {top['before_variant']} at batch {top['batch_size']}: "
            f"{ratio_text(top, _BEFORE)}"
        )
    return text + "."


def _gains(lines: list[Record]) -> list[Record]:
    """The steps to a rung that is faster than all before it: others only undo a loss."""
    found: list[Record] = []
    best: dict[tuple[int, int], float] = {}
    for line in lines:
        if line["status"] != Status.OK or line["flags"]:
            continue
        place, rate = (line["seed"], line["batch_size"]), line["images_per_s"]
        if pd.notna(line[_BEFORE]) and rate > best.get(place, 0.0):
            found.append(line)
        best[place] = max(rate, best.get(place, 0.0))
    return found
