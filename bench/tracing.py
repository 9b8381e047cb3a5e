"""Training steps without their memory: in a child process, with tensors that have shapes only.

Torch carries out every operation as in a trial, on fake tensors (`FakeTensorMode`), and what comes
to life and dies is written down. Always on CPU tensors, since fake CUDA tensors have no backward
pass where there is no GPU; a network whose operations both kinds of autocast treat alike computes
in the same precisions there.

Sizes are linear in the batch, and which memory lives when does not depend on it. So two traces at
different batch sizes give every moment's memory at any batch size, and a third one checks that.
"""

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import IO, Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from bench.monitor import read_proc_status
from bench.predict import ACTIVATIONS, TEMPORARY, Moment
from bench.worker import Events
from bench.workload import TaskFactory, load_object

BUILDING = "building"
BATCHES = (2, 3)
"""Two batch sizes, as small as any that is not special: a trace takes as long at any."""

# What memory is that outlives the phase it came to life in.
_LASTING = {
    BUILDING: "parameters",
    "data": "batch",
    "forward": ACTIVATIONS,
    "backward": "gradients",
    "optimizer": "optimizer state",
}


def predict(request: dict[str, Any], pipe: IO[bytes]) -> None:
    """Tells the parent how much memory training a variant takes, at any batch size.

    Args:
        request: `task` (as `module:attribute`), `axes` of an eager variant, `settings`, `device`
            (the kind that is meant: `cpu` or `cuda`), and `check`, the batch size of a third trace.
        pipe: Gets `steady` and `first_step` (lists of `Moment`), `resident` (the `Moment` after a
            first step) and `check_error`, by how much the third trace's peak is off, as a share;
            or `{"error": ...}`.
    """
    at = partial(trace_at, request)
    try:
        few, more = map(at, BATCHES)
        lines = Lines(few, more)
        steady = lines.moments(4, 8)
        third = at(request["check"])
    except Exception as error:  # noqa: BLE001 (whatever the task cannot do without memory)
        Events(pipe).send({"error": f"cannot be traced: {_in_words(error)}"})
        return
    peak = max(sum(c + s * request["check"] for c, s in moment.values()) for moment in steady)
    found: dict[str, Any] = {
        "steady": steady,
        "first_step": lines.moments(0, 4),
        "resident": lines.at(more.ends[4]),
        "check_error": float(peak / third.live()[third.ends[4] : third.ends[8]].max() - 1),
    }
    Events(pipe).send(found)


def measure_process(request: dict[str, Any], pipe: IO[bytes]) -> None:
    """Tells the parent what a process on the CPU has after one real step with a batch of one.

    Args:
        request: `task`, `axes` and `settings`, as of `predict`.
        pipe: Gets `process_bytes`, anonymous resident memory, or `{"error": ...}`.
    """
    try:
        task = _build(request, 1)
        task.backward(task.forward(task.example()))
        task.optimize(0.0)
    except Exception as error:  # noqa: BLE001 (as above)
        Events(pipe).send({"error": f"cannot take a step at batch 1: {_in_words(error)}"})
        return
    gc.collect()
    Events(pipe).send({"process_bytes": read_proc_status()["RssAnon"]})


def _in_words(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _build(request: dict[str, Any], batch_size: int) -> Any:
    factory: TaskFactory = load_object(request["task"])
    settings = request["settings"]
    return factory(
        axes=request["axes"], settings=settings, batch_size=batch_size, handle={}, device="cpu"
    )


def trace_at(request: dict[str, Any], batch_size: int) -> "Trace":
    """A trace of the task that a request of `predict` asks for, at a batch size."""
    workspaces = _ONEDNN if request["device"] == "cpu" else {}
    return trace(lambda: _build(request, batch_size), workspaces)


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
    """What building a task and two training steps did with memory.

    Attributes:
        blocks: In the order in which they came to life.
        ends: The moment at which building ended, then each phase of the two steps.
    """

    blocks: list[Block]
    ends: list[int]

    def live(self) -> np.ndarray:
        """Bytes that were alive at each moment, float64."""
        return _live(self, np.array([block.size_bytes for block in self.blocks], float))


def _live(trace: Trace, weights: np.ndarray) -> np.ndarray:
    """The sum of the weights, (blocks, ...), of the blocks that live at each moment."""
    length = trace.ends[-1] + 2
    change = np.zeros((length, *weights.shape[1:]))
    np.add.at(change, [block.born for block in trace.blocks], weights)
    died = [length - 1 if block.died is None else block.died for block in trace.blocks]
    np.subtract.at(change, died, weights)
    return np.cumsum(change, axis=0)[:-1]


class Lines:
    """Memory at each moment as a line over the batch size, from two traces.

    Raises:
        ValueError: The two did not do the same.
    """

    def __init__(self, few: Trace, more: Trace) -> None:
        def course(trace: Trace) -> list[tuple[Any, ...]]:
            return [(b.phase, b.module, b.born, b.died) for b in trace.blocks]

        if course(few) != course(more):
            raise ValueError("what is done with memory depends on the batch size")
        low, high = BATCHES
        small, large = (
            np.array([block.size_bytes for block in trace.blocks], float) for trace in (few, more)
        )
        slopes = (large - small) / (high - low)
        self._trace = more
        kinds = [_kind(block, more.ends) for block in more.blocks]
        self._kinds = sorted(set(kinds))
        # (blocks, kinds, constant and slope): each block's line in the column of its kind.
        lines = np.zeros((len(kinds), len(self._kinds), 2))
        columns = [self._kinds.index(kind) for kind in kinds]
        lines[range(len(kinds)), columns, 0] = small - low * slopes
        lines[range(len(kinds)), columns, 1] = slopes
        self._lines = _live(more, lines)

    def at(self, moment: int) -> Moment:
        """The line of each kind of memory at a moment."""
        found = zip(self._kinds, self._lines[moment].tolist(), strict=True)
        return {kind: (constant, slope) for kind, (constant, slope) in found if constant or slope}

    def moments(self, first: int, last: int) -> list[Moment]:
        """Those moments between two ends of phases that are the peak at some batch size."""
        begin, end = self._trace.ends[first], self._trace.ends[last]
        totals = self._lines[begin:end].sum(axis=1)
        # From a batch of one on, the next peak is where a steeper line first crosses this one.
        batch, found = 1.0, [int(np.lexsort((totals[:, 1], totals @ (1, 1)))[-1])]
        while True:
            constant, slope = totals[found[-1]]
            steeper = np.flatnonzero(totals[:, 1] > slope + 0.5)
            if not len(steeper):
                break
            crossings = (constant - totals[steeper, 0]) / (totals[steeper, 1] - slope)
            batch = max(batch, crossings.min())
            at_once = steeper[crossings <= batch]
            found.append(int(at_once[totals[at_once, 1].argmax()]))
        return [self.at(begin + moment) for moment in found]


def _kind(block: Block, ends: list[int]) -> str:
    """What a block is, by how long it lives: what it outlives its phase as, or temporary."""
    phase_ends = next(end for end in ends if block.born <= end)
    if block.died is not None and block.died <= phase_ends:
        return TEMPORARY
    kind = _LASTING[block.phase]
    return f"{kind} of {block.module or 'the loss'}" if kind == ACTIVATIONS else kind


def trace(build: Callable[[], Any], workspaces: "Workspaces") -> Trace:
    """Traces how a task is built, and two of its training steps.

    Args:
        build: Makes the task; called where tensors are fake. See `bench.workload.Task`, of which
            `example` takes the place of `batches`.
        workspaces: What operations take beside their arguments and results.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    recorder = _Recorder(workspaces)
    with _no_collection(), _conversion(), fake, recorder:
        task = build()
        ends = [recorder.end("data")]
        for _ in range(2):
            batch = task.example()
            ends.append(recorder.end("forward"))
            loss = task.forward(batch)
            ends.append(recorder.end("backward"))
            task.backward(loss)
            ends.append(recorder.end("optimizer"))
            task.optimize(0.0)
            ends.append(recorder.end("data"))
    return Trace(recorder.blocks, ends)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Memory dies when nobody refers to it, not when the collector happens to run."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def _conversion() -> Iterator[None]:
    """Lets modules convert fake parameters, which torch's own way refuses to swap."""

    def apply(root: nn.Module, convert: Callable[[Tensor], Tensor], _: bool = True) -> nn.Module:
        for module in root.modules():
            for parameter in module.parameters(recurse=False):
                parameter.data = convert(parameter.data)
            for name, buffer in module.named_buffers(recurse=False):
                module._buffers[name] = convert(buffer)
        return root

    with patch.object(nn.Module, "_apply", apply):
        yield


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation, and the storages that its results bring to life."""

    def __init__(self, workspaces: "Workspaces") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.blocks: list[Block] = []
        self._workspaces = workspaces
        self._phase = BUILDING
        self._moment = 0
        self._alive: dict[int, weakref.ref[Any]] = {}
        self._names: dict[nn.Module, str] = {}
        self._running: list[str] = []

    def __enter__(self) -> "_Recorder":
        self._hooks = [
            register_module_forward_pre_hook(self._enter_module),
            register_module_forward_hook(self._leave_module, always_call=True),
        ]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
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
            result = 0  # a loss scaler asks whether any gradient has overflowed
        self._moment += 1
        for value in tree_iter(result):
            if isinstance(value, Tensor):
                self._note(value.untyped_storage())
        if func in self._workspaces:
            self._block(self._workspaces[func](*args)).died = self._moment + 1
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        known = self._alive.get(storage._cdata)
        if known is not None and known() is storage:
            return
        block = self._block(storage.nbytes())

        def die(_: Any) -> None:
            block.died = self._moment + 1

        self._alive[storage._cdata] = weakref.ref(storage, die)

    def _block(self, size_bytes: int) -> Block:
        part = next(filter(None, self._running), "")  # what the outermost module calls
        self.blocks.append(Block(size_bytes, self._phase, part, self._moment))
        return self.blocks[-1]

    def _enter_module(self, module: nn.Module, _: Any) -> None:
        if not self._running:
            network = getattr(module, "_orig_mod", module)  # torch.compile's holds the other
            self._names = {part: name for name, part in network.named_modules()}
        self._running.append(self._names.get(module, ""))

    def _leave_module(self, *_: Any) -> None:
        self._running.pop()


Workspaces = dict[Any, Callable[..., int]]
"""Operation -> bytes that it takes for its own duration, from its arguments."""


def _convolution(x: Tensor, weight: Tensor, *others: Any) -> int:
    """Weights, and the larger of argument and result, are put into oneDNN's own order.

    What is channels-last need not be.
    """
    if x.is_contiguous(memory_format=torch.channels_last):
        return weight.nbytes
    transposed = others[4]
    channels = weight.shape[1 if transposed else 0]
    return weight.nbytes + max(x.nbytes, x.nbytes // x.shape[1] * channels)


def _convolution_backward(gradient: Tensor, x: Tensor, weight: Tensor, *_: Any) -> int:
    """Likewise weights, and their gradient; argument and gradient."""
    if x.is_contiguous(memory_format=torch.channels_last):
        return 2 * weight.nbytes
    return 2 * weight.nbytes + x.nbytes + gradient.nbytes


# Measured with each tensor in pages of its own (`MALLOC_MMAP_THRESHOLD_`), fp32 and bf16.
_ONEDNN: Workspaces = {
    torch.ops.aten.convolution.default: _convolution,
    torch.ops.aten.convolution_backward.default: _convolution_backward,
}
