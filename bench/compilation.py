"""What torch.compile did in this process, from torch's own counters."""

from dataclasses import dataclass
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
    """

    graphs: int
    graph_breaks: list[str]
    recompilations: list[str]
    cache_hits: int
    cache_misses: int
    cudagraph_skips: int

    @classmethod
    def now(cls, device_type: str) -> "Compilation":
        """The counts up to now.

        Args:
            device_type: Where the graphs run; on a `cpu` there are no CUDA graphs to skip.
        """
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
            cudagraph_skips=inductor["cudagraph_skips"] if device_type == "cuda" else 0,
        )

    def events_since(self, before: "Compilation") -> int:
        """How often something was given up or compiled again, or else for the first time.

        None of it belongs into a measurement. A graph that is compiled again is one event.
        """
        again = len(self.recompilations) - len(before.recompilations)
        breaks = len(self.graph_breaks) - len(before.graph_breaks)
        return again + breaks or self.graphs - before.graphs

    def to_json(self) -> dict[str, Any]:
        """The counts by name."""
        return dict(vars(self))
