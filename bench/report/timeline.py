"""How busy a trial kept its device while it ran, and how much memory it had."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from bench.budget import GIB
from bench.journal import Row
from bench.monitor import Sample, cpu_percent, gpu_percent

Timeline = dict[str, Any]
"""`at_s` (seconds since the first sample), `utilization_percent` and `memory_gib` of each sample
(`None` where not readable), and `phases`: name -> when it began."""

MOST_SAMPLES = 80
"""More than that no plot of a page's width can show."""


def timeline(row: Row, most: int = MOST_SAMPLES) -> Timeline | None:
    """What the parent sampled of a trial, thinned.

    On a CPU utilization is the share of the allowed cores since the sample before, and memory the
    anonymous resident memory of its processes; on a GPU both are NVML's, of the device.

    Args:
        row: Of a trial.
        most: So many samples are kept, the first and the last among them.

    Returns:
        `None` where there are fewer than three samples.
    """
    samples = thinned(row.result.monitor, most)
    if len(samples) < 3:
        return None
    start_s = float(samples[0]["at_s"] or 0)
    on_cpu = row.trial.device == "cpu"
    cpus = int(row.environment["cpus_allowed"])
    percents: list[float | None] = [None]
    for before, now in pairwise(samples):
        percents.append(cpu_percent(before, now, cpus) if on_cpu else gpu_percent(now))
    memory = [sample.get("rss_anon_bytes" if on_cpu else "gpu_used_bytes") for sample in samples]
    phases = {
        name: round(at_s - start_s, 3)
        for name, at_s in row.result.parent_phase_at_s.items()
        if at_s >= start_s
    }
    return {
        "at_s": [round(float(sample["at_s"] or 0) - start_s, 3) for sample in samples],
        "utilization_percent": [None if p is None else round(p, 1) for p in percents],
        "memory_gib": [None if m is None else round(float(m) / GIB, 4) for m in memory],
        "phases": phases,
    }


def thinned(samples: Sequence[Sample], most: int) -> list[Sample]:
    """At most so many samples, evenly chosen; the first and the last stay."""
    if len(samples) <= most:
        return list(samples)
    step = (len(samples) - 1) / (most - 1)
    return [samples[round(place * step)] for place in range(most)]
