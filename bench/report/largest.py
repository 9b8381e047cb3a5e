"""The view `largest-batch`: the largest power-of-two batch of each variant that fits the budget."""

import json
from itertools import groupby

import pandas as pd

from bench.errors import UserError
from bench.report import Record
from bench.report.cells import by_settings, differing, where
from bench.report.notes import caution_notes, machine_notes
from bench.report.page import (
    NOT_MEASURED,
    NOT_READABLE,
    Column,
    Page,
    RatioColumn,
    ratio_text,
)
from bench.report.speedups import all_seeds, ended_well, fastest, is_power_of_two, may_win
from bench.trial import Status, rate_text

NAME = "largest-batch"

_MEASURED = ("images_per_s",)
_KEPT = (
    "images_per_s",
    *(f"speedup_vs_seed{end}" for end in ("", "_low", "_high", "_verdict")),
    "peak_memory_gib",
    "process_gib",
    "budget_percent",
    "final_mse",
    "flags",
)
_COLUMNS = (
    Column("largest_batch", "largest\nbatch", "{:.0f}".format),
    Column("images_per_s", "images/s", rate_text, needs=("largest_batch",)),
    RatioColumn("speedup_vs_seed", "vs seed", "{:.2f}x".format, needs=_MEASURED),
    Column("peak_memory_gib", "peak GiB", "{:.2f}".format, NOT_READABLE, _MEASURED),
    Column("process_gib", "process GiB", "{:.2f}".format, NOT_READABLE, _MEASURED),
    Column("budget_percent", "budget %", "{:.0f}".format, NOT_READABLE, _MEASURED),
    Column("final_mse", "MSE", "{:.1f}".format, needs=_MEASURED),
)

_TOO_LARGE = (Status.OOM, Status.IMPLIED_OOM)


def largest_batch(cells: list[Record]) -> Page:
    """For each variant the largest batch that ended well, and what the next one came to.

    Args:
        cells: Of `cell_frame`. Batch sizes that are no powers of two are left out.

    Raises:
        UserError: There is no batch size that is a power of two.
    """
    powers = [cell for cell in cells if is_power_of_two(cell["batch_size"])]
    if not powers:
        raise UserError(f"--view {NAME}: expected batch sizes that are powers of two")
    order = list(dict.fromkeys(map(_place, powers)))
    powers.sort(key=lambda cell: (order.index(_place(cell)), cell["batch_size"]))
    lines = [_line(list(group), powers) for _, group in groupby(powers, _place)]
    texts = {
        "variant": [str(line["variant"]) for line in lines],
        **{name: [str(line[name]) for line in lines] for name in differing(lines, "seed")},
        **{column.title: [column.text(line) for line in lines] for column in _COLUMNS},
        "next": [_next(line) for line in lines],
    }
    best = [_best(group, powers) for _, group in by_settings(lines)]
    return Page(
        pd.DataFrame(lines),
        texts,
        [any(line is winner for winner in best) for line in lines],
        ["process GiB", "MSE", "budget %", "vs seed", "next"],
        " ".join(
            _sentence(words, group, one)
            for (words, group), one in zip(by_settings(lines), best, strict=True)
        ),
        [*machine_notes(cells), *caution_notes(powers)],
    )


def _place(cell: Record) -> tuple[str, int, str]:
    return cell["settings"], cell["seed"], cell["variant"]


def _line(cells: list[Record], others: list[Record]) -> Record:
    """One variant: `cells` are its batch sizes, ascending, among `others` of all seeds."""
    first = cells[0]
    fits = [cell for cell in cells if all(map(ended_well, all_seeds(cell, others)))]
    largest: Record = fits[-1] if fits else {}
    size = largest.get("batch_size", 0)
    after: Record = next((cell for cell in cells if cell["batch_size"] > size), {})
    return {
        **json.loads(first["settings"]),
        **{name: first[name] for name in ("variant", "plain_variant", "seed", "settings")},
        "budget_gib": first["budget_gib"],
        "largest_batch": size or None,
        **{name: largest.get(name) for name in _KEPT},
        "next_batch": after.get("batch_size"),
        "next_status": _status(after, others) if after else None,
    }


def _status(cell: Record, others: list[Record]) -> str:
    """How a batch size ended: as in this seed, or in the first other one where it failed."""
    statuses = [cell["status"], *(other["status"] for other in all_seeds(cell, others))]
    return str(next((status for status in statuses if status != Status.OK), Status.OK))


def _next(line: Record) -> str:
    """What the next larger batch came to, if there was one."""
    return f"{line['next_batch']}: {line['next_status']}" if line["next_batch"] else NOT_MEASURED


def _best(lines: list[Record], cells: list[Record]) -> Record | None:
    """The line of the fastest of the largest batches; see `bench.report.speedups.fastest`."""
    ways: dict[tuple[str, int], list[Record]] = {}
    for line in lines:
        for cell in cells:
            names = ("variant", "settings", "seed")
            own = all(cell[name] == line[name] for name in names)
            if own and cell["batch_size"] == line["largest_batch"]:
                ways.setdefault((cell["variant"], cell["batch_size"]), []).append(cell)
    found = fastest([way for way in ways.values() if all(map(may_win, way))])
    if found is None:
        return None
    first = found[0][0]
    return next(
        line for line in lines if all(line[name] == first[name] for name in ("variant", "seed"))
    )


def _sentence(words: str, lines: list[Record], best: Record | None) -> str:
    """What the plain variant has room for, and what the fastest makes of the same memory."""
    sized = [line for line in lines if line["largest_batch"] and not line["flags"]]
    if not sized:
        return (
            f"Nothing is known of the largest batch {where(words)}: no row ended well, unflagged."
        )
    plain = next((line for line in lines if line["variant"] == line["plain_variant"]), None)
    told = [plain] if plain is not None and plain["largest_batch"] and plain is not best else []
    if best is not None:
        told.append(best)
    text = f"Within {sized[0]['budget_gib']:g} GiB {where(words)}, "
    text += "; ".join(map(_room, told or sized[:1]))
    if best is not None and plain is not best and pd.notna(best["speedup_vs_seed"]):
        text += f", at {ratio_text(best, 'speedup_vs_seed')} the seed's images/s"
    return text + "."


def _room(line: Record) -> str:
    """How large a batch fits; "at least", unless the next power of two is known not to."""
    size = line["largest_batch"]
    is_edge = line["next_batch"] == 2 * size and line["next_status"] in _TOO_LARGE
    text = f"{line['variant']} has room for {'' if is_edge else 'at least '}batch {size}"
    if pd.notna(line["budget_percent"]):
        text += f" ({line['budget_percent']:.0f} % of the budget)"
    return text
