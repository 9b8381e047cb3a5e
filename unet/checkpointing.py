"""Gradient checkpointing: blocks that keep their input only, and compute again for the backward."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from unet.lean import make_lean
from unet.model import UNet
from unet.variant import Checkpointing


def checkpoint_blocks(model: UNet, checkpointing: Checkpointing) -> None:
    """Makes blocks of a model checkpoint themselves, in place; names and weights stay as they are.

    Loss, gradients and buffers are those of the model without, bit for bit where its kernels are
    deterministic. Half of all activations are those of the first level, and each level down holds
    half of the one above, while each level computes about the same: so that the upper half of the
    levels is most of the memory for half of the recomputation.

    Args:
        model: A U-Net.
        checkpointing: Which of its blocks: all, those at the upper half of the levels, or none.
    """
    if checkpointing is Checkpointing.NONE:
        return
    if checkpointing is Checkpointing.LEAN:
        make_lean(model)
        return
    blocks: list[nn.Module] = [*model.down, model.bottleneck, *model.up]
    if checkpointing is Checkpointing.HIGH_RES:
        levels = -(-model.config.depth // 2)
        blocks = [*model.down[:levels], *model.up[-levels:]]
    for block in blocks:
        block.forward = _checkpointed(block)


# Nothing in a block is random.
_checkpoint = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)


def _checkpointed(block: nn.Module) -> Callable[..., Any]:
    plain = block.forward

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _spare_statistics(block)

    def forward(*inputs: Any) -> Any:
        if not torch.is_grad_enabled():
            return plain(*inputs)
        if torch.compiler.is_compiling():
            # What is recomputed is a part of the graph, which holds the statistics' update once.
            return _checkpoint(plain, *inputs)
        return _checkpoint(plain, *inputs, context_fn=contexts)

    return forward


@contextmanager
def _spare_statistics(block: nn.Module) -> Iterator[None]:
    """Lets batch norms update copies of their running statistics.

    Else recomputation would count every batch twice (pytorch#96136). Copies, since batch norm saves
    its statistics for backward: without any, or changed in place, autograd would refuse.
    """
    norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)]
    kept = [(norm, name, buffer) for norm in norms for name, buffer in norm.named_buffers()]
    for norm, name, buffer in kept:
        setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, name, buffer in kept:
            setattr(norm, name, buffer)
