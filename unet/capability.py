"""Which precisions a device computes in."""

import os
from typing import Final

import torch

from unet.variant import Precision

# What computes in each format, as `torch.cpu.get_capabilities` names it, on x86 and ARM; elsewhere
# torch widens the numbers, computes in fp32 and rounds what it stores.
_CPU_ARITHMETIC: Final = {
    # Not avx512_fp16: torch has a forward convolution for it; with the backward one a step takes
    # 100 times fp32's (305 ms against 3; 16 channels at 64x64, batch 4, 2 cores, torch 2.14.1).
    Precision.FP16: ("amx_fp16", "fp16_arith"),
    Precision.BF16: ("avx512_bf16", "amx_bf16", "bf16"),
}
# Levels of ONEDNN_MAX_CPU_ISA that leave out each of these instructions: those below the level
# that brings them, by oneDNN's enum `dnnl_cpu_isa_t`.
_BELOW_BF16: Final = frozenset(
    ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")
)
_BELOW_AMX: Final = _BELOW_BF16.union(
    ("AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX10_1_512", "AVX10_2_512")
)
_LEFT_OUT_BY: Final = {
    "avx512_bf16": _BELOW_BF16,
    "amx_bf16": _BELOW_AMX,
    "amx_fp16": _BELOW_AMX.union(("AVX512_CORE_AMX", "AVX10_1_512_AMX")),
}
_AMPERE: Final = (8, 0)


def lacking(precision: Precision, device: torch.device) -> str | None:
    """Says in words why a device does not compute in a precision; None if it does.

    A number format that a device only emulates is lacking: its gradients are right, but take an
    order of magnitude longer than fp32's (fp16 12 times on a CPU without fp16 arithmetic).

    Args:
        precision: Which.
        device: A CPU, or a CUDA device that is there.
    """
    if precision is Precision.FP32:
        return None
    if device.type == "cpu":
        return _lacking_on_cpu(precision)
    return _lacking_on_cuda(precision, device)


def _lacking_on_cpu(precision: Precision) -> str | None:
    if precision is Precision.TF32:
        return "TF32 is a number format of NVIDIA's tensor cores, which a CPU has not"
    capabilities = torch.cpu.get_capabilities()
    wanted = [name for name in _CPU_ARITHMETIC[precision] if name in capabilities]
    able = [name for name in wanted if capabilities[name]]
    if not able:
        return (
            f"this CPU has no {precision} arithmetic ({', '.join(wanted)}); emulated, it is slower "
            "than fp32"
        )
    variable, level = _isa_limit()
    if all(level in _LEFT_OUT_BY.get(name, ()) for name in able):
        return (
            f"{variable}={level} leaves out this CPU's {precision} arithmetic ({', '.join(able)}); "
            "emulated, it is slower than fp32"
        )
    return None


def _isa_limit() -> tuple[str, str]:
    """The variable that limits the instructions oneDNN uses, and its level; ("", "") without one.

    With such a limit torch's convolutions do not use what the CPU has beyond it. oneDNN ignores a
    level it does not know, and reads the older name only where the newer one is not set.
    """
    for variable in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        if level := os.environ.get(variable):
            return variable, level.upper()
    return "", ""


def _lacking_on_cuda(precision: Precision, device: torch.device) -> str | None:
    card = torch.cuda.get_device_properties(device)
    if precision is Precision.TF32 and (card.major, card.minor) < _AMPERE:
        return f"{card.name} has no TF32, which came with compute capability 8.0"
    if precision is Precision.BF16:
        with torch.cuda.device(device):
            if not torch.cuda.is_bf16_supported(including_emulation=False):
                return f"{card.name} has no bf16 arithmetic, and would emulate it"
    return None
