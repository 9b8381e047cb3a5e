"""What NVML tells, by the real binding on a stub library."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import nvml as bench_nvml
from bench.doctor import State, graphics
from bench.monitor import Monitor
from bench.nvml import (
    NvmlDevice,
    nvml_describe,
    nvml_free_bytes,
    nvml_process_bytes,
    sees_all_processes,
)
from tests.children import MIB
from tests.harness import REPOSITORY
from tests.nvml import CARD, MIG, UUID, Nvml, build

STATE = {
    "gpu_percent": 40,
    "gpu_used_bytes": 1024 * MIB,
    "sm_clock_mhz": 1500,
    "power_w": 151.5,
    "temperature_c": 61,
}


def test_a_card_tells_its_state_its_limits_and_its_switches(nvml: Nvml) -> None:
    nvml.answer(throttle_reasons=4, display_active=1, processes="1:5,2:6")
    assert nvml_describe(UUID) == STATE | {
        "name": "Some card",
        "driver": "580.65",
        "cuda_driver": 13000,
        "memory_bytes": 8192 * MIB,
        "used_bytes": 1024 * MIB,
        "compute_processes": 2,
        "power_limit_w": 220,
        "max_sm_clock_mhz": 2100,
        "max_memory_clock_mhz": 2100,
        "throttle_reasons": 4,
        "display_active": 1,
        "persistence_mode": 1,
        "ecc_mode": 0,
        "mig_mode": 0,
        "pcie_generation": 4,
        "pcie_width": 16,
    }


def test_a_trial_s_own_memory_is_told_apart_from_the_card_s(nvml: Nvml) -> None:
    nvml.answer(processes=f"1:5,77:{300 * MIB}")
    sample = NvmlDevice(UUID).sample(77)
    assert (sample["gpu_used_bytes"], sample["gpu_process_bytes"]) == (1024 * MIB, 300 * MIB)
    assert nvml_process_bytes(UUID, 77) == 300 * MIB
    assert Monitor(os.getpid(), UUID).sample("measuring")["gpu_process_bytes"] is None


@pytest.mark.parametrize(
    "processes",
    [
        "",  # as in a container
        "1:5",  # another's, or its own by another number
        "OWN:0",  # as where memory is not accounted to processes
        None,
    ],
)
def test_a_process_of_which_nvml_does_not_tell_has_no_memory_of_0(
    nvml: Nvml, processes: str | None
) -> None:
    nvml.answer(processes=processes and processes.replace("OWN", str(os.getpid())))
    assert nvml_process_bytes(UUID, os.getpid()) is None
    assert NvmlDevice(UUID).sample(os.getpid())["gpu_process_bytes"] is None


@pytest.mark.parametrize(
    ("sees_all", "processes", "others"),
    [
        (True, None, None),
        (True, "", 0),
        (False, "", None),  # a container's list is empty, whoever computes
        (False, "OWN:5", 0),
        (False, "1:7,OWN:5", 1),
    ],
)
def test_an_empty_list_of_processes_is_not_nobody_where_others_are_hidden(
    nvml: Nvml,
    sees_all: bool,
    processes: str | None,
    others: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bench_nvml, "sees_all_processes", lambda: sees_all)
    nvml.answer(processes=processes and processes.replace("OWN", str(os.getpid())))
    assert nvml_describe(UUID)["compute_processes"] == others


@pytest.mark.parametrize(
    ("figures", "name", "state"),
    [
        ({"processes": None, "gpu_percent": 2}, "others on the GPU", State.UNREADABLE),
        ({"processes": None, "gpu_percent": 97}, "others on the GPU", State.DISTURBS),
        ({"processes": "OWN:5", "gpu_percent": 2}, "others on the GPU", State.FINE),
        ({"processes": "OWN:5,1:7"}, "others on the GPU", State.DISTURBS),
        ({"throttle_reasons": 0x40}, "GPU throttling", State.DISTURBS),  # heat
        ({"throttle_reasons": 1}, "GPU throttling", State.UNREADABLE),  # idle
        ({"throttle_reasons": 0}, "GPU throttling", State.FINE),
        ({"throttle_reasons": None}, "GPU throttling", State.UNREADABLE),
        ({"display_active": None}, "display", State.UNREADABLE),
    ],
)
def test_doctor_tells_what_nvml_does_not_tell_from_what_is_fine(
    nvml: Nvml, figures: dict[str, str | int | None], name: str, state: State
) -> None:
    if isinstance(processes := figures.get("processes"), str):
        figures = figures | {"processes": processes.replace("OWN", str(os.getpid()))}
    nvml.answer({**CARD, **figures})
    found = {finding.name: finding.state for finding in graphics(nvml_describe(UUID))}
    assert found[name] is state


def test_a_namespace_of_processes_hides_others(tmp_path: Path) -> None:
    (tmp_path / "self/ns").mkdir(parents=True)
    assert not sees_all_processes(tmp_path)
    (tmp_path / "self/ns/pid").touch()
    assert not sees_all_processes(tmp_path)


@pytest.mark.parametrize("prefix", ["", "GPU-", "MIG-"])
def test_an_instance_of_a_divided_card_is_found_and_tells_what_it_can(
    nvml: Nvml, prefix: str
) -> None:
    nvml.answer({**MIG, "processes": None})
    assert nvml_free_bytes(prefix + UUID) == 4800 * MIB
    found = nvml_describe(prefix + UUID)
    told = {name for name, value in found.items() if value is not None}
    assert told == {
        "name", "driver", "memory_bytes", "used_bytes", "gpu_used_bytes", "mig_mode"
    }  # fmt: skip
    sample = NvmlDevice(UUID).sample(1)
    assert sample["gpu_percent"] is sample["gpu_busy_percent"] is sample["power_w"] is None


def test_utilization_is_the_mean_of_what_nvml_has_sampled_since(nvml: Nvml) -> None:
    device = NvmlDevice(UUID)

    def busy(samples: str | None) -> object:
        nvml.answer(samples=samples)
        return device.sample(1)["gpu_busy_percent"]

    assert busy("100:10,200:20") is None  # before anybody looked
    assert busy("100:10,200:20") is None  # nothing new
    assert busy("200:20,300:90,400:70") == 80
    assert busy("400:70,500:0") == 0
    assert busy(None) is None


def test_a_card_without_a_history_has_its_rates_alone(nvml: Nvml) -> None:
    nvml.answer(samples=None)
    device = NvmlDevice(UUID)
    for _ in range(2):
        sample = device.sample(1)
        assert (sample["gpu_percent"], sample["gpu_busy_percent"]) == (40, None)


def test_a_driver_older_than_the_binding_leaves_out_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Nvml(build(tmp_path, "-DOLD_DRIVER"), tmp_path / "answers", monkeypatch)
    old.answer(processes=f"{os.getpid()}:5")
    assert nvml_describe(UUID)["compute_processes"] is None
    assert nvml_process_bytes(UUID, os.getpid()) is None
    assert nvml_free_bytes(UUID) == CARD["free_bytes"]


def test_without_a_driver_nothing_is_told(nvml: Nvml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNET_BENCH_TEST_NVML")
    assert nvml_describe(UUID) == {}
    assert nvml_free_bytes(UUID) is nvml_process_bytes(UUID, 1) is None
    assert "gpu_percent" not in Monitor(os.getpid(), UUID).sample(None)


def test_the_binding_finds_the_library_by_its_name(nvml: Nvml) -> None:
    script = f"from bench.nvml import nvml_describe; print(nvml_describe('{UUID}')['name'])"
    told = subprocess.run(
        [sys.executable, "-c", script],
        cwd=REPOSITORY,
        env={**os.environ, **nvml.environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == "Some card\n"


@pytest.mark.gpu
def test_a_gpu_is_described_by_name_and_unit() -> None:
    import torch

    card = torch.cuda.get_device_properties(0)
    found = nvml_describe(str(card.uuid))
    if not found:
        pytest.skip("NVML does not find this GPU")
    assert found["name"] == card.name
    # torch leaves out what the driver keeps for itself.
    assert found["memory_bytes"] == pytest.approx(card.total_memory, rel=0.05)
    for name, value in found.items():  # a MIG instance and a container tell less
        assert value is None or isinstance(value, str) or value >= 0, name


def test_a_gpu_that_nvml_does_not_find_is_not_described(nvml: Nvml) -> None:
    assert nvml_describe("GPU-00000000-0000-0000-0000-000000000000") == {}
