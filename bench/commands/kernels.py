"""The command `kernels`."""

import json
import sys
from argparse import Namespace

from bench import arguments, kernel_times, spec
from bench.commands.measuring import folder_of
from bench.output import Output, print_line, render, write_page


def run(options: Namespace) -> int:
    """Times the Lab kernel beside what others offer."""
    rounds = arguments.whole("--rounds", options.rounds)
    asked = spec.load(None, {"device": [options.device or "auto"]})
    folder = None if options.out is None else folder_of(options, "kernels")
    if folder is not None:
        kernel_times.check_free(folder)
    found = kernel_times.measure(
        asked.workload.task, asked.one("device"), rounds, ["unet-bench", *sys.argv[1:]]
    )
    written = kernel_times.write(folder, found) if folder else None
    page = kernel_times.page(found)
    if options.json:
        sys.stdout.write(json.dumps(found | {"table": json.loads(render(page, "json"))}) + "\n")
    else:
        write_page(page, "table")
    if written:
        print_line(Output(stderr=options.json), f"Written: {written}")
    return 0
