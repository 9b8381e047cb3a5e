"""Where what takes long to make is kept. Never imports torch."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """`UNET_BENCH_CACHE`, or a folder in the user's cache."""
    if own := os.environ.get("UNET_BENCH_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "unet-bench"
