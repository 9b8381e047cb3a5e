import os
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench import monitor
from bench.forkserver import ServerGoneError
from bench.runner import Runner, StopRequest
from bench.trial import Status, TrialResult
from tests.children import MIB
from tests.harness import (
    LIMIT_S,
    Clock,
    Listening,
    memory_group,
    run_toy,
    toy_trial,
    wait_until_dead,
)
from tests.nvml import UUID, Nvml
from tests.toy import PLAIN, SETTINGS

OnPhase = Callable[[str], None]


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Runner("tests.toy_task:ToyTask", timeout_s=LIMIT_S) as runner:
        yield runner


@pytest.fixture(autouse=True)
def _nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    for server in servers():
        wait_until_dead(*[child.pid for child in server.children(recursive=True)])


def servers() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if "bench.forkserver" in p.cmdline()]


def trial_pid() -> int:
    """The process of the trial under way."""
    (child,) = (child for server in servers() for child in server.children())
    return child.pid


def run(
    runner: Runner,
    fault: str,
    on_phase: OnPhase = lambda phase: None,
    stop: StopRequest | None = None,
    **changes: Any,
) -> TrialResult:
    trial = toy_trial(axes=PLAIN | {"fault": fault}, variant=fault, **changes)
    return run_toy(runner, trial, Listening(on_phase), stop)


@pytest.mark.parametrize(
    ("fault", "status", "reason", "phase"),
    [
        ("none", Status.OK, None, "evaluating"),
        ("raise", Status.CRASH, "RuntimeError: the task is broken", "first_step"),
        ("abort", Status.CRASH, "killed by SIGABRT", "first_step"),
        ("exit", Status.CRASH, "exit code 7", "first_step"),
        ("nan", Status.DIVERGED, "the loss of step 1 of 16 is ", "evaluating"),
        ("unsupported", Status.UNSUPPORTED, "cpu cannot do this", "starting"),
        (
            "too-large",
            Status.UNSUPPORTED,
            "torch has no kernel for a tensor of 512 x 64 x 256 x 256 = 2147483648 elements: ",
            "first_step",
        ),
        ("oom", Status.OOM, "RuntimeError: [enforce fail at ", "first_step"),
        ("oom-backward", Status.OOM, "RuntimeError: [enforce fail at ", "first_step"),
        ("oom-python", Status.OOM, "MemoryError", "first_step"),
        ("oom-numpy", Status.OOM, "MemoryError: Unable to allocate 1.00 TiB", "first_step"),
        ("oom-system", Status.OOM, "OSError: [Errno 12] Cannot allocate memory", "first_step"),
        ("oom-abort", Status.OOM, "killed by SIGABRT: terminate called after ", "first_step"),
    ],
)
def test_every_end_of_a_trial_has_its_status_and_a_reason_in_one_line(
    runner: Runner, fault: str, status: Status, reason: str | None, phase: str
) -> None:
    result = run(runner, fault)
    assert result.status is status
    assert result.phase == phase
    if reason is None:
        assert result.reason is None
    else:
        assert result.reason is not None
        assert result.reason.startswith(reason)
        assert "\n" not in result.reason
    assert result.started_at is not None
    assert result.start_s is not None
    assert result.duration_s is not None
    assert 0 < result.start_s < result.duration_s


DEVICES = ["cpu", pytest.param("cuda:0", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("fault", "part"), [("oom", "forward"), ("oom-backward", "backward")])
def test_out_of_memory_is_told_wherever_it_happens(
    runner: Runner, fault: str, part: str, device: str
) -> None:
    budget_bytes = 4 * 2**30  # room for a CUDA context
    result = run(runner, fault, device=device, budget_bytes=budget_bytes)
    assert result.status is Status.OOM, result.detail
    assert result.detail is not None
    assert f"task.{part}(" in result.detail
    assert run(runner, "none", device=device, budget_bytes=budget_bytes).status is Status.OK


def test_a_crash_keeps_its_traceback_and_a_death_its_last_words(runner: Runner) -> None:
    detail = run(runner, "raise").detail or ""
    assert "in two lines" in detail
    # Files as they are imported: what is published does not tell where its author keeps them.
    assert 'File "tests/toy_task.py", line' in detail
    assert 'File "/' not in detail
    # faulthandler is off, so that SIGABRT says nothing: the log is empty, not made up.
    assert run(runner, "exit").detail is None


def test_one_loss_that_is_not_finite_is_named_and_kept_as_nothing(runner: Runner) -> None:
    result = run(runner, "nan")
    assert result.losses == [None] * 16
    assert result.quality == {}


def test_a_trial_that_takes_too_long_is_killed(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()

    def on_phase(phase: str) -> None:
        if phase == "first_step":
            clock.ahead_s = LIMIT_S

    monkeypatch.setattr("bench.runner.time", clock)
    result = run(runner, "hang", on_phase)
    assert (result.status, result.reason) == (Status.TIMEOUT, f"killed after {LIMIT_S:g} s")
    assert result.phase == "first_step"
    monkeypatch.undo()
    assert run(runner, "none").status is Status.OK


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_parent_ends_the_trial_under_way(
    runner: Runner, number: signal.Signals
) -> None:
    pids = []

    def on_phase(phase: str) -> None:
        if phase == "first_step":
            pids.append(trial_pid())
            # A moment later, when the parent sleeps.
            threading.Timer(0.1, os.kill, (os.getpid(), number)).start()

    before = signal.getsignal(number)
    with StopRequest() as stop:
        result = run(runner, "hang", on_phase, stop)
        assert stop.requested
    assert (result.status, result.reason) == (Status.INTERRUPTED, "stopped before its end")
    wait_until_dead(*pids)
    assert signal.getsignal(number) == before
    assert run(runner, "none").status is Status.OK


def test_a_trial_s_process_that_is_killed_is_a_crash(runner: Runner) -> None:
    def on_phase(phase: str) -> None:
        if phase == "measuring":
            os.kill(trial_pid(), signal.SIGKILL)

    result = run(runner, "none", on_phase, settings={**SETTINGS, "sleep_ms": 20})
    assert (result.status, result.reason) == (Status.CRASH, "killed by SIGKILL")
    assert result.phase == "measuring"
    assert result.quality == {}
    assert run(runner, "none").status is Status.OK


BY_THE_KERNEL = "killed by the kernel for want of memory"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("killed", BY_THE_KERNEL),
        ("killed-helper", f"a process that it started was {BY_THE_KERNEL}"),
    ],
)
def test_what_the_kernel_kills_for_want_of_memory_is_out_of_memory(
    runner: Runner, fault: str, reason: str
) -> None:
    with memory_group(16 * MIB) as group:
        result = run(runner, fault, settings={**SETTINGS, "group": str(group)})
    assert (result.status, result.reason) == (Status.OOM, reason), result.detail
    assert result.phase == "first_step"
    assert run(runner, "none").status is Status.OK


@pytest.mark.parametrize(
    ("fault", "who", "status", "reason"),
    [
        ("hang", "trial", Status.OOM, BY_THE_KERNEL),
        ("hang", "server", Status.OOM, BY_THE_KERNEL),
        # Somebody else's process was the one.
        ("raise", "nobody", Status.CRASH, "RuntimeError: the task is broken"),
        ("abort", "nobody", Status.CRASH, "killed by SIGABRT"),
    ],
)
def test_out_of_memory_is_what_was_killed_as_the_kernels_counter_grew(
    runner: Runner,
    fault: str,
    who: str,
    status: Status,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counter = tmp_path / "vmstat"
    counter.write_text("pgfault 12\noom_kill 3\n")
    monkeypatch.setattr("bench.runner.oom_kills", partial(monitor.oom_kills, tmp_path))

    def on_phase(phase: str) -> None:
        if phase == "first_step":
            counter.write_text("pgfault 12\noom_kill 4\n")
            if who != "nobody":
                os.kill(trial_pid() if who == "trial" else servers()[0].pid, signal.SIGKILL)

    result = run(runner, fault, on_phase)
    assert (result.status, result.reason) == (status, reason)


def test_a_server_that_is_killed_is_a_crash_and_the_next_trial_gets_another(
    runner: Runner,
) -> None:
    killed: list[int] = []

    def on_phase(phase: str) -> None:
        if phase == "first_step":
            killed.extend((servers()[0].pid, trial_pid()))
            os.kill(killed[0], signal.SIGKILL)

    result = run(runner, "hang", on_phase)
    assert result.status is Status.CRASH
    assert result.reason == "the process that starts trials was killed by SIGKILL"
    wait_until_dead(*killed)
    assert run(runner, "none").status is Status.OK
    assert servers()[0].pid != killed[0]


def test_a_server_that_is_killed_between_two_trials_costs_one_of_them(runner: Runner) -> None:
    run(runner, "none")
    kill_server()
    assert run(runner, "none").status is Status.CRASH
    assert servers() == []
    assert run(runner, "none").status is Status.OK


def test_temporary_files_of_its_processes_are_kept_from_others(runner: Runner) -> None:
    temporary = Path(runner.ask("tests.children:answer", {})["temporary"])
    assert temporary.is_relative_to(runner._folder.path)
    assert runner._folder.path.stat().st_mode & 0o777 == 0o700


def test_an_answer_may_be_longer_than_a_pipe_holds(runner: Runner) -> None:
    answer = runner.ask("tests.children:answer_at_length", {"bytes": 2**20})
    assert len(answer["text"]) == 2**20


def test_a_question_to_a_server_that_is_gone_is_no_mistake_of_the_user(runner: Runner) -> None:
    runner.ask("bench.worker:probe", {"device": "cpu"})
    kill_server()
    with pytest.raises(ServerGoneError, match=r"^the process that starts trials was killed by SIG"):
        runner.ask("bench.worker:probe", {"device": "cpu"})
    assert servers() == []


def kill_server() -> None:
    (server,) = servers()
    server.kill()
    wait_until_dead(server.pid)


def test_questions_are_answered_or_refused_in_one_line(runner: Runner) -> None:
    answer = runner.ask("bench.worker:probe", {"device": "cpu"})
    assert answer["environment"]["device"] == "cpu"
    assert runner.ask(
        "bench.worker:check_budget", {"device": "cpu", "gpu_uuid": None, "budget_bytes": 2**30}
    ) == {"context_bytes": 0}
    with pytest.raises(ValueError, match=r"^budget .* needs .* before it trains$"):
        runner.ask(
            "bench.worker:check_budget", {"device": "cpu", "gpu_uuid": None, "budget_bytes": 2**20}
        )
    with pytest.raises(ValueError, match=r"^the trial's process does not start: "):
        runner.ask("tests.children:end", {"message": "no"})


def test_on_a_gpu_a_trial_s_own_memory_is_told_and_the_card_s_beside_it(
    runner: Runner, nvml: Nvml
) -> None:
    def on_phase(phase: str) -> None:
        if phase == "measuring":
            nvml.answer(processes=f"{trial_pid()}:{300 * MIB}")

    settings = {**SETTINGS, "sleep_ms": 40}  # beyond a second, so that it is sampled
    listening = Listening(on_phase)
    result = run_toy(runner, toy_trial(settings=settings), listening, gpu_uuid=UUID)
    assert result.status is Status.OK, result.reason
    own = {phase: set[float | None]() for phase, _ in listening.readings}
    for phase, reading in listening.readings:
        own[phase].add(reading.memory_bytes)
        assert (reading.card_bytes, reading.utilization_percent) == (1024 * MIB, 40)
    assert own["measuring"] == {300 * MIB}
    assert own.get("warming_up", {None}) == {None}


def test_a_round_keeps_its_server_and_nothing_is_left_when_it_ends_even_by_an_error(
    runner: Runner,
) -> None:
    def on_phase(phase: str) -> None:
        if phase == "first_step":
            pids.extend((servers()[0].pid, trial_pid()))
            raise KeyError("the observer is broken")

    pids: list[int] = []
    run(runner, "none")
    (first,) = servers()
    run(runner, "none")
    assert servers() == [first]
    with pytest.raises(KeyError, match="the observer is broken"), runner:
        run(runner, "hang", on_phase)
    assert pids[0] == first.pid
    assert servers() == []
    wait_until_dead(*pids)


SLOW = """
import time
time.sleep(3600)
"""


def test_a_server_that_never_is_ready_ends_in_a_timeout_or_at_the_users_wish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_module.py").write_text(SLOW)
    monkeypatch.syspath_prepend(tmp_path)
    with Runner("slow_module:Task", timeout_s=1) as runner, StopRequest() as stop:
        result = run_toy(runner, toy_trial(), stop=stop)
        assert (result.status, result.reason) == (Status.TIMEOUT, "killed after 1 s")
        os.kill(os.getpid(), signal.SIGINT)
        assert run_toy(runner, toy_trial(), stop=stop).status == "interrupted"
