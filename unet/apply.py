"""How a variant is put around a model: everything from outside, in one fixed order.

Process flags first (`set_precision_flags`), then `apply_variant` on the model, then in each step
`to_input` on the batch, `autocast` around the forward pass and `grad_scaler` around the backward.
"""

from operator import attrgetter
from typing import Final

import torch
from torch import Tensor, nn

from unet.variant import MemoryFormat, Precision, Variant

_MEMORY_FORMAT: Final = {
    MemoryFormat.CONTIGUOUS: torch.contiguous_format,
    MemoryFormat.CHANNELS_LAST: torch.channels_last,
}
_AUTOCAST_DTYPE: Final = {
    Precision.FP32: torch.float32,
    Precision.FP16: torch.float16,
    Precision.BF16: torch.bfloat16,
}
# What is left in fp32 is IEEE fp32 in every variant: TF32 under the label fp32 would be a lie.
_FP32_PRECISION: Final = "ieee"


def set_precision_flags() -> dict[str, str | bool]:
    """Sets every process-wide flag of torch that decides about precision or choice of algorithm.

    Call it once, in the trial's own process. Reading torch's older `allow_tf32` flags afterwards
    may raise: torch refuses to mix the two ways of saying it.

    Returns:
        Each flag as read back from torch, by its name without the leading "torch.".
    """
    wanted: dict[str, str | bool] = {
        # From the general to the particular: a general one also stands for what is not set below.
        "backends.fp32_precision": _FP32_PRECISION,
        "backends.cudnn.fp32_precision": _FP32_PRECISION,
        "backends.cudnn.conv.fp32_precision": _FP32_PRECISION,
        "backends.cudnn.rnn.fp32_precision": _FP32_PRECISION,
        "backends.cuda.matmul.fp32_precision": _FP32_PRECISION,
        "backends.mkldnn.fp32_precision": _FP32_PRECISION,
        "backends.mkldnn.matmul.fp32_precision": _FP32_PRECISION,
        "backends.mkldnn.conv.fp32_precision": _FP32_PRECISION,
        "backends.mkldnn.rnn.fp32_precision": _FP32_PRECISION,
        # Products of half-precision numbers are summed in fp32, as cuDNN's and oneDNN's
        # convolutions do: a variant then rounds what it stores, and nothing else, on any device.
        "backends.cuda.matmul.allow_fp16_reduced_precision_reduction": False,
        "backends.cuda.matmul.allow_bf16_reduced_precision_reduction": False,
        "backends.cuda.matmul.allow_fp16_accumulation": False,
        # Its search can take workspace far beyond the budget in the first step, and may settle on
        # another algorithm in each process.
        "backends.cudnn.benchmark": False,
        "backends.cudnn.deterministic": False,
    }
    for name, value in wanted.items():
        owner, _, flag = name.rpartition(".")
        setattr(attrgetter(owner)(torch), flag, value)
    return {name: attrgetter(name)(torch) for name in wanted}


def unsupported(variant: Variant, device: torch.device) -> str | None:
    """Says in words why a device cannot do a variant; None if it can.

    What a device does slowly it can do. On a CPU that is every variant: where its instructions lack
    fp16 or bf16, torch computes in fp32 and rounds what it stores, and gradients come out right
    (off by 0.06 % and 0.5 % on torch 2.15 held down to SSE4.1), if an order of magnitude later.
    """
    if device.type == "cpu":
        return None
    if device.type != "cuda":
        return f"device type {device.type!r} is neither cpu nor cuda"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    if variant.precision is Precision.BF16:
        with torch.cuda.device(device):
            if not torch.cuda.is_bf16_supported(including_emulation=False):
                return f"{torch.cuda.get_device_name()} has no bf16 arithmetic"
    return None


def apply_variant(model: nn.Module, variant: Variant, device: torch.device) -> nn.Module:
    """Moves a model to a device and into the variant's memory format, in place.

    Build the optimizer afterwards: its state takes the strides of the weights.

    Args:
        model: Any module, fp32. Its weights stay fp32: autocast casts them at each use.
        variant: What to apply.
        device: Where to.

    Returns:
        The same model.
    """
    return model.to(device).to(memory_format=_MEMORY_FORMAT[variant.memory_format])


def to_input(batch: Tensor, variant: Variant) -> Tensor:
    """Puts a batch of images, (N, C, H, W), into the variant's memory format.

    With one channel both formats describe the same bytes, so that `contiguous()` leaves the strides
    alone and the first convolution takes them for NCHW; only `to` sets them. In turn `to` takes a
    slice of channels for contiguous and leaves it a view; only `contiguous()` makes it dense.
    """
    memory_format = _MEMORY_FORMAT[variant.memory_format]
    return batch.to(memory_format=memory_format).contiguous(memory_format=memory_format)


def autocast(variant: Variant, device: torch.device) -> torch.autocast:
    """A context for the forward pass and the loss; it does nothing for fp32."""
    return torch.autocast(
        device.type,
        dtype=_AUTOCAST_DTYPE[variant.precision],
        enabled=variant.precision is not Precision.FP32,
    )


def grad_scaler(variant: Variant, device: torch.device) -> torch.amp.GradScaler:
    """A loss scaler with torch's defaults; it does nothing but for fp16.

    fp16 has no gradients below 6e-8, which are ordinary in a mean over pixels; bf16 has the range
    of fp32.
    """
    return torch.amp.GradScaler(device.type, enabled=variant.precision is Precision.FP16)
