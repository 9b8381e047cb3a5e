"""A variant as PyTorch code, to be pasted into another program. Never imports torch."""

from collections.abc import Mapping

from unet.constants import AB_SCALE, FINAL_LEARNING_RATE, L_CENTER, L_SCALE, LEARNING_RATE
from unet.variant import (
    ActivationBudget,
    Checkpointing,
    Color,
    Compile,
    CudnnBenchmark,
    MemoryFormat,
    Optimizer,
    Precision,
    Variant,
)

_DTYPE = {Precision.FP16: "torch.float16", Precision.BF16: "torch.bfloat16"}
_MODE = {
    Compile.DEFAULT: "default",
    Compile.REDUCE_OVERHEAD: "reduce-overhead",
    Compile.MAX_AUTOTUNE: "max-autotune",
}
_KEPT = {
    ActivationBudget.KEEP_50: "0.5",
    ActivationBudget.KEEP_20: "0.2",
    ActivationBudget.KEEP_0: "0.0",
}


def snippet(
    variant: Variant, settings: Mapping[str, int | float | str], batch_size: int, device: str
) -> str:
    """A training step of this project's U-Net as a variant takes it.

    What is not torch's own is imported from `unet` and `kernels`; another network goes as well,
    but for checkpointing, which knows this one's blocks.

    Args:
        variant: The variant.
        settings: As in `unet.workload.Colorization.settings`.
        batch_size: Frames per step.
        device: `cpu`, `cuda` or `cuda:N`.
    """
    parts = (
        _imports(variant),
        _flags(variant, device),
        _network(variant, settings),
        _training(variant, settings, batch_size),
    )
    head = (
        f"# {variant.name} at batch {batch_size}: a training step as unet-bench times it.\n"
        f"# (Over a run it lets the learning rate decay to {FINAL_LEARNING_RATE:g}.)\n"
    )
    return head + "\n".join("\n".join(lines) + "\n" for lines in parts)


def _imports(variant: Variant) -> list[str]:
    lines = ["import torch"]
    if variant.activation_budget in _KEPT:
        lines.append("import torch._functorch.config")
    lines += ["from torch.nn.functional import mse_loss", ""]
    if variant.color is Color.FUSED:
        lines.append("from kernels.rgb_to_lab import rgb_to_lab")
    else:
        lines.append("from kernels.lab import rgb_to_lab")
    if variant.checkpointing is not Checkpointing.NONE:
        lines.append("from unet.checkpointing import checkpoint_blocks")
    lines.append("from unet.model import UNet, UNetConfig")
    if variant.checkpointing is not Checkpointing.NONE:
        lines.append("from unet.variant import Checkpointing")
    return lines


def _flags(variant: Variant, device: str) -> list[str]:
    tf32 = variant.precision is Precision.TF32
    lines = [f'device = torch.device("{device}")']
    if device != "cpu":
        lines += [
            f'torch.set_float32_matmul_precision("{"high" if tf32 else "highest"}")',
            f"torch.backends.cudnn.allow_tf32 = {tf32}",
            f"torch.backends.cudnn.benchmark = {variant.cudnn_benchmark is CudnnBenchmark.ON}",
        ]
    if variant.activation_budget in _KEPT:
        kept = _KEPT[variant.activation_budget]
        lines.append(f"torch._functorch.config.activation_memory_budget = {kept}")
    return lines


def _network(variant: Variant, settings: Mapping[str, int | float | str]) -> list[str]:
    shape = ", ".join(
        f"{name}={settings[name]!r}".replace("'", '"') for name in ("width", "depth", "upsampling")
    )
    move = "model.to(device)"
    if variant.memory_format is MemoryFormat.CHANNELS_LAST:
        move += ".to(memory_format=torch.channels_last)"
    lines = ["# Or a network of your own:", f"model = UNet(UNetConfig({shape}))", move]
    if variant.checkpointing is not Checkpointing.NONE:
        lines.append(f"checkpoint_blocks(model, Checkpointing.{variant.checkpointing.name})")
    if variant.compile is Compile.EAGER:
        lines.append("network = model")
    else:
        mode = _MODE[variant.compile]
        lines.append(f'network = torch.compile(model, mode="{mode}", dynamic=False)')
    how = "fused=True" if variant.optimizer is Optimizer.FUSED else "foreach=True"
    lines.append(f"optimizer = torch.optim.Adam(model.parameters(), lr={LEARNING_RATE:g}, {how})")
    if variant.precision is Precision.FP16:
        lines.append("scaler = torch.amp.GradScaler(device.type)")
    return lines


def _training(
    variant: Variant, settings: Mapping[str, int | float | str], batch_size: int
) -> list[str]:
    side = settings["image_size"]
    frames = f"uint8 RGB of shape ({batch_size}, {side}, {side}, 3)"
    lines = ["", "def to_lab(frames):"]
    if variant.color is Color.LOADER:
        lines[1:1] = ["# Called by the loader's workers, with the frames that they have read."]
    lines.append(f'    """{frames} to scaled L and ab."""')
    if variant.color is Color.FUSED:
        lines += [
            "    return rgb_to_lab(",
            f"        frames.to(device), dtype={_DTYPE.get(variant.precision, 'torch.float32')},",
            f"        memory_format=torch.{_torch_format(variant)},",
            f"        l_center={L_CENTER:g}, l_scale={L_SCALE:g}, ab_scale={AB_SCALE:g},",
            "    )",
        ]
    else:
        on = "" if variant.color is Color.LOADER else ".to(device)"
        lines += [
            f"    lab = rgb_to_lab(frames{on}.permute(0, 3, 1, 2).float() / 255)",
            f"    return (lab[:, :1] - {L_CENTER:g}) / {L_SCALE:g}, lab[:, 1:] / {AB_SCALE:g}",
        ]
    lines += [
        "",
        "",
        "def train_step(lightness, ab):",
        '    """What to_lab gives; returns the loss."""',
        "    lightness, ab = lightness.to(device), ab.to(device)",
    ]
    if variant.memory_format is MemoryFormat.CHANNELS_LAST and variant.color is not Color.FUSED:
        lines.append("    lightness = lightness.to(memory_format=torch.channels_last)")
    indent = "    "
    if variant.precision in _DTYPE:
        lines.append(f"    with torch.autocast(device.type, dtype={_DTYPE[variant.precision]}):")
        indent = "        "
    lines += [
        f"{indent}predicted = network(lightness)",
        "    loss = mse_loss(predicted.float(), ab.float())",
    ]
    if variant.precision is Precision.FP16:
        lines += [
            "    scaler.scale(loss).backward()",
            "    scaler.step(optimizer)",
            "    scaler.update()",
        ]
    else:
        lines += ["    loss.backward()", "    optimizer.step()"]
    return [*lines, "    optimizer.zero_grad(set_to_none=True)", "    return loss.detach()"]


def _torch_format(variant: Variant) -> str:
    channels_last = variant.memory_format is MemoryFormat.CHANNELS_LAST
    return "channels_last" if channels_last else "contiguous_format"
