"""Tries the verdicts of `compare` on this machine, where the truth is known.

    python -m tests.benchmarks.verdicts collect DIR [ROUNDS]
    python -m tests.benchmarks.verdicts judge DIR

`collect` measures one variant and the same one with a slowdown planted in each step, process by
process in turn. `judge` draws comparisons from these processes: of the variant with itself, where
any difference that is called is a false alarm, and with the slowed one.

Comparisons share processes, so that they depend on each other. How often something is called is a
U-statistic of the pool; its standard error is found by leaving out one process (or one round) after
the other (the jackknife; Arvesen, Annals of Mathematical Statistics 40, 1969). A confidence bound
lies 1.645 of these errors beyond what was found, and 3 draws in all of them farther.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console

from bench import journal, spec, sweep
from bench.display import make_display
from bench.report.contrast import Contrast, judge_all

PLANTED_PERCENT = 5
"""So much longer a step takes that was slowed down."""

GATING_ROUNDS = int(spec.load("gate", {}).one("rounds"))
"""As many as a gate has by default."""

DRAWS = 20_000
"""Comparisons for each number of rounds."""

ROUNDS = (5, 6, 7, 8, 10, 12, 15, 20, 30)

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
        folder: Gets the journal, and one of the calibration in `calibration`.
        rounds: Processes of each variant.
    """
    rows = measure(folder / "calibration", variants=VARIANT, rounds="5")
    delay_us = round(1e6 * median(map(step_s, rows)) * PLANTED_PERCENT / 100)
    measure(
        folder,
        variants=f"{VARIANT},{DELAYED}",
        rounds=str(rounds),
        delay_us=str(delay_us),
    )


@dataclass(frozen=True)
class Share:
    """How often something was called.

    Attributes:
        found: Share of the draws.
        low, high: 95 % confidence bounds, one-sided each.
    """

    found: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.found:6.2f} % [{100 * self.low:6.2f}, {100 * self.high:6.2f}]"


def share_of(hits: np.ndarray, drawn: np.ndarray, pool: int) -> Share:
    """See the module.

    Args:
        hits: Whether it was called, bool of shape (draws,).
        drawn: What was drawn, indices of shape (draws, size).
        pool: From so many.
    """
    inside = np.zeros((len(hits), pool), dtype=bool)
    np.put_along_axis(inside, drawn, values=True, axis=1)
    found = float(hits.mean())
    without = np.array([hits[~inside[:, k]].mean() for k in range(pool)])
    jackknife = (pool - 1) / pool * ((without - without.mean()) ** 2).sum()
    # What the draws, being random, add to that by themselves, and then to the share itself.
    size = drawn.shape[1]
    chance = found * (1 - found) / len(hits)
    variance = max(0.0, jackknife - chance * (pool - 1) * size / (pool - size)) + chance
    reach = 1.645 * math.sqrt(variance) + 3 / len(hits)
    return Share(found, max(0.0, found - reach), min(1.0, found + reach))


def word(logs: np.ndarray) -> str:
    """The verdict on one cell, held to the floor of its own rounds."""
    (verdict,) = judge_all([Contrast([float(log) for log in logs], "", None)])
    assert verdict is not None
    return verdict.word


def false_alarms(logs: np.ndarray, rounds: int) -> Share:
    """Of equal cells, from processes drawn at random."""
    random = np.random.default_rng(rounds)
    drawn = random.random((DRAWS, len(logs))).argsort(axis=1)[:, : 2 * rounds]
    differences = logs[drawn[:, :rounds]] - logs[drawn[:, rounds:]]
    hits = np.array([word(one) in ("faster", "slower") for one in differences])
    return share_of(hits, drawn, len(logs))


def found_slower(logs: np.ndarray, rounds: int) -> Share:
    """Of cells that were slowed down, from rounds drawn at random.

    Args:
        logs: Of the slowed one's rate to the other's, one a round.
        rounds: Of a comparison.
    """
    random = np.random.default_rng(rounds)
    drawn = random.random((DRAWS, len(logs))).argsort(axis=1)[:, :rounds]
    hits = np.array([word(one) == "slower" for one in logs[drawn]])
    return share_of(hits, drawn, len(logs))


def in_windows(logs: np.ndarray, rounds: int) -> tuple[int, int]:
    """False alarms among equal cells, from processes in the order they ran.

    Returns:
        Of cells measured in turn: how many, and of how many windows, which overlap.
    """
    starts = range(len(logs) - 2 * rounds + 1)
    windows = [logs[start : start + 2 * rounds] for start in starts]
    called = [word(one[1::2] - one[::2]) in ("faster", "slower") for one in windows]
    return sum(called), len(called)


def pool(rows: Sequence[journal.Row]) -> tuple[np.ndarray, np.ndarray]:
    """Log rates of the processes, undelayed and delayed, in the order of their rounds."""
    rates: dict[str, dict[int, float]] = {VARIANT: {}, DELAYED: {}}
    for row in rows:
        rates[row.trial.variant][row.trial.round] = row.result.images_per_s
    equal, slowed = (np.log([found[k] for k in sorted(found)]) for found in rates.values())
    return equal, slowed


def judge(folder: Path) -> None:
    """Prints what the verdicts on a pool come to, by the number of rounds."""
    rows = journal.read(folder)
    equal, slowed = pool(rows)
    first, last = (datetime.fromisoformat(str(rows[k].result.started_at)) for k in (0, -1))
    minutes = (last - first).total_seconds() / 60 / (len(equal) - 1)
    spread = 100 * (slowed - equal).std(ddof=1)
    print(  # noqa: T201 (a program)
        f"{len(equal)} processes of {VARIANT}, {len(slowed)} slowed down by {PLANTED_PERCENT} % in "
        f"each step, on {rows[0].environment['device_name']}, torch {rows[0].environment['torch']}."
        f"\nRatio found: {math.exp((slowed - equal).mean()):.4f} "
        f"(1 / {1 + PLANTED_PERCENT / 100:.2f} = {1 / (1 + PLANTED_PERCENT / 100):.4f}). "
        f"Ratios of one round scatter by {spread:.1f} %.\n\n"
        "rounds  minutes  equal: called different      in order    slowed: called slower"
    )
    for rounds in ROUNDS:
        called, windows = in_windows(equal, rounds)
        print(  # noqa: T201
            f"{rounds:6}  {rounds * minutes:7.1f}  {false_alarms(equal, rounds)}"
            f"  {called:3} of {windows:3}  {found_slower(slowed - equal, rounds)}"
        )


def main() -> None:
    """See the module."""
    match sys.argv[1:]:
        case ["collect", folder]:
            collect(Path(folder), 100)
        case ["collect", folder, rounds]:
            collect(Path(folder), int(rounds))
        case ["judge", folder]:
            judge(Path(folder))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
