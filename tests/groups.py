"""Made-up trees of control groups, as procfs and the kernel show them."""

import os
from collections.abc import Mapping
from pathlib import Path

V2 = {"": "cgroup2"}
V1 = {"cpu,cpuacct": "cgroup", "memory": "cgroup"}
HYBRID = {**V1, "": "cgroup2"}


def made(
    root: Path,
    mounts: Mapping[str, str],
    own: str,
    files: Mapping[str, str],
    mounted: str = "/",
) -> Path:
    """Makes a procfs and the control groups it speaks of.

    Args:
        root: An empty folder.
        mounts: Kind of file system by the controllers mounted there.
        own: The process's group, in every hierarchy.
        files: Text by path: first the controllers (`unified` for none), then group and name.
        mounted: The group that is mounted, as in a container without a namespace of its own.

    Returns:
        The procfs, where the process's number is this one's.
    """
    memberships, described = [], []
    for number, (controllers, kind) in enumerate(mounts.items()):
        folder = root / "my groups" / (controllers or "unified")
        (folder / os.path.relpath(own, mounted)).mkdir(parents=True, exist_ok=True)
        memberships.append(f"{number}:{controllers}:{own}")
        where = str(folder).replace(" ", "\\040")
        described.append(f"3{number} 23 0:28 {mounted} {where} rw shared:9 - {kind} none rw,")
        described[-1] += controllers or "nsdelegate"
    for path, text in files.items():
        (root / "my groups" / path).write_text(text)
    proc = root / "proc"
    for pid in ("self", str(os.getpid())):
        (proc / pid).mkdir(parents=True)
        (proc / pid / "cgroup").write_text("".join(f"{line}\n" for line in memberships))
    described = ["22 1 0:20 / / rw - overlay overlay rw,lowerdir=a", *described]
    (proc / "self/mountinfo").write_text("".join(f"{line}\n" for line in described))
    return proc
