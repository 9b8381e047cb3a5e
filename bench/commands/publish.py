"""The command `publish`."""

from argparse import Namespace

from bench.output import Output, print_line


def run(options: Namespace) -> int:
    """Puts a folder among the published ones, and into their index."""
    from bench.publish import publish
    from bench.report.published import PAGE_NAME, index_page, with_index

    page = index_page(options.to)
    target = publish(options.folder, options.to, options.name, options.about)
    index = options.to / PAGE_NAME
    index.write_text(with_index(page, options.to))
    console = Output()
    print_line(console, f"Published: {target}")
    print_line(console, f"Written: {index}")
    return 0
