"""Cells of a table against each other: speed-ups over the plain variant, and which is fastest."""

import json
from collections.abc import Iterable, Sequence

from bench.report import Record
from bench.report.contrast import judge_all, of_cells, ratios
from bench.trial import Status


def may_win(cell: Record) -> bool:
    """Whether its figures are those of training, and it is a way to train.

    What crashes now and then is none, however fast its other rounds were.
    """
    return cell["status"] == Status.OK and not cell["flags"]


def add_speedups(cells: Sequence[Record]) -> None:
    """`speedup`, `speedup_vs_seed` and the batch size that the latter refers to."""
    same_batch, at_seed = [], []
    for cell in cells:
        plain = {
            other["batch_size"]: other
            for other in plain_cells(cell, cells)
            if other["rounds_ok"] and not other["flags"]
        }
        largest = max(filter(is_power_of_two, plain), default=None)
        cell["seed_batch_size"] = largest
        same_batch.append(plain.get(cell["batch_size"]))
        at_seed.append(plain.get(largest))
    for name, references in (("speedup", same_batch), ("speedup_vs_seed", at_seed)):
        for cell, columns in zip(cells, ratios(name, cells, references), strict=True):
            cell.update(columns)


def add_fastest(cells: Sequence[Record]) -> None:
    """Which cell has the highest rate under its settings, and which it is not shown to beat."""
    for cell in cells:
        rivals = [
            other for other in cells if may_win(other) and other["settings"] == cell["settings"]
        ]
        cell["fastest"] = may_win(cell) and cell["images_per_s"] == max(
            rival["images_per_s"] for rival in rivals
        )
        others = [rival for rival in rivals if rival is not cell]
        asked = others if cell["fastest"] else []
        # As many as pairs of rivals: which of them is the fastest was not known before.
        pairs = len(rivals) * (len(rivals) - 1) // 2
        contrasts = [of_cells(cell, other) for other in asked]
        verdicts = judge_all(contrasts, comparisons=pairs or None)
        cell["as_fast"] = json.dumps(
            [
                f"{other['variant']} b{other['batch_size']}"
                for other, verdict in zip(others, verdicts, strict=False)
                if not verdict or verdict.word != "faster"
            ]
        )


def plain_cells(cell: Record, cells: Iterable[Record]) -> list[Record]:
    """The cells of the plain variant that a cell may be compared with, of all batch sizes."""
    return [
        other
        for other in cells
        if other["variant"] == other["plain_variant"]
        and all(other[name] == cell[name] for name in ("settings", "seed"))
    ]


def is_power_of_two(number: int) -> bool:
    """Whether a positive number is 1, 2, 4, 8, ..."""
    return number & (number - 1) == 0
