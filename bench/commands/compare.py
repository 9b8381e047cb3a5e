"""The command `compare`."""

from argparse import Namespace

from bench import arguments, journal, spec
from bench.commands import EXIT_FAILED, EXIT_INCONCLUSIVE
from bench.errors import UserError
from bench.output import Output, print_line, write_page


def run(options: Namespace) -> int:
    """Judges one folder against another, or one variant against another."""
    from bench.report.compare import compare
    from bench.report.figures import MEMORY, QUALITY, SPEED, Gate
    from bench.report.sides import Side, by_variant

    style, margin = arguments.style(options), spec.parse_share("--margin", options.margin)
    gates = [
        Gate(f"--{option}", figure, spec.parse_share(f"--{option}", text))
        for option, figure in zip(arguments.GATES, (SPEED, MEMORY, QUALITY), strict=True)
        if (text := getattr(options, option.replace("-", "_"))) is not None
    ]
    if options.allow_inconclusive and not gates:
        names = ", ".join(f"--{option}" for option in arguments.GATES)
        raise UserError(f"--allow-inconclusive: expected a gate beside it, one of {names}")
    asked = 1 if options.variants else 2
    if len({folder.resolve() for folder in options.folders}) != asked:
        beside = "one folder beside --variants" if asked == 1 else "two that differ, or --variants"
        raise UserError(f"compare {' '.join(map(str, options.folders))}: expected {beside}")
    if options.variants:
        sides = by_variant(journal.read(options.folders[0]), options.variants)
    else:
        sides = [Side(str(folder), journal.read(folder)) for folder in options.folders]
    there, here = sides
    drift = None if options.drift is None else spec.parse_share("--drift", options.drift)
    found = compare(there, here, margin, drift, gates, options.ignore)
    write_page(found.page, style)
    console = Output(stderr=style != "table")
    for text in found.failed:
        print_line(console, f"Failed: {text}", style="bold red")
    for text in found.undecided:
        print_line(console, f"Not shown: {text}", style="bold")
    if found.failed:
        return EXIT_FAILED
    return EXIT_INCONCLUSIVE if found.undecided and not options.allow_inconclusive else 0
