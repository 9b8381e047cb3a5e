"""The checkpointing policy `lean`: what convolutions give is kept, and everything else made again.

A U-Net's memory is full of tensors that cost next to nothing: batch norm and ReLU, pooling and its
int64 indices, upsampling and concatenation are a few operations a number, where each number that a
3x3 convolution gives took thousands. So a convolution keeps how to make its input again, from other
convolutions' outputs, in the place of the input. Nothing is convolved twice.

Eagerly, autograd functions do it, one for each kind of what stands before a convolution. Compiled,
it is a word to the compiler, which arranges recomputation itself.

All is computed by the kernels that the network runs without `lean`, so that loss, gradients and
buffers are the same bits wherever those kernels are deterministic, and normalizing by statistics
that are given rounds as normalizing by one's own does (on a CPU it does).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from unet.blocks import ConvBlock, DownBlock, UpBlock
from unet.model import UNet

aten = torch.ops.aten


@dataclass
class Cheap:
    """A tensor that need not be kept.

    Attributes:
        value: A list of the tensor, (N, C, H, W). Who uses it takes it out, since callers further
            out hold this for longer.
        again: Makes the tensor again, without gradients, from `kept`.
        kept: Tensors that stay until the backward pass.
    """

    value: list[Tensor]
    again: Callable[..., Tensor]
    kept: tuple[Tensor, ...]


@dataclass
class Raw:
    """What a convolution gives, (N, C, H, W), and the batch norm and ReLU that are to follow."""

    value: Tensor
    norm: nn.BatchNorm2d

    def arguments(self) -> tuple[Any, ...]:
        """What batch norm takes in training; counts the batch, as the module would."""
        norm = self.norm
        norm.get_buffer("num_batches_tracked").add_(1)
        statistics = norm.running_mean, norm.running_var, norm.momentum, norm.eps
        return self.value, norm.weight, norm.bias, *statistics


def make_lean(model: UNet) -> None:
    """Makes the blocks of a model keep, in training, only what is dear; in place."""
    for down in model.down:
        _replace(down, _down)
    _replace(model.bottleneck, _convs)
    for up in model.up:
        _replace(up, _up)
    _replace(model.head, _conv)
    _tell_compiler(model)


# The compiler saves what convolutions give, and must not save what else it computes. Torch warns
# about operations in place, but nothing that is saved is changed here: ReLU changes batch norm's.
_compiled = partial(
    checkpoint,
    use_reentrant=False,
    preserve_rng_state=False,  # nothing here is random
    context_fn=partial(create_selective_checkpoint_contexts, [aten.convolution.default]),
)


def _tell_compiler(network: nn.Module) -> None:
    plain = network.forward

    def forward(x: Tensor) -> Any:
        if torch.compiler.is_compiling() and network.training and torch.is_grad_enabled():
            return _compiled(plain, x)
        return plain(x)

    network.forward = forward


def _replace(block: nn.Module, lean: Callable[..., Any]) -> None:
    plain = block.forward

    def forward(x: Tensor | Cheap | Raw, *skip: Any) -> Any:
        if torch.compiler.is_compiling() or not (block.training and torch.is_grad_enabled()):
            return plain(x, *skip)
        if isinstance(x, Tensor):
            x = _given(x)
        # What comes in has the precision that autocast wants convolutions to have.
        with torch.autocast(next(block.parameters()).device.type, enabled=False):
            return lean(block, x, *skip)

    block.forward = forward


def _given(x: Tensor) -> Cheap:
    """The network's input, which is there anyway, in the precision that convolutions compute in."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        x = x.to(torch.get_autocast_dtype(kind))
    return Cheap([x], lambda kept: kept, (x.detach(),))


def _down(down: DownBlock, x: Cheap) -> tuple[Cheap, Cheap]:
    raw = _convs(down.convs, x)
    value, *statistics = _NormReLU.apply(*raw.arguments())
    norm = raw.norm
    kept = raw.value.detach(), norm.weight.detach(), norm.bias.detach(), *statistics
    pooled = Cheap([_Pool.apply(value, *kept)], lambda *kept: down.pool(_norm_relu(*kept)), kept)
    return pooled, Cheap([value], _norm_relu, kept)


def _up(up: UpBlock, x: Raw, skip: Cheap) -> Raw:
    merged = _merged(up, _conv(up.reduce, x), skip)
    return _convs(up.convs, merged)


def _merged(up: UpBlock, below: Tensor, skip: Cheap) -> Cheap:
    value, again = skip.value.pop(), skip.again
    channels, size = value.shape[1], value.shape[2:]
    merged = torch.cat((value, up.upsample(below, size)), dim=1)
    shape, strides = merged.shape, merged.stride()

    def join(below: Tensor, *kept: Tensor) -> Tensor:
        """As the concatenation, with one half beside it at a time."""
        merged = below.new_empty_strided(shape, strides)
        merged[:, :channels] = again(*kept)
        merged[:, channels:] = up.upsample(below, size)
        return merged

    return Cheap([merged], join, (below.detach(), *skip.kept))


def _convs(convs: ConvBlock, x: Cheap | Raw) -> Raw:
    layers: list[Any] = list(convs)
    first, first_norm, _, second, second_norm, _ = layers
    return Raw(_conv(second, Raw(_conv(first, x), first_norm)), second_norm)


def _conv(conv: nn.Conv2d, x: Cheap | Raw) -> Tensor:
    function: type[torch.autograd.Function]
    if isinstance(x, Raw):
        function, inputs = _NormReLUConv, x.arguments()
    else:
        function, inputs = _Conv, (x.value.pop(), x.again, *x.kept)
    dtype = inputs[0].dtype
    bias = None if conv.bias is None else conv.bias.to(dtype)
    result: Tensor = function.apply(conv.weight.to(dtype), bias, conv.padding, *inputs)
    return result


def _norm_relu(
    y: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, inverse: Tensor, *_: Tensor
) -> Tensor:
    """ReLU of (y - mean) * inverse * weight + bias, all but y, (N, C, H, W), of shape (C,).

    Batch norm's forward pass once more, without its statistics: that of evaluation, to which a
    variance of 1 and an epsilon of 0 leave the factor `inverse * weight` as it is.
    """
    one = torch.ones_like(mean)
    value: Tensor
    value, *_ = aten.native_batch_norm(y, inverse * weight, bias, mean, one, False, 0.0, 0.0)
    return value.relu_()


def _relu_backward(gradient: Tensor, value: Tensor) -> None:
    """Gradient of what came into a ReLU, into `value`, which is what the ReLU gave."""
    aten.threshold_backward.grad_input(gradient, value, 0, grad_input=value)


def _norm_backward(gradient: Tensor, kept: tuple[Tensor, ...], eps: float) -> Any:
    """Gradients of a batch norm's y, weight and bias."""
    y, weight, _, mean, inverse, reserve = kept
    return aten.batch_norm_backward(
        gradient, y, weight, None, None, mean, inverse, True, eps, [True, True, True], reserve
    )


def _conv_backward(ctx: Any, gradient: Tensor, x: Tensor, weight: Tensor, *, of_x: bool) -> Any:
    """Gradients of a convolution's x (None unless it is wanted), weight and bias."""
    mask = [of_x, True, ctx.bias_size is not None]
    return aten.convolution_backward(
        *(gradient, x, weight, ctx.bias_size, [1, 1], ctx.padding, [1, 1], False, [0, 0], 1, mask)
    )


class _NormReLU(torch.autograd.Function):
    """Batch norm and ReLU, which keep what batch norm does."""

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, weight: Tensor, bias: Tensor, *statistics: Any
    ) -> tuple[Tensor, ...]:
        """Returns the result; the batch's mean and 1 / standard deviation, both (C,); a reserve."""
        value, *of_batch = aten._batch_norm_with_update(y, weight, bias, *statistics)
        ctx.mark_non_differentiable(*of_batch)
        ctx.save_for_backward(y, weight, bias, *of_batch)
        ctx.statistics, ctx.eps = len(statistics), statistics[-1]
        return value.relu_(), *of_batch

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of y, weight and bias."""
        kept = ctx.saved_tensors
        value = _norm_relu(*kept)
        _relu_backward(gradient, value)
        return (*_norm_backward(value, kept, ctx.eps), *[None] * ctx.statistics)


class _Pool(torch.autograd.Function):
    """2x2 max pooling of `_norm_relu(*kept)`, which keeps neither that nor its indices."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *kept: Tensor) -> Tensor:
        """Maps (N, C, H, W) to (N, C, H // 2, W // 2)."""
        ctx.save_for_backward(*kept)
        return F.max_pool2d(x, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of x."""
        x = _norm_relu(*ctx.saved_tensors)
        _, indices = aten.max_pool2d_with_indices(x, [2, 2])
        of_x = aten.max_pool2d_with_indices_backward(
            gradient, x, [2, 2], [2, 2], [0, 0], [1, 1], False, indices
        )
        return of_x, *[None] * len(ctx.saved_tensors)


class _Conv(torch.autograd.Function):
    """A convolution, which keeps how to make its input again."""

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        bias: Tensor | None,
        padding: tuple[int, ...],
        x: Tensor,
        again: Callable[..., Tensor],
        *kept: Tensor,
    ) -> Tensor:
        """Maps x, (N, C, H, W), to (N, C', H, W)."""
        ctx.padding, ctx.again = padding, again
        ctx.bias_size = None if bias is None else bias.shape
        ctx.save_for_backward(weight, *kept)
        return F.conv2d(x, weight, bias, padding=padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of weight, bias and x."""
        weight, *kept = ctx.saved_tensors
        x, of_x = ctx.again(*kept), None
        _, *of_weights = _conv_backward(ctx, gradient, x, weight, of_x=False)
        del x  # its gradient, as large, does not depend on it
        if ctx.needs_input_grad[3]:
            with torch.autocast(gradient.device.type, enabled=False):
                of_x = F.conv_transpose2d(gradient, weight, padding=ctx.padding)
        return (*of_weights, None, of_x, None, *[None] * len(kept))


class _NormReLUConv(torch.autograd.Function):
    """Batch norm, ReLU and a convolution, which keep what batch norm does."""

    @staticmethod
    def forward(
        ctx: Any,
        conv_weight: Tensor,
        conv_bias: Tensor | None,
        padding: tuple[int, ...],
        y: Tensor,
        weight: Tensor,
        bias: Tensor,
        *statistics: Any,
    ) -> Tensor:
        """Maps y, (N, C, H, W), to (N, C', H, W)."""
        value, *of_batch = aten._batch_norm_with_update(y, weight, bias, *statistics)
        ctx.padding, ctx.statistics, ctx.eps = padding, len(statistics), statistics[-1]
        ctx.bias_size = None if conv_bias is None else conv_bias.shape
        ctx.save_for_backward(conv_weight, y, weight, bias, *of_batch)
        return F.conv2d(value.relu_(), conv_weight, conv_bias, padding=padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the convolution's weight and bias, and of y, weight and bias."""
        conv_weight, *kept = ctx.saved_tensors
        value = _norm_relu(*kept)
        of_value, *of_weights = _conv_backward(ctx, gradient, value, conv_weight, of_x=True)
        _relu_backward(of_value, value)
        del of_value
        of_norm = _norm_backward(value, kept, ctx.eps)
        return (*of_weights, None, *of_norm, *[None] * ctx.statistics)
