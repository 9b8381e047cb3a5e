"""The command `trial`."""

from argparse import Namespace

from bench import arguments, spec
from bench.commands import EXIT_FAILED
from bench.commands.measuring import measure
from bench.errors import UserError
from bench.trial import Status


def run(options: Namespace) -> int:
    """Measures one cell."""
    overrides = arguments.overrides(options)
    if any(text.startswith("batch_size=") for text in options.sets):
        raise UserError("--set batch_size: expected once, as --batch-size")
    asked = spec.load(None, overrides | {"variants": [options.variant]})
    if asked.variants != (asked.workload.parse_variant(options.variant),):
        raise UserError(
            f"--set: expected no axes beside the variant {options.variant!r}, which names them all"
        )
    if (cells := len(asked.resolved({}).trials("cpu", 1)) // asked.one("rounds")) > 1:
        raise UserError(f"--set: expected one cell, got {cells}; see `sweep` for more")
    rows, code = measure(options, asked, "trial")
    if code == 0:
        # The folder may hold others' rows too.
        result = next(row.result for row in reversed(rows) if row.trial in asked.trials_like(row))
        if result.status is Status.UNSUPPORTED:
            raise UserError(f"{options.variant}: {result.reason}")
        if result.status is not Status.OK:
            return EXIT_FAILED
    return code
