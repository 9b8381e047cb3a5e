import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

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
from tests.nvml import UUID, Nvml

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
    put_card(monkeypatch, (8, 6))
    assert describe_device(asked)["device"] == "cuda:0"


CU130 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]


def put_card(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], built: Sequence[str] = CU130
) -> None:
    """A card, and what torch is built for."""
    major, minor = capability
    card = SimpleNamespace(name="Some card", total_memory=8, major=major, minor=minor, uuid=UUID)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (4, 8))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: list(built))
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 92400)


def test_a_card_s_libraries_driver_and_power_limit_are_recorded(
    nvml: Nvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_card(monkeypatch, (8, 6))
    found = describe_device("cuda:0")
    assert (found["cudnn"], found["driver"], found["note"]) == ("92400", "580.65", None)
    assert found["power_limit_w"] == 220
    nvml.answer(power_limit_mw=None)
    assert describe_device("cuda:0")["power_limit_w"] is None


@pytest.mark.parametrize(
    ("capability", "built", "advice"),
    [
        ((6, 1), CU130, "whl/cu126"),
        ((7, 0), CU130, "whl/cu126"),
        ((3, 7), CU130, "no current build"),
        ((13, 0), CU130[:-1], "newer"),  # without code to be compiled for later cards
        ((12, 0), ["sm_50", "sm_90"], "newer"),
        ((8, 7), ["sm_75", "sm_89"], "newer"),
        ((10, 3), ["sm_100a", "sm_120"], "newer"),  # for one architecture, and no other
    ],
)
@pytest.mark.parametrize("asked", ["auto", "cuda:0"])
def test_a_card_that_torch_is_not_built_for_is_refused_with_advice(
    monkeypatch: pytest.MonkeyPatch,
    asked: str,
    capability: tuple[int, int],
    built: list[str],
    advice: str,
) -> None:
    put_card(monkeypatch, capability, built)
    with pytest.raises(ValueError, match=r"^device cuda:0: Some card has compute cap") as caught:
        describe_device(asked)
    assert "\n" not in str(caught.value)
    for part in ("{}.{}".format(*capability), torch.__version__, advice, "--device cpu"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("capability", "built"),
    [
        ((7, 5), CU130),
        ((8, 9), CU130),  # sm_86's code runs there
        ((13, 0), CU130),  # compiled from PTX
        ((10, 3), ["sm_100f"]),  # for a family
        ((9, 0), ["sm_90a"]),
        ((6, 1), []),  # not known
    ],
)
def test_a_card_that_torch_has_code_for_is_not(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], built: list[str]
) -> None:
    put_card(monkeypatch, capability, built)
    found = describe_device("cuda:0")
    assert found["compute_capability"] == "{}.{}".format(*capability)


def test_a_card_beside_one_that_cudnn_is_too_new_for_is_described_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As torch judges by the oldest card that is visible."""

    def refuse() -> int:
        raise RuntimeError("cuDNN version 92400 is not compatible with devices with SM < 7.5.\nX")

    put_card(monkeypatch, (8, 6))
    monkeypatch.setattr(torch.backends.cudnn, "version", refuse)
    found = describe_device("auto")
    assert (found["device"], found["cudnn"]) == ("cuda:0", None)
    assert "SM < 7.5" in found["note"]
    assert "CUDA_VISIBLE_DEVICES" in found["note"]
    assert "\n" not in found["note"]


def test_variables_that_change_results_are_recorded_and_places_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in os.environ:
        monkeypatch.delenv(name)
    assert describe_host([])["malloc"] is describe_host([])["variables"] is None
    told = {
        "CUDA_LAUNCH_BLOCKING": "1",
        "DNNL_MAX_CPU_ISA": "AVX2",
        "GOMP_CPU_AFFINITY": "0-3",
        "KMP_AFFINITY": "compact",
        "MKL_NUM_THREADS": "2",
        "NVIDIA_TF32_OVERRIDE": "0",
        "OMP_NUM_THREADS": "2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "PYTORCH_ALLOC_CONF": "expandable_segments:True",
        "TORCHINDUCTOR_FREEZING": "1",
    }
    others = {"MALLOC_ARENA_MAX": "1", "TORCHINDUCTOR_CACHE_DIR": "/a", "HOME": "/b"}
    for name, value in (told | others).items():
        monkeypatch.setenv(name, value)
    found = describe_host([])
    assert found["malloc"] == "MALLOC_ARENA_MAX=1"
    assert found["variables"] == " ".join(f"{name}={value}" for name, value in told.items())


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
    for name in ("cuda", "gpu_uuid", "compute_capability", "free_bytes"):
        assert found[name], name
    assert {"driver", "cudnn", "power_limit_w"} <= found.keys()  # not readable everywhere
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
    visible: str | None,
    cards: int,
    expected: bool,
    nvml: Nvml,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nvml.answer(count=cards)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert has_gpu() is expected


def test_without_a_driver_there_is_no_gpu(nvml: Nvml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert has_gpu()
    monkeypatch.delenv("UNET_BENCH_TEST_NVML")
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
    assert "fp32+channels_last b16" in done.stdout
