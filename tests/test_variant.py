import itertools
import random
import subprocess
import sys
from typing import get_type_hints

import pytest

from unet.variant import Compile, MemoryFormat, Precision, Variant

AXES = {axis: list(kind) for axis, kind in get_type_hints(Variant).items()}
ALL = [
    Variant(**dict(zip(AXES, choice, strict=True))) for choice in itertools.product(*AXES.values())
]


def test_known_names() -> None:
    assert Variant().name == "fp32"
    assert Variant(Precision.BF16, MemoryFormat.CHANNELS_LAST).name == "bf16+channels_last"
    assert Variant(memory_format=MemoryFormat.CHANNELS_LAST).name == "fp32+channels_last"
    everything = "tf32+channels_last+fused+max-autotune+lean+keep-0+cudnn-benchmark+fused-lab"
    assert Variant(*(kinds[-1] for kinds in AXES.values())).name == everything.replace(
        "tf32", "bf16"
    )
    assert Variant.parse(everything).name == everything


def test_a_common_name_is_the_canonical_one() -> None:
    name = "bf16+channels_last+compile"
    expected = Variant(Precision.BF16, MemoryFormat.CHANNELS_LAST, compile=Compile.DEFAULT)
    assert Variant.parse(name) == expected
    assert expected.name == name


def test_every_axis_has_a_default_that_is_its_first_value() -> None:
    assert Variant.choices() == {
        axis: tuple(member.value for member in kind) for axis, kind in AXES.items()
    }
    assert {axis: values[0] for axis, values in Variant.choices().items()} == Variant().axes()


def test_name_and_parse_and_axes_are_inverse_for_every_variant() -> None:
    shuffler = random.Random(0)
    for variant in ALL:
        assert Variant.parse(variant.name) == variant
        assert Variant.from_axes(variant.axes()) == variant
        # In any order, and with the defaults spelled out, it is the same variant.
        parts = list(variant.axes().values())
        shuffler.shuffle(parts)
        assert Variant.parse("+".join(parts)) == variant
        assert Variant.parse(" + ".join(variant.name.split("+"))) == variant


def test_names_are_distinct() -> None:
    assert len({variant.name for variant in ALL}) == len(ALL) == 4 * 2 * 2 * 4 * 4 * 4 * 2 * 3


@pytest.mark.parametrize("name", ["bf16 + fused", " fused+bf16 ", "\tbf16\t+fused\n"])
def test_spaces_around_parts_do_not_count(name: str) -> None:
    assert Variant.parse(name).name == "bf16+fused"


def test_values_are_distinct_across_axes() -> None:
    values = [member.value for members in AXES.values() for member in members]
    assert len(set(values)) == len(values)


def test_axes_are_plain_strings() -> None:
    axes = Variant.parse("bf16+channels_last").axes()
    assert axes == {
        "precision": "bf16",
        "memory_format": "channels_last",
        "optimizer": "foreach",
        "compile": "eager",
        "checkpointing": "none",
        "activation_budget": "keep-all",
        "cudnn_benchmark": "cudnn-heuristics",
        "color": "torch-lab",
    }
    assert {type(value) for value in axes.values()} == {str}


def test_a_missing_axis_is_its_default() -> None:
    assert Variant.from_axes({}) == Variant()
    assert Variant.parse("channels_last") == Variant(memory_format=MemoryFormat.CHANNELS_LAST)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bf61", "variant 'bf61' has unknown part 'bf61': did you mean 'bf16'?"),
        ("BF16", "unknown part 'BF16': did you mean 'bf16'?"),
        ("fp32+chanels-last", "unknown part 'chanels-last': did you mean 'channels_last'?"),
        ("", "variant '' has unknown part ''"),
        ("fp32+", "variant 'fp32+' has unknown part ''"),
        ("fp32 + chanels", "variant 'fp32 + chanels' has unknown part 'chanels': did you mean"),
        ("fp32 channels_last", "unknown part 'fp32 channels_last'"),
        ("fp32+ +fused", "variant 'fp32+ +fused' has unknown part ''"),
        ("compile+max-autotune", "must choose compile once, got 'compile' and 'max-autotune'"),
        ("fp32+eager+compile", "must choose compile once, got 'eager' and 'compile'"),
        ("reduce_overhead", "unknown part 'reduce_overhead': did you mean 'reduce-overhead'?"),
        ("bf16+fp16", "variant 'bf16+fp16' must choose precision once, got 'bf16' and 'fp16'"),
        ("bf16+bf16", "must choose precision once, got 'bf16' and 'bf16'"),
    ],
)
def test_parse_refuses_in_one_line(name: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is checked below
        Variant.parse(name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"precison": "bf16"}, "variant has unknown axis 'precison': did you mean 'precision'?"),
        ({"precision": "tf23"}, "precision has unknown value 'tf23': did you mean 'tf32'?"),
        ({"precision": "channels_last"}, "precision has unknown value 'channels_last'"),
        ({"precision": "int4"}, "'? expected one of fp32, tf32, fp16, bf16"),
    ],
)
def test_from_axes_refuses(axes: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is checked below
        Variant.from_axes(axes)
    assert message in str(caught.value)


def test_importing_it_never_imports_torch() -> None:
    code = "import sys, unet.variant; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
