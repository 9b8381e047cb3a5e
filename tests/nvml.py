"""The real pynvml on a library that answers as a test wants it; see `nvml_stub.c`."""

import ctypes
import os
import subprocess
from pathlib import Path

import pynvml
import pytest

UUID = "8932f937-d72c-4106-c12f-20bd9faed9f6"
"""As torch tells it, without a prefix."""

MIB = 2**20

CARD: dict[str, object] = {
    "count": 1,
    "uuid": f"GPU-{UUID}",
    "name": "Some card",
    "driver": "580.65",
    "cuda_driver": 13000,
    "total_bytes": 8192 * MIB,
    "free_bytes": 7168 * MIB,
    "gpu_percent": 40,
    "sm_clock_mhz": 1500,
    "max_clock_mhz": 2100,
    "power_mw": 151_500,
    "power_limit_mw": 220_000,
    "temperature_c": 61,
    "throttle_reasons": 0,
    "display_active": 0,
    "persistence_mode": 1,
    "ecc_mode": 0,
    "mig_mode": 0,
    "pcie_generation": 4,
    "pcie_width": 16,
    "processes": "",
    "samples": "",
}
"""A card of which everything is told, and on which nothing runs."""

MIG: dict[str, object] = {
    "count": 1,
    "uuid": f"MIG-{UUID}",
    "name": "Some card MIG 1g.5gb",
    "driver": "580.65",
    "total_bytes": 4864 * MIB,
    "free_bytes": 4800 * MIB,
    "mig_mode": 1,
    "processes": "",
}
"""An instance of a divided card, for which NVML has neither utilization nor clocks."""


def build(folder: Path, *flags: str) -> Path:
    """Compiles the library."""
    library = folder / "libnvidia-ml.so.1"
    source = Path(__file__).with_name("nvml_stub.c")
    command = ["cc", "-shared", "-fPIC", *flags, str(source), "-o", str(library)]
    subprocess.run(command, check=True)
    return library


class Nvml:
    """A driver's library, in this process and, by `environment`, in others.

    Args:
        library: As `build` makes it.
        answers: The file with its answers.
        patch: Undoes what it does to this process.
    """

    def __init__(self, library: Path, answers: Path, patch: pytest.MonkeyPatch) -> None:
        self._answers = answers
        self.environment = {
            "LD_LIBRARY_PATH": f"{library.parent}:{os.environ.get('LD_LIBRARY_PATH', '')}",
            "UNET_BENCH_TEST_NVML": str(answers),
        }
        patch.setenv("UNET_BENCH_TEST_NVML", str(answers))
        patch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(library)))
        patch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})

    def answer(self, told: dict[str, object] = CARD, **figures: object) -> None:
        """Sets its answers.

        Args:
            told: What it tells.
            figures: More, or others; one that is `None` is not supported.
        """
        lines = [
            f"{name}={value}\n" for name, value in (told | figures).items() if value is not None
        ]
        self._answers.write_text("".join(lines))
