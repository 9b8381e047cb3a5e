"""Limits of this process's control groups: CPU quota, throttling and memory.

A limit may be set on the process's own group or on any group above it, so all of them are read, as
far as they are mounted here. Both versions of control groups are read, also side by side (hybrid).
`None` means "not readable"; "no limit" is `math.inf`.
"""

import contextlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

PROC = Path("/proc")

_UNLIMITED_BYTES = 2**60
"""Version 1 writes "no limit" as the largest number of pages; nobody sets such a limit."""


@dataclass(frozen=True)
class Group:
    """A control group.

    Attributes:
        folder: Where its files are.
        version: Of control groups, 1 or 2.
        is_root: Whether it is the root of its hierarchy, which has no limits in version 2.
    """

    folder: Path
    version: int
    is_root: bool


def groups(controller: str, pid: int | str = "self", proc: Path = PROC) -> list[Group]:
    """The groups that a controller applies to a process: its own one first, then those above.

    Args:
        controller: `cpu` or `memory`.
        pid: The process.
        proc: Where procfs is mounted.

    Returns:
        Nothing where that is not readable.
    """
    paths: dict[str, str] = {}  # by controller, "" for version 2: the process's group
    try:
        for line in (proc / str(pid) / "cgroup").read_text().splitlines():
            _, names, path = line.split(":", 2)
            paths |= dict.fromkeys(names.split(","), path)
        mounts = (proc / "self/mountinfo").read_text().splitlines()
    except (OSError, ValueError):
        return []
    version = 1 if controller in paths else 2
    own = paths.get(controller if version == 1 else "")
    for line in mounts if own else ():
        described, _, filesystem = line.partition(" - ")
        kind, _, options = filesystem.split(" ", 2)
        wanted = "cgroup2" if version == 2 else "cgroup"
        if kind == wanted and (version == 2 or controller in options.split(",")):
            root, mount_point = map(_unescaped, described.split()[3:5])
            return _chain(PurePosixPath(own or "/"), root, Path(mount_point), version)
    return []


def _chain(path: PurePosixPath, root: str, mount_point: Path, version: int) -> list[Group]:
    """From a group up to the one that is mounted.

    Args:
        path: The group, from the root of the hierarchy, as the process sees that.
        root: The group that is mounted, likewise.
        mount_point: Where it is mounted.
        version: Of control groups.
    """
    if not path.is_relative_to(root) or ".." in path.parts:  # outside of what is mounted here
        return []
    below = path.relative_to(root)
    folders = [mount_point / below, *(mount_point / parent for parent in below.parents)]
    if not all(folder.is_dir() for folder in folders):
        return []
    return [
        Group(
            folder,
            version,
            # A container sees its own group as a root; only the real one has no such file.
            is_root=folder == mount_point and root == "/" and not (folder / _NOT_ROOT).exists(),
        )
        for folder in folders
    ]


_NOT_ROOT = "cgroup.events"
"""A file that all groups of version 2 have but the root; see cgroup-v2.rst."""


def _unescaped(text: str) -> str:
    r"""A path as mountinfo writes it, with `\040` for a space."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def quota_cpus(proc: Path = PROC) -> float | None:
    """CPUs' time that the groups may use: the smallest quota, `math.inf` where there is none."""
    return _smallest(groups("cpu", proc=proc), _quota_cpus)


def _quota_cpus(group: Group) -> float:
    """Of one group. Raises `OSError` or `ValueError` where it tells none."""
    if group.version == 2:
        limit, period = (group.folder / "cpu.max").read_text().split()
        return math.inf if limit == "max" else int(limit) / int(period)
    limit_us = int((group.folder / "cpu.cfs_quota_us").read_text())
    period_us = int((group.folder / "cpu.cfs_period_us").read_text())
    return math.inf if limit_us < 0 else limit_us / period_us


def memory_limit_bytes(proc: Path = PROC) -> float | None:
    """The smallest memory limit of the groups; `math.inf` where there is none."""
    return _smallest(groups("memory", proc=proc), _memory_limit_bytes)


def free_memory_bytes(proc: Path = PROC) -> float | None:
    """What the groups' limits leave: the least of them; `math.inf` where there is no limit."""
    return _smallest(groups("memory", proc=proc), _free_memory_bytes)


def _memory_limit_bytes(group: Group) -> float:
    # Beyond `high` the kernel stops the group's processes again and again, until it has reclaimed.
    names = ("memory.max", "memory.high") if group.version == 2 else ("memory.limit_in_bytes",)
    texts = [(group.folder / name).read_text().strip() for name in names]
    limit = min(math.inf if text == "max" else int(text) for text in texts)
    return math.inf if limit >= _UNLIMITED_BYTES else limit


def _free_memory_bytes(group: Group) -> float:
    limit = _memory_limit_bytes(group)
    if limit == math.inf:
        return limit
    usage, cached = (
        ("memory.current", "inactive_file")
        if group.version == 2
        else ("memory.usage_in_bytes", "total_inactive_file")
    )
    used = int((group.folder / usage).read_text())
    with contextlib.suppress(OSError):
        # Cached files count as used, but the kernel drops them when memory is short.
        used -= _counters(group.folder / "memory.stat").get(cached, 0)
    return max(0, limit - used)


def _smallest(found: Sequence[Group], limit_of: Callable[[Group], float]) -> float | None:
    """The smallest limit of some groups.

    A group of version 2 has no such file where the controller is not enabled for it; then it has no
    limit either, unless no group at all has one: then the limit may be set above what is mounted.
    """
    limits = []
    for group in found:
        try:
            limits.append(limit_of(group))
        except FileNotFoundError:
            if group.version == 2 and group.is_root:
                limits.append(math.inf)
        except (OSError, ValueError):
            return None
    return min(limits, default=None)


@dataclass(frozen=True)
class Throttling:
    """How often a CPU quota has stopped a process's groups so far.

    Attributes:
        periods: Of the quota (of 100 ms, usually) in which something ran.
        throttled: Of these, those in which the groups were stopped.
    """

    periods: int
    throttled: int


def throttling(found: Sequence[Group]) -> Throttling | None:
    """What the groups of the controller `cpu` count, of all of them together."""
    total, readable = Throttling(0, 0), False
    for group in found:
        try:
            counted = _counters(group.folder / "cpu.stat")
        except (OSError, ValueError):
            return None
        # Without the controller, version 2 counts time only.
        readable |= "nr_throttled" in counted or (group.version == 2 and group.is_root)
        total = Throttling(
            total.periods + counted.get("nr_periods", 0),
            total.throttled + counted.get("nr_throttled", 0),
        )
    return total if readable else None


def _counters(path: Path) -> dict[str, int]:
    """A file of lines `NAME NUMBER`. Raises `OSError` or `ValueError`."""
    pairs = (line.split() for line in path.read_text().splitlines())
    return {name: int(number) for name, number in pairs}


def oom_counters(proc: Path = PROC) -> list[Path]:
    """The files in which the groups count the processes that were killed for want of memory."""
    names = {1: "memory.oom_control", 2: "memory.events"}
    return [group.folder / names[group.version] for group in groups("memory", proc=proc)]
