"""The table of `plan --predict`: the memory that cells are expected to take, and for what."""

import json
from collections.abc import Mapping, Sequence

import pandas as pd

from bench.budget import GIB, format_bytes
from bench.predict import ACTIVATIONS, TEMPORARY, Prediction, experiment
from bench.report import Record
from bench.report.cells import by_settings, differing, where
from bench.report.page import Column, Page
from bench.trial import Trial

_KINDS = ("parameters", "gradients", "optimizer state", "batch", ACTIVATIONS, TEMPORARY)
_TITLES = {"batch": "batch GiB", "optimizer state": "optimizer\nstate"}
_FEW = 3

_MOST = 1_000_000
"""Batches are not looked at beyond this."""

PEAK = "peak\nGiB"
BOUND = "≤"
"""Before a prediction that is a bound."""


def predicted(trials: Sequence[Trial], predictions: Mapping[str, Prediction]) -> Page:
    """One line per cell.

    Args:
        trials: Any rounds of the cells; those that could not be predicted are left out.
        predictions: By `experiment`.
    """
    cells = {trial.cell.key: trial.cell for trial in trials if experiment(trial) in predictions}
    lines = [_line(cell, predictions[experiment(cell)]) for cell in cells.values()]
    on_cpu = any(line["process_gib"] for line in lines)
    columns = [Column("peak_gib", PEAK, "{:.2f}".format)]
    columns += [Column("budget_percent", "budget\n%", "{:.0f}".format)]
    columns += [Column("process_gib", "process", "{:.2f}".format)] * on_cpu
    columns += [Column(f"{kind}_gib", _TITLES.get(kind, kind), "{:.2f}".format) for kind in _KINDS]
    texts = {
        "variant": [str(line["variant"]) for line in lines],
        "batch": [str(line["batch_size"]) for line in lines],
        **{name: [str(line[name]) for line in lines] for name in differing(lines, "seed")},
        **{column.title: [column.text(line) for line in lines] for column in columns},
        "most activations in": [str(line["parts"]) for line in lines],
        "fits": ["yes" if line["budget_percent"] <= 100 else "no" for line in lines],
    }
    texts[PEAK] = [
        f"{BOUND * line['is_bound']}{text}" for line, text in zip(lines, texts[PEAK], strict=True)
    ]
    return Page(
        pd.DataFrame(lines),
        texts,
        [False] * len(lines),
        ["most activations in", "batch GiB", "gradients", "process", TEMPORARY, "optimizer\nstate"],
        " ".join(_sentence(words, group) for words, group in by_settings(lines)),
        _notes(lines, on_cpu),
    )


def _line(cell: Trial, prediction: Prediction) -> Record:
    peak_bytes = prediction.peak_bytes(cell.batch_size)
    breakdown = prediction.breakdown(cell.batch_size)
    parts = {
        kind.removeprefix(f"{ACTIVATIONS} of "): size
        for kind, size in breakdown.items()
        if kind.startswith(ACTIVATIONS)
    }
    largest = sorted(parts, key=lambda part: -parts[part])[:_FEW]
    return {
        **cell.settings,
        "settings": json.dumps(dict(cell.settings)),
        "variant": cell.variant,
        "batch_size": cell.batch_size,
        "seed": cell.seed,
        "budget_gib": cell.budget_bytes / GIB,
        "peak_gib": peak_bytes / GIB,
        "budget_percent": 100 * peak_bytes / cell.budget_bytes,
        "process_gib": prediction.process_bytes / GIB,
        **{f"{kind}_gib": breakdown.get(kind, 0) / GIB for kind in _KINDS},
        f"{ACTIVATIONS}_gib": sum(parts.values()) / GIB,
        "parts": ", ".join(f"{part} {parts[part] / GIB:.2f}" for part in largest),
        "largest_batch": prediction.largest(cell.budget_bytes, _MOST),
        "is_bound": prediction.is_bound,
    }


def _sentence(words: str, lines: list[Record]) -> str:
    """How large a batch each variant has room for."""
    rooms = {line["variant"]: line["largest_batch"] for line in lines}
    budget = format_bytes(lines[0]["budget_gib"] * GIB)
    told = ", ".join(f"{name} {size or 'none'}" for name, size in rooms.items())
    return f"The largest batch that is expected to fit {budget} {where(words)}: {told}."


def _notes(lines: list[Record], on_cpu: bool) -> list[str]:
    found = [
        "GiB at the moment of the peak, found by tracing two training steps with tensors that "
        "have no memory. Activations: what the forward pass keeps for the backward pass. "
        "Temporary: what does not outlive the pass it is used in."
    ]
    if on_cpu:
        found.append(
            "Process: what a process has beside, measured by one step of the plain variant at "
            "batch 1."
        )
    else:
        found.append(
            "On a GPU the context and workspaces of libraries come on top, often some hundred MiB: "
            "what fits with little to spare may not."
        )
    if bounds := list(dict.fromkeys(line["variant"] for line in lines if line["is_bound"])):
        words = "an eager variant's, as a bound, on top of which the compiler has memory of its own"
        found.append(f"{BOUND}: {words}: {', '.join(bounds)}.")
    return found
