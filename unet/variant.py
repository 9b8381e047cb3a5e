"""The variants of the workload by name. Never imports torch: the parent process reads this too.

A variant is one choice on every axis. An axis is one string enum and one field of `Variant`, and
everything here is derived from those fields, whose defaults are written nowhere else. The values of
all axes are distinct words, so that a part of a name says by itself which axis it belongs to.
"""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, Self, get_type_hints


class Precision(StrEnum):
    """What the network computes in; weights and optimizer state are fp32 in each of them.

    TF32 rounds the factors of convolutions and matrix products to 10 bits of mantissa on their way
    into the tensor cores; all that is stored stays fp32.
    """

    FP32 = "fp32"
    TF32 = "tf32"
    FP16 = "fp16"
    BF16 = "bf16"


class MemoryFormat(StrEnum):
    """Order of the strides of images and convolution weights."""

    CONTIGUOUS = "contiguous"
    CHANNELS_LAST = "channels_last"


class Compile(StrEnum):
    """Whether torch.compile makes the training step's network, and in which of its modes."""

    EAGER = "eager"
    DEFAULT = "compile"
    REDUCE_OVERHEAD = "reduce-overhead"  # CUDA graphs
    MAX_AUTOTUNE = "max-autotune"  # tries several kernels for each operation


class Checkpointing(StrEnum):
    """What is forgotten once it is used, and computed again for the backward pass."""

    NONE = "none"
    BLOCKS = "blocks"  # every block
    HIGH_RES = "high-res"  # those of the upper half of the levels, which hold most of the memory
    LEAN = "lean"  # all but the convolutions: what is dear is kept, what is cheap made again


class ActivationBudget(StrEnum):
    """How much torch.compile may keep for the backward pass, in percent of what it would by itself.

    It chooses what is computed again in its stead, the cheapest first. What is kept shrinks with
    each step down the list; peak memory need not, as what is computed again takes memory too.
    """

    KEEP_ALL = "keep-all"
    KEEP_50 = "keep-50"
    KEEP_20 = "keep-20"
    KEEP_0 = "keep-0"  # the network's input and weights only


class Optimizer(StrEnum):
    """How Adam's arithmetic is carried out: a few kernels over all weights, or a single one."""

    FOREACH = "foreach"
    FUSED = "fused"


class CudnnBenchmark(StrEnum):
    """How cuDNN chooses a convolution's algorithm: by its heuristics, or by trying them."""

    OFF = "cudnn-heuristics"
    ON = "cudnn-benchmark"


class Color(StrEnum):
    """Where RGB frames become Lab."""

    TORCH = "torch-lab"  # a chain of torch's operators, a batch at a time on the device
    LOADER = "loader-lab"  # the same, a frame at a time by worker processes on the host
    FUSED = "fused-lab"  # one kernel, a batch at a time on the device


PREFERENCES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    # bf16 is as fast as fp16 wherever a device has both, and needs no loss scaling.
    "precision": {"reduced": (Precision.BF16, Precision.FP16, Precision.FP32)}
}
"""Axis -> word -> the values it may stand for. It means the first one that the device supports."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """One choice on every axis; the defaults are the plain network."""

    precision: Precision = Precision.FP32
    memory_format: MemoryFormat = MemoryFormat.CONTIGUOUS
    optimizer: Optimizer = Optimizer.FOREACH
    compile: Compile = Compile.EAGER
    checkpointing: Checkpointing = Checkpointing.NONE
    activation_budget: ActivationBudget = ActivationBudget.KEEP_ALL
    cudnn_benchmark: CudnnBenchmark = CudnnBenchmark.OFF
    color: Color = Color.TORCH

    @property
    def name(self) -> str:
        """The choices joined by "+": the precision, then each other that is not its default."""
        first, *others = dataclasses.fields(self)
        parts = [getattr(self, first.name)]
        parts += [
            value for axis in others if (value := getattr(self, axis.name)) is not axis.default
        ]
        return "+".join(parts)

    @classmethod
    def parse(cls, name: str) -> Self:
        """Reads a name; the inverse of `name`.

        Args:
            name: Parts joined by "+", in any order, with or without spaces around. What is not
                named is the default, and a default may be named.

        Raises:
            ValueError: If a part is empty, unknown, or the second of its axis.
        """
        return cls.from_axes(parse_axes(name))

    @classmethod
    def from_axes(cls, axes: Mapping[str, str]) -> Self:
        """Gives meaning to plain named values; the inverse of `axes`.

        Args:
            axes: Value by axis, such as {"precision": "bf16"}. A missing axis is its default.

        Raises:
            ValueError: If an axis or a value is unknown.
        """
        known = _axes(cls)
        for axis, value in axes.items():
            if axis not in known:
                raise ValueError(f"variant has {_unknown('axis', axis, known)}")
            if value not in known[axis]:
                raise ValueError(f"{axis} has {_unknown('value', value, known[axis])}")
        return cls(**{axis: known[axis][value] for axis, value in axes.items()})

    @classmethod
    def choices(cls) -> dict[str, tuple[str, ...]]:
        """Every axis with its values, the default first."""
        return {axis: tuple(values) for axis, values in _axes(cls).items()}

    def axes(self) -> dict[str, str]:
        """Every axis with its plain value, defaults included, in the order of the fields."""
        return {axis.name: getattr(self, axis.name).value for axis in dataclasses.fields(self)}


def parse_axes(name: str) -> dict[str, str]:
    """Reads a name in which a word of `PREFERENCES` may stand for a value.

    Args:
        name: As for `Variant.parse`.

    Returns:
        Every axis with its plain value or word, in the order of the fields.

    Raises:
        ValueError: If a part is empty, unknown, or the second of its axis.
    """
    axis_of = {value: axis for axis, values in _axes(Variant).items() for value in values}
    axis_of |= {word: axis for axis, words in PREFERENCES.items() for word in words}
    chosen: dict[str, str] = {}
    for part in map(str.strip, name.split("+")):
        if part not in axis_of:
            raise ValueError(f"variant {name!r} has {_unknown('part', part, axis_of)}")
        axis = axis_of[part]
        if axis in chosen:
            raise ValueError(
                f"variant {name!r} must choose {axis} once, got {chosen[axis]!r} and {part!r}"
            )
        chosen[axis] = part
    return Variant().axes() | chosen


def _axes(cls: type[Variant]) -> dict[str, dict[str, Any]]:
    """Value to enum member for each axis, from the annotations of the fields."""
    return {
        axis: {member.value: member for member in kind}
        for axis, kind in get_type_hints(cls).items()
    }


def _unknown(kind: str, word: str, valid: Iterable[str]) -> str:
    choices = list(valid)
    (nearest,) = difflib.get_close_matches(word.lower(), choices, n=1, cutoff=0.0)
    return (
        f"unknown {kind} {word!r}: did you mean {nearest!r}? expected one of {', '.join(choices)}"
    )
