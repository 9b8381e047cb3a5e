"""The command `sweep`."""

from argparse import Namespace

from bench.commands import EXIT_FAILED
from bench.commands.measuring import load, measure
from bench.trial import Status


def run(options: Namespace) -> int:
    """Measures every cell of a grid."""
    asked = load(options)
    rows, code = measure(options, asked, asked.name)
    if code == 0 and not any(row.result.status is Status.OK for row in rows):
        return EXIT_FAILED
    return code
