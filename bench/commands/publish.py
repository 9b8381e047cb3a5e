"""The command `publish`."""

from argparse import Namespace
from pathlib import Path

from bench.errors import UserError
from bench.output import Output, print_line


def run(options: Namespace) -> int:
    """Puts a folder among the published ones, and into their index."""
    from bench.publish import publish
    from bench.report.published import PAGE_NAME, index_page, with_index

    to = Path("results" if options.to is None else options.to)
    if options.to == "":
        raise UserError("--to '': expected a folder")
    if options.to is None and not (to / PAGE_NAME).exists():
        raise UserError(
            f"publish: there is no {to / PAGE_NAME} here; expected to be in a checkout, or --to "
            "with the folder of what is published"
        )
    page = index_page(to)
    target, is_new = publish(options.folder, to, options.name, options.about)
    index = to / PAGE_NAME
    index.write_text(with_index(page, to))
    console = Output()
    print_line(console, f"{'Published' if is_new else 'Rendered anew'}: {target}")
    print_line(console, f"Written: {index}")
    return 0
