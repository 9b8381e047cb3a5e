"""Process-wide flags of torch, each time in a process of its own."""

import json
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training import plain_flags_afterwards, relative
from unet.apply import set_flags, unsupported
from unet.variant import ActivationBudget, CudnnBenchmark, Precision, Variant

# Before each variant, the opposite of what is wanted, wherever torch takes it, as no other test
# leaves it; any warning is an error.
SCRIPT = """
import json, sys
from operator import attrgetter
import torch
import torch._functorch.config

def disturb(precision):
    for owner in ("", ".cudnn", ".cudnn.conv", ".cudnn.rnn", ".cuda.matmul"):
        attrgetter("backends" + owner)(torch).fp32_precision = precision
    for operation in ("matmul", "conv", "rnn"):
        getattr(torch.backends.mkldnn, operation).fp32_precision = "bf16"
    torch.backends.cuda.matmul.allow_fp16_accumulation = True
    torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = True
    torch._functorch.config.activation_memory_budget = 0.75

def read(names):
    return {name: attrgetter(name)(torch) for name in names}

disturb("tf32")
from unet.apply import set_flags
from unet.variant import Variant

names = ["backends.cudnn.conv.fp32_precision", "backends.mkldnn.conv.fp32_precision"]
names.append("_functorch.config.activation_memory_budget")
found = {"imported": read(names)}
for name in sys.argv[1:]:
    disturb("ieee" if "tf32" in name else "tf32")
    reported = set_flags(Variant.parse(name))
    older = read(["backends.cuda.matmul.allow_tf32", "backends.cudnn.allow_tf32"])
    found[name] = {
        "reported": reported,
        "in_force": read(reported),
        "older": list(older.values()),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
    }
print(json.dumps(found))
"""

GPU_FLAGS = {
    "backends.cudnn.fp32_precision",
    "backends.cudnn.conv.fp32_precision",
    "backends.cudnn.rnn.fp32_precision",
    "backends.cuda.matmul.fp32_precision",
}


BUDGET = "_functorch.config.activation_memory_budget"
BUDGETS = {kind: Variant(activation_budget=kind) for kind in ActivationBudget}
VARIANTS = [Variant(precision) for precision in Precision]
SEARCHING = Variant(cudnn_benchmark=CudnnBenchmark.ON)


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    names = [variant.name for variant in (*VARIANTS, SEARCHING, *BUDGETS.values())]
    command = [sys.executable, "-W", "error", "-c", SCRIPT, *names]
    done = subprocess.run(command, check=True, capture_output=True)
    read: dict[str, Any] = json.loads(done.stdout)
    return read


def test_importing_sets_no_flag(found: dict[str, Any]) -> None:
    assert found["imported"] == {
        "backends.cudnn.conv.fp32_precision": "tf32",
        "backends.mkldnn.conv.fp32_precision": "bf16",
        BUDGET: 0.75,
    }


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_tf32_is_set_for_a_gpu_and_only_where_it_is_asked_for(
    found: dict[str, Any], variant: Variant
) -> None:
    flags = found[variant.name]["in_force"]
    assert found[variant.name]["reported"] == flags
    precisions = {name for name in flags if "fp32_precision" in name}
    assert len(precisions) == 9
    in_tf32 = GPU_FLAGS if variant.precision is Precision.TF32 else set()
    assert {name for name in precisions if flags[name] == "tf32"} == in_tf32
    assert {name for name in precisions if flags[name] == "ieee"} == precisions - in_tf32
    others = flags.keys() - precisions - {BUDGET}
    assert len(others) == 5
    assert {flags[name] for name in others} == {False}


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_older_flags_can_be_read_and_say_the_same(found: dict[str, Any], variant: Variant) -> None:
    # torch raises where they say something else than the newer ones, and its compiler reads them.
    asked = variant.precision is Precision.TF32
    assert found[variant.name]["older"] == [asked, asked]
    assert found[variant.name]["float32_matmul_precision"] == ("high" if asked else "highest")


def test_cudnn_searches_where_it_is_asked_to_and_nothing_else_changes(
    found: dict[str, Any],
) -> None:
    plain = found[Variant().name]["in_force"]
    searching = found[SEARCHING.name]["in_force"]
    assert searching == plain | {"backends.cudnn.benchmark": True}


def test_the_compiler_is_told_how_much_to_keep_by_every_variant(found: dict[str, Any]) -> None:
    plain = found[Variant().name]["in_force"]
    shares = {kind.value: found[variant.name]["in_force"] for kind, variant in BUDGETS.items()}
    assert shares == {
        "keep-all": plain | {BUDGET: 1.0},
        "keep-50": plain | {BUDGET: 0.5},
        "keep-20": plain | {BUDGET: 0.2},
        "keep-0": plain | {BUDGET: 0.0},
    }


# That the flags do what they say.


def worst_product_error(device: torch.device) -> dict[str, float]:
    """Relative errors of a matrix product and of a convolution both ways, against float64."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    left, right = random(512, 512), random(512, 512)
    # As tensor cores like them best.
    image, kernel = random(8, 128, 32, 32), random(128, 128, 3, 3)

    def convolved(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        weight = kernel.to(dtype, memory_format=torch.channels_last).requires_grad_()
        seen = image.to(dtype, memory_format=torch.channels_last)
        output = torch.nn.functional.conv2d(seen, weight, padding=1)
        (gradient,) = torch.autograd.grad(output.square().sum(), weight)
        return output.detach(), gradient

    (ours, our_gradient), (exact, gradient) = convolved(torch.float32), convolved(torch.float64)
    return {
        "matrix": relative(left @ right, left.double() @ right.double()),
        "convolution": relative(ours, exact),
        "its gradient": relative(our_gradient, gradient),
    }


@pytest.mark.parametrize("kind", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.TF32])
def test_fp32_is_as_exact_as_fp32_and_only_tf32_is_less(kind: str, precision: Precision) -> None:
    device, variant = torch.device(kind), Variant(precision)
    if kind == "cuda" and (reason := unsupported(variant, device)) is not None:
        pytest.skip(reason)
    with plain_flags_afterwards():
        set_flags(variant)
        errors = worst_product_error(device)
    # fp32's unit roundoff is 6e-8, and sums are of hundreds of terms; TF32 rounds factors by 5e-4.
    # Where it is allowed, cuDNN may still find another algorithm faster, but not for every product.
    rounds = precision is Precision.TF32 and kind == "cuda"
    least, largest = (5e-5, 3e-3) if rounds else (0.0, 2e-5)
    assert max(errors.values()) < largest, errors
    assert errors.pop("matrix") >= least
    assert max(errors.values()) >= least, errors
