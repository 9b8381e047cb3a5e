import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bench.forkserver import EventReader, ForkServer
from bench.monitor import Monitor, nvml_describe
from tests.children import MIB
from tests.harness import events_of, wait_until_dead


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    server = ForkServer(preload=("tests.children",))
    yield server
    server.close()


@contextmanager
def burning(server: ForkServer, grandchild: bool, mib: int = 0) -> Iterator[tuple[int, float]]:
    """A child that has used CPU and memory and now sleeps: its pid and its own account."""
    request = {"cpu_s": 0.5, "mib": mib, "grandchild": grandchild}
    with tempfile.TemporaryFile() as log:
        child = server.fork("tests.children:burn", request, log)
        (event,) = events_of(child, EventReader(child.events))
        yield child.pid, event["cpu_s"]
        child.kill()
        server.reply()
        child.events.close()
        wait_until_dead(child.pid)


def figures(pid: int) -> tuple[float, int]:
    sample = Monitor(pid, None).sample("measuring")
    assert sample["phase"] == "measuring"
    cpu_s, rss_anon = sample["cpu_s"], sample["rss_anon_bytes"]
    assert isinstance(cpu_s, float)
    assert isinstance(rss_anon, int)
    return cpu_s, rss_anon


def test_cpu_time_is_the_process_own_account_and_its_grandchildren_count(
    server: ForkServer,
) -> None:
    with burning(server, grandchild=False) as (pid, own_s):
        alone_s, _ = figures(pid)
        assert alone_s == pytest.approx(own_s, rel=0.15)
    with burning(server, grandchild=True) as (pid, own_s):
        both_s, _ = figures(pid)
        assert both_s == pytest.approx(2 * own_s, rel=0.15)


def test_memory_is_what_the_tree_has_allocated_each_page_once(server: ForkServer) -> None:
    with burning(server, grandchild=False) as (pid, _):
        _, nothing = figures(pid)
    with burning(server, grandchild=False, mib=64) as (pid, _):
        _, alone = figures(pid)
    with burning(server, grandchild=True, mib=64) as (pid, _):
        _, both = figures(pid)
    assert alone - nothing == pytest.approx(64 * MIB, rel=0.05)
    # What the grandchild has from its parent, and only reads, is there once.
    assert both - nothing == pytest.approx(2 * 64 * MIB, rel=0.05)


def test_a_process_that_is_gone_is_no_error(server: ForkServer) -> None:
    with burning(server, grandchild=False) as (pid, _):
        monitor = Monitor(pid, None)
    sample = monitor.sample(None)
    assert (sample["cpu_s"], sample["rss_anon_bytes"], sample["phase"]) == (0, 0, None)


def test_a_gpu_that_nvml_does_not_find_is_not_reported_as_idle(server: ForkServer) -> None:
    with burning(server, grandchild=False) as (pid, _):
        sample = Monitor(pid, "00000000-0000-0000-0000-000000000000").sample(None)
    assert sample.get("gpu_percent") is None
    assert sample["cpu_s"]


@pytest.mark.gpu
def test_a_gpu_is_described_by_name_and_unit() -> None:
    import torch

    card = torch.cuda.get_device_properties(0)
    found = nvml_describe(str(card.uuid))
    assert found["name"] == card.name
    # torch leaves out what the driver keeps for itself.
    assert found["memory_bytes"] == pytest.approx(card.total_memory, rel=0.05)
    for name in ("used_bytes", "max_sm_clock_mhz", "gpu_percent", "gpu_used_bytes"):
        assert found[name] is not None, name


def test_a_gpu_that_nvml_does_not_find_is_not_described() -> None:
    assert nvml_describe("GPU-00000000-0000-0000-0000-000000000000") == {}
