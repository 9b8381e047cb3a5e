"""Limits of control groups: on made-up trees of both versions, and of real groups."""

import math
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from bench import cgroup
from bench.environment import free_memory_bytes
from tests.groups import HYBRID, V1, V2, made

MIB = 2**20
FREE = 2**63 - 4096  # version 1's "no limit"


def v1_quota(quota_us: int, where: str = "") -> dict[str, str]:
    folder = f"cpu,cpuacct/{where}"
    return {
        f"{folder}cpu.cfs_quota_us": f"{quota_us}\n",
        f"{folder}cpu.cfs_period_us": "100000\n",
    }


def v1_memory(limit: int, used: int, where: str = "", cached: int = 0) -> dict[str, str]:
    folder = f"memory/{where}"
    return {
        f"{folder}memory.limit_in_bytes": f"{limit}\n",
        f"{folder}memory.usage_in_bytes": f"{used}\n",
        f"{folder}memory.stat": f"cache 5\ntotal_inactive_file {cached}\n",
    }


def v2_memory(limit: str, high: str, used: int, where: str = "", cached: int = 0) -> dict[str, str]:
    folder = f"unified/{where}"
    return {
        f"{folder}memory.max": f"{limit}\n",
        f"{folder}memory.high": f"{high}\n",
        f"{folder}memory.current": f"{used}\n",
        f"{folder}memory.stat": f"anon 5\ninactive_file {cached}\n",
    }


@pytest.mark.parametrize(
    ("mounts", "files", "cpus"),
    [
        (V2, {"unified/a/b/cpu.max": "max 100000"}, math.inf),
        (V2, {"unified/a/b/cpu.max": "150000 100000"}, 1.5),
        # The smallest on the way up counts, wherever it is set.
        (V2, {"unified/a/b/cpu.max": "max 100000", "unified/a/cpu.max": "50000 100000"}, 0.5),
        (V2, {"unified/a/b/cpu.max": "50000 100000", "unified/a/cpu.max": "max 100000"}, 0.5),
        (V2, {"unified/a/cpu.max": "100000 100000"}, 1),  # the controller is off in a/b
        (V2, {}, math.inf),  # the root, which has no limits, is seen
        (V2, {"unified/cgroup.events": ""}, None),  # that is a container's, whose limits are not
        (V2, {"unified/a/b/cpu.max": "odd"}, None),
        (V1, v1_quota(-1) | v1_quota(-1, "a/") | v1_quota(-1, "a/b/"), math.inf),
        (V1, v1_quota(-1) | v1_quota(50000, "a/") | v1_quota(-1, "a/b/"), 0.5),
        (V1, v1_quota(-1) | v1_quota(-1, "a/") | v1_quota(120000, "a/b/"), 1.2),
        (V1, {}, None),
        # Side by side, version 1 has the controllers.
        (HYBRID, v1_quota(50000, "a/b/") | {"unified/a/cpu.max": "10000 100000"}, 0.5),
        ({"name=systemd": "cgroup"}, {}, None),
        ({}, {}, None),
    ],
)
def test_the_smallest_quota_of_the_own_group_and_those_above_counts(
    mounts: Mapping[str, str], files: dict[str, str], cpus: float | None, tmp_path: Path
) -> None:
    assert cgroup.quota_cpus(made(tmp_path, mounts, "/a/b", files)) == cpus


@pytest.mark.parametrize(
    ("mounts", "files", "limit", "free"),
    [
        (V2, v2_memory("max", "max", 5, "a/b/"), math.inf, math.inf),
        (V2, v2_memory(f"{900 * MIB}", "max", 100 * MIB, "a/b/"), 900 * MIB, 800 * MIB),
        (V2, v2_memory("max", f"{700 * MIB}", 100 * MIB, "a/b/"), 700 * MIB, 600 * MIB),
        # Less is left in the group above, whose limit is larger.
        (
            V2,
            v2_memory(f"{900 * MIB}", "max", 100 * MIB, "a/b/")
            | v2_memory(f"{2000 * MIB}", "max", 1900 * MIB, "a/", cached=200 * MIB),
            900 * MIB,
            300 * MIB,
        ),
        (V1, v1_memory(FREE, 5, "a/b/") | v1_memory(FREE, 5), math.inf, math.inf),
        (
            V1,
            v1_memory(FREE, 5, "a/b/") | v1_memory(900 * MIB, 850 * MIB, "a/", cached=10 * MIB),
            900 * MIB,
            60 * MIB,
        ),
        (HYBRID, v1_memory(900 * MIB, 1000 * MIB, "a/b/"), 900 * MIB, 0),
        (V2, {}, math.inf, math.inf),
        (V2, {"unified/cgroup.events": ""}, None, None),
        (V1, {}, None, None),
    ],
)
def test_what_memory_the_groups_leave(
    mounts: Mapping[str, str],
    files: dict[str, str],
    limit: float | None,
    free: float | None,
    tmp_path: Path,
) -> None:
    proc = made(tmp_path, mounts, "/a/b", files)
    assert cgroup.memory_limit_bytes(proc) == limit
    assert cgroup.free_memory_bytes(proc) == free
    if free is not None and free < math.inf:
        assert free_memory_bytes(proc) == free
    else:
        assert free_memory_bytes(proc) > 0


@pytest.mark.parametrize("mounts", [V1, V2])
def test_a_group_that_is_not_mounted_here_is_not_readable(
    mounts: Mapping[str, str], tmp_path: Path
) -> None:
    proc = made(tmp_path, mounts, "/a/b", v1_quota(5000) if mounts is V1 else {})
    lines = [f"{number}:{names}:/elsewhere" for number, names in enumerate(mounts)]
    (proc / "self/cgroup").write_text("\n".join(lines))
    assert cgroup.quota_cpus(proc) is None
    assert cgroup.free_memory_bytes(proc) is None
    (proc / "self/cgroup").write_text("\n".join(line.replace("/else", "/../") for line in lines))
    assert cgroup.quota_cpus(proc) is None
    assert cgroup.quota_cpus(tmp_path / "none") is None


def test_a_container_without_a_namespace_sees_its_own_group_as_the_root(tmp_path: Path) -> None:
    files = {"unified/cpu.max": "50000 100000", "unified/cgroup.events": ""}
    proc = made(tmp_path, V2, "/docker/1", files, mounted="/docker/1")
    assert [group.is_root for group in cgroup.groups("cpu", proc=proc)] == [False]
    assert cgroup.quota_cpus(proc) == 0.5


@pytest.mark.parametrize(
    ("mounts", "files", "expected"),
    [
        (
            V2,
            {
                "unified/a/b/cpu.stat": "usage_usec 5\nnr_periods 10\nnr_throttled 4\n",
                "unified/a/cpu.stat": "usage_usec 5\nnr_periods 2\nnr_throttled 1\n",
                "unified/cpu.stat": "usage_usec 5\n",
            },
            cgroup.Throttling(12, 5),
        ),
        (
            V1,
            {
                f"cpu,cpuacct/{group}cpu.stat": f"nr_periods {count}\nnr_throttled {count}\n"
                for group, count in (("a/b/", 0), ("a/", 7), ("", 0))
            },
            cgroup.Throttling(7, 7),
        ),
        (V2, {}, None),
        (V1, {}, None),
        ({}, {}, None),
    ],
)
def test_throttling_of_all_groups_is_counted(
    mounts: Mapping[str, str],
    files: dict[str, str],
    expected: cgroup.Throttling | None,
    tmp_path: Path,
) -> None:
    proc = made(tmp_path, mounts, "/a/b", files)
    for pid in ("self", os.getpid()):
        assert cgroup.throttling(cgroup.groups("cpu", pid, proc)) == expected


def test_where_the_groups_count_out_of_memory(tmp_path: Path) -> None:
    for number, (mounts, name) in enumerate(((V1, "memory.oom_control"), (V2, "memory.events"))):
        proc = made(tmp_path / f"{number}", mounts, "/a", {})
        first, last = cgroup.oom_counters(proc)
        assert (first.name, first.parent.name, last.parent) == (name, "a", first.parent.parent)
