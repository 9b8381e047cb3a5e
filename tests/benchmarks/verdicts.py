"""Tries the verdicts of `compare` on this machine, where the truth is known.

    python -m tests.benchmarks.verdicts collect DIR [ROUNDS]

measures one variant and the same one with a slowdown planted in each step, process by process.
"""

import sys
from pathlib import Path
from statistics import median

from rich.console import Console

from bench import journal, spec, sweep
from bench.display import make_display

PLANTED_PERCENT = 5
"""So much longer a step takes that was slowed down."""

VARIANT = "bf16+channels_last"
DELAYED = f"{VARIANT}+delayed"
BASE = {
    "workload": ["tests.benchmarks.planted:PLANTED"],
    "batch_size": ["16"],
    "samples": ["512"],
    "device": ["cpu"],
}


def measure(folder: Path, **asked: str) -> list[journal.Row]:
    """The rows of a sweep of the planted workload."""
    values = {name: text.split(",") for name, text in asked.items()}
    plan = sweep.Plan(
        spec.load(None, BASE | values),
        folder,
        sweep.DEFAULT_TIMEOUT_S,
        frozenset(),
        ["python", "-m", "tests.benchmarks.verdicts", *sys.argv[1:]],
    )
    with make_display(Console(), None) as display:
        if not sweep.run(plan, display):
            raise KeyboardInterrupt
    return journal.read(folder)


def step_s(row: journal.Row) -> float:
    """The median step of the measured window."""
    result = row.result
    return median(sum(phases_s) for phases_s in result.step_phase_s[slice(*result.window)])


def collect(folder: Path, rounds: int) -> None:
    """Calibrates the delay, then measures both variants in turn.

    Args:
        folder: Gets `calibration` and `pool`, with a journal each.
        rounds: Processes of each variant.
    """
    rows = measure(folder / "calibration", variants=VARIANT, rounds="5")
    delay_us = round(1e6 * median(map(step_s, rows)) * PLANTED_PERCENT / 100)
    measure(
        folder / "pool",
        variants=f"{VARIANT},{DELAYED}",
        rounds=str(rounds),
        delay_us=str(delay_us),
    )


def main() -> None:
    """See the module."""
    match sys.argv[1:]:
        case ["collect", folder]:
            collect(Path(folder), 100)
        case ["collect", folder, rounds]:
            collect(Path(folder), int(rounds))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
