"""The view `max-batch`: the largest batch of each variant that was certified to fit the budget."""

from collections.abc import Mapping

import pandas as pd

from bench.errors import UserError
from bench.report import Record
from bench.report.cells import is_measured
from bench.report.notes import caution_notes, machine_notes
from bench.report.page import (
    NOT_MEASURED,
    NOT_READABLE,
    Column,
    IntervalColumn,
    Page,
    RatioColumn,
    ratio_text,
    shown,
)
from bench.report.speedups import baseline_batch
from bench.search import MEMORY, Certificate
from bench.trial import Status, rate_text

_MEASURED = ("images_per_s",)
_KEPT = (
    *("images_per_s", "images_per_s_low", "images_per_s_high"),
    *(f"speedup_vs_seed{end}" for end in ("", "_low", "_high", "_verdict")),
    "peak_memory_gib",
    "predicted_memory_gib",
    "budget_percent",
    "final_mse",
    "rounds_ok",
)
_COLUMNS = (
    Column("max_batch", "batch", "{:.0f}".format),
    Column("peak_memory_gib", "peak GiB", "{:.2f}".format, NOT_READABLE, _MEASURED),
    Column("budget_percent", "budget %", "{:.0f}".format, NOT_READABLE, _MEASURED),
    Column("images_per_s", "images/s", rate_text, needs=("max_batch",)),
    RatioColumn("speedup_vs_seed", "vs seed", "{:.2f}x".format, needs=_MEASURED),
    IntervalColumn("speedup_vs_seed", "interval", "{:.2f}".format),
    Column("predicted_memory_gib", "predicted GiB", "{:.2f}".format, needs=_MEASURED),
    Column("final_mse", "MSE", "{:.1f}".format, needs=_MEASURED),
    Column("rounds_ok", "rounds", "{:.0f}".format, needs=_MEASURED),
)


def max_batch(cells: list[Record], found: Mapping[str, Certificate]) -> Page:
    """For each variant the largest batch that was certified, and why it is no larger.

    Args:
        cells: Of `cell_frame`.
        found: By the name of the variant, see `bench.search.read`.

    Raises:
        UserError: What was found is not among the cells.
    """
    measured = {(cell["variant"], cell["batch_size"]) for cell in cells if is_measured(cell)}
    for name, certificate in found.items():
        if certificate.batch_size and (name, certificate.batch_size) not in measured:
            raise UserError(
                f"the journal has no batch {certificate.batch_size} of {name} that ended well, "
                "which max-batch has certified"
            )
    lines = [
        _line(name, certificate, [cell for cell in cells if cell["variant"] == name])
        for name, certificate in found.items()
        if any(cell["variant"] == name for cell in cells)
    ]
    columns = shown(_COLUMNS, lines)
    texts = {
        "variant": [str(line["variant"]) for line in lines],
        **{column.title: [column.text(line) for line in lines] for column in columns},
        "limited by": [str(line["because"]) for line in lines],
        "next": [_next(line) for line in lines],
    }
    return Page(
        pd.DataFrame(lines),
        texts,
        [bool(line["max_batch"]) for line in lines],
        ["MSE", "predicted GiB", "interval", "rounds", "next"],
        _sentence(lines, cells),
        [*machine_notes(cells), *_explanations(lines), *caution_notes(cells)],
    )


def _line(name: str, certificate: Certificate, cells: list[Record]) -> Record:
    """One variant: `cells` are its batch sizes."""
    size = certificate.batch_size
    own: Record = next((cell for cell in cells if cell["batch_size"] == size), {})
    larger = sorted(
        (cell for cell in cells if cell["batch_size"] > size), key=lambda cell: cell["batch_size"]
    )
    after: Record = larger[0] if larger else {}
    return {
        "variant": name,
        "plain_variant": cells[0]["plain_variant"],
        "budget_gib": cells[0]["budget_gib"],
        "max_batch": size or None,
        "because": certificate.because,
        **{name: own.get(name) for name in _KEPT},
        "next_batch": after.get("batch_size"),
        "next_status": after.get("status"),
        "next_gib": after.get("peak_memory_gib"),
    }


def _next(line: Record) -> str:
    """What the next larger batch came to, where one was probed."""
    if not line["next_batch"]:
        return NOT_MEASURED
    told = line["next_status"]
    if told == Status.OK and pd.notna(line["next_gib"]):
        told = f"{line['next_gib']:.2f} GiB, too close"
    return f"{line['next_batch']}: {told}"


def _sentence(lines: list[Record], cells: list[Record]) -> str:
    """Why a card stays half empty, and what may fill it."""
    fits = [line for line in lines if line["max_batch"]]
    if not fits:
        return "No batch is certified."
    parts = []
    plain = next((line for line in fits if line["variant"] == line["plain_variant"]), None)
    if plain is not None:
        parts.append(_of_plain(plain, cells))
    others = [line for line in fits if line is not plain]
    if others:
        best = max(others, key=lambda line: (line["max_batch"], line["images_per_s"]))
        text = f"with {best['variant']} {best['max_batch']}"
        if pd.notna(best["speedup_vs_seed"]):
            text += f", at {ratio_text(best, 'speedup_vs_seed')} the images/s of the seed's setup"
        parts.append(text)
    return f"Within {fits[0]['budget_gib']:.3g} GiB: {'; '.join(parts)}."


def _of_plain(line: Record, cells: list[Record]) -> str:
    """The plain variant's powers of two, beside its largest batch."""
    own = {cell["batch_size"]: cell for cell in cells if cell["variant"] == line["variant"]}
    size = int(line["max_batch"])
    baseline = baseline_batch(cells)
    power = own.get(baseline) if baseline and baseline <= size else None
    text = f"{line['variant']} fits at {size}"
    if line["because"] != MEMORY:
        return f"{text}, limited by {line['because']}"
    if power is None or pd.isna(power["peak_memory_gib"]):
        return text
    after = 2 * power["batch_size"]
    needed = _extrapolated(list(own.values()), after)
    beyond = f"needs {needed:.2f} (predicted)" if needed else "does not fit"
    return (
        f"the power of two {after} {beyond}, {power['batch_size']} fills "
        f"{power['peak_memory_gib']:.2f}; {text}"
    )


def _extrapolated(cells: list[Record], size: int) -> float | None:
    """The predicted peak at a batch size beyond those that were measured, in GiB."""
    known = [cell for cell in cells if pd.notna(cell["predicted_memory_gib"])]
    known.sort(key=lambda cell: int(cell["batch_size"]))
    if len(known) < 2:
        return None
    small, large = known[-2:]
    rise = large["predicted_memory_gib"] - small["predicted_memory_gib"]
    slope = rise / (large["batch_size"] - small["batch_size"])
    return float(large["predicted_memory_gib"] + slope * (size - large["batch_size"]))


def _explanations(lines: list[Record]) -> list[str]:
    least = min((int(line["rounds_ok"]) for line in lines if line["max_batch"]), default=0)
    if not least:
        return []
    return [
        f"Batch: certified by {least} whole runs or more, each with its evaluation in a process of "
        "its own. Next: the next larger one that was probed; on a CPU it may have come too near to "
        "the budget by what it only reserved."
    ]
