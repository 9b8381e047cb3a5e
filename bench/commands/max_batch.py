"""The command `max-batch`."""

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from bench import arguments, journal, search, spec
from bench.commands import EXIT_FAILED, EXIT_INTERRUPTED
from bench.commands.measuring import how_to_go_on, plan_to_run, table_page
from bench.display import LineDisplay
from bench.errors import UserError
from bench.output import Output, print_line, print_written, write_page, write_tables

if TYPE_CHECKING:
    from bench.report.page import Page


def run(options: Namespace) -> int:
    """Finds the largest batch that fits the budget, and certifies it."""
    limits, overrides = arguments.limits(options), arguments.overrides(options)
    if options.variants:
        overrides["variants"] = options.variants
    source = None if "workload" in overrides else "max-batch"
    asked = spec.load(source, {"rounds": [str(search.LEAST_ROUNDS)]} | overrides)
    for name, values in asked.grid.items():
        if len(values) > 1:
            raise UserError(f"--set {name}={','.join(map(str, values))}: expected one value")
    if (rounds := asked.one("rounds")) < search.LEAST_ROUNDS:
        raise UserError(f"rounds {rounds}: expected at least {search.LEAST_ROUNDS}, to certify")
    plan = plan_to_run(options, asked, "max-batch")
    folder = plan.folder
    console = Output(stderr=options.json)
    samples = asked.one("samples") if "samples" in overrides else None
    try:
        found = search.run(plan, limits, samples, LineDisplay(console))
    except (search.InterruptedSearchError, KeyboardInterrupt):
        print_line(console, f"Interrupted. To go on: {how_to_go_on(folder)}", "bold")
        return EXIT_INTERRUPTED
    page = table_page(journal.read(folder), folder)
    written = write_tables(folder, page)
    write_page(max_batch_page(page, folder), "json" if options.json else "table")
    print_written(console, folder, written)
    return 0 if all(certificate.batch_size for certificate in found.values()) else EXIT_FAILED


def max_batch_page(page: "Page", folder: Path) -> "Page":
    """The view `max-batch` of a folder whose result table is given."""
    from bench.report.cells import records
    from bench.report.max_batch import max_batch

    return max_batch(records(page.frame), search.read(folder))
