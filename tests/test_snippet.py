"""The code that a report offers does what the task does."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from tests.training import one_thread
from unet.colorize import ColorizationTask
from unet.variant import Variant
from unet.workload import COLORIZATION

SETTINGS: Mapping[str, Any] = {
    **COLORIZATION.settings,
    "frames": 60,
    "gap": 3,
    "image_size": 16,
    "width": 8,
    "depth": 2,
}
BATCH_SIZE, STEPS = 4, 3


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


def run(variant: str) -> dict[str, Any]:
    """What the names of the code stand for when it has run."""
    code = COLORIZATION.snippet(Variant.parse(variant).axes(), SETTINGS, BATCH_SIZE, "cpu")
    names: dict[str, Any] = {}
    torch.manual_seed(0)
    exec(compile(code, "snippet", "exec"), names)  # noqa: S102 (what a user would paste)
    return names


@pytest.mark.parametrize(
    "variant",
    [
        "fp32",
        "bf16+channels_last+fused",
        "bf16+channels_last+lean+fused-lab",
        "fp32+blocks",
        "fp32+high-res+channels_last",
        "fp32+loader-lab",
    ],
)
def test_it_trains_as_the_task_does(variant: str) -> None:
    handle = COLORIZATION.prepare(SETTINGS, lambda done, total: None).handle
    torch.manual_seed(0)
    task = ColorizationTask(
        axes=Variant.parse(variant).axes(),
        settings={**SETTINGS, "loader_workers": 1},
        batch_size=BATCH_SIZE,
        handle=handle,
        device="cpu",
    )
    order = [np.arange(step * BATCH_SIZE, (step + 1) * BATCH_SIZE) for step in range(STEPS)]
    theirs = []
    for batch in task.batches(order):
        loss = task.forward(batch)
        task.backward(loss)
        task.optimize(0.0)
        theirs.append(loss.item())
    names = run(variant)
    frames = torch.from_numpy(np.load(str(handle["path"])))
    assert task.train[0] == 0
    ours = [names["train_step"](*names["to_lab"](frames[indices])).item() for indices in order]
    assert ours == pytest.approx(theirs, rel=1e-6)
    assert len(set(ours)) == STEPS


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_every_switch_is_in_it(device: str) -> None:
    variant = Variant.parse(
        "fp16+channels_last+fused+max-autotune+lean+keep-20+cudnn-benchmark+fused-lab"
    )
    code = COLORIZATION.snippet(variant.axes(), SETTINGS, BATCH_SIZE, device)
    compile(code, "snippet", "exec")
    words = [
        f'torch.device("{device}")',
        "GradScaler",
        "torch.float16",
        "channels_last",
        "fused=True",
        'mode="max-autotune"',
        "Checkpointing.LEAN",
        "activation_memory_budget = 0.2",
        "from kernels.rgb_to_lab",
    ]
    if device != "cpu":
        words.append("cudnn.benchmark = True")
    assert [word for word in words if word not in code] == []


def test_every_variant_s_code_compiles() -> None:
    for axis, values in Variant.choices().items():
        for value in values:
            code = COLORIZATION.snippet({axis: value}, SETTINGS, 4, "cuda:0")
            compile(code, "snippet", "exec")


def test_making_it_never_imports_torch() -> None:
    code = (
        "import sys; from unet.workload import COLORIZATION as c;"
        "c.snippet({}, c.settings, 4, 'cpu'); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
