"""The result table: what stands in it, the sentence under it and its notes."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import pandas as pd
from rich.table import Table

from bench import journal, stopping
from bench.journal import Row
from bench.report import Record
from bench.report.baselines import described, to_beat
from bench.report.cells import (
    by_settings,
    differing,
    ran_out_of_memory,
    records,
    status_text,
    where,
)
from bench.report.frame import cell_frame
from bench.report.notes import (
    FEW,
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
from bench.report.pairs import ratio
from bench.report.speedups import all_seeds, ended_well, may_win, mean_rate, plain_by_place
from bench.stats import LEAST_ROUNDS
from bench.trial import rate_text

_MEASURED = ("images_per_s",)

COLUMNS = (
    Column("images_per_s", "images/s", rate_text),
    SpreadColumn("images_per_s", "±%", "{:.1f}".format),
    RatioColumn("speedup", "speedup", "{:.2f}x".format, needs=_MEASURED),
    IntervalColumn("speedup", "interval", "{:.2f}".format),
    RatioColumn("speedup_vs_seed", "vs seed", "{:.2f}x".format, needs=_MEASURED),
    Column("step_ms", "step ms", "{:.1f}".format, needs=_MEASURED),
    Column("peak_memory_gib", "peak GiB", "{:.2f}".format, NOT_READABLE, _MEASURED),
    Column("budget_percent", "budget %", "{:.0f}".format, NOT_READABLE, _MEASURED),
    Column("utilization_percent", "util %", "{:.0f}".format, NOT_READABLE, _MEASURED),
    Column("final_mse", "MSE", "{:.1f}".format, needs=_MEASURED),
)
"""The columns of every workload; its baselines follow."""

COMPILE_COLUMNS = (
    Column("cold_compile_s", "cold compile s", "{:.1f}".format, needs=("graph_breaks",)),
    Column("warm_compile_s", "warm compile s", "{:.1f}".format, needs=("graph_breaks",)),
)
"""These follow where anything was compiled."""


def page(frame: pd.DataFrame) -> Page:
    """The result table.

    Args:
        frame: Of `cell_frame`.
    """
    cells = records(frame)
    columns = _columns(cells)
    return Page(
        frame,
        columns,
        [bool(cell["fastest"]) for cell in cells],
        _dispensable(cells),
        verdict(frame),
        notes(frame),
    )


def folder_page(rows: Sequence[Row], folder: Path) -> Page:
    """The result table of a folder, with what its records tell of the run."""
    found = page(cell_frame(rows))
    found.notes.extend(
        dict.fromkeys(note for row in rows for note in row.workload.get("notes", ()))
    )
    if journal.is_torn(folder):
        found.notes.append("The last line of the journal is not whole, and is left out.")
    if run := stopping.last(folder):
        found.notes.append(run.sentence)
    return found


def to_rich(frame: pd.DataFrame, width: int | None) -> Table:
    """See `Page.to_rich`; the fastest row is bold."""
    return page(frame).to_rich(width)


def to_markdown(frame: pd.DataFrame) -> str:
    """See `Page.to_markdown`; the fastest row is bold."""
    return page(frame).to_markdown()


def to_csv(frame: pd.DataFrame) -> str:
    """All columns under the names of the contract; what was not measured is empty."""
    words = frame.select_dtypes(exclude=["number", "bool"])
    as_data = {str(name): words[name].map(_as_data) for name in words}
    return frame.assign(**as_data).to_csv(index=False)


def _as_data(value: object) -> object:
    """A cell that no spreadsheet runs: it would take a text such as `+bf16` for a formula."""
    is_formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if is_formula else value


def to_json(frame: pd.DataFrame) -> str:
    """As `to_csv`, as a list of objects; what was not measured is null."""
    found = json.loads(frame.to_json(orient="records"))
    return json.dumps(found, indent=1) + "\n"


def notes(frame: pd.DataFrame) -> list[str]:
    """What a reader must know to take the table for what it is."""
    cells = records(frame)
    return [
        *machine_notes(cells),
        *_baseline_notes(cells),
        *_no_better_notes(cells),
        *_seed_notes(cells),
        *_round_notes(cells),
        *verdict_notes(cells, "speedup", "speedup_vs_seed"),
        *([compile_seconds_note()] if _compiled(cells) else []),
        *caution_notes(cells),
    ]


def _columns(cells: list[Record]) -> dict[str, list[str]]:
    """The printed table: title -> its texts. Settings that differ between rows are shown too."""
    columns = {
        "variant": [str(cell["variant"]) for cell in cells],
        "batch": [str(cell["batch_size"]) for cell in cells],
        **{name: [str(cell[name]) for cell in cells] for name in differing(cells, "seed")},
        **{column.title: [column.text(cell) for cell in cells] for column in shown(COLUMNS, cells)},
    }
    for figure, words in described(cells).items():
        column = Column("ratio", _against(words), "{:.2f}x".format, absent="-")
        ratios = [ratio(cell["final_mse"], cell[figure]) for cell in cells]
        columns[column.title] = [
            column.text(cell | {"ratio": ratio}) for cell, ratio in zip(cells, ratios, strict=True)
        ]
    if _compiled(cells):
        columns |= {
            column.title: [column.text(cell) for cell in cells] for column in COMPILE_COLUMNS
        }
    return columns | {"status": [status_text(cell) for cell in cells]}


def _compiled(cells: list[Record]) -> bool:
    return any(pd.notna(cell["graph_breaks"]) for cell in cells)


def _against(words: str) -> str:
    return f"vs {words}"


def _dispensable(cells: list[Record]) -> list[str]:
    """Titles to be left out of a narrow terminal, in this order, until the rest fits."""
    best = [found.words for found in map(to_beat, cells) if found]
    against = sorted(described(cells).values(), key=best.count)
    others, first = map(_against, against[:-1]), map(_against, against[-1:])  # the one to beat
    seconds = reversed(COMPILE_COLUMNS) if _compiled(cells) else ()
    compiling = [column.title for column in seconds]
    middle = ("budget %", "step ms", "util %", "±%", "vs seed", "interval")
    return [*others, *middle, *first, *compiling, "peak GiB", "MSE", "speedup"]


def verdict(frame: pd.DataFrame) -> str:
    """One sentence: what is fastest, against what, and what it costs; one for each settings."""
    groups = by_settings(records(frame))
    return " ".join(_verdict(words, group) for words, group in groups)


def _fastest(cells: list[Record]) -> Record | None:
    return next((cell for cell in cells if cell["fastest"]), None)


def _verdict(words: str, cells: list[Record]) -> str:
    cell = _fastest(cells)
    if cell is None:
        if any(all(map(may_win, all_seeds(other, cells))) for other in cells):
            return (
                f"Nothing is called fastest {where(words)}: what ended well in all its rounds "
                "shares none of them, or is shown to be slower than what did not."
            )
        well = [other for other in cells if ended_well(other)]
        if well and all(other["flags"] for other in well):
            return f"Nothing is called fastest {where(words)}: what ended well is flagged."
        if any(other["rounds_ok"] for other in cells):
            return f"Nothing is called fastest {where(words)}: no row ended well in all its rounds."
        return f"Nothing was measured {where(words)}: no row ended well."
    own, comparable = all_seeds(cell, cells), plain_by_place(cells)
    plain = [
        other
        for one in own
        for other in comparable[one["settings"], one["seed"]]
        if other["batch_size"] == cell["batch_size"]
        and other is not one
        and pd.notna(one["speedup"])
    ]
    text = (
        f"Fastest {where(words)}: {cell['variant']} at batch {cell['batch_size']} "
        f"with {rate_text(mean_rate(own))} images/s"
    )
    if len(own) > 1:
        text += f" over {len(own)} seeds"
    elif plain:
        ratio = ratio_text(cell, "speedup")
        text += f", {ratio} plain {cell['plain_variant']} at the same batch"
    if pd.notna(cell["peak_memory_gib"]):
        text += f", in {cell['peak_memory_gib']:.2f} of {cell['budget_gib']:g} GiB"
    text += f", to a final MSE of {fmean(one['final_mse'] for one in own):.1f}"
    if len(plain) == len(own):  # of the same seeds
        text += f" (plain: {fmean(other['final_mse'] for other in plain):.1f})"
    rivals = json.loads(cell["as_fast"])
    if rivals and sum(one["rounds_ok"] for one in own) >= LEAST_ROUNDS:
        more = f" and {len(rivals) - FEW} more" if len(rivals) > FEW else ""
        text += f"; not shown to be faster than {', '.join(rivals[:FEW])}{more}"
    return text + "."


def _baseline_notes(cells: list[Record]) -> list[str]:
    """What the workload's baselines were, which belong to the data and not to a variant."""
    baselines = described(cells)
    found: list[str] = []
    for words, group in by_settings(cells):
        measured = next((cell for cell in group if cell["rounds_ok"]), {})
        texts = [
            f"{measured[figure]:.1f} for {what}"
            for figure, what in baselines.items()
            if pd.notna(measured.get(figure))
        ]
        if texts:
            found.append(
                f"MSE without training{f' at {words}' if words else ''}: {', '.join(texts)}."
            )
    return found


def _no_better_notes(cells: list[Record]) -> list[str]:
    """Which rows have not beaten their best baseline: their quality is no argument."""
    poor: dict[str, list[Record]] = {}
    for cell in cells:
        baseline = to_beat(cell) if cell["rounds_ok"] else None
        if baseline and cell["final_mse"] >= baseline.value:
            poor.setdefault(baseline.words, []).append(cell)
    return [
        f"No better than {words} ({_why_no_better(group)}), so that their MSE says nothing of "
        f"quality: {names(group)}."
        for words, group in poor.items()
    ]


def _why_no_better(cells: list[Record]) -> str:
    """Why cells may not have beaten their best baseline."""
    if any((found := to_beat(cell)) and found.value == 0 for cell in cells):
        return "whose error is 0: nothing can be better"
    return "too short a run, or validation frames too different"


def _round_notes(cells: list[Record]) -> list[str]:
    """Whether rows were measured in different rounds, so that images/s are not compared."""
    rounds: dict[tuple[str, int], set[str]] = {}
    for cell in cells:
        if cell["rounds_ok"]:
            numbers = ",".join(json.loads(cell["rates"]))
            rounds.setdefault((cell["settings"], cell["seed"]), set()).add(numbers)
    if all(len(different) == 1 for different in rounds.values()):
        return []
    return [
        "Not all rows have the same rounds: they are compared in those that they share, by their "
        "ratios, and not by their images/s."
    ]


def _seed_notes(cells: list[Record]) -> list[str]:
    """What `vs seed` refers to, and whether that is known to be the budget's edge."""
    too_large = {  # in any seed
        (cell["settings"], cell["batch_size"])
        for cell in cells
        if cell["variant"] == cell["plain_variant"] and ran_out_of_memory(cell)
    }
    found: list[str] = []
    for cell in cells:
        if pd.isna(cell["seed_batch_size"]):
            continue
        size = int(cell["seed_batch_size"])
        edge = (
            "the largest power of two that fits the budget"
            if (cell["settings"], 2 * size) in too_large
            else "the largest power of two measured here; the budget may hold a larger one"
        )
        found.append(f"vs seed: against plain {cell['plain_variant']} at batch {size}, {edge}.")
    return list(dict.fromkeys(found))
