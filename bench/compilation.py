"""What torch.compile did in this process, from torch's own counters, and where it keeps it."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Compilation:
    """Counts since the process began.

    Attributes:
        graphs: Graphs that were captured and compiled, forward and backward counting once.
        graph_breaks: Why a graph ended before its function did, once for each time.
        recompilations: Why a graph that was there did not serve, once for each time.
        cache_hits: Compiled graphs that were found on disk; forward and backward count apart.
        cache_misses: Those that were not.
        cudagraph_skips: Graphs that were to run as CUDA graphs and do not.
        cudagraph_inputs: Inputs of CUDA graphs that were recorded: 0 means that there are none.
    """

    graphs: int
    graph_breaks: list[str]
    recompilations: list[str]
    cache_hits: int
    cache_misses: int
    cudagraph_skips: int
    cudagraph_inputs: int

    @classmethod
    def now(cls) -> "Compilation":
        """The counts up to now."""
        # Takes a second, which only compiled trials need.
        from torch._dynamo.utils import counters, get_compilation_metrics

        reasons = [metrics.recompile_reason for metrics in get_compilation_metrics()]
        inductor = counters["inductor"]
        return cls(
            graphs=counters["stats"]["unique_graphs"],
            graph_breaks=list(counters["graph_break"].elements()),
            recompilations=[reason for reason in reasons if reason is not None],
            cache_hits=inductor["fxgraph_cache_hit"],
            cache_misses=inductor["fxgraph_cache_miss"],
            cudagraph_skips=inductor["cudagraph_skips"],
            cudagraph_inputs=inductor["cudagraph_recorded_non_static_inputs"],
        )

    def events_since(self, before: "Compilation") -> int:
        """How often a graph was compiled, for the first time or again, given up, or recorded.

        None of it belongs into a measurement.
        """
        breaks = len(self.graph_breaks) - len(before.graph_breaks)
        recorded = self.cudagraph_inputs > before.cudagraph_inputs
        return self.graphs - before.graphs + breaks + recorded

    def to_json(self) -> dict[str, Any]:
        """The counts by name."""
        return dict(vars(self))


def use_compile_cache(folder: Path, *, cold: bool) -> None:
    """Lets torch.compile keep what it makes in a folder that belongs to one cell of the table.

    Args:
        folder: Where; made when needed.
        cold: Whether this process compiles for the first time. Then it may start others that help,
            which would stay beside a trial that is measured; and what torch keeps for all that it
            compiles, such as precompiled headers, is made anew in `folder`/tmp.
    """
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
    os.environ["TRITON_CACHE_DIR"] = str(folder / "triton")
    if cold:
        own = folder / "tmp"
        own.mkdir(parents=True)
        os.environ["TMPDIR"] = tempfile.tempdir = str(own)
    else:
        import torch._inductor.config  # takes a second, which only compiled trials need

        torch._inductor.config.compile_threads = 1
