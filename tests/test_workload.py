import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.trial import Scalar
from bench.workload import Workload, load_object
from unet.model import UNet, UNetConfig
from unet.shape import UPSAMPLINGS
from unet.variant import Variant
from unet.workload import COLORIZATION, split

SMALLEST_FRAME = 16


def settings(**changes: Scalar) -> dict[str, Scalar]:
    return {**COLORIZATION.settings, **changes}


def prepare(**changes: Scalar) -> Path:
    return COLORIZATION.prepare(settings(**changes), lambda done, total: None).path


def test_it_is_a_workload() -> None:
    workload: Workload = COLORIZATION  # for mypy, which sees more than the next line
    assert isinstance(workload, Workload)
    assert load_object("unet.workload:COLORIZATION") is COLORIZATION


def test_importing_it_never_imports_torch() -> None:
    code = "import sys, unet.workload; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_its_defaults_are_fine() -> None:
    COLORIZATION.check(COLORIZATION.settings)
    assert COLORIZATION.data_settings <= set(COLORIZATION.settings)


@pytest.mark.parametrize("depth", range(1, 8))
def test_the_smallest_image_is_the_networks_own(depth: int) -> None:
    side = max(UNetConfig(depth=depth).min_side, SMALLEST_FRAME)
    COLORIZATION.check(settings(depth=depth, image_size=side))
    with pytest.raises(ValueError, match=f"^image_size {side - 1}: "):
        COLORIZATION.check(settings(depth=depth, image_size=side - 1))


@pytest.mark.parametrize("depth", range(1, 5))
@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
def test_what_it_accepts_the_network_trains_on(depth: int, upsampling: str) -> None:
    side = max(UNetConfig(depth=depth).min_side, SMALLEST_FRAME)
    COLORIZATION.check(settings(depth=depth, image_size=side, width=1, upsampling=upsampling))
    network = UNet(UNetConfig(width=1, depth=depth, upsampling=upsampling)).train()
    assert network(torch.rand(1, 1, side, side)).isfinite().all()


@pytest.mark.parametrize(
    "choice",
    list(itertools.product(*COLORIZATION.axes.values())),
    ids="-".join,
)
def test_variants_and_their_names_are_inverse(choice: tuple[str, ...]) -> None:
    axes = dict(zip(COLORIZATION.axes, choice, strict=True))
    assert COLORIZATION.parse_variant(COLORIZATION.variant_name(axes)) == axes


def test_the_first_value_of_every_axis_is_the_plain_network() -> None:
    plain = {axis: choices[0] for axis, choices in COLORIZATION.axes.items()}
    assert COLORIZATION.variant_name(plain) == "fp32"
    assert Variant.from_axes(plain) == Variant()


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("frames", 9),
        ("gap", -1),
        ("data_seed", -1),
        ("validation_percent", 0),
        ("validation_percent", 51),
        ("image_size", 15),
        ("width", 0),
        ("depth", 0),
        ("depth", 10**9),
        ("data", "Drive"),
        ("split", "blocks"),
        ("upsampling", "cubic"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(name: str, bad: Scalar) -> None:
    with pytest.raises(ValueError, match=f"^{name} {bad!r}: expected"):
        COLORIZATION.check(settings(**{name: bad}))


@pytest.mark.parametrize("kind", ["block", "random"])
def test_the_promised_training_size_is_what_is_prepared(kind: str) -> None:
    asked = settings(frames=40, gap=3, image_size=16, split=kind)
    data = COLORIZATION.prepare(asked, lambda done, total: None)
    train, held = split(asked, 40)
    assert data.train_size == COLORIZATION.train_size(asked) == len(train)
    assert data.provenance["train_frames"] == len(train)
    assert data.provenance["validation_frames"] == len(held) == 6
    assert data.provenance["split"] == kind
    assert np.load(data.handle["path"], mmap_mode="r").shape == (40, 16, 16, 3)


def test_provenance_tells_drives_apart_but_not_sizes() -> None:
    def fingerprint(**changes: Scalar) -> object:
        asked = settings(frames=10, gap=0, **{"image_size": 16, **changes})
        return dict(COLORIZATION.prepare(asked, lambda done, total: None).provenance)

    assert fingerprint() == fingerprint(image_size=17)
    assert fingerprint() != fingerprint(data_seed=1)
    assert prepare(frames=10, gap=0, image_size=16) != prepare(frames=10, gap=0, image_size=17)
