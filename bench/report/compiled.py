"""The view `compiled-vs-eager`: what compiling costs, what it brings, and when it has paid."""

import math
from dataclasses import dataclass

import pandas as pd

from bench.errors import UserError
from bench.report import Record
from bench.report.contrast import MARKS
from bench.report.notes import compile_seconds_note
from bench.report.page import Column, Page, ratio_text
from bench.report.pairs import (
    BOTH,
    Pair,
    best_of,
    compared,
    faster_or_slower,
    find,
    of_pairs,
    ratio,
    twin_name,
)

NAME = "compiled-vs-eager"

_BREAK_EVEN_NOTE = (
    "Break-even: cold compile seconds / seconds saved per image; as uncertain as the speed-up, and "
    "marked like it."
)

_EVEN_S = 0.05
"""A difference that would be printed as 0.0 s has no winner."""


@dataclass(frozen=True)
class RunLength:
    """A training run that compiling shall pay in.

    Attributes:
        option: How the user gave it.
        amount: Images, or epochs.
    """

    option: str
    amount: float

    def __str__(self) -> str:
        return f"{self.amount:,g} epochs" if self._in_epochs else f"{self.amount:,.0f} images"

    def images(self, line: Record) -> float:
        """In images.

        Raises:
            UserError: The row does not tell how many make an epoch.
        """
        if not self._in_epochs:
            return self.amount
        if pd.isna(line["train_size"]):
            raise UserError(
                f"{self.option} {self.amount:g}: the rows do not tell how many images an epoch "
                "has; give --images"
            )
        return self.amount * int(line["train_size"])

    @property
    def _in_epochs(self) -> bool:
        return self.option == "--epochs"


def compiled_vs_eager(cells: list[Record], run: RunLength | None) -> Page:
    """Every compiled variant beside the same one that is not.

    Args:
        cells: Of `cell_frame`.
        run: To be judged by; `None` leaves it at the break-even.

    Raises:
        UserError: Nothing was compiled, or the length of the run is not known.
    """
    pairs = find(cells, NAME, "compile", "compiled", "mode")
    plain = pairs.axis.plain
    for pair, line in zip(pairs.found, pairs.lines, strict=True):
        line.update(_costs(pair, line))
        if run is not None:
            line.update(_totals(line, run))
    cold = Column("cold_compile_s", "cold\ns", "{:.1f}".format, needs=("images_per_s",))
    warm = Column("warm_compile_s", "warm\ns", "{:.1f}".format, needs=("images_per_s",))
    images = _MarkedColumn("break_even_images", "break-even\nimages", _count, needs=BOTH)
    epochs = _MarkedColumn("break_even_epochs", "break-even\nepochs", _count, needs=BOTH)
    totals = [
        Column("twin_run_s", f"{plain}\nrun", duration, needs=BOTH),
        Column("run_s", "compiled\nrun", duration, needs=BOTH),
    ]
    rates = pairs.axis.rate_columns()
    memory, quality = pairs.axis.memory_columns(), pairs.axis.quality_columns()
    columns = [*rates, cold, warm, images, epochs, *memory, *quality]
    less = [cold, *memory, *quality, rates[1]]
    dispensable = [warm, epochs, rates[0], *less]
    if run is not None:

        def winner(saved_s: float) -> str:
            if abs(saved_s) < _EVEN_S:
                return "even"
            return f"{'compiled' if saved_s > 0 else plain} by {duration(abs(saved_s))}"

        columns += [*totals, _MarkedColumn("saved_s", f"winner over\n{run}", winner, needs=BOTH)]
        dispensable = [warm, epochs, rates[0], *totals, *less, images]

    def sentence(lines: list[Record]) -> str:
        return " ".join([_verdict(lines), *([_winners(lines, run, plain)] if run else [])])

    return pairs.page(columns, dispensable, sentence, [compile_seconds_note(), _BREAK_EVEN_NOTE])


class _MarkedColumn(Column):
    """A figure that follows from a speed-up above 1, and is no more certain than that."""

    def text(self, record: Record) -> str:
        """See `Column.text`."""
        text = super().text(record)
        if pd.isna(record["speedup"]):
            return "-"
        if pd.isna(record[self.name]) or record["speedup"] <= 1:
            return text
        return f"{MARKS.get(record['speedup_verdict'], '')}{text}"


def _costs(pair: Pair, line: Record) -> Record:
    """Compile seconds, and from how many images on they have paid; infinite where they never do."""
    cell, _ = pair
    own, twin, cold_s = line["images_per_s"], line["twin_images_per_s"], cell["cold_compile_s"]
    images = epochs = None
    if pd.notna(line["speedup"]):  # otherwise no round has both
        saved_s = 1 / twin - 1 / own  # per image
        images = cold_s / saved_s if saved_s > 0 else math.inf
        epochs = math.inf if images == math.inf else ratio(images, cell["train_size"])
    return {
        "cold_compile_s": cold_s,
        "warm_compile_s": cell["warm_compile_s"],
        "break_even_images": images,
        "break_even_epochs": epochs,
    }


def _totals(line: Record, run: RunLength) -> Record:
    """Seconds of a whole run on both sides, the compiled one with a cold compile cache."""
    images = run.images(line)
    twin_s, own_s = (ratio(images, line[name]) for name in ("twin_images_per_s", "images_per_s"))
    run_s = None if own_s is None else own_s + line["cold_compile_s"]
    saved_s = None
    if run_s is not None and twin_s is not None and pd.notna(line["speedup"]):
        saved_s = twin_s - run_s  # otherwise no round has both
    return {"run_images": images, "twin_run_s": twin_s, "run_s": run_s, "saved_s": saved_s}


def _verdict(lines: list[Record]) -> str:
    if not compared(lines):
        return "No pair ended well on both sides: nothing can be said of compiling."
    best = best_of(lines)
    if best is None:
        return f"{faster_or_slower('Compiling', lines)}: it never pays."
    return (
        f"{faster_or_slower('Compiling', lines)}; the best, {_name(best)}, was "
        f"{ratio_text(best, 'speedup')} and {_pays(best)}."
    )


def _pays(line: Record) -> str:
    images, epochs = line["break_even_images"], line["break_even_epochs"]
    if images == math.inf:
        return "never pays"
    if pd.isna(images):
        return "pays after a length that is not known: no cold compile was measured"
    length = f" ({_count(epochs)} epochs)" if pd.notna(epochs) else ""
    unproven = "" if line["speedup_verdict"] == "faster" else ", if that gain is real"
    return f"pays after {_count(images)} images{length}{unproven}"


def _winners(lines: list[Record], run: RunLength, plain: str) -> str:
    # What is no faster loses over any length, whatever it cost to compile.
    decided = [
        line
        for line in compared(lines)
        if pd.notna(line["saved_s"]) or line["break_even_images"] == math.inf
    ]
    if not decided:
        return f"Which is faster over {run} is not known."
    sooner = [line for line in decided if line["saved_s"] is not None and line["saved_s"] > 0]
    wins = [line for line in sooner if line["speedup_verdict"] == "faster"]
    text = f"Over {run}, compiling wins {of_pairs(len(wins), len(decided))}"
    if wins:
        top = max(wins, key=lambda line: float(line["saved_s"]))
        text += f", at most by {duration(top['saved_s'])} ({_name(top)})"
    elif not sooner:
        text += f": {plain} is done sooner"
    if unproven := len(sooner) - len(wins):
        text += f"; in {of_pairs(unproven, len(decided))} it may, but no speed-up is shown"
    return f"{text}."


def _name(line: Record) -> str:
    return f"{twin_name(line)} at batch {line['batch_size']} with {line['compile']}"


def _count(number: float) -> str:
    if number == math.inf:
        return "never"
    return f"{number:.1f}" if number < 100 else f"{float(f'{number:.3g}'):,.0f}"


def duration(seconds: float) -> str:
    """Seconds in the unit that a person would use."""
    for unit_s, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.1f} {unit}"
    return f"{seconds:.1f} s"
