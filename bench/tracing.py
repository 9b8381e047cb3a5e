"""Runs training steps without a device: with tensors that have a shape and no memory.

Every operation is carried out by torch as in a trial, on fake tensors (`FakeTensorMode`), and what
comes to life and dies with it is written down. Temporary memory inside a single operation, such as
a convolution's workspace, is not seen.
"""

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from bench.trial import PHASES

BUILDING = "building"


def _convolution(x: Tensor, weight: Tensor, *others: Any) -> int:
    reordered = 0
    if not x.is_contiguous(memory_format=torch.channels_last):
        transposed = others[4]
        out = weight.shape[1] if transposed else weight.shape[0]
        reordered = max(x.nbytes, x.nbytes // x.shape[1] * out)
    return reordered + weight.nbytes


def _convolution_backward(gradient: Tensor, x: Tensor, weight: Tensor, *_: Any) -> int:
    reordered = 0
    if not x.is_contiguous(memory_format=torch.channels_last):
        reordered = x.nbytes + gradient.nbytes
    return reordered + 2 * weight.nbytes


_CPU_WORKSPACE: dict[Any, Callable[..., int]] = {
    torch.ops.aten.convolution.default: _convolution,
    torch.ops.aten.convolution_backward.default: _convolution_backward,
}
"""What oneDNN takes beside arguments and results."""


@dataclass
class Block:
    """Memory that was alive for a while.

    Attributes:
        size_bytes: How much.
        phase: In which phase it came to life: `BUILDING` or one of `PHASES`.
        module: The part of the network that ran then, such as `down.0`; empty outside of any.
        born: The moment of its first use, counted in operations since the trace began.
        died: The moment from which it was free; `None` if it is alive at the end.
    """

    size_bytes: int
    phase: str
    module: str
    born: int
    died: int | None = None


@dataclass
class Trace:
    """What two training steps did with memory.

    Attributes:
        blocks: In the order in which they came to life.
        ends: The moment at which each phase ended: building, and those of the two steps.
    """

    blocks: list[Block]
    ends: list[int]


def trace(build: Callable[[], Any]) -> Trace:
    """Traces a task: how it is built, and two training steps.

    Args:
        build: Makes the task; called in a mode where tensors are fake. See `bench.workload.Task`,
            of which `example` takes the place of `load`.
    """
    with (
        _no_collection(),
        _converting(),
        FakeTensorMode(allow_non_fake_inputs=True),
        _Recorder() as recorder,
    ):
        ends = []
        task = build()
        ends.append(recorder.end(PHASES[0]))
        for _ in range(2):
            batch = task.example()
            ends.append(recorder.end("forward"))
            loss = task.forward(batch)
            ends.append(recorder.end("backward"))
            task.backward(loss)
            ends.append(recorder.end("optimizer"))
            task.optimize(0.0)
            ends.append(recorder.end(PHASES[0]))
    return Trace(recorder.blocks, ends)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Memory dies when nobody refers to it, and not when the collector happens to run."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def _converting() -> Iterator[None]:
    """Lets modules convert fake parameters, which torch's own way refuses to swap."""

    def apply(self: nn.Module, convert: Callable[[Tensor], Tensor], _: bool = True) -> nn.Module:
        for module in self.modules():
            for parameter in module.parameters(recurse=False):
                parameter.data = convert(parameter.data)
            for name, buffer in module.named_buffers(recurse=False):
                module._buffers[name] = convert(buffer)
        return self

    with patch.object(nn.Module, "_apply", apply):
        yield


class _Recorder(TorchDispatchMode):
    """Sees every operation, and the storages that its results bring to life."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks: list[Block] = []
        self._phase = BUILDING
        self._moment = 0
        self._alive: dict[int, weakref.ref[Any]] = {}
        self._root: nn.Module | None = None
        self._names: dict[nn.Module, str] = {}
        self._running: list[str] = []

    def __enter__(self) -> "_Recorder":
        self._hooks = [
            register_module_forward_pre_hook(self._enter_module),
            register_module_forward_hook(self._leave_module, always_call=True),
        ]
        super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        for hook in self._hooks:
            hook.remove()

    def end(self, following: str) -> int:
        """Ends a phase; returns the moment."""
        self._phase = following
        return self._moment

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """See the class."""
        try:
            result = func(*args, **(kwargs or {}))
        except DataDependentOutputException:
            # A loss scaler asks whether any gradient has overflowed.
            result = 0
        self._moment += 1
        for value in tree_iter(result):
            if isinstance(value, Tensor):
                self._note(value)
        if workspace := _CPU_WORKSPACE.get(func):
            size_bytes = workspace(*args)
            self.blocks.append(
                Block(size_bytes, self._phase, self._module, self._moment, self._moment + 1)
            )
        return result

    @property
    def _module(self) -> str:
        return self._running[1] if len(self._running) > 1 else "".join(self._running)

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        known = self._alive.get(storage._cdata)
        if known is not None and known() is storage:
            return
        block = Block(storage.nbytes(), self._phase, self._module, self._moment)
        self.blocks.append(block)

        def died(_: Any) -> None:
            block.died = self._moment + 1

        self._alive[storage._cdata] = weakref.ref(storage, died)

    def _enter_module(self, module: nn.Module, _: Any) -> None:
        if not self._running:
            self._names = {part: name for name, part in module.named_modules()}
        self._running.append(self._names.get(module, ""))

    def _leave_module(self, *_: Any) -> None:
        self._running.pop()
