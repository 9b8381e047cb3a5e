import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.forkserver import EventReader, ForkServer
from bench.monitor import (
    Monitor,
    RunQueueWait,
    machine_s,
    oom_kills,
)
from tests import groups
from tests.children import MIB
from tests.harness import events_of, wait_until, wait_until_dead


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    server = ForkServer(preload=("tests.children",))
    yield server
    server.close()


@contextmanager
def running(server: ForkServer, entry: str, **request: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """A child of `tests.children` that stays: its pid and its first event."""
    with tempfile.TemporaryFile() as log:
        child = server.fork(f"tests.children:{entry}", request, log)
        (event,) = events_of(child, EventReader(child.events))
        yield child.pid, event
        child.kill()
        server.reply()
        child.events.close()
        wait_until_dead(child.pid)


@contextmanager
def burning(
    server: ForkServer, generations: int = 0, mib: int = 0, *, ends: bool = False
) -> Iterator[tuple[int, float]]:
    """A child that has used CPU and memory and now sleeps: its pid, and what was used in all."""
    request = {"cpu_s": 0.5, "mib": mib, "generations": generations, "ends": ends}
    with running(server, "burn", **request) as (pid, event):
        yield pid, event["cpu_s"]


def figures(pid: int) -> tuple[float, int]:
    sample = Monitor(pid, None).sample("measuring")
    assert sample["phase"] == "measuring"
    cpu_s, rss_anon = sample["cpu_s"], sample["rss_anon_bytes"]
    assert isinstance(cpu_s, float)
    assert isinstance(rss_anon, int)
    return cpu_s, rss_anon


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("generations", [0, 1, 2])
def test_cpu_time_is_of_all_descendants_also_of_those_that_have_ended(
    server: ForkServer, generations: int, ends: bool
) -> None:
    with burning(server, generations, ends=ends) as (pid, used_s):
        tree_s, _ = figures(pid)
        assert used_s > 0.5 * (1 + generations)
        assert tree_s == pytest.approx(used_s, rel=0.15)


def test_memory_is_what_the_tree_has_allocated_each_page_once(server: ForkServer) -> None:
    with burning(server) as (pid, _):
        _, nothing = figures(pid)
    with burning(server, mib=64) as (pid, _):
        _, alone = figures(pid)
    with burning(server, generations=1, mib=64) as (pid, _):
        _, both = figures(pid)
    assert alone - nothing == pytest.approx(64 * MIB, rel=0.05)
    # What the grandchild has from its parent, and only reads, is there once.
    assert both - nothing == pytest.approx(2 * 64 * MIB, rel=0.05)


def test_a_process_that_is_gone_is_no_error(server: ForkServer) -> None:
    with burning(server) as (pid, _):
        monitor = Monitor(pid, None)
    sample = monitor.sample(None)
    assert (sample["cpu_s"], sample["rss_anon_bytes"], sample["phase"]) == (0, 0, None)


def test_a_gpu_that_nvml_does_not_find_is_not_reported_as_idle(server: ForkServer) -> None:
    with burning(server) as (pid, _):
        sample = Monitor(pid, "00000000-0000-0000-0000-000000000000").sample(None)
    assert sample.get("gpu_percent") is None
    assert sample["cpu_s"]


def test_threads_that_share_a_cpu_wait_for_it(server: ForkServer) -> None:
    cpu = min(os.sched_getaffinity(0))
    with ExitStack() as stack:
        pid, _ = stack.enter_context(running(server, "compete", cpu=cpu))
        other = ForkServer(preload=("tests.children",))
        stack.callback(other.close)
        rival, _ = stack.enter_context(running(other, "compete", cpu=cpu))
        monitors = Monitor(pid, None), Monitor(rival, None)
        before = [monitor.sample(None) for monitor in monitors]

        if before[0]["wait_s"] is None:
            pytest.skip("this kernel does not tell how long threads wait")

        def grown(name: str) -> list[float]:
            now = [monitor.sample(None) for monitor in monitors]
            pairs = zip(before, now, strict=True)
            return [number(last[name]) - number(first[name]) for first, last in pairs]

        wait_until(lambda: min(grown("cpu_s")) > 0.2)
        # While one runs the other is ready, and waits; on a busy machine both wait for others too.
        waited, ran = grown("wait_s"), grown("cpu_s")
    assert all(mine > 0.5 * theirs for mine, theirs in zip(waited, reversed(ran), strict=True))


def number(value: object) -> float:
    assert isinstance(value, int | float)
    return value


def schedstat(proc: Path, pid: int, **wait_ns: int | None) -> None:
    """Writes what threads of a process have waited; `None` for one that has ended."""
    for thread, value in wait_ns.items():
        task = proc / str(pid) / "task" / thread
        task.mkdir(parents=True, exist_ok=True)
        if value is None:
            (task / "schedstat").unlink()
        else:
            (task / "schedstat").write_text(f"123456 {value} 78\n")


def test_what_threads_waited_that_have_ended_still_counts(tmp_path: Path) -> None:
    waiting = RunQueueWait(tmp_path)
    assert waiting.until_now_s([1]) is None
    schedstat(tmp_path, 1, a=2_000_000_000, b=1_000_000_000)
    assert waiting.until_now_s([1]) == pytest.approx(3)
    schedstat(tmp_path, 1, a=2_500_000_000, b=None)
    schedstat(tmp_path, 2, c=500_000_000)
    assert waiting.until_now_s([1, 2]) == pytest.approx(4)
    schedstat(tmp_path, 1, a=100_000_000)  # another thread, by the same number
    assert waiting.until_now_s([1, 2]) == pytest.approx(4.1)
    assert waiting.until_now_s([]) == pytest.approx(4.1)


def test_a_sample_tells_what_a_quota_has_stopped_or_that_it_cannot_be_read(tmp_path: Path) -> None:
    own = {"unified/a/cpu.stat": "usage_usec 5\nnr_periods 10\nnr_throttled 4\n"}
    others = {f"unified/{group}cpu.stat": "usage_usec 5\n" for group in ("a/b/", "")}
    proc = groups.made(tmp_path, groups.V2, "/a/b", own | others)
    sample = Monitor(os.getpid(), None, proc).sample(None)
    assert (sample["quota_periods"], sample["quota_throttled"]) == (10, 4)
    assert sample["wait_s"] is None
    nothing = Monitor(os.getpid(), None, tmp_path / "none").sample(None)
    assert (nothing["quota_periods"], nothing["quota_throttled"]) == (None, None)


def test_a_machine_that_does_not_count_is_not_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    still = [type("times", (), {"user": 0.0, "idle": 0.0})] * (1 + max(os.sched_getaffinity(0)))
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: still)
    assert machine_s() is None
    sample = Monitor(os.getpid(), None).sample(None)
    assert (sample["machine_busy_s"], sample["machine_stolen_s"]) == (None, None)


def test_kills_for_want_of_memory_are_counted_in_the_groups_too(tmp_path: Path) -> None:
    files = {"unified/a/memory.events": "low 9\noom_kill 2\n"}
    proc = groups.made(tmp_path, groups.V2, "/a", files)
    assert oom_kills(proc) == 2
    (proc / "vmstat").write_text("pgfault 12\noom_kill 3\n")
    assert oom_kills(proc) == 5
