"""The view `memory`: what every cell takes, by the allocator, by NVML and against the budget."""

import json
from statistics import median

import pandas as pd

from bench.report import Record
from bench.report.cells import by_settings, differing, label, status_text, where
from bench.report.notes import caution_notes, machine_notes, names
from bench.report.page import NOT_READABLE, Column, Page
from bench.report.predicted import BOUND
from bench.trial import rate_text

NAME = "memory"

_MEASURED = ("images_per_s",)
_ON_CUDA = (*_MEASURED, "card_gib")
_KEPT = (
    "variant",
    "batch_size",
    "images_per_s",
    "peak_memory_gib",
    "first_step_peak_memory_gib",
    "peak_reserved_gib",
    "unused_reserved_gib",
    "process_gib",
    "first_step_alloc_retries",
    "alloc_retries",
    "predicted_memory_gib",
    "prediction_is_bound",
    "growth_gib",
    "prediction_error_percent",
    "budget_gib",
    "budget_percent",
    "memory_mode",
    "card_gib",
    "status",
    "reason",
    "flags",
    "rounds",
    "rounds_ok",
    "outcomes",
    "seed",
    "settings",
)
_COLUMNS = (
    Column("peak_memory_gib", "peak\nGiB", "{:.2f}".format, NOT_READABLE, _MEASURED),
    Column(
        "first_step_peak_memory_gib", "first step\nGiB", "{:.2f}".format, NOT_READABLE, _MEASURED
    ),
    Column("peak_reserved_gib", "reserved\nGiB", "{:.2f}".format, NOT_READABLE, _ON_CUDA),
    Column("unused_reserved_gib", "reserved,\nunused GiB", "{:.2f}".format, NOT_READABLE, _ON_CUDA),
    Column("process_gib", "process\nGiB", "{:.2f}".format, NOT_READABLE, _ON_CUDA),
    Column(
        "first_step_alloc_retries", "first-step\nretries", "{:.0f}".format, NOT_READABLE, _ON_CUDA
    ),
    Column("alloc_retries", "retries", "{:.0f}".format, NOT_READABLE, _ON_CUDA),
    Column("budget_percent", "budget %", "{:.0f}".format, NOT_READABLE, _MEASURED),
    Column("images_per_s", "images/s", rate_text),
)


def memory(cells: list[Record]) -> Page:
    """What every cell takes, and which comes nearest to the budget or is beyond it.

    Args:
        cells: Of `cell_frame`.
    """
    lines = [
        json.loads(cell["settings"]) | {name: cell[name] for name in _KEPT} | _audit(cell)
        for cell in cells
    ]
    columns = [column for column in _COLUMNS if any(column.text(line) != "-" for line in lines)]
    texts = {
        "variant": [str(line["variant"]) for line in lines],
        "batch": [str(line["batch_size"]) for line in lines],
        **{name: [str(line[name]) for line in lines] for name in differing(lines, "seed")},
        **{column.title: [column.text(line) for line in lines] for column in columns},
        **_predicted(lines),
        "budget is": [_mode(line) for line in lines],
        "status": [status_text(line) for line in lines],
    }
    groups = by_settings(lines)
    nearest = [_nearest(group) for _, group in groups]
    return Page(
        pd.DataFrame(lines),
        texts,
        [any(line is found for found in nearest) for line in lines],
        [
            "images/s",
            "first-step\nretries",
            "first step\nGiB",
            "budget is",
            "reserved\nGiB",
            "retries",
            "reserved,\nunused GiB",
            "status",  # the notes tell too
        ],
        " ".join(
            [
                *(_sentence(words, group) for words, group in groups),
                *_faults(lines),
                *_errors(lines),
            ]
        ),
        [*machine_notes(cells), *_explanations(lines), *caution_notes(cells)],
    )


def _predicted(lines: list[Record]) -> dict[str, list[str]]:
    """What was predicted and by how much it was off, where anything was."""
    if all(pd.isna(line["predicted_memory_gib"]) for line in lines):
        return {}
    columns = (
        Column("predicted_memory_gib", "predicted\nGiB", "{:.2f}".format),
        Column("prediction_error_percent", "error %", "{:+.1f}".format, needs=_MEASURED),
    )
    texts = {column.title: [column.text(line) for line in lines] for column in columns}
    title = columns[0].title
    texts[title] = [
        f"{BOUND * (line['prediction_is_bound'] == 1)}{text}"
        for line, text in zip(lines, texts[title], strict=True)
    ]
    return texts


def _errors(lines: list[Record]) -> list[str]:
    """How the errors of predictions are spread: of all cells, and of those of 1 GiB and more."""
    judged = [line for line in lines if pd.notna(line["prediction_error_percent"])]
    eager = [line for line in judged if not line["prediction_is_bound"]]
    large = [line for line in eager if line["growth_gib"] >= 1]
    texts = [_spread(f"{len(eager)} eager cells", eager)] if eager else []
    if large:
        texts.append(_spread(f"the {len(large)} that grow by 1 GiB or more", large))
    exceeded = [
        line
        for line in judged
        if line["prediction_is_bound"] and line["prediction_error_percent"] < 0
    ]
    found = [f"Prediction errors, of what training adds: {'; '.join(texts)}."] if texts else []
    if exceeded:
        found.append(f"Beyond the bound: {names(exceeded)}.")
    return found


def _spread(words: str, lines: list[Record]) -> str:
    errors = sorted(float(line["prediction_error_percent"]) for line in lines)
    return f"{words} {errors[0]:+.1f} to {errors[-1]:+.1f} %, median {median(errors):+.1f} %"


def _mode(line: Record) -> str:
    return str(line["memory_mode"]) if pd.notna(line["memory_mode"]) else "-"


def _audit(cell: Record) -> Record:
    """The most that the cell's process is known to have had, and by whose word."""
    if pd.notna(cell["process_gib"]):
        return {"audited_gib": cell["process_gib"], "audited_by": "NVML"}
    source = "torch's allocator and the context" if pd.notna(cell["card_gib"]) else "the kernel"
    return {
        "audited_gib": cell["budget_percent"] / 100 * cell["budget_gib"],
        "audited_by": source if pd.notna(cell["budget_percent"]) else None,
    }


def _nearest(lines: list[Record]) -> Record | None:
    known = [line for line in lines if line["audited_by"] and not line["flags"]]
    return max(known, key=lambda line: float(line["audited_gib"]), default=None)


def _sentence(words: str, lines: list[Record]) -> str:
    """Which cell comes nearest to the budget; flagged ones are not concluded from."""
    line = _nearest(lines)
    if line is None:
        return f"Nothing is known of memory {where(words)}: no row ended well, unflagged."
    share = 100 * line["audited_gib"] / line["budget_gib"]
    return (
        f"Nearest to the budget of {line['budget_gib']:g} GiB {where(words)}: {label(line)}, whose "
        f"process had {line['audited_gib']:.2f} GiB by {line['audited_by']} ({share:.0f} %)."
    )


def _faults(lines: list[Record]) -> list[str]:
    """Cells whose process had more than the budget: it did not hold."""
    return [
        f"Fault: {label(line)} had {line['audited_gib'] - line['budget_gib']:.2f} GiB more than "
        f"the budget by {line['audited_by']}."
        for line in lines
        if line["audited_by"] and line["audited_gib"] > line["budget_gib"]
    ]


def _explanations(lines: list[Record]) -> list[str]:
    """What the columns of predictions and of a GPU hold."""
    found = []
    if any(pd.notna(line["predicted_memory_gib"]) for line in lines):
        found.append(
            "Predicted: the steady peak of training, traced without memory; of a compiled variant "
            f"({BOUND}) an eager one's as a bound, the compiler's own memory left out. Errors are "
            "of what comes on top of a process after one step at batch 1; on a GPU, of what the "
            "allocator gave."
        )
    if all(pd.isna(line["card_gib"]) for line in lines):
        return found
    return [
        *found,
        "Reserved, unused: what torch's allocator held at its peak beyond the peak of what was in "
        "use: fragmentation. Retries: how often it had to free its cache and try again.",
        "Process: all that the process had by NVML, with its context and libraries.",
    ]
