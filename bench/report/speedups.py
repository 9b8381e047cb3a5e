"""Cells of a table against each other: speed-ups over the plain variant, and which is fastest."""

import json
import math
from collections.abc import Iterable, Sequence
from statistics import fmean

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
    """Which cell has the highest rate under its settings, and which it is not shown to beat.

    Seeds are taken together, and the first of them stands for all.
    """
    ways: dict[str, dict[tuple[str, int], list[Record]]] = {}
    for cell in cells:
        cell["fastest"], cell["as_fast"] = False, "[]"
        own = ways.setdefault(cell["settings"], {})
        own.setdefault((cell["variant"], cell["batch_size"]), []).append(cell)
    for group in ways.values():
        sound = [seeds for seeds in group.values() if all(map(may_win, seeds))]
        best = max(sound, key=mean_rate, default=None)
        if best is None:
            continue
        others = [seeds for seeds in sound if seeds is not best]
        # As many as pairs: which of them is the fastest was not known before.
        pairs = len(sound) * (len(sound) - 1) // 2
        contrasts = [of_cells(_together(best), _together(other)) for other in others]
        verdicts = judge_all(contrasts, comparisons=pairs or None)
        best[0]["fastest"] = True
        best[0]["as_fast"] = json.dumps(
            [
                f"{other[0]['variant']} b{other[0]['batch_size']}"
                for other, verdict in zip(others, verdicts, strict=True)
                if not (verdict and verdict.word == "faster") and not _was_judged(best, other)
            ]
        )


def all_seeds(cell: Record, cells: Iterable[Record]) -> list[Record]:
    """The cells that differ from a cell in their seed at the most, itself among them."""
    names = ("variant", "batch_size", "settings")
    return [other for other in cells if all(other[name] == cell[name] for name in names)]


def mean_rate(cells: Sequence[Record]) -> float:
    """The geometric mean of cells' images/s."""
    return math.exp(fmean(math.log(cell["images_per_s"]) for cell in cells))


def _together(seeds: Sequence[Record]) -> Record:
    """The rounds of all seeds, as if of one cell."""
    if len(seeds) == 1:
        return seeds[0]
    found: Record = {}
    for name in ("rates", "began"):
        told = ((cell["seed"], json.loads(cell[name])) for cell in seeds)
        rounds = ((seed, number, value) for seed, one in told for number, value in one.items())
        found[name] = json.dumps({f"{seed} {number}": value for seed, number, value in rounds})
    return seeds[0] | found


def _was_judged(best: Sequence[Record], other: Sequence[Record]) -> bool:
    """Whether the table shows it in its ratios, which were asked for before anything was known."""
    for cells, (reference, *_), word in ((best, other, "faster"), (other, best, "slower")):
        if reference["variant"] != reference["plain_variant"]:
            continue
        for name, size in (("speedup", "batch_size"), ("speedup_vs_seed", "seed_batch_size")):
            if all(
                cell[size] == reference["batch_size"] and cell[f"{name}_verdict"] == word
                for cell in cells
            ):
                return True
    return False


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
