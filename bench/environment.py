"""What this machine is, and what of it decides whether two rows may be compared."""

import hashlib
import math
import os
import platform
import shlex
import subprocess
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import pynvml

from bench import cgroup
from bench.errors import UserError
from bench.nvml import nvml_describe

ROOT = Path(__file__).parent.parent
"""Where the packages are; in a checkout also the tests."""

CODE = ("bench", "kernels", "unet")
"""The folders there whose code is measured with."""

_SOURCES = (".py", ".cpp", ".toml")

RECORDED_LATER = ("malloc", "variables", "power_limit_w")
"""Of `COMPARABLE`: rows of old lack them, which is as good as `None`."""

COMPARABLE = (
    "device_name",
    "driver",
    "cpu_model",
    "cpus_allowed",
    "threads",
    "torch",
    "triton",
    "cuda",
    "cudnn",
    "python",
    *RECORDED_LATER,
)
"""Rows that differ in one of these do not stand in one table."""

_VARIABLES = {
    # What the user has told the C library's allocator, or put in its place; see mallopt(3).
    "malloc": ("LD_PRELOAD", "GLIBC_TUNABLES", "MALLOC_*"),
    # What else changes speed, memory or numbers: of torch's allocator, of CUDA and its libraries,
    # of threads and where they run, of the CPU's instructions that are used, and of the compiler.
    "variables": (
        *("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_NO_CUDA_MEMORY_CACHING"),
        *("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"),
        *("CUDA_LAUNCH_BLOCKING", "CUDA_MODULE_LOADING", "CUDA_DEVICE_MAX_CONNECTIONS"),
        *("CUBLAS_*", "CUBLASLT_*", "CUDNN_*", "TORCH_CUDNN_*"),
        *("OMP_*", "GOMP_*", "KMP_*", "MKL_*", "OPENBLAS_*"),
        *("ATEN_CPU_CAPABILITY", "ONEDNN_*", "DNNL_*"),
        *("TORCHINDUCTOR_*", "TORCHDYNAMO_*"),
    ),
}
"""Names of the environment variables that a row records, under the name that it does so by."""

_ONLY_PLACES = "*_CACHE_DIR"
"""Where something is kept changes no result."""

# Of the CPU's many flags, those that decide how fast reduced precision is.
_CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16", "amx_tile")


def describe_host(command: list[str]) -> dict[str, Any]:
    """The part of the environment that the parent knows without torch.

    Args:
        command: The command line that asked for this.
    """
    commit, dirty = _commit()
    return {
        "command": shlex.join(command),
        "commit": commit,
        "dirty": dirty,
        "source": source_fingerprint(ROOT),
        "version": package_version("unet-bench"),
        "os": platform.platform(),
        "python": platform.python_version(),
        "cpu_model": _cpu_model(),
        "cpu_flags": [flag for flag in _CPU_FLAGS if flag in _cpu_info("flags").split()],
        "cpus_allowed": cpus_allowed(),
        "cpu_quota": cpu_quota(),
        "memory_bytes": psutil.virtual_memory().total,
        **{name: _told(patterns) for name, patterns in _VARIABLES.items()},
    }


def _told(patterns: Iterable[str]) -> str | None:
    """The environment variables of such names, with their values; `None` if there are none."""
    names = (name for name in os.environ if any(fnmatchcase(name, one) for one in patterns))
    found = sorted(name for name in names if not fnmatchcase(name, _ONLY_PLACES))
    return " ".join(f"{name}={os.environ[name]}" for name in found) or None


def describe_device(device: str) -> dict[str, Any]:
    """The part that needs torch: called in a child process.

    Args:
        device: `auto`, `cpu`, `cuda` or `cuda:N`.

    Returns:
        What a row records, and `device` (the one to use), `free_bytes` (what is free there) and
        `note` (something worth telling, or `None`).

    Raises:
        UserError: The device is not there, or torch is not built for it.
    """
    import torch  # the parent, which imports this module too, stays without it

    note = None
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cpu" and _driver() is not None:
            note = f"Measuring on CPU: torch {torch.__version__} {_why_no_cuda()}."
    found: dict[str, Any] = {
        "device": device,
        "note": note,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "triton": package_version("triton"),
        "numpy": package_version("numpy"),
        "cuda": None,
        "cudnn": None,
        "driver": None,
        "gpu_uuid": None,
        "power_limit_w": None,
    }
    if device == "cpu":
        return found | {
            "device_name": _cpu_model(),
            "free_bytes": free_memory_bytes(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        }
    if not torch.cuda.is_available():
        raise UserError(f"--device {device}: torch {torch.__version__} {_why_no_cuda()}")
    index = torch.device(device).index or 0
    if index >= torch.cuda.device_count():
        raise UserError(
            f"--device {device}: this machine has {torch.cuda.device_count()} CUDA device(s), "
            "counted from cuda:0"
        )
    properties = torch.cuda.get_device_properties(index)
    capability = (properties.major, properties.minor)
    if lack := _not_built_for(capability, torch.cuda.get_arch_list()):
        raise UserError(
            f"device cuda:{index}: {properties.name} has compute capability "
            f"{properties.major}.{properties.minor}; torch {torch.__version__} {lack}; or measure "
            "on the CPU (--device cpu)"
        )
    cudnn, cudnn_note = _cudnn()
    return found | {
        # With its number: torch's memory calls want it, and `cuda` and `cuda:0` are one card.
        "device": f"cuda:{index}",
        "device_name": properties.name,
        "device_memory_bytes": properties.total_memory,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "gpu_uuid": str(properties.uuid),
        "cuda": torch.version.cuda,
        "cudnn": cudnn,
        "driver": _driver(),
        "power_limit_w": nvml_describe(str(properties.uuid)).get("power_limit_w"),
        "note": cudnn_note,
        "free_bytes": torch.cuda.mem_get_info(index)[0],
    }


def _not_built_for(capability: tuple[int, int], architectures: Sequence[str]) -> str | None:
    """Why a build of torch has no code for a card, and what to install; `None` if it has.

    Machine code runs on cards of its own major version, from its minor version on; what is made for
    one architecture ("sm_90a") on no other. PTX is compiled for all later cards.

    Args:
        capability: Of the card.
        architectures: Such as "sm_86" and "compute_120"; none are known of some builds.
    """
    built: list[tuple[int, int]] = []
    for name in architectures:
        kind, _, number = name.partition("_")
        digits = number.rstrip("af")
        own = int(digits[:-1]), int(digits[-1])
        if kind == "compute":
            runs = own <= capability
        elif number.endswith("a"):
            runs = own == capability
        else:
            runs = own[0] == capability[0] and own[1] <= capability[1]
        if runs:
            return None
        built.append(own)
    if not built:
        return None
    lowest, highest = (f"{major}.{minor}" for major, minor in (min(built), max(built)))
    if capability > min(built):
        advice = "install a newer torch, or one for a newer CUDA"
    elif capability >= _OLDEST_OF_CU126:
        advice = "install torch for CUDA 12.6 (--index-url https://download.pytorch.org/whl/cu126)"
    else:
        advice = "no current build of torch holds such a card"
    return f"is built for {lowest} to {highest}: {advice}"


_OLDEST_OF_CU126 = (5, 0)
"""The wheels for CUDA 12.6 hold Maxwell to Hopper; those for later CUDA begin with Turing, 7.5."""


def _cudnn() -> tuple[str | None, str | None]:
    """The version of cuDNN, or `None` and why it is not known.

    Torch refuses to tell it where any card that is visible is too old for it, be it another one.
    """
    import torch

    try:
        version = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        words = (str(error).strip().splitlines() or ["RuntimeError"])[0]
        return None, (
            f"cuDNN's version is not recorded: {words} Where that is another card than the one "
            "that is measured, hide it with CUDA_VISIBLE_DEVICES."
        )
    return None if version is None else str(version), None


def is_wsl(release: Path = Path("/proc/sys/kernel/osrelease")) -> bool:
    """Whether Windows runs this Linux, and manages the GPU's memory (WSL2)."""
    try:
        return "microsoft" in release.read_text().lower()
    except OSError:
        return False


def has_gpu() -> bool:
    """Whether there is a GPU that this process may use, as far as can be told without torch."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    try:
        pynvml.nvmlInit()
        return bool(pynvml.nvmlDeviceGetCount() > 0)
    except pynvml.NVMLError:
        return False


def cpus_allowed() -> int:
    """How many logical CPUs this process may use."""
    return len(os.sched_getaffinity(0))


def cpu_quota() -> float | str | None:
    """CPUs' time that the control groups may use; "none" without a quota, `None`: not readable."""
    quota = cgroup.quota_cpus()
    return "none" if quota == math.inf else quota


def free_memory_bytes(proc: Path = cgroup.PROC) -> int:
    """What this process may still take: of the machine's memory, and of its control groups'."""
    free: float = psutil.virtual_memory().available
    within = cgroup.free_memory_bytes(proc)
    return int(free if within is None else min(free, within))


def _why_no_cuda() -> str:
    import torch

    if torch.version.cuda is None:
        return "is a build without CUDA"
    driver = _driver()
    if driver is None:
        return "finds no CUDA device here, and neither does NVML"
    return f"cannot use the GPU with driver {driver}, which may be too old for it"


def _driver() -> str | None:
    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return None


def package_version(package: str) -> str | None:
    """The version of an installed package; `None` where there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_info(field: str) -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return ""


def _cpu_model() -> str:
    return _cpu_info("model name") or platform.processor() or platform.machine()


def source_fingerprint(root: Path, folders: Sequence[str] = CODE) -> str:
    """Identifies the code in some folders, also in a copy that git knows nothing of.

    Returns:
        The first 16 digits of the SHA-256 of one line `BLOB PATH` a file, sorted by path, for all
        files named `*.py`, `*.cpp` and `*.toml`; with BLOB as `git ls-tree -r COMMIT` gives it, so
        that it can be told from a commit alone.
    """
    files = sorted(
        (path.relative_to(root).as_posix(), path)
        for folder in folders
        for path in (root / folder).rglob("*")
        if path.suffix in _SOURCES
    )
    return _fingerprint(f"{_blob(path.read_bytes())} {name}\n" for name, path in files)


def source_of(commit: str, root: Path) -> str:
    """`source_fingerprint` of a commit, from what git knows of it.

    Raises:
        OSError: There is no git.
        subprocess.CalledProcessError: It knows no such commit there.
    """
    listed = (
        line.split(maxsplit=3)
        for line in _git("ls-tree", "-r", commit, *CODE, cwd=root).splitlines()
    )
    lines = sorted((path, blob) for _, _, blob, path in listed if path.endswith(_SOURCES))
    return _fingerprint(f"{blob} {path}\n" for path, blob in lines)


def _fingerprint(lines: Iterable[str]) -> str:
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def _blob(content: bytes) -> str:
    header = b"blob %d\0" % len(content)
    return hashlib.sha1(header + content, usedforsecurity=False).hexdigest()


def _commit() -> tuple[str | None, bool | None]:
    """The commit of the code that runs, and whether its files differ; `None` outside git."""
    try:
        if Path(_git("rev-parse", "--show-toplevel", cwd=ROOT)) != ROOT:
            return None, None  # a copy that is installed within some checkout
        commit = _git("rev-parse", "HEAD", cwd=ROOT)
        return commit, bool(_git("status", "--porcelain", "--", *CODE, cwd=ROOT))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def _git(*arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        ["git", *arguments],  # noqa: S607 (the user's own git)
        cwd=cwd,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()
