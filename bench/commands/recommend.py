"""The command `recommend`."""

from argparse import Namespace

from bench import arguments, journal, spec
from bench.budget import parse_bytes
from bench.commands import EXIT_FAILED
from bench.output import write_page


def run(options: Namespace) -> int:
    """Tells which configuration to use, and why."""
    style = arguments.style(options)
    margin = spec.parse_share("--quality-margin", options.quality_margin)
    budget_bytes = None if options.budget is None else parse_bytes(options.budget)
    rows = journal.read(options.folder)
    from bench.report.frame import cell_frame
    from bench.report.recommend import recommend

    found = recommend(rows, cell_frame(rows), budget_bytes, margin)
    write_page(found.page, style)
    return 0 if found.choices else EXIT_FAILED
