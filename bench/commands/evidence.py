"""The command `evidence`."""

from argparse import Namespace
from functools import partial

from bench import arguments
from bench.commands import EXIT_FAILED
from bench.commands.measuring import folder_of, how_to_go_on
from bench.output import Output, print_line


def run(options: Namespace) -> int:
    """Makes the most of a few minutes on a machine that is there only now."""
    from bench.evidence import gather, page, record
    from bench.evidence.plan import load

    plan = load(options.source)
    limit_s = arguments.limit_s(options.minutes, 2 * gather.RESERVE_S)
    console, folder = Output(), folder_of(options, "evidence")
    with record.locked(folder):
        outcomes = gather.gather(
            plan, folder, limit_s, partial(print_line, console), partial(page.write, plan, folder)
        )
    print_line(console, page.summary(plan, folder))
    print_line(console, f"Written: {folder / page.FILE_NAME}")
    if gather.Outcome.OUT_OF_TIME in outcomes.values():
        print_line(console, f"Not complete. To go on: {how_to_go_on(folder)}", "bold")
    faults = any(part.faults(folder) for part in plan.parts)
    return EXIT_FAILED if faults or gather.Outcome.FAILED in outcomes.values() else 0
