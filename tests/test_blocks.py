from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch._aot_autograd.utils import make_boxed_func
from torch._inductor.decomposition import select_decomp_table
from torch._subclasses import FakeTensorMode
from torch.fx import GraphModule
from torch.utils._python_dispatch import TorchDispatchMode

from tests.training import own_inductor_cache
from unet import blocks
from unet.blocks import ConvBlock, DownBlock, UpBlock, _Bilinear
from unet.shape import UPSAMPLINGS

HALVES = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
@pytest.mark.parametrize(("low", "high"), [((4, 4), (8, 8)), ((3, 5), (7, 10)), ((2, 2), (5, 5))])
def test_convolving_before_upsampling_is_the_same_function(
    upsampling: str, low: tuple[int, int], high: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    block = UpBlock(6, 3, upsampling).double()
    x = torch.randn(2, 6, *low, dtype=torch.float64, requires_grad=True)
    skip = torch.randn(2, 3, *high, dtype=torch.float64, requires_grad=True)
    inputs = [x, skip, *block.parameters()]
    assert block.reduce.bias is not None

    ours = block(x, skip)
    upsampled_first = block.reduce(F.interpolate(x, size=high, mode=upsampling))
    theirs = block.convs(torch.cat((skip, upsampled_first), dim=1))

    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    weights = torch.randn_like(ours)
    for mine, other in zip(
        torch.autograd.grad((ours * weights).sum(), inputs),
        torch.autograd.grad((theirs * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 6), (7, 5)])
def test_blocks_keep_track_of_odd_sizes(height: int, width: int) -> None:
    pooled, skip = DownBlock(3, 4)(torch.rand(2, 3, height, width))
    assert pooled.shape == (2, 4, height // 2, width // 2)
    assert skip.shape == (2, 4, height, width)
    assert UpBlock(4, 4, "bilinear")(pooled, skip).shape == skip.shape


def test_the_skip_is_what_the_pool_takes_in() -> None:
    block = DownBlock(1, 2)
    pooled, skip = block(torch.rand(1, 1, 6, 6))
    assert torch.equal(pooled, F.max_pool2d(skip, 2))
    block.eval()
    x = torch.rand(1, 1, 6, 6)
    assert torch.equal(block(x)[1], block.convs(x))


def test_a_conv_block_is_two_of_convolution_norm_relu() -> None:
    kinds = [type(layer) for layer in ConvBlock(3, 4)]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 2
    assert [tuple(p.shape) for p in ConvBlock(3, 4).parameters()] == [
        (4, 3, 3, 3),
        (4,),
        (4,),
        (4, 4, 3, 3),
        (4,),
        (4,),
    ]


class DtypeLog(TorchDispatchMode):  # type: ignore[no-untyped-call,unused-ignore] # torch's
    """Notes the dtype of what every upsampling and concatenation puts out, backward too."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call,unused-ignore] # torch's
        self.dtypes: dict[str, set[torch.dtype]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name == "cat" or name.startswith("upsample"):
            self.dtypes.setdefault(name, set()).add(output.dtype)
        return output


def logged_dtypes(upsampling: str, device: str, dtype: torch.dtype) -> dict[str, set[torch.dtype]]:
    down = DownBlock(1, 4).to(device)
    up = UpBlock(4, 4, upsampling).to(device)
    log = DtypeLog()
    with log:
        with torch.autocast(device, dtype=dtype):
            pooled, skip = down(torch.rand(2, 1, 8, 8, device=device))
            output = up(pooled, skip)
        torch.autograd.backward(output.float().sum())
    return log.dtypes


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_upsampling_and_concatenation_stay_in_low_precision(
    upsampling: str, device: str, dtype: torch.dtype
) -> None:
    emulated = dtype is torch.bfloat16 and device == "cuda"
    if emulated and not torch.cuda.is_bf16_supported(including_emulation=False):
        pytest.skip("this GPU has no bf16 arithmetic")
    forward = f"upsample_{upsampling}2d"
    assert logged_dtypes(upsampling, device, dtype) == {
        "cat": {dtype},
        forward: {dtype},
        f"{forward}_backward": {dtype},
    }


# The CPU's autocast leaves upsampling alone, so the case above could not fail there. CUDA's rules
# can be seen without a GPU: fake tensors pass through the same autocast and compute nothing (which
# is also why only the forward pass can be looked at: backward asks for a real device).


@contextmanager
def cuda_autocast_without_cuda(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_autocast_dtype("cuda")
    with FakeTensorMode():
        torch.set_autocast_dtype("cuda", dtype)
        torch.set_autocast_enabled("cuda", True)  # torch.autocast would look for a device first
        try:
            yield
        finally:
            torch.set_autocast_enabled("cuda", False)
            torch.set_autocast_dtype("cuda", before)
            torch.clear_autocast_cache()


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
@pytest.mark.parametrize("dtype", HALVES)
def test_cuda_autocast_would_promote_but_the_block_does_not_let_it(
    upsampling: str, dtype: torch.dtype
) -> None:
    with cuda_autocast_without_cuda(dtype):
        x = torch.empty(2, 4, 4, 4, device="cuda", dtype=dtype)
        skip = torch.empty(2, 4, 8, 8, device="cuda", dtype=dtype)
        unguarded = F.interpolate(x, scale_factor=2, mode=upsampling)
        assert unguarded.dtype == torch.float32, "torch changed its list: the guard may go"
        assert torch.cat((skip, unguarded)).dtype == torch.float32
        with torch.device("cuda"):
            block = UpBlock(4, 4, upsampling)
        log = DtypeLog()
        with log:
            output: Tensor = block(x, skip)
    assert output.dtype == dtype
    assert set(log.dtypes) == {"cat", f"upsample_{upsampling}2d"}
    assert all(seen == {dtype} for seen in log.dtypes.values())


# Bilinear interpolation has a backward pass that is named, not derived.

SIZES = [((4, 4), (8, 8)), ((3, 5), (7, 10)), ((1, 2), (3, 5)), ((5, 7), (5, 7))]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("low", "high"), SIZES)
def test_bilinear_is_torchs_bit_by_bit_in_both_directions(
    low: tuple[int, int],
    high: tuple[int, int],
    dtype: torch.dtype,
    memory_format: torch.memory_format,
) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, *low, dtype=dtype).to(memory_format=memory_format).requires_grad_()
    gradient = torch.randn(2, 3, *high, dtype=dtype).to(memory_format=memory_format)
    ours, theirs = _Bilinear.apply(x, high), F.interpolate(x, high, mode="bilinear")
    pairs = [(ours, theirs)]
    pairs += zip(*(torch.autograd.grad(y, x, gradient) for y in (ours, theirs)), strict=True)
    for mine, other in pairs:
        assert torch.equal(mine, other)
        assert mine.dtype == other.dtype == dtype
        assert mine.stride() == other.stride()


@pytest.mark.parametrize(("low", "high"), SIZES)
def test_bilinears_gradient_is_that_of_finite_differences(
    low: tuple[int, int], high: tuple[int, int]
) -> None:
    x = torch.rand(2, 2, *low, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: _Bilinear.apply(x, high), (x,))


class Derived:
    """Stands in for `_Bilinear`: what torch derives by itself."""

    @staticmethod
    def apply(x: Tensor, size: tuple[int, int]) -> Tensor:
        return F.interpolate(x, size, mode="bilinear")


def backward_operations() -> set[object]:
    """What an UpBlock's backward pass calls as Inductor gets it, with Inductor's decompositions."""
    called: set[object] = set()

    def note(graph: GraphModule, inputs: Sequence[Tensor]) -> Any:
        called.update(node.target for node in graph.graph.nodes)
        return make_boxed_func(graph.forward)

    backend = aot_autograd(
        fw_compiler=lambda graph, inputs: make_boxed_func(graph.forward),
        bw_compiler=note,
        decompositions=select_decomp_table(),
    )
    torch._dynamo.reset()
    compiled = torch.compile(UpBlock(4, 4, "bilinear"), backend=backend, fullgraph=True)
    output = compiled(torch.rand(2, 4, 3, 5), torch.rand(2, 4, 7, 10))
    torch.autograd.backward(output.sum())
    return called


def test_compiled_the_backward_is_torchs_own_and_would_not_be_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernel = torch.ops.aten.upsample_bilinear2d_backward.default
    assert kernel in backward_operations()
    monkeypatch.setattr(blocks, "_Bilinear", Derived)
    assert kernel not in backward_operations(), "torch has mended it: _Bilinear may go"


@pytest.mark.slow
def test_compiled_bilinear_gives_eagers_values_and_gradient(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 5, 7, requires_grad=True)
    gradient = torch.randn(2, 3, 11, 14)
    expected = F.interpolate(x, (11, 14), mode="bilinear")
    (expected_gradient,) = torch.autograd.grad(expected, x, gradient)

    @torch.compile(fullgraph=True)
    def interpolate(x: Tensor) -> Tensor:
        # With something on both sides that Inductor may fuse with it.
        found: Tensor = _Bilinear.apply(x * 2, (11, 14)) / 2
        return found

    with own_inductor_cache(tmp_path_factory):
        torch._dynamo.reset()
        found = interpolate(x)
        (found_gradient,) = torch.autograd.grad(found, x, gradient)
    # Inductor computes the forward pass itself: four products, added in an order of its own.
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(found_gradient, expected_gradient)  # doubling and halving are exact
