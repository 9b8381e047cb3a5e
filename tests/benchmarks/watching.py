"""What it costs a trial to be watched by its parent.

    python -m tests.benchmarks.watching [PROCESSES]

The monitor samples at its rate for a second and rests for the next one, all through the measured
window. Each process is one observation: the mean, over its pairs of seconds, of the logarithm of
the rates' ratio.
"""

import math
import sys
import time
from statistics import fmean

import numpy as np

from bench import runner, spec
from bench.monitor import INTERVAL_S, Monitor, Sample
from bench.runner import Runner, StopRequest
from bench.stats import estimate
from bench.trial import Status, Trial, TrialResult
from bench.workload import Data
from tests.harness import Listening

BLOCK_S = 1.0
ASKED = {
    "variants": ["bf16+channels_last"],
    "batch_size": ["16"],
    "samples": ["8000"],
    "device": ["cpu"],
    "budget": ["8GiB"],
}


def watches(at_s: float) -> bool:
    """Whether the monitor is at work in that second."""
    return int(at_s // BLOCK_S) % 2 == 0


class Resting(Monitor):
    """Samples in every other second, and has the parent sleep through the others."""

    def sample(self, phase: str | None) -> Sample:
        """See `Monitor.sample`."""
        found = super().sample(phase)
        now_s = time.monotonic()
        wakes_s = now_s + INTERVAL_S
        if not watches(wakes_s):
            wakes_s = (wakes_s // BLOCK_S + 1) * BLOCK_S
        vars(runner)["INTERVAL_S"] = wakes_s - now_s
        return found


def log_ratios(result: TrialResult) -> list[float]:
    """Logarithms of the rate of a watched second to that of the next, unwatched one."""
    steps_s = np.array(result.step_phase_s).sum(axis=1)[slice(*result.window)]
    ends_s = result.phase_at_s["measuring"] + steps_s.cumsum()
    blocks = ((ends_s - steps_s) // BLOCK_S).astype(int)
    # Steps that lie in one second from end to end.
    whole = blocks == (ends_s // BLOCK_S).astype(int)
    mean_s = {
        block: steps_s[whole & (blocks == block)].mean() for block in np.unique(blocks[whole])
    }
    return [
        math.log(mean_s[block + 1] / mean_s[block])
        for block in mean_s
        if watches(block * BLOCK_S) and block + 1 in mean_s
    ]


def main() -> None:
    """See the module."""
    processes = int(sys.argv[1]) if len(sys.argv) > 1 else 12
    asked = spec.load(None, ASKED)
    (trial,) = asked.trials("cpu", asked.budget_bytes or 0)
    data = asked.workload.prepare(asked.settings()[0], lambda done, total: None)
    vars(runner)["Monitor"] = Resting
    observed, samples = [], 0
    with Runner(asked.workload.task, timeout_s=600) as runs, StopRequest() as stop:
        for _ in range(processes):
            result = run(runs, trial, data, stop)
            observed.append(fmean(log_ratios(result)))
            samples += sum(one["phase"] == "measuring" for one in result.monitor)
            runs.new_round()
    found = estimate(observed)
    print(  # noqa: T201 (a program)
        f"rate while watched / rate while not: {found.value:.4f} [{found.low:.4f}, "
        f"{found.high:.4f}], {found.rounds} processes, {samples} samples in their windows, "
        f"one each {INTERVAL_S} s while watched"
    )


def run(runs: Runner, trial: Trial, data: Data, stop: StopRequest) -> TrialResult:
    """One process."""
    result = runs.run(trial, data, None, stop, Listening(), compiled=False)
    assert result.status is Status.OK, result.reason
    return result


if __name__ == "__main__":
    main()
