"""Compiles the kernels for GPUs that are not there; prints what became of them, as JSON.

A program of its own, as Triton cannot compile in a process in which it interprets:

    python -m tests.ahead
"""

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels import lab_to_rgb, rgb_to_lab

CAPABILITIES = (75, 120)
"""The first and the latest; those between are compiled alike."""

OTHERS = (80, 86, 89, 90, 100)
KINDS = ("fp32", "fp16", "bf16")
MEMORY = re.compile(r"((?:ld|st)\.global)(?:\.v(\d))?\.b(\d+)")
SPECIAL = re.compile(r"(ex2\.approx|lg2\.approx|cvt\.rn\.f16x2|cvt\.rn\.bf16x2|div\.|fma\.rn)")
RESOURCES = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)")
SIDE = 256
"""Of the frames; the strides that go with it are multiples of 16, which Triton is told."""


def source(function: Any, types: Mapping[str, str], constants: Mapping[str, Any]) -> ASTSource:
    """As a launch would have it specialized: addresses and integers are multiples of 16."""
    names = function.arg_names
    aligned = {
        (names.index(name),): [["tt.divisibility", 16]]
        for name, kind in types.items()
        if kind.startswith(("*", "i"))
    }
    signature = {name: types.get(name, "constexpr") for name in names}
    places = {(names.index(name),): value for name, value in constants.items()}
    return ASTSource(function, signature, places, aligned)


def to_lab(kind: str, layout: str, *, channels_last: bool, windowed: bool) -> ASTSource:
    types = {"data": "*u8", "windows": "*i32", "linear": "*fp32"}
    types |= {"lightness": f"*{kind}", "ab": f"*{kind}"}
    types |= dict.fromkeys(("begin", "end", "stride_n", "stride_c", "stride_h", "stride_w"), "i32")
    types |= dict.fromkeys(("l_factor", "l_term", "a_factor", "b_factor"), "fp32")
    constants = {
        "HEIGHT": SIDE,
        "WIDTH": SIDE,
        "BYTES": layout,
        "ALIGNED": not windowed,
        "WINDOWED": windowed,
        "CHANNELS_LAST": channels_last,
        "APPROXIMATE": True,
        "GROUPS": rgb_to_lab.GROUPS,
    }
    # What a launch finds to be 1 or None is a constant, too.
    constants |= {"stride_c" if layout == "NHWC" else "stride_w": 1}
    constants |= {} if windowed else {"windows": None}
    return source(
        rgb_to_lab._rgb_to_lab,
        {name: kind for name, kind in types.items() if name not in constants},
        constants,
    )


def to_rgb(kind: str, layout: str) -> ASTSource:
    types = {"lightness": f"*{kind}", "ab": f"*{kind}", "rgb": "*u8"}
    strides = ("l_stride_n", "l_stride_h", "ab_stride_n", "ab_stride_c", "ab_stride_h")
    types |= dict.fromkeys(strides, "i32")
    types |= dict.fromkeys(("l_factor", "l_term", "a_factor", "b_factor"), "fp32")
    constants: dict[str, Any] = {"l_stride_w": 1, "ab_stride_w": 1}
    constants |= {
        "HEIGHT": SIDE,
        "WIDTH": SIDE,
        "LAYOUT": layout,
        "APPROXIMATE": True,
        "GROUPS": rgb_to_lab.GROUPS,
    }
    return source(lab_to_rgb._lab_to_rgb, types, constants)


def examined(given: ASTSource, capability: int) -> dict[str, Any]:
    """What a kernel became: registers, bytes spilled, and how often each instruction is there.

    Those of memory with their width in bits, as `ld.global 32`; of PTX, where one is for a thread.
    """
    options = {"num_warps": 4, "enable_fp_fusion": True}
    made = triton.compile(given, target=GPUTarget("cuda", capability, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(made.asm["cubin"])
        cubin.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", cubin.name]
        listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    ((registers, stack, local),) = RESOURCES.findall(listed)
    counts: Counter[str] = Counter()
    for name, vector, bits in MEMORY.findall(made.asm["ptx"]):
        counts[f"{name} {int(vector or 1) * int(bits)}"] += 1
    counts.update(SPECIAL.findall(made.asm["ptx"]))
    return {
        "registers": int(registers),
        "spilled_bytes": int(stack) + int(local),
        "instructions": dict(counts),
        "pixels_a_thread": rgb_to_lab.GROUPS * 4 // (32 * options["num_warps"]),
    }


def kinds() -> Iterator[tuple[str, ASTSource]]:
    """Every dtype and layout of both kernels, by name; windows once for each layout and format."""
    for kind in KINDS:
        for layout in ("NHWC", "NCHW"):
            yield f"to_rgb {kind} {layout}", to_rgb(kind, layout)
            for channels_last, windowed in (
                (False, False),
                (True, False),
                (False, True),
                (True, True),
            ):
                if windowed and kind != "fp16":
                    continue
                words = [kind, layout, *["channels_last"] * channels_last, *["windows"] * windowed]
                given = to_lab(kind, layout, channels_last=channels_last, windowed=windowed)
                yield " ".join(["to_lab", *words]), given


def main() -> None:
    """See the module; the capabilities may be given as arguments."""
    for capability in map(int, sys.argv[1:] or (*CAPABILITIES, *OTHERS)):
        for name, given in kinds():
            found = {"kernel": name, "capability": capability, **examined(given, capability)}
            sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
