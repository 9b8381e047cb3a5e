"""All that can be said of a folder, as files: plots, and one page with everything."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bench.journal import Row
from bench.publish import PLOTS
from bench.report.drawing import to_png, to_svg
from bench.report.html import to_html
from bench.report.page import Page
from bench.report.plots import Plot, plots
from bench.report.recommend import Recommendation, recommend

HTML_NAME = "report.html"


@dataclass(frozen=True)
class Document:
    """A folder's report.

    Attributes:
        folder: Whose.
        name: That it is called by.
        rows: Of its journal.
        page: Its result table.
    """

    folder: Path
    name: str
    rows: Sequence[Row]
    page: Page

    @cached_property
    def recommendation(self) -> Recommendation:
        """What to use, within the budget that was measured in."""
        return recommend(self.rows, self.page.frame)

    @cached_property
    def plots(self) -> list[Plot]:
        """All that have something to show; the timeline is of what is recommended."""
        chosen = next(iter(self.recommendation.choices), None)
        trial = chosen.configuration.rows[0] if chosen else None
        return plots(self.rows, self.page.frame, trial)

    def html(self) -> str:
        """One page with everything in it."""
        return to_html(
            self.folder, self.name, self.rows, self.page, self.recommendation, self.plots
        )

    def pictures(self) -> dict[str, bytes]:
        """Every plot as SVG and as PNG, by its path in the folder."""
        found = {}
        for plot in self.plots:
            found[f"{PLOTS}/{plot.name}.svg"] = to_svg(plot.figure).encode()
            found[f"{PLOTS}/{plot.name}.png"] = to_png(plot.figure)
        return found
