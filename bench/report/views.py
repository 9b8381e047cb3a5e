"""Views: the cells of the result table, arranged to answer one question each."""

import pandas as pd

from bench.errors import UserError
from bench.report import amp, compiled, ladder, largest, memory
from bench.report.cells import records
from bench.report.compiled import RunLength
from bench.report.page import Page
from bench.spec import suggest

VIEWS = (compiled.NAME, amp.NAME, ladder.NAME, largest.NAME, memory.NAME)


def page(
    frame: pd.DataFrame, view: str, images: float | None = None, epochs: float | None = None
) -> Page:
    """A view of a journal.

    Args:
        frame: Of `cell_frame`.
        view: One of `VIEWS`.
        images: Length of the run that compiling shall pay in, for compiled-vs-eager.
        epochs: The same in passes over the training set; at most one of the two is given.

    Raises:
        UserError: An unknown view, one with nothing to show, or a run length that is none or that
            the view has no use for.
    """
    if view not in VIEWS:
        raise UserError(f"--view {view!r}: {suggest(view, VIEWS)}")
    run = _run_length(view, images, epochs)
    cells = records(frame)
    if view == compiled.NAME:
        return compiled.compiled_vs_eager(cells, run)
    others = {
        amp.NAME: amp.amp,
        ladder.NAME: ladder.ladder,
        largest.NAME: largest.largest_batch,
        memory.NAME: memory.memory,
    }
    return others[view](cells)


def _run_length(view: str, images: float | None, epochs: float | None) -> RunLength | None:
    given = {"--images": images, "--epochs": epochs}
    lengths = [RunLength(name, amount) for name, amount in given.items() if amount is not None]
    if len(lengths) > 1:
        raise UserError("--images and --epochs: expected at most one of them")
    for run in lengths:
        if view != compiled.NAME:
            raise UserError(f"{run.option}: only --view {compiled.NAME} takes the length of a run")
        if not 0 < run.amount < float("inf"):
            raise UserError(f"{run.option} {run.amount:g}: expected a number above 0")
    return lengths[0] if lengths else None
