"""What of a sweep its device supports: words of preferences resolved, variants left out."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bench.errors import UserError
from bench.runner import Runner
from bench.spec import SweepSpec

Axes = Mapping[str, str]
Note = Callable[[str], None]


def unsupported(
    spec: SweepSpec, runner: Runner, device: str, variants: Iterable[Axes] | None = None
) -> dict[str, str]:
    """Why the device does not support variants of a sweep.

    Args:
        spec: The sweep.
        runner: Starts the process that asks the device.
        device: `cpu` or `cuda:N`.
        variants: The variants' axes; `None` for those of the sweep.

    Returns:
        The reasons by the variants' names; empty where all are supported.
    """
    asked: dict[str, Any] = {"workload": spec.entry, "task": spec.workload.task, "device": device}
    listed = spec.variants if variants is None else variants
    asked["variants"] = [spec.workload.variant_name(axes) for axes in listed]
    return dict(runner.ask("bench.worker:unsupported", asked)["reasons"])


def resolve(spec: SweepSpec, runner: Runner, device: str, note: Note) -> dict[str, str]:
    """What the words of the workload's preferences mean on a device.

    All of them, so that every row of a folder records the same.

    Args:
        spec: The sweep.
        runner: Starts the process that asks the device.
        device: `cpu` or `cuda:N`.
        note: Receives one line for each word that the sweep uses.

    Returns:
        Value by word, as `SweepSpec.resolved` takes it.
    """
    workload = spec.workload
    plain = {axis: values[0] for axis, values in workload.axes.items()}
    words = [
        (axis, word, candidates)
        for axis, known in workload.preferences.items()
        for word, candidates in known.items()
    ]
    if not words:
        return {}
    reasons = unsupported(
        spec,
        runner,
        device,
        [{**plain, axis: value} for axis, _, candidates in words for value in candidates],
    )
    meanings = {}
    for axis, word, candidates in words:
        refused = []
        for value in candidates:
            reason = reasons.get(workload.variant_name({**plain, axis: value}))
            if reason is None or value == candidates[-1]:
                break
            refused.append(reason)
        meanings[word] = value
        if (axis, word) in spec.preferences:
            why = f" ({'; '.join(refused)})" if refused else ""
            note(f"{axis} {word!r} is {value} on this device{why}.")
    return meanings


def supported(spec: SweepSpec, runner: Runner, device: str, note: Note) -> SweepSpec:
    """The sweep without the variants that the device does not support, if it asks for that.

    Raises:
        UserError: It supports none of them.
    """
    if spec.one("unsupported") != "skip":
        return spec
    reasons = unsupported(spec, runner, device)
    names = [spec.workload.variant_name(axes) for axes in spec.variants]
    for reason, count in Counter(reasons.values()).items():
        note(f"Variants left out: {count} of {len(names)}: {reason}.")
    variants = tuple(
        axes for name, axes in zip(names, spec.variants, strict=True) if name not in reasons
    )
    if not variants:
        reason = next(iter(reasons.values()))
        raise UserError(f"unsupported 'skip': {device} can do none of the variants: {reason}")
    return dataclasses.replace(spec, variants=variants)
