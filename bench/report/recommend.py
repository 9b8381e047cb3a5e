"""What to use: the Pareto front, and the fastest way within a budget that costs no quality."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from bench.budget import GIB, format_bytes
from bench.errors import UserError
from bench.journal import Row
from bench.report import Record
from bench.report.cells import by_settings, differing, records
from bench.report.choice import Budget, Candidates, Choice
from bench.report.configurations import configurations
from bench.report.notes import caution_notes, machine_notes, verdict_notes
from bench.report.page import Column, IntervalColumn, Page, RatioColumn, shown
from bench.trial import rate_text

QUALITY_MARGIN = 0.02

_COLUMNS = (
    Column("images_per_s", "images/s", rate_text),
    RatioColumn("ratio", "vs seed", "{:.2f}x".format, needs=("seed_variant",)),
    IntervalColumn("ratio", "interval", "{:.2f}".format),
    Column("final_mse", "MSE", "{:.1f}".format),
    RatioColumn("mse_ratio", "MSE vs seed's", "{:.3f}x".format, needs=("seed_variant",)),
    IntervalColumn("mse_ratio", "of MSE", "{:.3f}".format),
    Column("taken_gib", "GiB", "{:.2f}".format, "not readable"),
)


@dataclass(frozen=True)
class Recommendation:
    """What was found.

    Attributes:
        page: The Pareto fronts, with the sentences.
        choices: One for each settings that have one.
    """

    page: Page
    choices: list[Choice]


def recommend(
    rows: Sequence[Row],
    frame: pd.DataFrame,
    budget_bytes: int | None = None,
    margin: float = QUALITY_MARGIN,
) -> Recommendation:
    """Chooses the fastest way within a budget whose final MSE is not worse than the seed's setup's.

    That is what one has without any switch: the plain variant at its largest power-of-two batch in
    the budget. Where some ways are shown to cost no more quality than the margin, it is the fastest
    of those; else the fastest of those that cost no more by the estimate, and that is said.

    Args:
        rows: Of one journal.
        frame: Of `cell_frame`.
        budget_bytes: `None` is what the rows were measured within.
        margin: By so much the MSE may be worse, as a share.

    Raises:
        UserError: The budget is larger than what was measured within.
    """
    cells = records(frame)
    measured_bytes = rows[0].trial.budget_bytes
    if budget_bytes is not None and budget_bytes > measured_bytes:
        raise UserError(
            f"--budget {format_bytes(budget_bytes)}: expected at most the "
            f"{format_bytes(measured_bytes)} that the rows were measured within"
        )
    budget = Budget((budget_bytes or measured_bytes) / GIB, measured_bytes / GIB)
    groups = [
        Candidates(words, configurations(rows, group), budget, margin)
        for words, group in by_settings(cells)
    ]
    lines = [line for group in groups for line in group.lines]
    return Recommendation(
        _page(cells, lines, groups), [group.choice for group in groups if group.choice]
    )


def _page(cells: list[Record], lines: list[Record], groups: Sequence[Candidates]) -> Page:
    columns, names = shown(_COLUMNS, lines), differing(lines) if lines else []
    texts = {
        "variant": [line["variant"] for line in lines],
        "batch": [str(line["batch_size"]) for line in lines],
        **{name: [str(line[name]) for line in lines] for name in names},
        "seeds": [str(line["seeds"]) for line in lines],
        **{column.title: [column.text(line) for line in lines] for column in columns},
        "role": [line["role"] for line in lines],
    }
    sentences = [group.choice.sentence if group.choice else group.nothing for group in groups]
    told = [group.choice.configuration for group in groups if group.choice]
    return Page(
        pd.DataFrame(lines),
        texts,
        [bool(line["recommended"]) for line in lines],
        ["of MSE", "seeds", "role", "GiB", "interval", "MSE vs seed's"],
        " ".join(sentences),
        [
            *machine_notes(cells),
            "The Pareto front: what nothing else is both faster and better than, by the estimates. "
            "All learn from the same samples: a larger batch takes fewer steps.",
            "The seed's setup is what one has without any switch: the plain network at its largest "
            "power-of-two batch. (Seeds are those of random numbers.)",
            "GiB: the most that its process took of the budget, in any round.",
            *verdict_notes(lines, "ratio"),
            *(note for group in groups for note in group.notes),
            *(f"{one.label}: {one.cells[0]['command']}" for one in told),
            *caution_notes(cells),
        ],
    )
