"""Trials of compiled variants, as the toy makes them; their figures: `test_compilation`."""

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.runner import Runner, StopRequest
from bench.trial import Status, TrialResult
from tests.harness import (
    LIMIT_S,
    Clock,
    CommandLine,
    Listening,
    lines_of,
    run_toy,
    toy_trial,
    wait_until,
    write_toml,
)
from tests.toy import PLAIN, SETTINGS

PHASES = ["starting", "building", "first_step", "warming_up", "measuring", "training", "evaluating"]
COLD_STEPS = 2  # the first one and one of warm-up


@dataclass
class Attempt:
    """One process of a trial: where it began, and what it gave then and there."""

    entry: str
    compilation: dict[str, Any]
    steps_s: list[float]
    duration_s: float


class Watched(Runner):
    """A runner that keeps what each process gives."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__("tests.toy_task:ToyTask", timeout_s)
        self.attempts: list[Attempt] = []

    def __enter__(self) -> "Watched":
        return self

    def _attempt(self, entry: str, *rest: Any) -> TrialResult:
        result = super()._attempt(entry, *rest)
        steps_s = [sum(phases) for phases in result.step_phase_s]
        name, compilation = entry.partition(":")[2], dict(result.compilation)
        self.attempts.append(Attempt(name, compilation, steps_s, result.duration_s or 0.0))
        return result

    def caches(self) -> list[Path]:
        return [
            path for path in self._folder.path.iterdir() if path.is_dir() and path.name != "tmp"
        ]


@pytest.fixture(scope="module")
def traced() -> Iterator[Watched]:
    """For trials without generated code; the server imports what traces, once for all of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNET_BENCH_TEST_TRACES", "1")
        with Watched(timeout_s=LIMIT_S) as runner:
            yield runner


def run(
    runner: Runner, variant: str, listener: Listening | None = None, **more: Any
) -> TrialResult:
    fault, _, make = variant.partition("+")
    stop = more.pop("stop", None)
    settings = {**SETTINGS, **more.pop("settings", {})}
    trial = toy_trial(
        variant=variant, axes=PLAIN | {"fault": fault, "make": make}, settings=settings, **more
    )
    return run_toy(runner, trial, listener, stop)


def server() -> psutil.Process:
    """The one of the runner that is at work: the youngest."""
    servers = [p for p in psutil.Process().children() if "bench.forkserver" in p.cmdline()]
    return max(servers, key=lambda process: process.create_time())


@dataclass
class Rounds:
    """Two rounds of a trial with generated code, and a third in eager execution."""

    first: TrialResult
    second: TrialResult
    eager: TrialResult
    attempts: list[Attempt]
    users_cache: Path
    folder: Path
    processes: list[int] = field(default_factory=list)  # of the trial, as it is measured


@pytest.fixture(scope="module")
def rounds(tmp_path_factory: pytest.TempPathFactory) -> Rounds:
    cache = tmp_path_factory.mktemp("user") / "cache"
    processes: list[int] = []

    def on_phase(name: str) -> None:
        if name == "measuring":
            processes.append(len(server().children(recursive=True)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(cache))
        patch.setenv("TRITON_CACHE_DIR", str(cache))
        # Long enough for the parent to look while it is measured.
        slow = {"sleep_ms": 20}
        with Watched(timeout_s=LIMIT_S) as runner:
            first, second, eager = (
                run(runner, variant, Listening(on_phase), settings=slow, round=round_)
                for variant, round_ in (("none+compile", 0), ("none+compile", 1), ("none+eager", 0))
            )
            folder = runner._folder.path
            assert len(runner.caches()) == 1  # one for both rounds, none for eager execution
    return Rounds(first, second, eager, runner.attempts, cache, folder, processes)


def test_the_first_round_is_compiled_in_a_process_of_its_own(rounds: Rounds) -> None:
    first = rounds.first
    assert first.status is Status.OK, first.detail
    assert list(first.phase_at_s) == list(first.parent_phase_at_s) == ["compiling", *PHASES]
    moments = list(first.phase_at_s.values())
    assert moments == sorted(moments)
    assert first.phase == "evaluating"
    cold, warm, *_ = rounds.attempts
    assert (cold.entry, warm.entry) == ("compile_cold", "run")
    # What came before the window, as the cold process timed it.
    assert first.compilation["cold_step_s"] == cold.steps_s
    assert len(cold.steps_s) == COLD_STEPS
    assert first.duration_s == pytest.approx(cold.duration_s + warm.duration_s)
    assert len(first.step_phase_s) == len(first.losses) == 16


def test_later_rounds_find_a_warm_cache(rounds: Rounds) -> None:
    second = rounds.second
    assert second.status is Status.OK, second.detail
    assert second.compilation["cold_step_s"] is None
    assert list(second.phase_at_s) == PHASES
    assert [attempt.entry for attempt in rounds.attempts] == ["compile_cold", "run", "run", "run"]


def test_only_the_cold_process_makes_anything(rounds: Rounds) -> None:
    cold, *warm = (attempt.compilation for attempt in rounds.attempts[:3])
    assert cold["cache_misses"] > 0
    assert cold["cache_hits"] == 0
    for found in warm:
        assert found["cache_misses"] == 0
        assert found["cache_hits"] == cold["cache_misses"]
        assert found["graphs"] == 1
        assert found["graph_breaks"] == found["recompilations"] == []
        assert found["in_window"] == 0


def test_an_eager_variant_knows_nothing_of_compilation(rounds: Rounds) -> None:
    assert rounds.eager.compilation == {}
    assert list(rounds.eager.phase_at_s) == PHASES


def test_what_is_compiled_learns_the_same(rounds: Rounds) -> None:
    assert rounds.first.losses == rounds.second.losses
    assert rounds.first.losses == pytest.approx(rounds.eager.losses, rel=1e-5)


def test_no_helper_runs_beside_a_trial_that_is_measured(rounds: Rounds) -> None:
    assert rounds.processes == [1, 1, 1]
    assert rounds.first.facts["compile_threads"] == 1


def test_the_users_cache_is_left_alone(rounds: Rounds) -> None:
    assert not rounds.users_cache.exists()
    used = rounds.first.facts["cache"]
    assert Path(used).parent == rounds.folder
    assert rounds.second.facts["cache"] == used


def test_no_cache_is_left_behind(rounds: Rounds) -> None:
    assert not rounds.folder.exists()


# What goes wrong while it is compiled.


@pytest.mark.parametrize(
    ("fault", "status", "reason"),
    [
        ("raise", Status.CRASH, "RuntimeError: the task is broken"),
        ("oom", Status.OOM, "RuntimeError: [enforce fail at "),
        ("abort", Status.CRASH, "killed by SIGABRT"),
        ("hang", Status.TIMEOUT, f"killed after {LIMIT_S:g} s"),
        ("fake", Status.CRASH, "RuntimeError: asked to compile, the network ran eagerly: "),
    ],
)
def test_a_compilation_that_fails_is_the_row_and_is_not_taken_for_warm(
    traced: Watched, fault: str, status: Status, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant = "none+fake" if fault == "fake" else f"{fault}+trace"
    clock = Clock()
    monkeypatch.setattr("bench.runner.time", clock)

    def on_phase(name: str) -> None:
        if fault == "hang":
            clock.ahead_s += LIMIT_S

    before = traced.caches()
    for round_ in (0, 1):
        result = run(traced, variant, Listening(on_phase), round=round_)
        assert result.status is status, result.detail
        assert result.reason is not None
        assert result.reason.startswith(reason)
        assert result.phase == "compiling"
        assert list(result.phase_at_s) == ["compiling"]
        assert result.started_at is not None
        assert traced.caches() == before


def test_a_compiler_that_runs_out_of_memory_is_out_of_memory(traced: Watched) -> None:
    result = run(traced, "oom-compiler+compile")
    assert (result.status, result.phase) == (Status.OOM, "compiling"), result.detail
    assert (result.reason or "").startswith("CppCompileError: ")  # in one of the compiler's ways


def test_interrupted_while_it_is_compiled(traced: Watched) -> None:
    def on_phase(name: str) -> None:
        assert name == "compiling"
        os.kill(os.getpid(), signal.SIGINT)

    before = traced.caches()
    with StopRequest() as stop:
        result = run(traced, "hang+trace", Listening(on_phase), stop=stop)
    assert (result.status, result.phase) == (Status.INTERRUPTED, "compiling")
    assert traced.caches() == before


def test_what_was_killed_half_made_is_made_again_and_then_warm(traced: Watched) -> None:
    """The same cell three times: killed while it is compiled, then cold, then warm."""

    def kill(name: str) -> None:
        if name == "compiling":
            (child,) = server().children()
            wait_until(lambda: len(traced.caches()) > len(before))
            child.kill()

    before = traced.caches()
    slow: dict[str, Any] = {"settings": {"sleep_ms": 50}, "seed": 3}
    killed = run(traced, "none+trace", Listening(kill), **slow)
    assert (killed.status, killed.phase) == (Status.CRASH, "compiling")
    assert traced.caches() == before
    cold, warm = (run(traced, "none+trace", round=round_, **slow) for round_ in (1, 2))
    assert len(cold.compilation["cold_step_s"]) == COLD_STEPS
    assert warm.compilation["cold_step_s"] is None


def test_eager_execution_under_the_name_of_a_compiled_variant_is_a_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", "1")
    with Runner("tests.toy_task:ToyTask", timeout_s=LIMIT_S) as runner:
        whole, broken = run(runner, "none+trace"), run(runner, "break+trace")
    assert (whole.status, broken.status) == (Status.CRASH, Status.CRASH)
    # Asked for one graph, torch itself notices; else we do.
    assert "found no compiled frames" in (whole.reason or "")
    assert broken.reason == (
        "RuntimeError: asked to compile, the network ran eagerly: no graph was compiled"
    )


# Graph breaks and recompilations. The window of a toy trial is its steps 3 to 16.


@pytest.mark.parametrize(("at_step", "in_window"), [(2, 0), (3, 1), (16, 1)])
def test_a_recompilation_is_told_with_its_reason_and_whether_it_fell_into_the_window(
    traced: Watched, at_step: int, in_window: int
) -> None:
    result = run(traced, "recompile+trace", settings={"at_step": at_step})
    assert result.status is Status.OK, result.detail
    assert result.window == [2, 16]
    (reason,) = result.compilation["recompilations"]
    assert "SCALE" in reason
    assert result.compilation["graphs"] == 2
    assert result.compilation["graph_breaks"] == []
    assert result.compilation["in_window"] == in_window


def test_a_smaller_last_batch_is_compiled_outside_the_window(traced: Watched) -> None:
    result = run(traced, "none+trace", samples=66)
    assert result.step_samples[-2:] == [4, 2]
    (reason,) = result.compilation["recompilations"]
    assert "expected 4, actual 2" in reason
    assert result.compilation["in_window"] == 0


def test_a_graph_break_is_told_with_its_reason(traced: Watched) -> None:
    result = run(traced, "break+trace")
    assert result.status is Status.OK, result.detail
    (reason,) = result.compilation["graph_breaks"]
    assert "the toy breaks here" in reason
    assert result.compilation["graphs"] == 2
    assert result.compilation["in_window"] == 0


# In a sweep.


@dataclass
class Swept:
    """A sweep that is interrupted while its second cell is compiled."""

    code: int
    output: str
    rows: list[dict[str, Any]]
    before: list[Path]
    after: list[Path]
    left: list[int]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    path = tmp_path_factory.mktemp("swept")
    temporary, out = path / "tmp", path / "out"
    temporary.mkdir()
    toml = write_toml(path / "toy.toml", variants=["none+trace", "hang+trace"], batch_size=[4])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        patch.delenv("UNET_BENCH_TEST_TRACES", raising=False)
        command = CommandLine("sweep", toml, "--out", out, "--rounds", "2")

        def compiles_the_second() -> bool:
            keys = {json.loads(line)["key"] for line in lines_of(out)}
            caches = {path.parent.name for path in temporary.glob("unet-bench-*/*/traced")}
            return bool(keys and caches - keys)

        try:
            wait_until(compiles_the_second)
        except AssertionError:
            command.send(signal.SIGTERM)
            raise
        before = list(temporary.iterdir())
        command.send(signal.SIGINT)
        code, output = command.wait()
    rows = [json.loads(line) for line in lines_of(out)]
    return Swept(code, output, rows, before, list(temporary.iterdir()), command.processes())


def test_a_sweep_interrupted_while_it_compiles_ends_in_good_order(swept: Swept) -> None:
    assert swept.code == 130, swept.output
    assert [(row["status"], row["phase"]) for row in swept.rows] == [
        ("ok", "evaluating"),
        ("interrupted", "compiling"),
    ]
    assert len(swept.rows[0]["compilation"]["cold_step_s"]) == COLD_STEPS
    assert swept.left == []


def test_an_interrupted_sweep_leaves_no_cache(swept: Swept) -> None:
    assert len(swept.before) == 1
    assert swept.after == []
