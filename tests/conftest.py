"""Shared by all tests."""

import os
from collections.abc import Iterator
from pathlib import Path

if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    # A core for each: their threads, and those of trials, would wait for each other.
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})

import pytest
import torch

from tests import nvml as stub

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anybody imports triton


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):  # a keyword may be a folder's name, too
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True, scope="session")
def _own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Frames and noise of tests do not mix with the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNET_BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture
def repository() -> Path:
    return Path(__file__).parent.parent


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stub.build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def nvml(nvml_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> stub.Nvml:
    """A driver with one card; the real pynvml asks it."""
    found = stub.Nvml(nvml_library, tmp_path / "nvml.txt", monkeypatch)
    found.answer()
    return found
