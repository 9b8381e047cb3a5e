"""Rows of trials that never ran, and what reports make of them."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import pandas as pd
from rich.console import Console

from bench.journal import Row
from bench.report import views
from bench.report.frame import cell_frame
from bench.report.page import Page
from bench.report.tables import notes, to_markdown, to_rich
from bench.trial import Scalar, Status, Trial, TrialResult

GIB = 2**30


BUDGET = 8 * GIB


AXES = {
    "fp32": {"precision": "fp32", "memory_format": "contiguous"},
    "bf16": {"precision": "bf16", "memory_format": "contiguous"},
    "bf16+channels_last": {"precision": "bf16", "memory_format": "channels_last"},
}


SETTINGS: dict[str, Scalar] = {"data": "drive", "image_size": 64, "width": 16}


ENVIRONMENT = {
    "device_name": "Some CPU",
    "torch": "2.15.0",
    "commit": "abc",
    "dirty": False,
    "cpus_allowed": 4,
}


PLAIN = {"precision": "fp32", "memory_format": "contiguous", "compile": "eager"}
AXIS_OF = {
    "fp32": "precision",
    "tf32": "precision",
    "bf16": "precision",
    "channels_last": "memory_format",
    "compile": "compile",
    "max-autotune": "compile",
}
TRAIN_SIZE = 1000


def axes_of(variant: str) -> dict[str, str]:
    return PLAIN | {AXIS_OF[value]: value for value in variant.split("+")}


def trial(
    variant: str = "fp32",
    batch_size: int = 4,
    settings: Mapping[str, Scalar] = SETTINGS,
    **more: Any,
) -> Trial:
    fields: dict[str, Any] = {
        "workload": "unet.workload:COLORIZATION",
        "variant": variant,
        "axes": more.get("axes") or AXES.get(variant) or axes_of(variant),
        "settings": dict(settings),
        "batch_size": batch_size,
        "seed": 0,
        "round": 0,
        "samples": 1024,
        "warmup_steps": 1,
        "measured_steps": 3,
        "device": "cpu",
        "budget_bytes": BUDGET,
    }
    return Trial(**(fields | more))


def sample(
    phase: str | None, at_s: float, cpu_s: float, rss_gib: float, **gpu: Any
) -> dict[str, Any]:
    return {
        "at_s": at_s,
        "phase": phase,
        "cpu_s": cpu_s,
        "rss_anon_bytes": int(rss_gib * GIB),
        **gpu,
    }


def measured(rate: float = 8.0, batch_size: int = 4, **more: Any) -> TrialResult:
    """First step, one warm-up step, three measured ones, one smaller one."""
    fields: dict[str, Any] = {
        "status": Status.OK,
        "start_s": 0.05,
        "duration_s": 20.0,
        "phase_at_s": {"measuring": 100.0, "training": 100.0 + 3 * batch_size / rate},
        "parent_phase_at_s": {"measuring": 100.5, "training": 104.0},
        "step_phase_s": [
            [0.100, 0.200, 0.300, 0.400],
            [9.0, 9.0, 9.0, 9.0],
            [0.001, 0.010, 0.020, 0.003],  # 34 ms in all
            [0.002, 0.030, 0.010, 0.001],  # 43 ms
            [0.004, 0.020, 0.058, 0.002],  # 84 ms
            [7.0, 7.0, 7.0, 7.0],
        ],
        "step_samples": [batch_size] * 5 + [1],
        "window": [2, 5],
        "memory": {"peak_bytes": 2 * GIB, "first_step_peak_bytes": 3 * GIB},
        "quality": {"final_mse": 100.0, "grey_mse": 400.0, "mean_color_mse": 200.0},
        "monitor": [
            sample("starting", 90.0, 0.0, 7.0),
            sample("warming_up", 95.0, 5.0, 1.0),
            sample("measuring", 100.0, 10.0, 1.5),
            sample("measuring", 102.0, 16.0, 1.5),
            sample("training", 104.0, 22.0, 1.5),
            sample("evaluating", 120.0, 99.0, 7.0),
        ],
    }
    return TrialResult(**(fields | more))


def failed(status: Status, reason: str = "for a reason") -> TrialResult:
    return TrialResult(status, reason)


WORKLOAD_BASELINES = {"mean_color_mse": "mean colour", "grey_mse": "grey"}


WORKLOAD = {"name": "colorization", "plain": "fp32", "baselines": WORKLOAD_BASELINES}


def row(asked: Trial, result: TrialResult, **environment: Any) -> Row:
    return Row(
        asked,
        WORKLOAD,
        {"fingerprint": "f"},
        ENVIRONMENT | environment,
        result,
    )


def good(variant: str, batch_size: int, rate: float, **more: Any) -> Row:
    return row(trial(variant, batch_size, **more), measured(rate, batch_size))


def bad(variant: str, batch_size: int, status: Status, **more: Any) -> Row:
    return row(trial(variant, batch_size, **more), failed(status))


def cells(*rows: Row) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", cell_frame(rows).to_dict("records"))


def one(result: TrialResult, **asked: Any) -> dict[str, Any]:
    (cell,) = cells(row(trial(**asked), result))
    return cell


def absent(value: Any) -> bool:
    return bool(pd.isna(value))


CUDA = {
    "mode": "emulated",
    "card_bytes": int(79.1 * GIB),
    "peak_bytes": 2 * GIB,
    "peak_reserved_bytes": 3 * GIB,
    "process_bytes": 4 * GIB,
    "context_bytes": GIB // 2,
    "first_step_peak_bytes": 5 * GIB,
    "first_step_alloc_retries": 2,
    "warmup_alloc_retries": 3,
    "alloc_retries": 3,
}


def gpu_samples(*percents: float | None) -> list[dict[str, Any]]:
    return [
        sample("warming_up", 99.0, 0.0, 1.0, gpu_percent=1.0),
        sample("measuring", 100.5, 0.0, 1.0, gpu_percent=3.0),
        sample("measuring", 101.4, 0.0, 1.0, gpu_percent=4.0),
        *(sample("measuring", 101.5, 0.0, 1.0, gpu_percent=percent) for percent in percents),
        sample("training", 104.0, 0.0, 1.0, gpu_percent=2.0),
    ]


def texts(*rows: Row) -> list[dict[str, str]]:
    """The Markdown table, line by line, by heading; without the winner's bold."""
    head, _, *lines = [
        [word.strip().strip("*") for word in line.strip("|").split("|")]
        for line in to_markdown(cell_frame(rows)).splitlines()
        if line.startswith("|")
    ]
    return [dict(zip(head, line, strict=True)) for line in lines]


def notes_of(rows: Sequence[Row]) -> list[str]:
    return notes(cell_frame(rows))


MIXED = [
    good("fp32", 4, 10.0),
    good("bf16", 4, 15.0),
    bad("bf16+channels_last", 4, Status.OOM),
    good("fp32", 8, 12.0),
    row(
        trial("bf16", 8),
        measured(
            48.0,
            8,
            memory={"peak_bytes": None},
            monitor=[sample("measuring", 100.0, 1.0, 0.0), sample("training", 101.0, 2.0, 0.0)],
        ),
    ),
]


def rendered(frame: pd.DataFrame, width: int | None) -> str:
    file = io.StringIO()
    Console(file=file, width=width or 10_000).print(to_rich(frame, width))
    return file.getvalue()


def quality(final_mse: float) -> dict[str, float]:
    return {"final_mse": final_mse, "grey_mse": 400.0, "mean_color_mse": 200.0}


# Rows of today: they tell all axes, the plain variant's among them, and the training set's size.


def timed(
    variant: str,
    batch_size: int,
    rate: float,
    first_s: float = 0.0,
    cold_s: float | None = None,
    *,
    final_mse: float = 100.0,
    found: Mapping[str, Any] | None = None,
    **more: Any,
) -> Row:
    """A trial whose steps all take as long as its rate says, but for the first.

    Args:
        variant: Such as "bf16+compile"; what is not in it is plain.
        batch_size: Of the trial.
        rate: Images a second.
        first_s: What the first step takes beyond the others: warm compile seconds.
        cold_s: The same in a process with an empty cache, where there was one.
        final_mse: As evaluated.
        found: More of what compilation tells.
        more: Fields of the trial.
    """
    step_s = batch_size / rate
    steps = [[step_s / 4] * 4 for _ in range(6)]
    steps[0][1] += first_s
    compilation: dict[str, Any] = {}
    if axes_of(variant)["compile"] != "eager":
        cold = None if cold_s is None else [cold_s - 2 + step_s, 2 + step_s]
        compilation = {"cold_step_s": cold, "graph_breaks": [], "recompilations": []}
        compilation |= {"cache_hits": 2, "cache_misses": 0, "in_window": 0, "cudagraph_skips": 0}
        compilation |= found or {}
    result = measured(
        rate,
        batch_size,
        step_phase_s=steps,
        quality=quality(final_mse),
        compilation=compilation,
    )
    return of_today(variant, batch_size, result, **more)


def of_today(variant: str, batch_size: int, result: TrialResult, **more: Any) -> Row:
    asked = trial(variant, batch_size, **{**more, "axes": more.get("axes") or axes_of(variant)})
    told = {"axes": PLAIN, "train_size": TRAIN_SIZE}
    return replace(row(asked, result), workload=WORKLOAD | told)


# Views.

EAGER = timed("fp32", 4, 100, final_mse=80.0)
COMPILED = timed("fp32+compile", 4, 150, 3.2, 42, final_mse=84.0)
SLOWER = timed("fp32+max-autotune", 4, 90, 5.0, 300)


def view(name: str, *rows: Row, **run: float) -> Page:
    return views.page(cell_frame(rows), name, **run)


def page_lines(page: Page) -> list[dict[str, Any]]:
    return [
        {str(key): value for key, value in line.items()} for line in page.frame.to_dict("records")
    ]


def page_texts(page: Page) -> list[dict[str, str]]:
    """The printed table, line by line, by heading."""
    titles = [" ".join(title.split()) for title in page.columns]
    return [
        dict(zip(titles, line, strict=True)) for line in zip(*page.columns.values(), strict=True)
    ]


# Rounds.

NEAR = (1.0, 1.004, 0.997, 1.002, 0.998, 1.001, 0.999, 1.003, 0.996, 1.0)
"""Ten rounds of a calm machine, by what they are of their cell's rate."""


def in_rounds(
    variant: str, batch_size: int, rate: float, shape: Sequence[float] = NEAR, **more: Any
) -> list[Row]:
    """A cell in as many rounds as `shape` has, each so much faster or slower; see `timed`."""
    return [
        timed(variant, batch_size, rate * factor, round=number, **more)
        for number, factor in enumerate(shape)
    ]


def noise_description(
    spread: float, name: str = "eager", batch_size: int = 4, **asked: Any
) -> dict[str, Any]:
    """A noise floor as rows record it: equal processes that differ by so much, in turn."""
    like = trial("fp32", batch_size, **asked)
    cell = {
        "class": name,
        "settings": dict(like.settings),
        "batch_size": batch_size,
        "samples": like.samples,
        "warmup_steps": like.warmup_steps,
        "measured_steps": like.measured_steps,
        "label": like.label,
        "images_per_s": [100.0, 100.0 * (1 + spread)] * 10,
    }
    return {"measured_at": "2026-01-01T00:00:00+00:00", "cells": [cell]}


def in_environment(rows: Sequence[Row], **environment: Any) -> list[Row]:
    return [replace(row, environment={**row.environment, **environment}) for row in rows]


def at_minutes(rows: Sequence[Row], first: int, step: int = 1) -> list[Row]:
    """The same rows, begun minute by minute."""
    moments = [divmod(first + number * step, 60) for number in range(len(rows))]
    return [
        replace(
            row,
            result=replace(row.result, started_at=f"2026-01-01T{hours:02}:{minutes:02}:00+00:00"),
        )
        for row, (hours, minutes) in zip(rows, moments, strict=True)
    ]


SLOWED = [factor * (1 if number < 5 else 0.5) for number, factor in enumerate(NEAR)]
"""Ten rounds of a machine that became half as fast after five of them."""
