"""The command `report`."""

from argparse import Namespace
from pathlib import Path

from bench import arguments, journal, kernel_times, search, spec
from bench.arguments import FORMATS, VIEWS
from bench.commands.max_batch import max_batch_page
from bench.commands.measuring import table_page
from bench.errors import UserError
from bench.output import Output, print_line, write_files, write_page


def run(options: Namespace) -> int:
    """Prints the table of a folder, or writes its page and its plots."""
    style = arguments.style(options)
    lengths = {name: arguments.run_length(options, name) for name in ("images", "epochs")}
    if options.view not in (None, *VIEWS):
        raise UserError(f"--view {options.view!r}: {spec.suggest(options.view, VIEWS)}")
    view = options.view
    has_length = any(length is not None for length in lengths.values())
    if has_length and view in (None, search.VIEW, kernel_times.VIEW):
        raise UserError("--images and --epochs: expected with --view compiled-vs-eager")
    if options.html or options.plots:
        return _write_document(options)
    if options.out is not None:
        raise UserError("--out: expected with --html or --plots")
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


def _write_document(options: Namespace) -> int:
    """Writes what `--html` and `--plots` ask for."""
    asked = "--html" if options.html else "--plots"
    if options.view is not None or options.style != FORMATS[0]:
        beside = f"--view {options.view}" if options.view else f"--format {options.style}"
        raise UserError(f"{beside}: not with {asked}, which writes files")
    if options.out == "":
        raise UserError("--out '': expected a folder")
    if kernel_times.is_all_there_is(options.folder):
        raise UserError(
            f"{asked}: {options.folder} holds {kernel_times.FILE_NAME} only, which has a table and "
            "no page; expected what a sweep has written"
        )
    rows = journal.read(options.folder)
    from bench.report.document import HTML_NAME, Document

    page = table_page(rows, options.folder)
    document = Document(options.folder, options.folder.resolve().name, rows, page)
    files: dict[str, bytes] = document.pictures() if options.plots else {}
    if options.html:
        files[HTML_NAME] = document.html().encode()
    folder = options.folder if options.out is None else Path(options.out)
    write_files(folder, files)
    console = Output()
    for name in files:
        print_line(console, f"Written: {folder / name}")
    return 0
