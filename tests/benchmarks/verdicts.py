"""Tries the verdicts of `compare` on this machine, where the truth is known.

    python -m tests.benchmarks.verdicts collect DIR [ROUNDS]
    python -m tests.benchmarks.verdicts judge DIR

`collect` measures one variant and the same one with a slowdown planted in each step, process by
process in turn. `judge` draws comparisons from these processes: of the variant with itself, where
any difference that is called is a false alarm, and with the slowed one.

Comparisons at random tell whether verdicts stand the way in which processes scatter; those of
consecutive processes, as a user would make them, also whether they stand its ups and downs. Both
share processes, so that they depend on each other. How often something is called is a U-statistic
of the pool; its standard error is found by leaving out one process (or one round) after the other
(the jackknife; Arvesen, Annals of Mathematical Statistics 40, 1969), which with draws at random
rather errs to the safe side. A confidence bound lies 1.645 of these errors beyond what was found,
and 3 draws in all of them farther. Windows of consecutive processes overlap, and have no bound.
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
from bench.report.contrast import MARGIN
from bench.stats import ALPHA, LEVEL, t_quantile

PLANTED_PERCENT = 5
"""So much longer a step takes that was slowed down."""

GATE = spec.load("gate", {})
GATING_ROUNDS, GATE_CELLS = int(GATE.one("rounds")), len(GATE.variants)
"""As many as a gate has by default."""

DRAWS = 300_000
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
    variance = (pool - 1) / pool * ((without - without.mean()) ** 2).sum()
    reach = 1.645 * math.sqrt(variance) + 3 / len(hits)
    return Share(found, max(0.0, found - reach), min(1.0, found + reach))


def calls(logs: np.ndarray, comparisons: int = 1) -> np.ndarray:
    """What is called of each comparison, held to the floor of its own rounds.

    The same as `bench.report.contrast.judge_all` says, for many at a time.

    Args:
        logs: Log ratios of shape (comparisons, rounds).
        comparisons: So many cells are judged together, of which this is one.

    Returns:
        1 for faster, -1 for slower, 0 for anything else.
    """
    rounds = logs.shape[1]
    means, errors = logs.mean(axis=1), logs.std(axis=1, ddof=1) / math.sqrt(rounds)
    reach = errors * t_quantile(1 - ALPHA / comparisons, rounds - 1)
    floor = errors * t_quantile(LEVEL, rounds - 1)
    same = (np.abs(means) + reach <= math.log1p(MARGIN)) & (floor <= math.log1p(MARGIN))
    differs = (np.abs(means) > reach) & (np.abs(means) > floor) & ~same
    return np.where(differs, np.sign(means), 0.0)


def drawn_at_random(pool: int, size: int) -> np.ndarray:
    """Indices without repetition, of shape (DRAWS, size)."""
    ordered = np.tile(np.arange(pool, dtype=np.uint16), (DRAWS, 1))
    return np.random.default_rng(size).permuted(ordered, axis=1)[:, :size]


def false_alarms(logs: np.ndarray, rounds: int) -> Share:
    """Of equal cells, from processes drawn at random."""
    drawn = drawn_at_random(len(logs), 2 * rounds)
    hits = calls(logs[drawn[:, :rounds]] - logs[drawn[:, rounds:]]) != 0
    return share_of(hits, drawn, len(logs))


def found_slower(logs: np.ndarray, rounds: int, comparisons: int) -> Share:
    """Of cells that were slowed down, from rounds drawn at random.

    Args:
        logs: Of the slowed one's rate to the other's, one a round.
        rounds: Of a comparison.
        comparisons: See `calls`.
    """
    drawn = drawn_at_random(len(logs), rounds)
    return share_of(calls(logs[drawn], comparisons) < 0, drawn, len(logs))


def windows(logs: np.ndarray, size: int) -> np.ndarray:
    """All that are consecutive, of shape (windows, size)."""
    return np.lib.stride_tricks.sliding_window_view(logs, size)


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
    environment = rows[0].environment
    spread = 100 * (slowed - equal).std(ddof=1)
    lines = [
        f"{len(equal)} processes of {VARIANT}, {len(slowed)} slowed down by {PLANTED_PERCENT} % in "
        f"each step, on {environment['device_name']}, torch {environment['torch']}.",
        f"Ratio found: {math.exp((slowed - equal).mean()):.4f} "
        f"(1 / {1 + PLANTED_PERCENT / 100:.2f} = {1 / (1 + PLANTED_PERCENT / 100):.4f}). "
        f"Ratios of one round scatter by {spread:.1f} %.",
        "",
        f"Minutes are those of two cells; a gate judges {GATE_CELLS} cells together.",
        "",
        "rounds  minutes  equal, called different          slowed, called slower: one cell         "
        "one of a gate's cells",
        "                 at random          in order      at random               in order      "
        "  at random               in order",
    ]
    for rounds in ROUNDS:
        two = windows(equal, 2 * rounds)
        alarms = calls(two[:, 1::2] - two[:, ::2]) != 0
        text = f"{rounds:6}  {rounds * minutes:7.1f}  {false_alarms(equal, rounds)}"
        text += f"  {alarms.sum():2} of {len(alarms):2}"
        for cells in (1, GATE_CELLS):
            share = found_slower(slowed - equal, rounds, cells)
            found = calls(windows(slowed - equal, rounds), cells) < 0
            text += f"   {share}  {found.sum():2} of {len(found):2}"
        lines.append(text)
    print("\n".join(lines))  # noqa: T201 (a program)


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
