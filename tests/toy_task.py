"""The toy workload at work; see `tests.toy`."""

import ctypes
import mmap
import os
import random
import subprocess
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses import FakeTensor

from tests.toy import Scalar

if "UNET_BENCH_TEST_TRACES" in os.environ:
    import torch._dynamo  # once in the server, and not in each of its children

Loss = Callable[[Tensor, Tensor], Tensor]

SCALE = 64
"""A graph is made for this value."""


def scaled_loss(batch: Tensor, weight: Tensor) -> Tensor:
    return (batch / SCALE - weight).square().mean()


def broken_loss(batch: Tensor, weight: Tensor) -> Tensor:
    difference = batch / SCALE - weight
    torch._dynamo.graph_break(msg="the toy breaks here")
    return difference.square().mean()


TOO_MUCH = 1 << 40

TOO_LARGE = (
    "upsample_bilinear2d_nhwc only supports output tensors with less than INT_MAX elements, "
    "but got [512, 64, 256, 256]"
)
"""As torch 2.11 says it on a GPU."""


def abort_for_memory() -> None:
    """C++'s `operator new`, whose exception no caller in C catches."""
    new = ctypes.CDLL("libstdc++.so.6")._Znwm
    new.argtypes = [ctypes.c_size_t]
    new(TOO_MUCH)


def be_killed(group: str) -> None:
    """Joins a group that has little memory, and writes to more than that."""
    Path(group, "cgroup.procs").write_text(str(os.getpid()))
    block = mmap.mmap(-1, 256 << 20, flags=mmap.MAP_PRIVATE)
    for page in range(0, len(block), mmap.PAGESIZE):
        block[page] = 1


def have_helper_killed(group: str) -> None:
    """Has a process join the group and take too much, and raises what its shell says."""
    script = f"echo $$ > {group}/cgroup.procs; head -c 1G /dev/zero | tail -n 1"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True)
    raise RuntimeError(done.stderr)


IN_FORWARD: Mapping[str, Callable[[], object]] = {
    "oom-python": lambda: bytearray(TOO_MUCH),
    "oom-numpy": lambda: np.ones(TOO_MUCH, np.uint8),
    "oom-system": lambda: mmap.mmap(-1, TOO_MUCH, flags=mmap.MAP_PRIVATE),
    "oom-abort": abort_for_memory,
}


def withhold_memory_from_compilers() -> None:
    from torch._inductor import config

    path = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) / "short-of-memory"
    path.write_text('#!/bin/sh\nulimit -d 50000\nexec g++ "$@"\n')
    path.chmod(0o700)
    config.cpp.cxx = (None, str(path))


def made(make: str, fault: str) -> Loss:
    loss = broken_loss if fault == "break" else scaled_loss
    if make in ("eager", "fake"):
        return loss
    backend = "inductor"
    if make == "trace":
        backend = "eager"
        # As generated code would be kept there.
        (Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) / "traced").mkdir(parents=True, exist_ok=True)
    compiled: Loss = torch.compile(loss, fullgraph=fault != "break", dynamic=False, backend=backend)
    return compiled


class ToyTask:
    """Fits one number to the mean of the sample indices."""

    def __init__(
        self,
        *,
        axes: Mapping[str, str],
        settings: Mapping[str, Scalar],
        batch_size: int,
        handle: Mapping[str, Scalar],
        device: str,
    ) -> None:
        self.fault = axes["fault"]
        self.sleep_s = float(settings["sleep_ms"]) / 1000
        self.batch_size = batch_size
        self.too_large = batch_size >= int(settings["oom_from"])
        self.step = 0
        self.at_step = int(settings["at_step"])
        self.group = str(settings["group"])
        self.mark = Path(str(settings["mark"]))
        self.is_later = self.mark.exists()
        self.device = torch.device(device)
        if self.fault == "oom-compiler":
            withhold_memory_from_compilers()
        self.loss = made(axes["make"], axes["fault"])
        self.weight = torch.zeros(1, device=self.device, requires_grad=True)
        self.progress: list[float] = []
        drawn = [random.random(), float(np.random.random()), torch.initial_seed()]  # noqa: NPY002
        self.facts: dict[str, Any] = {
            "batch_size": batch_size,
            "drawn": drawn,
            "progress": self.progress,  # of the steps to come
        }
        if axes["make"] != "eager":
            from torch._inductor import config  # takes a second

            self.facts["compile_threads"] = config.compile_threads
            self.facts["cache"] = os.environ["TORCHINDUCTOR_CACHE_DIR"]

    @staticmethod
    def unsupported(axes: Mapping[str, str], device: str) -> str | None:
        return f"{device} cannot do this" if axes["fault"] == "unsupported" else None

    def batches(self, order: Sequence[np.ndarray]) -> Generator[Tensor, None, None]:
        yield from map(self.load, order)

    def load(self, indices: np.ndarray) -> Tensor:
        global SCALE
        self.step += 1
        if self.fault == "recompile" and self.step == self.at_step:
            SCALE += 1
        return torch.from_numpy(indices).to(self.device).float()

    def example(self) -> Tensor:
        return torch.zeros(self.batch_size, device=self.device)

    def forward(self, batch: Tensor) -> Tensor:
        left = max(0, self.at_step - self.step) if self.fault == "warming" else 0
        time.sleep(self.sleep_s * (1 + left))
        if self.fault == "raise":
            raise RuntimeError("the task is broken\nin two lines")
        if self.fault == "abort":
            os.abort()
        if self.fault == "exit":
            os._exit(7)
        if self.fault == "hang" or (self.fault == "hang-later" and self.step):
            if self.mark.is_absolute():
                self.mark.touch()
            time.sleep(3600)
        if self.fault == "too-large" and self.too_large and not isinstance(batch, FakeTensor):
            raise RuntimeError(TOO_LARGE)
        if self.fault in IN_FORWARD:
            IN_FORWARD[self.fault]()
        if self.fault == "heavy" and self.step == 1:
            torch.ones(256 << 20, dtype=torch.uint8, device=self.device)
        if self.fault == "killed":
            be_killed(self.group)
        if self.fault == "killed-helper":
            have_helper_killed(self.group)
        if self.too_large and (
            self.fault == "oom" or (self.fault == "oom-later" and self.is_later)
        ):
            self.take_too_much()
        loss = self.loss(batch, self.weight)
        if self.fault == "oom-backward" and self.too_large:
            loss.register_hook(lambda gradient: self.take_too_much())  # type: ignore[no-untyped-call]
        return loss / 0 if self.fault == "nan" else loss

    def take_too_much(self) -> None:
        torch.ones(TOO_MUCH, dtype=torch.uint8, device=self.device)

    def backward(self, loss: Tensor) -> None:
        self.weight.grad = None
        loss.backward()  # type: ignore[no-untyped-call]

    def optimize(self, progress: float) -> None:
        self.progress.append(progress)
        with torch.no_grad():
            assert self.weight.grad is not None
            self.weight -= 0.1 * (1 - progress) * self.weight.grad
        self.facts["steps"] = self.step

    def evaluate(self) -> dict[str, float]:
        if self.fault == "oom-later" and self.too_large:
            self.mark.touch()
        error = (self.weight - 0.5).square().item()
        return {"final_mse": error, "grey_mse": 1.0, "mean_color_mse": 0.5}

    def previews(self, count: int) -> dict[str, bytes]:
        if self.fault == "unpictured":
            raise RuntimeError("there is nothing to see")
        return {"true": b"as all have it", "predicted": repr((count, self.fault)).encode()}
