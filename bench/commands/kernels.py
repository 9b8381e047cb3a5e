"""The command `kernels`."""

import json
import sys
from argparse import Namespace
from functools import partial

from bench import arguments, kernel_times, spec
from bench.commands.measuring import folder_of
from bench.output import Output, print_line, render, write_page


def run(options: Namespace) -> int:
    """Times the Lab kernel beside what others offer."""
    whole = arguments.whole("--rounds", options.rounds)
    rounds = kernel_times.check_rounds("--rounds", whole)
    asked = spec.load(None, {"device": ["auto" if options.device is None else options.device]})
    folder = None if options.out is None else folder_of(options, "kernels")
    if folder is not None:
        kernel_times.make_room(folder)
    console = Output(stderr=True)
    command = ["unet-bench", *sys.argv[1:]]
    print_line(console, f"Timing the Lab kernel beside what is installed, {rounds} times each.")
    found = kernel_times.measure(
        asked.workload.task, asked.one("device"), rounds, command, partial(print_line, console)
    )
    if folder is not None:
        print_line(console, f"Written: {kernel_times.write(folder, found)}")
    page = kernel_times.page(found, "kernels")
    if options.json:
        sys.stdout.write(json.dumps(found | {"table": json.loads(render(page, "json"))}) + "\n")
    else:
        write_page(page, "table")
    return 0
