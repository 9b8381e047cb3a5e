"""Cells of a table against each other: speed-ups over the plain variant, and which is fastest."""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

import pandas as pd

from bench.report import Record
from bench.report.cells import label, ran_out_of_memory
from bench.report.contrast import judge_all, of_cells, ratios
from bench.trial import Status

Place = tuple[str, int]
"""Settings and seed of a cell."""


def ended_well(cell: Record) -> bool:
    """Whether all its rounds did.

    One that was interrupted runs again: until then it is as if it had not been asked for.
    """
    return bool(cell["status"] in (Status.OK, Status.INTERRUPTED) and cell["rounds_ok"])


def may_win(cell: Record) -> bool:
    """Whether its figures are those of training, and it is a way to train.

    What crashes now and then is none, however fast its other rounds were.
    """
    return ended_well(cell) and not cell["flags"]


def is_reference(cell: Record) -> bool:
    """Whether others may be compared with it.

    What crashes now and then still tells what is slower; what does not always fit is no choice.
    """
    return bool(cell["rounds_ok"] and not cell["flags"] and not ran_out_of_memory(cell))


def baseline_batch(cells: Iterable[Record]) -> int | None:
    """The batch size of the baseline configuration, for all reports alike.

    That is the plain variant at the largest power of two that fits: that ended well in every round
    of every seed that was measured, unflagged.

    Args:
        cells: That share their settings.

    Returns:
        `None` where there is none.
    """
    sizes: dict[int, list[Record]] = {}
    for cell in cells:
        if cell["variant"] == cell["plain_variant"] and is_power_of_two(cell["batch_size"]):
            sizes.setdefault(cell["batch_size"], []).append(cell)
    fitting = (size for size, seeds in sizes.items() if all(map(may_win, seeds)))
    return max(fitting, default=None)


def add_speedups(cells: Sequence[Record]) -> None:
    """`speedup`, `speedup_vs_seed` and the batch size that the latter refers to."""
    groups: dict[str, list[Record]] = {}
    for cell in cells:
        groups.setdefault(cell["settings"], []).append(cell)
    baselines = {settings: baseline_batch(group) for settings, group in groups.items()}
    same_batch, at_seed = [], []
    comparable = plain_by_place(cells)
    for cell in cells:
        plain = {
            other["batch_size"]: other for other in comparable[_place(cell)] if is_reference(other)
        }
        baseline = plain.get(baselines[cell["settings"]])
        cell["seed_batch_size"] = baseline["batch_size"] if baseline else None
        same_batch.append(plain.get(cell["batch_size"]))
        at_seed.append(baseline)
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
        found = fastest([seeds for seeds in group.values() if all(map(may_win, seeds))])
        if found is None:
            continue
        best, rivals = found
        best[0]["fastest"] = True
        best[0]["as_fast"] = json.dumps([label(other[0]) for other in rivals])


Way = Sequence[Record]
"""A variant at a batch size: its cells, one for each seed."""


def compared_rates(ways: Sequence[Way]) -> list[float | None]:
    """Images/s that may be compared, whatever rounds each way was measured in.

    A machine drifts: the mean of some rounds is no match for the mean of others. So every way is
    held against one of them, in the rounds that both have. That is the baseline, or where that is
    not among them the one with the most rounds.

    Args:
        ways: That share their settings.

    Returns:
        For each the images/s of that one, times the ratio to it; `None` where they share no round.
    """
    if not ways:
        return []
    size = baseline_batch(cell for way in ways for cell in way)
    plain = ways[0][0]["plain_variant"]
    reference = max(
        ways,
        key=lambda way: (
            (way[0]["variant"], way[0]["batch_size"]) == (plain, size),
            sum(cell["rounds_ok"] for cell in way),
        ),
    )
    ratios_to = (1.0 if way is reference else _ratio(way, reference) for way in ways)
    known = [cell for cell in reference if cell["rounds_ok"]]
    rate = mean_rate(known) if known else None
    return [rate * ratio if rate and ratio else None for ratio in ratios_to]


def fastest(ways: Sequence[Way]) -> tuple[Way, list[Way]] | None:
    """The fastest way, and those that it is not shown to be faster than.

    None that is shown to be slower than anything is called fastest.

    Args:
        ways: That share their settings, and may win.

    Returns:
        `None` where there is none: all are slower than something that must not win itself, or no
        two share a round.
    """
    rated = zip(compared_rates(ways), ways, strict=True)
    order = sorted(((rate, way) for rate, way in rated if rate), key=lambda pair: -pair[0])
    if len(order) == 1 < len(ways):
        return None
    # As many as pairs: which of them is the fastest was not known before.
    pairs = len(ways) * (len(ways) - 1) // 2
    found = None
    for _, best in order:
        if any(_is_shown_slower(cell) for cell in best):
            continue
        others = [way for way in ways if way is not best]
        contrasts = [of_cells(_together(best), _together(other)) for other in others]
        verdicts = judge_all(contrasts, comparisons=pairs or None)
        told = [verdict for verdict in verdicts if verdict]
        if any(verdict.word == "slower" for verdict in told):
            continue
        rivals = [
            other
            for other, verdict in zip(others, verdicts, strict=True)
            if not (verdict and verdict.word == "faster") and not _was_judged(best, other)
        ]
        found = found or (best, rivals)
        # Where not all share all rounds, the second may be ahead in those that both have.
        if all(verdict.judgement.ratio.value >= 1 for verdict in told):
            return best, rivals
    return found


def _ratio(way: Way, other: Way) -> float | None:
    """Of their images/s in the rounds that both have; `None` where there is none."""
    logs = of_cells(_together(way), _together(other)).logs
    return math.exp(fmean(logs)) if logs else None


def _is_shown_slower(cell: Record) -> bool:
    """Whether a ratio of the table says so."""
    return any(cell[f"{name}_verdict"] == "slower" for name in ("speedup", "speedup_vs_seed"))


def all_seeds(cell: Record, cells: Iterable[Record]) -> list[Record]:
    """The cells that differ from a cell in their seed at the most, itself among them."""
    names = ("variant", "batch_size", "settings")
    return [other for other in cells if all(other[name] == cell[name] for name in names)]


def mean_rate(cells: Sequence[Record]) -> float:
    """The geometric mean of cells' images/s."""
    return math.exp(fmean(math.log(cell["images_per_s"]) for cell in cells))


def _together(seeds: Sequence[Record]) -> Record:
    """The rounds of all seeds, as if of one cell; rounds of different seeds are different ones."""
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
                pd.notna(cell[size])
                and cell[size] == reference["batch_size"]
                and cell[f"{name}_verdict"] == word
                for cell in cells
            ):
                return True
    return False


def plain_by_place(cells: Iterable[Record]) -> Mapping[Place, list[Record]]:
    """The cells of the plain variant, of all batch sizes, by their settings and seed.

    With these a cell of the same settings and seed may be compared. There may be thousands of
    cells, so that they are not searched through for each.
    """
    found: dict[Place, list[Record]] = defaultdict(list)
    for cell in cells:
        if cell["variant"] == cell["plain_variant"]:
            found[_place(cell)].append(cell)
    return found


def _place(cell: Record) -> Place:
    return cell["settings"], cell["seed"]


def is_power_of_two(number: int) -> bool:
    """Whether a positive number is 1, 2, 4, 8, ..."""
    return number & (number - 1) == 0
