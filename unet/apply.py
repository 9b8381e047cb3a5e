"""How a variant is put around a model: everything from outside, in one fixed order.

Process flags first (`set_flags`), then `apply_variant` on the model, then `make_optimizer`, then in
each step `to_input` on the batch, `autocast` around the forward pass and `grad_scaler` around the
backward.
"""

import os
import shutil
import sysconfig
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Final

import torch
import torch._functorch.config
from torch import Tensor, nn

from unet.capability import lacking
from unet.checkpointing import checkpoint_blocks
from unet.model import UNet
from unet.variant import (
    ActivationBudget,
    Color,
    Compile,
    CudnnBenchmark,
    MemoryFormat,
    Optimizer,
    Precision,
    Variant,
)

Network = Callable[[Tensor], Tensor]
"""From (N, in_channels, H, W) to (N, out_channels, H, W)."""

_MEMORY_FORMAT: Final = {
    MemoryFormat.CONTIGUOUS: torch.contiguous_format,
    MemoryFormat.CHANNELS_LAST: torch.channels_last,
}
_AUTOCAST_DTYPE: Final = {Precision.FP16: torch.float16, Precision.BF16: torch.bfloat16}
_COMPILE_MODE: Final = {
    Compile.DEFAULT: "default",
    Compile.REDUCE_OVERHEAD: "reduce-overhead",
    Compile.MAX_AUTOTUNE: "max-autotune",
}
_KEPT: Final = {
    ActivationBudget.KEEP_ALL: 1.0,
    ActivationBudget.KEEP_50: 0.5,
    ActivationBudget.KEEP_20: 0.2,
    ActivationBudget.KEEP_0: 0.0,
}
_VOLTA: Final = (7, 0)


def set_flags(variant: Variant) -> dict[str, str | bool | float]:
    """Sets every flag of torch that decides about precision or choice of algorithm.

    Call it once, in the trial's own process, and in the thread that runs the network: torch keeps
    what its compiler is told for each thread.

    Args:
        variant: What is left in fp32 is IEEE fp32 in every variant but `tf32`: TF32 under the label
            fp32 would be a lie.

    Returns:
        Each flag as read back from torch, by its name without the leading "torch.".
    """
    tf32 = variant.precision is Precision.TF32
    gpu = "tf32" if tf32 else "ieee"
    # The older way of saying it comes first: torch keeps both, and refuses to read the older one
    # (as its compiler does) where the newer one says something else.
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    wanted: dict[str, str | bool | float] = {
        # From the general to the particular: a general one also stands for what is not set below.
        "backends.fp32_precision": "ieee",
        "backends.cudnn.fp32_precision": gpu,
        "backends.cudnn.conv.fp32_precision": gpu,
        "backends.cudnn.rnn.fp32_precision": gpu,
        "backends.cuda.matmul.fp32_precision": gpu,
        "backends.mkldnn.fp32_precision": "ieee",
        "backends.mkldnn.matmul.fp32_precision": "ieee",
        "backends.mkldnn.conv.fp32_precision": "ieee",
        "backends.mkldnn.rnn.fp32_precision": "ieee",
        # Products of half-precision numbers are summed in fp32, as cuDNN's and oneDNN's
        # convolutions do: a variant then rounds what it stores, and nothing else, on any device.
        "backends.cuda.matmul.allow_fp16_reduced_precision_reduction": False,
        "backends.cuda.matmul.allow_bf16_reduced_precision_reduction": False,
        "backends.cuda.matmul.allow_fp16_accumulation": False,
        # The search can take workspace far beyond the budget in the first step, and may settle on
        # another algorithm in each process.
        "backends.cudnn.benchmark": variant.cudnn_benchmark is CudnnBenchmark.ON,
        "backends.cudnn.deterministic": False,
        # Read when the network is compiled, which is in its first step.
        "_functorch.config.activation_memory_budget": _KEPT[variant.activation_budget],
    }
    for name, value in wanted.items():
        owner, _, flag = name.rpartition(".")
        setattr(attrgetter(owner)(torch), flag, value)
    return {name: attrgetter(name)(torch) for name in wanted}


def unsupported(variant: Variant, device: torch.device) -> str | None:
    """Says in words why a device cannot do a variant; None if it can.

    A number format that a device only emulates is not supported; see `unet.capability`.
    """
    if variant.compile is Compile.EAGER:
        if variant.activation_budget is not ActivationBudget.KEEP_ALL:
            return f"{variant.activation_budget} acts on what torch.compile makes, not on eager"
    else:
        for switch in ("TORCH_COMPILE_DISABLE", "TORCHDYNAMO_DISABLE"):
            if os.environ.get(switch, "0") != "0":
                return f"torch.compile is switched off by {switch}={os.environ[switch]}"
    if device.type == "cpu":
        return _unsupported_on_cpu(variant, device)
    if device.type != "cuda":
        return f"device type {device.type!r} is neither cpu nor cuda"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    return _unsupported_on_cuda(variant, device)


def _unsupported_on_cpu(variant: Variant, device: torch.device) -> str | None:
    if reason := lacking(variant.precision, device):
        return reason
    if variant.cudnn_benchmark is CudnnBenchmark.ON:
        return "cuDNN works on NVIDIA GPUs only"
    if variant.compile is Compile.REDUCE_OVERHEAD:
        return "reduce-overhead runs the network as CUDA graphs, which a CPU has not"
    compiler = os.environ.get("CXX") or "g++"
    if shutil.which(compiler) is None:
        lack = f"needs a C++ compiler on a CPU, and there is no {compiler!r} (CXX): install g++"
        if variant.compile is not Compile.EAGER:
            return f"torch.compile {lack}"
        if variant.color is Color.FUSED:
            return f"{variant.color} {lack}"
    if variant.compile is not Compile.EAGER and (missing := _lacks_python_header()):
        return f"torch.compile {missing}"
    return None


def _lacks_python_header() -> str | None:
    """What is missing to compile an extension of Python, as Inductor and Triton do."""
    scheme = sysconfig.get_default_scheme()
    if scheme == "posix_local":  # Debian's, of which Triton takes the files of the system
        scheme = "posix_prefix"
    header = Path(sysconfig.get_paths(scheme)["include"]) / "Python.h"
    if header.exists():
        return None
    return f"needs Python's headers, and there is no {header}: install python3-dev"


def _lacks_for_triton() -> str | None:
    """What is missing to launch Triton's kernels, for which it compiles a file of C."""
    own = os.environ.get("CC")  # taken as it is
    names = [own] if own else ["gcc", "clang"]
    if not any(map(shutil.which, names)):
        return f"needs a C compiler for Triton, and there is no {' or '.join(names)}: install gcc"
    return _lacks_python_header()


def _unsupported_on_cuda(variant: Variant, device: torch.device) -> str | None:
    if reason := lacking(variant.precision, device):
        return reason
    card = torch.cuda.get_device_properties(device)
    by_triton = (
        "torch.compile" if variant.compile is not Compile.EAGER else None,
        str(variant.color) if variant.color is Color.FUSED else None,
    )
    for what in filter(None, by_triton):
        if (card.major, card.minor) < _VOLTA:
            return f"{card.name} is too old for Triton, which needs compute capability 7.0"
        if lack := _lacks_for_triton():
            return f"{what} {lack}"
    return None


def caveats(variant: Variant, device: torch.device) -> list[str]:
    """What a variant does not do on a device that can do the rest of it, in sentences."""
    if device.type != "cuda" or variant.compile is not Compile.MAX_AUTOTUNE:
        return []
    from torch._inductor.utils import is_big_gpu  # takes a second that few trials need

    if is_big_gpu(device):
        return []
    card = torch.cuda.get_device_properties(device)
    return [
        f"on {card.name}, with {card.multi_processor_count} multiprocessors, max-autotune GEMM is "
        "off: Inductor tunes the other kernels and uses CUDA graphs, and leaves matrix products "
        "and convolutions to cuBLAS and cuDNN."
    ]


def apply_variant(model: UNet, variant: Variant, device: torch.device) -> Network:
    """Moves a model to a device, into the variant's memory format, and makes it checkpoint.

    Build the optimizer afterwards: its state takes the strides of the weights.

    Args:
        model: A U-Net, fp32. Its weights stay fp32: autocast casts them at each use.
        variant: What to apply.
        device: Where to.

    Returns:
        What to train with: the model itself, or its compiled form, which has the same weights. The
        compiled form is for batches of one shape, and never falls back to eager execution: what it
        cannot compile is an error. The model itself, changed in place, stays eager.
    """
    model.to(device).to(memory_format=_MEMORY_FORMAT[variant.memory_format])
    checkpoint_blocks(model, variant.checkpointing)
    if variant.compile is Compile.EAGER:
        return model
    mode = _COMPILE_MODE[variant.compile]
    if variant.compile is Compile.MAX_AUTOTUNE and not uses_cuda_graphs(variant, device):
        mode += "-no-cudagraphs"  # else torch counts them as asked for and skipped
    return torch.compile(model, mode=mode, fullgraph=True, dynamic=False)


def uses_cuda_graphs(variant: Variant, device: torch.device) -> bool:
    """Whether the network is to run as CUDA graphs, which keep their memory while they live."""
    modes = (Compile.REDUCE_OVERHEAD, Compile.MAX_AUTOTUNE)
    return device.type == "cuda" and variant.compile in modes


def make_optimizer(model: nn.Module, variant: Variant, learning_rate: float) -> torch.optim.Adam:
    """Adam over all weights, with its arithmetic carried out as the variant says."""
    return torch.optim.Adam(
        model.parameters(),
        lr=learning_rate,
        foreach=variant.optimizer is Optimizer.FOREACH,
        fused=variant.optimizer is Optimizer.FUSED,
    )


def to_input(batch: Tensor, variant: Variant) -> Tensor:
    """Puts a batch of images, (N, C, H, W), into the variant's memory format.

    With one channel both formats describe the same bytes, so that `contiguous()` leaves the strides
    alone and the first convolution takes them for NCHW; only `to` sets them. In turn `to` takes a
    slice of channels for contiguous and leaves it a view; only `contiguous()` makes it dense.
    """
    wanted = memory_format(variant)
    return batch.to(memory_format=wanted).contiguous(memory_format=wanted)


def computed_in(variant: Variant) -> torch.dtype:
    """What the network's convolutions compute in."""
    return _AUTOCAST_DTYPE.get(variant.precision, torch.float32)


def memory_format(variant: Variant) -> torch.memory_format:
    """Torch's own for the variant's."""
    return _MEMORY_FORMAT[variant.memory_format]


def autocast(variant: Variant, device: torch.device) -> torch.autocast:
    """A context for the forward pass; it does nothing for fp32 and TF32."""
    dtype = _AUTOCAST_DTYPE.get(variant.precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def grad_scaler(variant: Variant, device: torch.device) -> torch.amp.GradScaler:
    """A loss scaler with torch's defaults; it does nothing but for fp16.

    fp16 has no gradients below 6e-8, which are ordinary in a mean over pixels; bf16 has the range
    of fp32.
    """
    return torch.amp.GradScaler(device.type, enabled=variant.precision is Precision.FP16)
