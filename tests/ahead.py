"""Compiles the kernels for GPUs that are not there; prints what became of them, as JSON.

A program of its own, as Triton cannot compile in a process in which it interprets:

    python -m tests.ahead
"""

import json
import re
import sys
from collections.abc import Mapping
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels import lab_to_rgb, rgb_to_lab

CAPABILITIES = (75, 80, 86, 89, 90, 100, 120)
KINDS = ("fp32", "fp16", "bf16")
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
    constants = {"l_stride_w": 1, "ab_stride_w": 1}
    constants |= {"HEIGHT": SIDE, "WIDTH": SIDE, "LAYOUT": layout, "APPROXIMATE": True, "GROUPS": rgb_to_lab.GROUPS}
    return source(lab_to_rgb._lab_to_rgb, types, constants)


if __name__ == "__main__":
    import time
    t=time.time()
    for cap in (80,):
        for w in (False, True):
          for cl in (False,True):
            for layout in ("NHWC","NCHW","apart"):
                c = triton.compile(to_lab("fp16", layout, channels_last=cl, windowed=w), target=GPUTarget("cuda", cap, 32), options={"num_warps":4,"enable_fp_fusion":True})
                ptx=c.asm["ptx"]; 
                sass=c.asm["sass"]
                from collections import Counter
                ops=Counter(re.findall(r"^\s*(?:@!?%p\d+ )?((?:ld|st)\.global[\w.:]*|ex2[\w.]*|lg2[\w.]*|cvt[\w.]*|fma[\w.]*|mul[\w.]*)",ptx,re.M))
                print(cap,layout,cl,w, time.time()-t, dict(ops))
                print("   regs", max(map(int,re.findall(r"\bR(\d+)\b",sass)))+1, "spill", len(re.findall(r"\b(STL|LDL)\b",sass)), "instr", len(re.findall(r"/\*[0-9a-f]{4,}\*/",sass)))
    for layout in ("NHWC","NCHW"):
        c = triton.compile(to_rgb("fp16", layout), target=GPUTarget("cuda", 80, 32), options={"num_warps":4})
        ptx=c.asm["ptx"]; sass=c.asm["sass"]
        ops=Counter(re.findall(r"^\s*(?:@!?%p\d+ )?((?:ld|st)\.global[\w.:]*|ex2[\w.]*|lg2[\w.]*|cvt[\w.]*|fma[\w.]*|mul[\w.]*)",ptx,re.M))
        print("back", layout, time.time()-t, dict(ops)); print("   regs", max(map(int,re.findall(r"\bR(\d+)\b",sass)))+1, "spill", len(re.findall(r"\b(STL|LDL)\b",sass)))
