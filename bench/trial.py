"""What is asked of one training run (`Trial`) and what was found (`TrialResult`)."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from functools import cached_property
from typing import Any

from bench.errors import UserError

Scalar = int | float | str

PHASES = ("data", "forward", "backward", "optimizer")
"""The parts of a training step, in order; a step's time is their sum."""


def rate_text(images_per_s: float) -> str:
    """Images/s as people read them: two digits at least."""
    return f"{images_per_s:.{1 if round(images_per_s, 2) >= 10 else 2}f}"


class Status(StrEnum):
    """How a trial ended. Every trial ends in exactly one of these."""

    OK = "ok"
    OOM = "oom"
    IMPLIED_OOM = "implied_oom"  # not run: a smaller batch of the same variant ran out of memory
    UNSUPPORTED = "unsupported"  # the device cannot do it; the reason is in words
    DIVERGED = "diverged"  # a loss or the final error is not finite
    CRASH = "crash"
    TIMEOUT = "timeout"
    INTERRUPTED = "interrupted"  # by the user; runs again on resume


@dataclass(frozen=True)
class Trial:
    """One training run, asked for completely: equal trials are the same experiment.

    Attributes:
        workload: Where the workload is found, as `module:attribute`.
        variant: The workload's name for `axes`; derived, so not part of the key.
        axes: The variant as plain named values, for instance `{"precision": "bf16"}`.
        settings: The workload's other settings, for instance `{"image_size": 64}`.
        batch_size: Samples per training step; never changed silently.
        seed: Seeds weights and sample order.
        round: Repetition number, from 0; a repetition is a new process with the same seed.
        samples: Training samples in all, equal for all trials that are compared.
        warmup_steps: At least so many steps after the first one are timed but not reported. If two
            or more are asked for, `bench.stats.SETTLED_STEPS` are the least, and it takes more
            until the last so many have settled, or only `measured_steps` whole batches are left.
        measured_steps: At least so many steps make the measured window.
        device: `cpu`, `cuda` or `cuda:N`.
        budget_bytes: Memory the trial's process may use.
    """

    workload: str
    variant: str
    axes: Mapping[str, str]
    settings: Mapping[str, Scalar]
    batch_size: int
    seed: int
    round: int
    samples: int
    warmup_steps: int
    measured_steps: int
    device: str
    budget_bytes: int

    @cached_property
    def key(self) -> str:
        """A stable hash of everything asked for: 16 hexadecimal digits."""
        asked = {name: value for name, value in self.to_json().items() if name != "variant"}
        text = json.dumps(asked, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def cell(self) -> "Trial":
        """The first round of the same cell, by which all its rounds may be found."""
        return replace(self, round=0)

    @property
    def label(self) -> str:
        """What a person calls it, for instance `bf16 b16`."""
        parts = [self.variant, f"b{self.batch_size}"]
        if self.seed:
            parts.append(f"seed {self.seed}")
        if self.round:
            parts.append(f"round {self.round}")
        return " ".join(parts)

    @property
    def steps(self) -> int:
        """Training steps in all; the last one may be smaller than the batch size."""
        return -(-self.samples // self.batch_size)

    def to_json(self) -> dict[str, Any]:
        """The trial as JSON types, as a journal line holds it."""
        told = {one.name: getattr(self, one.name) for one in fields(self)}
        return told | {"axes": dict(self.axes), "settings": dict(self.settings)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Trial":
        """The inverse of `to_json`.

        Raises:
            UserError: A field is missing or unknown.
        """
        names = {f.name for f in fields(cls)}
        if wrong := names.symmetric_difference(data):
            raise UserError(f"a trial has exactly the fields {sorted(names)}; odd: {sorted(wrong)}")
        return cls(**data)


@dataclass
class TrialResult:
    """What one trial found, raw: statistics happen when a report is made.

    Times are seconds; `*_at_s` are readings of the machine's monotonic clock, which parent and
    child share. Fields stay `None` or empty when the trial ended before they were measured.

    Attributes:
        status: How it ended.
        reason: One line in words; `None` for `ok`.
        detail: Traceback or the end of the process's error output.
        implied_by: Key of the trial that makes this one `implied_oom`.
        started_at: Start in UTC, ISO 8601.
        start_s: From the request to the first line of the trial's own code.
        duration_s: From the request to the end of the process, by the parent's clock.
        phase: The phase of the run in which it ended.
        phase_at_s: When each phase began, by the child's clock; the measured window lasts from
            `measuring` to `training`, with the device idle at both moments.
        parent_phase_at_s: The same moments as the parent saw them arrive.
        step_phase_s: For every training step, the seconds of each of `PHASES`.
        step_samples: Samples in each step.
        window: The measured steps, as the half-open range `[first, last)`.
        settled: Whether step times had settled when the window began; `None` where that cannot be
            told from less than two steps of warm-up.
        losses: Training loss of every step; a value that is not finite is `None`.
        memory: Peaks and limits, in bytes.
        quality: What the workload's evaluation found.
        facts: What the workload recorded of itself (flags in force, scaling, sizes).
        monitor: Samples the parent took while the trial ran.
        previews: What the trained workload makes of a few samples: caption -> name of a PNG file in
            `previews/` beside the journal; of the first round only.
        compilation: Of a compiled variant: `cold_step_s` (times of the steps before the window in a
            process of their own that found an empty cache; `None` where the cache was warm from an
            earlier round), `graphs`, `cache_hits`, `cache_misses`, `graph_breaks` and
            `recompilations` (their reasons, one each), `cudagraph_skips`, `cudagraph_inputs`, and
            `in_window` (see `bench.compilation.Compilation.events_since`: what of all that fell
            into the measured window).
    """

    status: Status
    reason: str | None = None
    detail: str | None = None
    implied_by: str | None = None
    started_at: str | None = None
    start_s: float | None = None
    duration_s: float | None = None
    phase: str | None = None
    phase_at_s: dict[str, float] = field(default_factory=dict)
    parent_phase_at_s: dict[str, float] = field(default_factory=dict)
    step_phase_s: list[list[float]] = field(default_factory=list)
    step_samples: list[int] = field(default_factory=list)
    window: list[int] = field(default_factory=list)
    settled: bool | None = None
    losses: list[float | None] = field(default_factory=list)
    memory: dict[str, int | str | None] = field(default_factory=dict)
    quality: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    monitor: list[dict[str, float | str | None]] = field(default_factory=list)
    previews: dict[str, str] = field(default_factory=dict)
    compilation: dict[str, Any] = field(default_factory=dict)

    @property
    def images_per_s(self) -> float:
        """Images of the measured window by its wall time; of a trial that ended well."""
        window_s = self.phase_at_s["training"] - self.phase_at_s["measuring"]
        return sum(self.step_samples[slice(*self.window)]) / window_s
