import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest
import torch

from bench import environment
from bench.environment import (
    COMPARABLE,
    cpus_allowed,
    describe_device,
    describe_host,
    has_gpu,
    source_fingerprint,
    source_of,
)
from tests.harness import REPOSITORY

RECORDED = {
    "command", "commit", "dirty", "source", "version", "os", "cpu_flags", "memory_bytes", "numpy",
    "gpu_uuid",
}  # fmt: skip


def test_a_row_records_what_is_compared_and_where_it_comes_from() -> None:
    found = describe_host(["unet-bench", "sweep", "my file.toml"]) | describe_device("cpu")
    assert set(COMPARABLE) | RECORDED <= found.keys()
    assert found["command"] == "unet-bench sweep 'my file.toml'"
    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert found["cpus_allowed"] == cpus_allowed() == len(os.sched_getaffinity(0))
    assert found["device_name"] == found["cpu_model"]
    assert found["device"] == "cpu"
    assert 0 < found["free_bytes"] <= found["memory_bytes"]
    assert found["gpu_uuid"] is found["cuda"] is found["driver"] is None


def test_the_commit_is_this_checkout_s() -> None:
    git = ["git", "-C", str(REPOSITORY), "rev-parse", "HEAD"]
    done = subprocess.run(git, capture_output=True, text=True, check=False)
    host = describe_host([])
    if done.returncode:
        assert (host["commit"], host["dirty"]) == (None, None)
    else:
        assert host["commit"] == done.stdout.strip()
        assert host["dirty"] in (True, False)


def test_auto_is_the_best_device_there_is() -> None:
    expected = "cuda:0" if torch.cuda.is_available() else "cpu"
    assert describe_device("auto")["device"] == expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_that_is_not_there_is_refused_in_one_line(device: str) -> None:
    with pytest.raises(
        ValueError, match=rf"^--device {device}: torch {torch.__version__[:3]}.* "
    ) as e:
        describe_device(device)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("asked", ["auto", "cuda", "cuda:0"])
def test_a_cuda_device_is_named_with_its_number(
    asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch's memory calls refuse `cuda` alone."""
    card = SimpleNamespace(name="a card", total_memory=8, major=8, minor=6, uuid="0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (4, 8))
    assert describe_device(asked)["device"] == "cuda:0"


def test_a_gpu_that_torch_cannot_use_is_not_passed_over_in_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(environment, "_driver", lambda: "470.1")
    assert "driver 470.1" in describe_device("auto")["note"]
    assert describe_device("cpu")["note"] is None


@pytest.mark.gpu
def test_a_gpu_is_described_and_one_too_many_is_refused() -> None:
    found = describe_device("cuda:0")
    assert found["device_name"] == torch.cuda.get_device_name(0)
    for name in ("driver", "cuda", "cudnn", "gpu_uuid", "compute_capability", "free_bytes"):
        assert found[name], name
    with pytest.raises(ValueError, match=r"^--device cuda:99: this machine has "):
        describe_device("cuda:99")


@pytest.mark.parametrize(
    ("visible", "cards", "expected"),
    [
        (None, 1, True),
        (None, 2, True),
        (None, 0, False),
        ("", 1, False),
        ("-1", 1, False),
        ("0", 1, True),
        ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", 1, True),
    ],
)
def test_a_gpu_counts_where_there_is_one_and_it_may_be_used(
    visible: str | None, cards: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pynvml.nvmlInit", lambda: None)
    monkeypatch.setattr("pynvml.nvmlDeviceGetCount", lambda: cards)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert has_gpu() is expected


def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("pynvml.nvmlInit", no_driver)
    assert not has_gpu()


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    command = ["git", *identity, *words]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def test_code_is_identified_without_git_as_git_would(tmp_path: Path) -> None:
    files = {"bench/a.py": "a", "bench/b/c.toml": "", "unet/a.py": "ä", "unet/n.txt": "n"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = source_fingerprint(tmp_path)
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "all")
    assert found == source_of("HEAD", tmp_path)
    (tmp_path / "bench/__pycache__").mkdir()
    (tmp_path / "bench/__pycache__/a.pyc").touch()
    assert source_fingerprint(tmp_path) == found
    (tmp_path / "unet/a.py").write_text("b")
    assert source_fingerprint(tmp_path) != found


# `None` there makes every attempt to import it an error, however deep.
BLOCK = "import sys; sys.modules['torch'] = None; "


@pytest.mark.parametrize(
    "module",
    [
        "bench.cli", "bench.sweep", "bench.journal", "bench.trial", "bench.runner", "bench.spec",
        "bench.display", "bench.report.frame", "bench.report.tables", "unet.variant",
        "unet.workload", "bench.evidence.gather", "bench.evidence.page", "bench.evidence.plan",
    ],
)  # fmt: skip
def test_the_parent_s_modules_never_import_torch(module: str) -> None:
    script = f"{BLOCK}import {module}; assert not [m for m in sys.modules if m[:6] == 'torch.']"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_whole_plan_runs_without_torch() -> None:
    script = f"{BLOCK}from bench.cli import main; main(['plan', 'quick', '--device', 'cpu'])"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "bf16+channels_last b16" in done.stdout
