"""The view `amp`: what reduced precision brings, and what it costs in quality."""

import pandas as pd

from bench.report import Record
from bench.report.cells import label
from bench.report.page import NOT_READABLE, Column, Page, ratio_text
from bench.report.pairs import BOTH, best_of, compared, faster_or_slower, find, ratio

NAME = "amp"


def amp(cells: list[Record]) -> Page:
    """Every variant of reduced precision beside the same one in plain precision.

    Args:
        cells: Of `cell_frame`.

    Raises:
        UserError: All rows have the plain precision.
    """
    pairs = find(cells, NAME, "precision", "reduced", "precision")
    for line in pairs.lines:
        line["memory_ratio"] = ratio(line["peak_memory_gib"], line["twin_peak_memory_gib"])
        line["mse_ratio"] = ratio(line["final_mse"], line["twin_final_mse"])
    rates = pairs.axis.rate_columns()
    memory, quality = pairs.axis.memory_columns(), pairs.axis.quality_columns()
    memory_ratio = Column("memory_ratio", "GiB\nratio", "{:.2f}x".format, NOT_READABLE, BOTH)
    mse_ratio = Column("mse_ratio", "MSE\nratio", "{:.2f}x".format, needs=BOTH)

    def sentence(lines: list[Record]) -> str:
        if not compared(lines):
            return "No pair ended well on both sides: nothing can be said of precision."
        best = best_of(lines)
        if best is None:
            return f"{faster_or_slower('Reduced precision', lines)}."
        known = bool(pd.notna(best["memory_ratio"]))
        share = f", in {best['memory_ratio']:.2f}x the memory" if known else ""
        return (
            f"{faster_or_slower('Reduced precision', lines)}; the best, {label(best)}, was "
            f"{ratio_text(best, 'speedup')}{share}, to a final MSE of {best['final_mse']:.1f} "
            f"({pairs.axis.plain}: {best['twin_final_mse']:.1f})."
        )

    return pairs.page(
        [*rates, *memory, memory_ratio, *quality, mse_ratio],
        [rates[0], *memory, *quality, rates[1], memory_ratio],
        sentence,
        [],
    )
