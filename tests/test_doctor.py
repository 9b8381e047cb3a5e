"""`doctor`: what would disturb, on made-up machines and on this one."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pynvml
import pytest

from bench import doctor
from bench.doctor import State
from bench.environment import cpus_allowed
from tests import groups
from tests.commands import main
from tests.harness import wait_until

GIB = 2**30

Capture = pytest.CaptureFixture[str]


def made(root: Path, **files: str) -> Path:
    """A folder with files, by their paths with __ for /."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def busy() -> Iterator[subprocess.Popen[bytes]]:
    """Another process that never rests."""
    program = [sys.executable, "-c", "print('begun', flush=True)\nwhile True: pass"]
    with subprocess.Popen(program, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_another_process_that_is_busy_disturbs_and_is_named(
    busy: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    other, everything = psutil.Process(busy.pid), psutil.process_iter

    def these(attributes: list[str]) -> Iterator[psutil.Process]:
        # Only the busiest few are named, and more may be busy here.
        return (one for one in everything(attributes) if one.pid in (other.pid, os.getpid()))

    monkeypatch.setattr(psutil, "process_iter", these)
    before_s = other.cpu_times().user

    def watch(seconds: float) -> None:
        time.sleep(seconds)
        wait_until(lambda: other.cpu_times().user > before_s + 0.1)

    found, stolen = doctor.processes(watch)
    assert found.state is State.DISTURBS
    assert f"({busy.pid})" in found.text
    assert float(found.text.split()[0]) > 10 / cpus_allowed()
    assert stolen.name == "stolen time"


def test_what_this_process_does_itself_is_no_other_s(monkeypatch: pytest.MonkeyPatch) -> None:
    def machine(percpu: bool) -> list[Any]:
        """A machine on which nothing else runs."""
        own_s = sum(psutil.Process().cpu_times()[:2])
        return [
            type("times", (), {"user": own_s * (cpu == first), "idle": time.monotonic()})
            for cpu in range(1 + last)
        ]

    first, last = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))

    def work(seconds: float) -> None:
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            pass

    monkeypatch.setattr(psutil, "cpu_times", machine)
    found, _ = doctor.processes(watch=work)
    assert float(found.text.split()[0]) < doctor.BUSY_PERCENT
    assert f"({os.getpid()})" not in found.text


def test_a_machine_that_does_not_count_is_not_called_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    still = [type("times", (), {"user": 5.0, "idle": 7.0})] * (1 + max(os.sched_getaffinity(0)))
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: still)
    found = list(doctor.processes(watch=lambda seconds: None))
    assert [finding.state for finding in found] == [State.UNREADABLE] * 2


@pytest.mark.parametrize(
    ("text", "state", "words"),
    [
        ("max 100000", State.FINE, "none"),
        ("50000 100000", State.DISTURBS, "0.5 CPUs"),
        ("100000000 100000", State.FINE, "1000 CPUs"),
        (None, State.UNREADABLE, ""),
    ],
)
def test_a_quota_below_the_cpus_there_are_disturbs(
    text: str | None, state: State, words: str, tmp_path: Path
) -> None:
    files = {"unified/a/cpu.max": text} if text else {"unified/cgroup.events": ""}
    found = doctor.quota(groups.made(tmp_path, groups.V2, "/a/b", files))
    assert found.state is state
    assert words in found.text


@pytest.mark.parametrize(
    ("quota", "threads", "state"),
    [
        ("max 100000", cpus_allowed(), State.FINE),
        ("max 100000", cpus_allowed() + 1, State.DISTURBS),
        ("150000 100000", 1, State.FINE),
        ("50000 100000", 1, State.DISTURBS),
        (None, 1, State.UNREADABLE),
        (None, cpus_allowed() + 1, State.DISTURBS),
    ],
)
def test_more_threads_than_cpus_disturb(
    quota: str | None, threads: int, state: State, tmp_path: Path
) -> None:
    files = {"unified/cpu.max": quota} if quota else {"unified/cgroup.events": ""}
    proc = groups.made(tmp_path, groups.V2, "/", files)
    assert doctor.thread_count(threads, proc).state is state


@pytest.mark.parametrize(
    ("governors", "state"),
    [
        (["performance", "performance"], State.FINE),
        (["performance", "powersave"], State.DISTURBS),
        ([], State.UNREADABLE),
    ],
)
def test_a_governor_that_follows_the_load_disturbs(
    governors: list[str], state: State, tmp_path: Path
) -> None:
    for number, name in enumerate(governors):
        path = f"devices__system__cpu__cpu{number}__cpufreq__scaling_governor"
        made(tmp_path, **{path: f"{name}\n"})
    found = doctor.governor(tmp_path)
    assert found.state is state
    assert found.text == ", ".join(sorted(set(governors)))


@pytest.mark.parametrize(
    ("counts", "state"),
    [([0, 0], State.FINE), ([0, 7], State.DISTURBS), ([], State.UNREADABLE)],
)
def test_a_cpu_that_was_throttled_disturbs(counts: list[int], state: State, tmp_path: Path) -> None:
    for number, count in enumerate(counts):
        path = f"devices__system__cpu__cpu{number}__thermal_throttle__core_throttle_count"
        made(tmp_path, **{path: f"{count}\n"})
    found = doctor.throttling(tmp_path)
    assert found.state is state
    assert not counts or found.text.startswith(f"{sum(counts)} times")


@pytest.mark.parametrize(("gib", "state"), [(9, State.FINE), (7, State.DISTURBS)])
def test_less_memory_than_the_default_budget_disturbs(gib: int, state: State) -> None:
    found = doctor.memory("cuda:0", gib * GIB)
    assert found.state is state
    assert f"{gib} GiB free on cuda:0" in found.text


@pytest.mark.parametrize(
    ("limit", "gib", "state", "words"),
    [
        ("max", 9, State.FINE, ""),
        ("943718400", 0, State.DISTURBS, "limit of 900 MiB"),
        (None, 9, State.UNREADABLE, "not read"),
        (None, 7, State.DISTURBS, "not read"),
    ],
)
def test_memory_is_judged_with_the_limits_of_control_groups(
    limit: str | None, gib: int, state: State, words: str, tmp_path: Path
) -> None:
    files = {"unified/a/memory.max": limit, "unified/a/memory.high": "max"} if limit else {}
    proc = groups.made(tmp_path, groups.V2, "/a", files | {"unified/cgroup.events": ""})
    found = doctor.memory("cpu", gib * GIB, proc)
    assert found.state is state
    assert words in found.text


@pytest.mark.parametrize(("size", "state"), [(2**26, State.DISTURBS), (2**31, State.FINE)])
def test_a_small_shared_memory_disturbs(
    size: int, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("usage", (), {"total": size})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert doctor.shared_memory().state is state


def test_no_shared_memory_is_not_readable(tmp_path: Path) -> None:
    assert doctor.shared_memory(tmp_path / "none").state is State.UNREADABLE


def test_a_missing_compiler_disturbs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    for device, words in (("cpu", "no g++"), ("cuda:0", "no gcc or clang")):
        found = doctor.compiler(device)
        assert (found.state, found.text) == (State.DISTURBS, words)
    own = tmp_path / "my-cxx"
    own.touch(mode=0o755)
    monkeypatch.setenv("CXX", "my-cxx")
    assert doctor.compiler("cpu").state is State.FINE
    assert doctor.compiler("cpu").text == str(own)
    assert doctor.compiler("cuda:0").state is State.DISTURBS


HEAT = pynvml.nvmlClocksEventReasonHwThermalSlowdown
IDLE = pynvml.nvmlClocksEventReasonGpuIdle
CALM = {"throttle_reasons": 0, "display_active": 0, "compute_processes": 0, "gpu_percent": 0}
LIGHT, HIDDEN = {"gpu_percent": 2}, {"compute_processes": None}


@pytest.mark.parametrize(
    ("gpu", "throttling", "display", "others"),
    [
        ({}, State.UNREADABLE, State.UNREADABLE, State.UNREADABLE),
        # An idle GPU has no reason for lower clocks, whatever it has under load.
        (CALM, State.UNREADABLE, State.FINE, State.FINE),
        (CALM | {"gpu_percent": 2}, State.FINE, State.FINE, State.FINE),
        (CALM | LIGHT | {"throttle_reasons": IDLE}, State.UNREADABLE, State.FINE, State.FINE),
        (CALM | {"gpu_percent": None}, State.UNREADABLE, State.FINE, State.FINE),
        (CALM | {"throttle_reasons": HEAT}, State.DISTURBS, State.FINE, State.FINE),
        (CALM | {"display_active": 1}, State.UNREADABLE, State.DISTURBS, State.FINE),
        (CALM | {"compute_processes": 2}, State.UNREADABLE, State.FINE, State.DISTURBS),
        # In a container nobody is listed, but the GPU's load shows others.
        (CALM | HIDDEN, State.UNREADABLE, State.FINE, State.UNREADABLE),
        (CALM | HIDDEN | {"gpu_percent": 97}, State.FINE, State.FINE, State.DISTURBS),
    ],
)
def test_what_disturbs_on_a_gpu_is_told_and_what_cannot_be_read_is_not_called_fine(
    gpu: dict[str, Any], throttling: State, display: State, others: State
) -> None:
    found = {finding.name: finding.state for finding in doctor.graphics(gpu)}
    assert found == {
        "GPU throttling": throttling,
        "display": display,
        "others on the GPU": others,
    }


def test_a_gpu_that_torch_cannot_use_is_told() -> None:
    note = "Measuring on CPU: torch 2 cannot use the GPU with driver 470, which may be too old."
    found = {finding.name: finding for finding in doctor.examine("cpu", note, 9 * GIB, 1, None)}
    assert found["GPU"].state is State.DISTURBS
    assert "driver 470" in found["GPU"].text
    assert not any(finding.name == "display" for finding in found.values())


def test_this_machine_is_examined(capsys: Capture) -> None:
    code, out, _ = main(["doctor", "--device", "cpu", "--json"], capsys)
    told = json.loads(out)
    found = {finding["name"]: finding["state"] for finding in told["findings"]}
    assert set(found) >= {"other processes", "governor", "memory", "compiler"}
    assert code == int("disturbs" in found.values())
    assert told["environment"]["cpus_allowed"] == cpus_allowed()


def test_in_words_too(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "SHARED_MEMORY", Path("/none"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    code, out, _ = main(["doctor", "--device", "cpu"], capsys)
    assert code == 1
    assert "disturbs      compiler           no no-such-compiler -> compiled variants" in out
    assert "The noise floor of this environment is not known (--noise)." in out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["doctor", "quick"], "expected --noise beside a preset"),
        (["doctor", "--rounds", "4"], "expected --noise beside --rounds"),
        (["doctor", "--skip-bad-frames"], "expected --noise beside --skip-bad-frames"),
        (["doctor", "--device", "cuba"], "device 'cuba': did you mean 'cuda'?"),
        (["doctor", "--noise", "--rounds", "9"], "rounds 9: expected at least 10"),
    ],
)
def test_mistakes_are_told_in_one_line(words: list[str], expected: str, capsys: Capture) -> None:
    code, out, error = main(words, capsys)
    assert (code, out) == (2, "")
    assert expected in error
    assert error.count("\n") == 1
