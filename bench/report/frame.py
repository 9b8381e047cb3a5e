"""From journal rows to DataFrames: all derived figures are computed here and nowhere else.

Names carry units; `results/README.md` defines every column.
"""

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean, median
from typing import Any

import pandas as pd

from bench.budget import GIB
from bench.environment import RECORDED_LATER
from bench.journal import Row
from bench.monitor import cpu_percent, window_of
from bench.noise import of_row
from bench.report import Record, compilation, disturbance, scaling
from bench.report.disturbance import BUSY_FLAG
from bench.report.speedups import add_fastest, add_speedups
from bench.spec import DEFAULT_WORKLOAD
from bench.stats import estimate
from bench.trial import PHASES, Status

CELL = ("variant", "batch_size", "settings", "seed")
"""What makes a cell of the table; its rounds are repetitions."""

_MEDIAN = (
    "step_ms",
    "slowdown",
    *(f"{phase}_ms" for phase in PHASES),
    "first_step_ms",
    "start_s",
    "peak_memory_gib",
    "first_step_peak_memory_gib",
    "peak_reserved_gib",
    "unused_reserved_gib",
    "process_gib",
    "budget_percent",
    "predicted_memory_gib",
    "growth_gib",
    "prediction_error_percent",
    "utilization_percent",
    "final_mse",
    *compilation.SECONDS,
)

OUTSIDE_GIT = "outside git"
"""What stands for the commit of a round whose code was under no version control."""

_NVML_AVERAGES_S = 1.0
"""NVML's rate of utilization is an average over the last 1/6 to 1 s, depending on the GPU; see
`nvmlUtilization_t`. A sample of it speaks of what came before it, for so long."""

BUSY = 1.25
"""Mean step to median step beyond which something else ran beside a trial."""

THRASHING_FLAG = "runs only by thrashing: the allocator had to free its cache and try again"

_RETRIES = ("first_step_alloc_retries", "alloc_retries")

# What a cell is called when its rounds ended differently: the last of these that occurred.
_BEST_FIRST = (
    Status.OK,
    Status.INTERRUPTED,
    Status.UNSUPPORTED,
    Status.DIVERGED,
    Status.TIMEOUT,
    Status.IMPLIED_OOM,
    Status.OOM,
    Status.CRASH,
)


def cell_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """One line per cell of the table: what its rounds that ended well come to, and speed-ups.

    Rates and their ratios are geometric means with intervals; all else are medians.

    Args:
        rows: At least one, and all may be compared; see `bench.journal.read`.
    """
    groups: dict[tuple[object, ...], list[Record]] = {}
    for record in map(trial_record, rows):
        groups.setdefault(tuple(record[name] for name in CELL), []).append(record)
    found = (name for row in rows for name in (*_baselines(row), *row.result.quality))
    medians = list(dict.fromkeys((*_MEDIAN, *found)))
    cells = [_cell(group, medians) for group in groups.values()]
    variants = list(dict.fromkeys(cell["variant"] for cell in cells))
    cells.sort(
        key=lambda cell: (
            # As numbers: 64 comes before 128. Rows of another version may have text in that place.
            *((isinstance(v, str), v) for v in json.loads(cell["settings"]).values()),
            cell["seed"],
            cell["batch_size"],
            variants.index(cell["variant"]),
        )
    )
    plain_axes = _plain_axes(cells)
    for cell in cells:
        cell["plain_axes"] = plain_axes
    add_speedups(cells)
    add_fastest(cells)
    frame = pd.DataFrame(cells)
    ratios = ("speedup", "speedup_vs_seed")
    numbers = [
        *medians,
        *("images_per_s", "images_per_s_low", "images_per_s_high", "noise_percent", "card_gib"),
        *scaling.NUMBERS,
        *disturbance.PERCENTS,
        *(f"{name}{end}" for name in ratios for end in ("", "_low", "_high", "_floor_percent")),
    ]
    counts = [
        *compilation.COUNTS,
        *disturbance.COUNTS,
        *("train_size", "seed_batch_size", "noise_pairs", *_RETRIES, *scaling.COUNTS),
        *(f"{name}_rounds" for name in ratios),
    ]
    return frame.astype(dict.fromkeys(numbers, float) | dict.fromkeys(counts, "Int64"))


def _cell(group: Sequence[Record], medians: Sequence[str]) -> Record:
    statuses = [record["status"] for record in group]
    worst = max(statuses, key=_BEST_FIRST.index)
    good = [record for record in group if record["status"] == Status.OK]
    cell = {name: value for name, value in group[0].items() if name not in ("key", "round")}
    cell |= {name: median(known) if (known := _known(good, name)) else None for name in medians}
    # A round that did not come so far knows nothing of the card or its class, an early one nothing
    # of the noise.
    for name in ("memory_mode", "card_gib", "predicted_memory_gib", "prediction_is_bound"):
        cell[name] = next(iter(_known(group, name)), None)
    for name in ("noise_percent", "noise_pairs"):
        cell[name] = next(iter(_known(good, name)), None)
    retries = {name: max(_known(good, name), default=None) for name in _RETRIES}
    told = compilation.of_rounds(good)
    cell |= {"rounds_ok": len(good), **disturbance.of_rounds(good)}
    disturbed = disturbance.flags(cell)
    occurred = disturbed | {
        BUSY_FLAG: disturbed[BUSY_FLAG] or (cell["slowdown"] or 0.0) > BUSY,
        THRASHING_FLAG: (retries["alloc_retries"] or 0) > 0,
    }
    flags = (told["flags"], *(words for words, occurs in occurred.items() if occurs))
    told["flags"] = "; ".join(filter(None, flags))
    settled, dirty = _known(good, "settled"), _known(group, "dirty")
    return cell | {
        **_rates(good),
        **retries,
        **told,
        **scaling.of_rounds(good),
        "settled": all(settled) if settled else None,
        "rounds_unsettled": settled.count(False),
        "commit": _commits([record["commit"] for record in group]),
        "dirty": any(dirty) if dirty else None,
        "status": worst,
        "reason": group[statuses.index(worst)]["reason"],
        "rounds": len(group),
        "outcomes": json.dumps({s: statuses.count(s) for s in _BEST_FIRST if s in statuses}),
    }


def flags_of(row: Row) -> str:
    """What flags a trial that ended well; empty if nothing does."""
    return str(_cell([trial_record(row)], _MEDIAN)["flags"])


def _known(records: Sequence[Record], name: str) -> list[Any]:
    """The values of a column, without those that are missing."""
    values = (record.get(name) for record in records)
    return [value for value in values if value is not None and value == value]


def _commits(commits: Sequence[str | None]) -> str | None:
    """The commits of all rounds, joined by commas; `None` if all ran outside git."""
    if not any(commits):
        return None
    return ",".join(dict.fromkeys(commit or OUTSIDE_GIT for commit in commits))


def _plain_axes(cells: Sequence[Record]) -> str | None:
    """The plain variant's axes as JSON; rows of old tell them only if it was measured itself."""
    told = (cell["plain_axes"] for cell in cells if pd.notna(cell["plain_axes"]))
    measured = (cell["axes"] for cell in cells if cell["variant"] == cell["plain_variant"])
    return next(told, None) or next(measured, None)


def _rates(good: Sequence[Record]) -> Record:
    """The rounds' images/s, when they began, and the geometric mean with its interval."""
    rates = {record["round"]: record["images_per_s"] for record in good}
    found = dict.fromkeys(("images_per_s", "images_per_s_low", "images_per_s_high"))
    if rates:
        rate = estimate([math.log(rate) for rate in rates.values()])
        found = {
            "images_per_s": rate.value,
            "images_per_s_low": rate.low,
            "images_per_s_high": rate.high,
        }
    began = {record["round"]: record["started_at"] or "" for record in good}
    return found | {"rates": json.dumps(rates), "began": json.dumps(began)}


def trial_record(row: Row) -> Record:
    """One trial, with everything derived from its raw figures."""
    trial, result, memory = row.trial, row.result, row.result.memory
    quality = result.quality if result.status is Status.OK else {}
    record: Record = {
        # First, so that a workload's name never takes the place of a column below.
        **trial.axes,
        **trial.settings,
        **dict.fromkeys(_baselines(row)),
        **{name: value for name, value in quality.items() if name != "final_mse"},
        "key": trial.key,
        "variant": trial.variant,
        "batch_size": trial.batch_size,
        "status": result.status,
        "images_per_s": None,
        "settled": result.settled,
        **_noise(row),
        "step_ms": None,
        "slowdown": None,
        **{f"{phase}_ms": None for phase in PHASES},
        "first_step_ms": None,
        "peak_memory_gib": None,
        "first_step_peak_memory_gib": None,
        "peak_reserved_gib": None,
        "unused_reserved_gib": None,
        "process_gib": None,
        **dict.fromkeys(_RETRIES),
        "predicted_memory_gib": _gib(memory.get("predicted_bytes")),
        "prediction_is_bound": memory.get("predicted_is_bound"),
        "growth_gib": None,
        "prediction_error_percent": None,
        "memory_mode": memory.get("mode"),
        "card_gib": _gib(memory.get("card_bytes")),
        "budget_gib": trial.budget_bytes / GIB,
        "budget_percent": None,
        "utilization_percent": None,
        "final_mse": None,
        **scaling.ABSENT,
        **compilation.ABSENT,
        **disturbance.ABSENT,
        "started_at": result.started_at,
        "start_s": result.start_s,
        "duration_s": result.duration_s,
        "reason": result.reason,
        "seed": trial.seed,
        "round": trial.round,
        "samples": trial.samples,
        "settings": json.dumps(dict(trial.settings)),
        "workload": row.workload["name"],
        "train_size": row.workload.get("train_size"),
        "axes": json.dumps(dict(trial.axes)),
        "plain_axes": json.dumps(row.workload["axes"]) if "axes" in row.workload else None,
        "plain_variant": row.workload["plain"],
        "baselines": json.dumps(_baselines(row)),
        "device_name": row.environment["device_name"],
        "torch": row.environment["torch"],
        **{name: row.environment.get(name) for name in RECORDED_LATER},
        "commit": row.environment["commit"],
        "dirty": row.environment["dirty"],
        "command": reproduce(row),
    }
    if result.status is Status.OK:
        record["final_mse"] = quality["final_mse"]
        record.update(_times(row))
        record.update(_memory(row))
        record.update(_prediction_error(memory, record["peak_memory_gib"]))
        record.update(compilation.of_row(row))
        record.update(disturbance.of_row(row))
        record["utilization_percent"] = _utilization_percent(row)
        record.update(scaling.of_row(row))
    return record


def _baselines(row: Row) -> dict[str, str]:
    """The workload's baselines: figure -> what it is, in words; none in rows of old."""
    return dict(row.workload.get("baselines", {}))


def _noise(row: Row) -> Record:
    """What equal processes of this row's class were measured to differ by, in one round."""
    noise = of_row(row)
    return {
        "noise_percent": 100 * math.expm1(noise.spread) if noise else None,
        "noise_pairs": noise.degrees if noise else None,
    }


def _times(row: Row) -> dict[str, float]:
    steps = row.result.step_phase_s
    measured = steps[slice(*row.result.window)]
    phases_s = zip(*measured, strict=True)
    steps_s = [sum(phases) for phases in measured]
    step_s = median(steps_s)
    return {
        "images_per_s": row.result.images_per_s,
        "step_ms": 1000 * step_s,
        "slowdown": fmean(steps_s) / step_s if step_s else None,
        **{f"{phase}_ms": 1000 * median(s) for phase, s in zip(PHASES, phases_s, strict=True)},
        "first_step_ms": 1000 * sum(steps[0]),
    }


def _memory(row: Row) -> Record:
    """Peaks in GiB, the allocator's retries, and the share of the budget that the process took."""
    memory = row.result.memory
    steady: float | str | None = memory.get("peak_bytes")
    process = unused = retries = None
    on_cpu = row.trial.device == "cpu"
    if on_cpu:
        # The kernel tracks the process itself; samples see what it may have started.
        training = ("warming_up", "measuring", "training")
        samples = [s["rss_anon_bytes"] for s in row.result.monitor if s["phase"] in training]
        process = max(map(_number, [steady, *samples])) or None
        steady = process
    elif memory.get("peak_reserved_bytes") is not None:
        reserved = _number(memory["peak_reserved_bytes"])
        if (context := memory.get("context_bytes")) is not None:
            process = reserved + _number(context)
        unused = reserved - _number(steady)
        # Rows of old do not tell those of the warm-up apart.
        before = memory.get("warmup_alloc_retries", memory.get("first_step_alloc_retries"))
        retries = _number(memory.get("alloc_retries")) - _number(before)
    return {
        "peak_memory_gib": _gib(steady),
        "first_step_peak_memory_gib": _gib(memory.get("first_step_peak_bytes")),
        "peak_reserved_gib": None if on_cpu else _gib(memory.get("peak_reserved_bytes")),
        "unused_reserved_gib": _gib(unused),
        "process_gib": None if on_cpu else _gib(memory.get("process_bytes")),
        "first_step_alloc_retries": memory.get("first_step_alloc_retries"),
        "alloc_retries": retries,
        "budget_percent": 100 * process / row.trial.budget_bytes if process else None,
    }


def _prediction_error(
    memory: Mapping[str, float | str | None], peak_gib: float | None
) -> dict[str, float | None]:
    """By how much the predicted peak is off, both less what a process has after one small step."""
    predicted_gib, baseline_gib = (
        _gib(memory.get(f"predicted_{name}")) for name in ("bytes", "baseline_bytes")
    )
    if predicted_gib is None or baseline_gib is None or peak_gib is None:
        return {}
    growth_gib = peak_gib - baseline_gib
    off = (predicted_gib - baseline_gib) / growth_gib - 1 if growth_gib > 0 else None
    return {
        "growth_gib": growth_gib,
        "prediction_error_percent": None if off is None else 100 * off,
    }


def _utilization_percent(row: Row) -> float | None:
    """Over the measured window: NVML's mean on a GPU; on CPU the share of the allowed cores.

    `None` where the window is too short to tell.
    """
    samples = [sample for sample in row.result.monitor if sample["phase"] == "measuring"]
    if row.trial.device == "cpu":
        return cpu_percent(*window_of(row.result.monitor), int(row.environment["cpus_allowed"]))
    # NVML's history between two samples is told by the second.
    _, end = window_of(row.result.monitor)
    spans = [
        (_number(now["gpu_busy_percent"]), _number(now["at_s"]) - _number(before["at_s"]))
        for before, now in pairwise([*samples, end])
        if now.get("gpu_busy_percent") is not None
    ]
    if covered_s := sum(span_s for _, span_s in spans):
        return sum(percent * span_s for percent, span_s in spans) / covered_s
    # A rate before that tells, in part, of the time before the window.
    from_s = row.result.parent_phase_at_s["measuring"] + _NVML_AVERAGES_S
    late = [sample for sample in samples if _number(sample["at_s"]) >= from_s]
    read = [_number(s["gpu_percent"]) for s in late if s.get("gpu_percent") is not None]
    return fmean(read) if read else None


def _gib(size_bytes: float | str | None) -> float | None:
    return None if size_bytes is None else float(size_bytes) / GIB


def _number(value: float | str | None) -> float:
    return float(value or 0)


def reproduce(row: Row) -> str:
    """The command line that measures this one cell again."""
    trial = row.trial
    asked: dict[str, object] = {
        **trial.settings,
        "seed": trial.seed,
        "samples": trial.samples,
        "warmup_steps": trial.warmup_steps,
        "measured_steps": trial.measured_steps,
    }
    words = ["unet-bench", "trial", trial.variant, "--batch-size", str(trial.batch_size)]
    words += ["--device", trial.device, "--budget", f"{trial.budget_bytes}B"]
    if trial.workload != DEFAULT_WORKLOAD:
        words += ["--set", f"workload={trial.workload}"]
    for name, value in asked.items():
        words += ["--set", f"{name}={value}"]
    return shlex.join(words)
