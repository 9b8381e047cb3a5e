"""The command `report`."""

from argparse import Namespace

from bench import arguments, journal, kernel_times, search, spec
from bench.arguments import VIEWS
from bench.commands.max_batch import max_batch_page
from bench.commands.measuring import table_page
from bench.output import write_page


def run(options: Namespace) -> int:
    """Prints the table of a folder."""
    style = arguments.style(options)
    lengths = {name: arguments.run_length(options, name) for name in ("images", "epochs")}
    if options.view not in (None, *VIEWS):
        raise ValueError(f"--view {options.view!r}: {spec.suggest(options.view, VIEWS)}")
    view = options.view
    has_length = any(length is not None for length in lengths.values())
    if has_length and view in (None, search.VIEW, kernel_times.VIEW):
        raise ValueError("--images and --epochs: expected with --view compiled-vs-eager")
    if view is None and kernel_times.is_all_there_is(options.folder):
        view = kernel_times.VIEW
    if view == kernel_times.VIEW:
        found = kernel_times.read(options.folder)
        where = str(options.folder / kernel_times.FILE_NAME)
        write_page(kernel_times.page(found, where), style)
        return 0
    page = table_page(journal.read(options.folder), options.folder)
    if view == search.VIEW:
        page = max_batch_page(page, options.folder)
    elif view is not None:
        from bench.report import views

        page = views.page(page.frame, view, **lengths)
    write_page(page, style)
    return 0
