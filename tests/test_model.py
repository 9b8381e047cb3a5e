import subprocess
import sys
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch
from torch import nn

from unet.model import UNet, UNetConfig


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 47), (45, 32), (63, 35)])
@pytest.mark.parametrize("upsampling", ["bilinear", "nearest"])
def test_any_size_in_is_the_size_out(height: int, width: int, upsampling: str) -> None:
    model = UNet(UNetConfig(width=2, upsampling=upsampling))
    assert model(torch.rand(2, 1, height, width)).shape == (2, 2, height, width)


def test_every_parameter_takes_part() -> None:
    model = UNet(UNetConfig(in_channels=3, out_channels=5, width=2, depth=2))
    output = model(torch.rand(2, 3, 16, 16))
    assert output.shape == (2, 5, 16, 16)
    gradients = torch.autograd.grad(output.square().sum(), list(model.parameters()))
    assert all(gradient.any() for gradient in gradients)


def test_channels_double_with_each_level() -> None:
    model = UNet(UNetConfig(width=2, depth=3))
    widths = [norm.num_features for norm in model.modules() if isinstance(norm, nn.BatchNorm2d)]
    assert widths == [2, 2, 4, 4, 8, 8, 16, 16, 8, 8, 4, 4, 2, 2]


def test_number_of_parameters() -> None:
    # Convolutions have no bias, a batch norm has two parameters a channel.
    down = 9 * 1 * 2 + 4 + 9 * 2 * 2 + 4
    bottleneck = 9 * 2 * 4 + 8 + 9 * 4 * 4 + 8
    up = (4 * 2 + 2) + 9 * 4 * 2 + 4 + 9 * 2 * 2 + 4
    head = 2 * 2 + 2
    model = UNet(UNetConfig(width=2, depth=1))
    assert sum(p.numel() for p in model.parameters()) == down + bottleneck + up + head


def test_first_outputs_are_near_zero_and_activations_are_not() -> None:
    torch.manual_seed(0)
    model = UNet(UNetConfig(width=16))
    features = []
    model.head.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    output = model(torch.rand(4, 1, 64, 64))
    assert output.abs().mean() < 0.1
    assert 0.5 < features[0].square().mean().sqrt() < 1.0  # of a normal's positive half: 0.71


def test_weights_are_he_initialized_by_fan_out() -> None:
    torch.manual_seed(0)
    model = UNet(UNetConfig(width=32, depth=1))
    conv, norm, *_ = model.bottleneck
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert conv.weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)
    assert norm.weight.eq(1).all()
    assert norm.bias.eq(0).all()
    assert model.head.weight.std().item() == pytest.approx(0.01, rel=0.3)
    biases = [m.bias for m in model.modules() if isinstance(m, nn.Conv2d) and m.bias is not None]
    assert len(biases) == 2
    assert not any(bias.any() for bias in biases)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_the_smallest_side_trains_with_a_batch_of_one(depth: int) -> None:
    config = UNetConfig(width=2, depth=depth)
    model = UNet(config)
    seen = []
    model.bottleneck.register_forward_hook(lambda _module, _inputs, out: seen.append(out.shape))
    model(torch.rand(1, 1, config.min_side, config.min_side)).sum().backward()
    assert seen == [(1, 2 << depth, 2, 2)]


@pytest.mark.parametrize("shape", [(1, 1, 31, 32), (1, 1, 32, 31), (1, 3, 32, 32), (1, 32, 32)])
def test_inputs_that_do_not_fit_are_refused_in_one_line(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^x must be \(N, 1, H, W\) with sides of at least 32,.*"):
        UNet(UNetConfig(width=2))(torch.rand(shape))


@pytest.mark.parametrize("name", ["in_channels", "out_channels", "width", "depth"])
def test_config_refuses_numbers_below_one(name: str) -> None:
    arguments: dict[str, Any] = {name: 0}
    with pytest.raises(ValueError, match=f"^{name} must be at least 1, got 0$"):
        UNetConfig(**arguments)


def test_config_refuses_an_unknown_upsampling_and_is_frozen() -> None:
    with pytest.raises(ValueError, match="upsampling must be one of bilinear, nearest, got 'x'"):
        UNetConfig(upsampling="x")
    with pytest.raises(FrozenInstanceError):
        UNetConfig().width = 1  # type: ignore[misc]


def test_the_model_knows_no_variants() -> None:
    code = "import sys, unet.model; sys.exit('unet.variant' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
