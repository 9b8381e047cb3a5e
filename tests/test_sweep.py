import fcntl
import json
import random
import resource
import shutil
import signal
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench import budget as budgets
from bench import journal, sweep
from bench.budget import parse_bytes
from bench.environment import COMPARABLE, describe_device
from bench.journal import FILE_NAME
from bench.runner import Runner
from bench.trial import Status, Trial, TrialResult
from tests.harness import (
    LIMIT_S,
    Clock,
    CommandLine,
    Recorder,
    lines_of,
    row_of,
    toy_plan,
    toy_trial,
    wait_until,
    write_toml,
)
from tests.nvml import UUID, Nvml
from tests.toy import PLAIN, TOY

# Trials that end by themselves, in every way there is; `oom` from batch 2 on.
FAULTS = ["none", "raise", "hang", "abort", "exit", "oom", "nan", "unsupported"]


@pytest.fixture(scope="module")
def every_end(tmp_path_factory: pytest.TempPathFactory) -> Recorder:
    """A sweep in which every kind of trial comes in two batch sizes, and one trial is killed."""
    clock = Clock()

    def on_phase(trial: Trial, phase: str, process: psutil.Process) -> None:
        if phase == "measuring" and trial.label == "none+sweet b4":
            process.kill()
        if phase == "first_step" and trial.variant == "hang":
            clock.ahead_s += LIMIT_S

    class Punctual(Recorder):
        def trial(self, trial: Trial) -> None:
            clock.ahead_s = 0  # a trial's process has no other clock than the machine's
            super().trial(trial)

    recorder = Punctual(on_phase=on_phase)
    folder = tmp_path_factory.mktemp("sweep") / "out"
    variants = [*FAULTS, "none+sweet", "oom+sweet"]
    plan = toy_plan(folder, variants=variants, batch_size=[2, 4], oom_from=2, sleep_ms=20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.runner.time", clock)
        assert sweep.run(plan, recorder)
    assert journal.read(folder) == recorder.rows
    return recorder


ENDS = {
    "none": ("ok", None),
    "none+sweet": ("ok", None),
    "raise": ("crash", "RuntimeError: the task is broken"),
    "hang": ("timeout", f"killed after {LIMIT_S:g} s"),
    "abort": ("crash", "killed by SIGABRT"),
    "exit": ("crash", "exit code 7"),
    "oom": ("oom", "RuntimeError: [enforce fail"),
    "oom+sweet": ("oom", "RuntimeError: [enforce fail"),
    "nan": ("diverged", "the loss of step 1 of "),
    "unsupported": ("unsupported", "cpu cannot do this"),
}
LARGER = ENDS | {
    "none+sweet": ("crash", "killed by SIGKILL"),
    "oom": ("implied_oom", "batch 2 of oom ran out of memory"),
    "oom+sweet": ("implied_oom", "batch 2 of oom+sweet ran out of memory"),
}


@pytest.mark.parametrize(("batch_size", "ends"), [(2, ENDS), (4, LARGER)])
def test_every_trial_has_a_row_with_its_status_and_reason_and_the_sweep_goes_on(
    every_end: Recorder, batch_size: int, ends: dict[str, tuple[str, str | None]]
) -> None:
    rows = {r.trial.variant: r for r in every_end.rows if r.trial.batch_size == batch_size}
    assert rows.keys() == ends.keys()
    for variant, (status, reason) in ends.items():
        result = rows[variant].result
        assert result.status == status, variant
        assert (result.reason or "").startswith(reason or "")
        assert (reason is None) == (result.reason is None)
        assert "\n" not in (result.reason or "")


def test_batch_sizes_run_in_the_order_given_and_variants_alternate_within_them(
    every_end: Recorder,
) -> None:
    variants = [*FAULTS, "none+sweet", "oom+sweet"]
    assert every_end.ran() == [f"{v} b{b}" for b in (2, 4) for v in variants]


def test_an_implied_row_names_the_key_it_follows_from_and_did_not_run(every_end: Recorder) -> None:
    rows = every_end.by_label()
    for variant in ("oom", "oom+sweet"):
        implied = rows[f"{variant} b4"]
        assert implied.result.implied_by == rows[f"{variant} b2"].trial.key
        assert implied.result.start_s is None
        assert implied.trial not in [trial for trial, _ in every_end.servers]


def test_every_row_carries_all_that_it_is_compared_by(every_end: Recorder) -> None:
    for row in every_end.rows:
        assert set(COMPARABLE) <= row.environment.keys()
        assert set(journal.PER_FOLDER) <= row.trial.to_json().keys()
        assert row.data == {"source": "toy", "size": 64}
        assert row.workload == {
            "name": "toy",
            "axes": PLAIN,
            "plain": "none",
            "meanings": {"best": "none", "first": "nan"},
            "baselines": TOY.baselines,
            "notes": [],
            "train_size": 64,
        }
        assert row.environment["command"] == "unet-bench sweep"


def oom_row(**changes: Any) -> journal.Row:
    axes = PLAIN | {"fault": "oom"}
    return row_of(toy_trial(axes=axes, variant="oom", **changes), Status.OOM)


def test_out_of_memory_is_implied_for_larger_batches_of_the_same_experiment_only() -> None:
    settings = toy_trial().settings
    known = oom_row(batch_size=4)

    def implied(**changes: Any) -> TrialResult | None:
        return sweep.implied_oom(oom_row(**{"batch_size": 8, **changes}).trial, [known])

    result = implied()
    assert result is not None
    assert result.implied_by == known.trial.key
    assert implied(round=1) is not None  # a repetition of it
    assert implied(batch_size=4, round=1) is None
    assert implied(batch_size=2) is None
    assert implied(settings={**settings, "sleep_ms": 2}) is None
    assert implied(budget_bytes=2**40) is None
    other = toy_trial(
        axes=PLAIN | {"fault": "oom", "flavor": "sweet"}, variant="oom+sweet", batch_size=8
    )
    assert sweep.implied_oom(other, [known]) is None
    for status in set(Status) - {Status.OOM}:
        assert sweep.implied_oom(oom_row(batch_size=8).trial, [row_of(known.trial, status)]) is None


@dataclass
class Story:
    """Several runs in one folder."""

    folder: Path
    recorders: list[Recorder] = field(default_factory=list)
    lines: list[list[bytes]] = field(default_factory=list)

    def run(self, **values: Any) -> None:
        self.recorders.append(Recorder())
        assert sweep.run(toy_plan(self.folder, **values), self.recorders[-1])
        self.lines.append(lines_of(self.folder))


@pytest.fixture(scope="module")
def retried(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Two settings, one of which has too little memory; its rows are tried again twice."""
    story = Story(tmp_path_factory.mktemp("retried") / "out")
    values: dict[str, Any] = {"variants": ["oom"], "batch_size": [2, 4], "oom_from": [2, 100]}
    story.run(**values)
    story.run(**values, retry=(Status.OOM,))
    story.run(**values, retry=(Status.IMPLIED_OOM,))
    return story


def ends_of(recorder: Recorder) -> list[tuple[Any, int, str]]:
    return [
        (row.trial.settings["oom_from"], row.trial.batch_size, row.result.status.value)
        for row in recorder.rows
    ]


def test_what_is_implied_does_not_cross_settings(retried: Story) -> None:
    assert ends_of(retried.recorders[0]) == [
        (2, 2, "oom"),
        (2, 4, "implied_oom"),
        (100, 2, "ok"),
        (100, 4, "ok"),
    ]


def test_retry_runs_the_rows_of_that_status_again_and_no_others(retried: Story) -> None:
    assert ends_of(retried.recorders[1]) == [(2, 2, "oom"), (2, 4, "implied_oom")]
    assert len(retried.lines[1]) == len(retried.lines[0]) + 1  # what it implies stands as it was
    assert retried.recorders[1].rows[0].result.start_s is not None


def test_retry_of_an_implied_row_really_runs_it(retried: Story) -> None:
    assert ends_of(retried.recorders[2]) == [(2, 4, "oom")]
    (row,) = retried.recorders[2].rows
    assert row.result.start_s is not None
    assert row.result.implied_by is None
    assert [r.result.status for r in journal.read(retried.folder)] == ["oom", "oom", "ok", "ok"]


def test_rows_are_only_ever_added(retried: Story) -> None:
    assert [len(lines) for lines in retried.lines] == [4, 5, 6]
    for before, after in zip(retried.lines, retried.lines[1:], strict=False):
        assert after[: len(before)] == before


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """A sweep that is extended by a batch size, a variant and a round."""
    story = Story(tmp_path_factory.mktemp("resumed") / "out")
    story.run(variants=["none", "none+sweet"], batch_size=[2])
    story.run(variants=["none", "none+sweet", "raise"], batch_size=[2, 4], rounds=2)
    return story


def test_a_larger_sweep_runs_only_what_is_missing(resumed: Story) -> None:
    small, large = resumed.recorders
    assert (small.began, large.began) == ((2, 0), (12, 2))
    assert large.ran()[:4] == ["raise b2", "none b4", "none+sweet b4", "raise b4"]
    assert len(large.rows) == 10
    assert not set(small.ran()) & set(large.ran())
    assert resumed.lines[1][:2] == resumed.lines[0]
    assert len(journal.read(resumed.folder)) == 12


def test_the_second_round_runs_backwards(resumed: Story) -> None:
    assert resumed.recorders[1].ran()[4:] == [
        f"{variant} b{batch} round 1"
        for batch in (2, 4)
        for variant in ("raise", "none+sweet", "none")
    ]


def test_each_round_has_a_server_of_its_own(resumed: Story) -> None:
    servers: dict[int, set[int]] = {}
    for trial, pid in resumed.recorders[1].servers:
        servers.setdefault(trial.round, set()).add(pid)
    assert [len(pids) for pids in servers.values()] == [1, 1]
    assert not servers[0] & servers[1]


@pytest.fixture
def copied(resumed: Story, tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    shutil.copytree(resumed.folder, folder)
    return folder


@pytest.fixture
def known_machine(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the device is, without the seconds that asking takes, for runs that run nothing."""
    recorded = journal.read(copied)[0].environment
    answers: dict[str, dict[str, Any]] = {
        "bench.worker:probe": {
            "environment": {**recorded, "device": "cpu", "free_bytes": 2**40, "note": None},
        },
        "bench.worker:check_budget": {"context_bytes": 0},
        "bench.worker:unsupported": {"reasons": {"unsupported": "cannot"}},
    }
    monkeypatch.setattr(Runner, "ask", lambda self, entry, request: answers[entry])


GIB = 2**30


class ToldEnoughError(Exception):
    """Ends a sweep before its first trial."""


def told_of_budget(
    folder: Path, monkeypatch: pytest.MonkeyPatch, machine: dict[str, Any], budget: str
) -> tuple[list[str], int]:
    """The notes of a sweep on a made-up machine, and the budget that is put to its device."""
    budgets = []

    def ask(runner: Runner, entry: str, request: dict[str, Any]) -> dict[str, Any]:
        if entry == "bench.worker:probe":
            return {"environment": describe_device("cpu") | machine}
        budgets.append(request["budget_bytes"])
        raise ToldEnoughError

    monkeypatch.setattr(Runner, "ask", ask)
    recorder = Recorder()
    with pytest.raises(ToldEnoughError):
        sweep.run(toy_plan(folder, batch_size=4, budget=budget), recorder)
    return recorder.notes, budgets[0]


@pytest.mark.parametrize(
    ("budget", "note"),
    [
        (f"{2 * GIB}", None),
        ("64GiB", "Budget 64 GiB: cpu has 20 GiB free, so that memory may run out before "),
    ],
)
def test_a_budget_beyond_what_is_free_is_told_and_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: str, note: str | None
) -> None:
    machine = {"free_bytes": 20 * GIB}
    notes, budget_bytes = told_of_budget(tmp_path / "out", monkeypatch, machine, budget)
    assert budget_bytes == parse_bytes(budget)
    assert len(notes) == (note is not None)
    assert note is None or notes[0].startswith(note)


@pytest.mark.parametrize(
    ("display", "free_gib", "budget", "expected"),
    [
        (1, 7.4, "", "Budget 7.25 GiB: cuda:0, which drives a display, has 7.4 GiB free."),
        (0, 7.4, "", "Budget 7.25 GiB: cuda:0 has 7.4 GiB free."),
        (1, 7.4, "8GiB", "Budget 8 GiB: cuda:0, which drives a display, has 7.4 GiB free, so "),
        (1, 12.0, "", None),
    ],
)
def test_a_card_that_drives_a_display_gives_what_is_free(
    tmp_path: Path,
    nvml: Nvml,
    monkeypatch: pytest.MonkeyPatch,
    display: int,
    free_gib: float,
    budget: str,
    expected: str | None,
) -> None:
    free_bytes = int(free_gib * GIB)
    nvml.answer(total_bytes=16 * GIB, free_bytes=free_bytes, display_active=display)
    # What torch says is free lacks the context of the process that asked.
    machine = {"device": "cuda:0", "gpu_uuid": UUID, "free_bytes": 5 * GIB}
    notes, budget_bytes = told_of_budget(tmp_path / "out", monkeypatch, machine, budget)
    assert budget_bytes == (7.25 * GIB if free_gib < 8 and not budget else 8 * GIB)
    assert len(notes) == (expected is not None)
    assert expected is None or notes[0].startswith(expected)


def test_on_wsl_a_margin_of_the_card_is_left_and_told(
    tmp_path: Path, nvml: Nvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml.answer(free_bytes=6 * GIB)
    machine = {"device": "cuda:0", "gpu_uuid": UUID, "free_bytes": 5 * GIB}
    for module in (sweep, budgets):
        monkeypatch.setattr(module, "is_wsl", lambda: True)
    notes, budget_bytes = told_of_budget(tmp_path / "out", monkeypatch, machine, "")
    assert budget_bytes == 6 * GIB - budgets.WSL_MARGIN_BYTES
    assert len(notes) == 2
    assert "WSL2" in notes[0]
    assert "512 MiB" in notes[0]


def test_where_nvml_does_not_tell_torch_s_word_on_free_memory_holds(
    tmp_path: Path, nvml: Nvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml.answer(free_bytes=None)
    machine = {"device": "cuda:0", "gpu_uuid": UUID, "free_bytes": 5 * GIB}
    assert told_of_budget(tmp_path / "out", monkeypatch, machine, "")[1] == 5 * GIB


GRID: dict[str, Any] = {"variants": ["none", "none+sweet", "raise"], "batch_size": [2, 4]}


@pytest.mark.usefixtures("known_machine")
@pytest.mark.parametrize("rounds", [1, 2])
def test_a_sweep_that_is_complete_runs_nothing(copied: Path, rounds: int) -> None:
    before = lines_of(copied)
    recorder = Recorder()
    assert sweep.run(toy_plan(copied, **GRID, rounds=rounds), recorder)
    assert recorder.began == (6 * rounds, 6 * rounds)
    assert recorder.rows == []
    assert lines_of(copied) == before


@pytest.mark.usefixtures("known_machine")
@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"size": 63}, "data.size is 64 there and 63 here"),
        ({"samples": 63}, "samples is 64 there and 63 here"),
        ({"budget": "2GiB"}, "budget_bytes is 1073741824 there and 2147483648 here"),
        ({"warmup_steps": 2}, "warmup_steps is 1 there and 2 here"),
        ({"measured_steps": 5}, "measured_steps is 4 there and 5 here"),
        (
            {"workload": "tests.harness:OTHER_TOY"},
            "workload is 'tests.toy:TOY' there and 'tests.harness:OTHER_TOY' here",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_folder_of_something_else_is_refused_with_the_key(
    copied: Path, change: dict[str, Any], key: str
) -> None:
    before = lines_of(copied)
    with pytest.raises(ValueError, match=f"{FILE_NAME}: {key}.*another folder") as caught:
        sweep.run(toy_plan(copied, **{**GRID, **change}), Recorder())
    assert "\n" not in str(caught.value)
    assert lines_of(copied) == before


@pytest.mark.usefixtures("known_machine")
def test_a_folder_of_another_machine_is_refused_with_the_key(copied: Path) -> None:
    path = copied / FILE_NAME
    lines = [json.loads(line) for line in lines_of(copied)]
    for line in lines:
        line["environment"]["torch"] = "1.0"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    before = lines_of(copied)
    with pytest.raises(ValueError, match=rf"{FILE_NAME}: environment\.torch is '1\.0' there and "):
        sweep.run(toy_plan(copied, **GRID), Recorder())
    assert lines_of(copied) == before


def test_a_full_disk_is_one_line_and_costs_no_row(copied: Path, tmp_path: Path) -> None:
    before = lines_of(copied)
    limit = sum(map(len, before)) + 100
    toml = write_toml(tmp_path / "more.toml", **GRID, seed=[0, 1])

    def fill_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = CommandLine("sweep", toml, "--out", copied, preexec_fn=fill_disk)
    code, output = command.wait()
    assert code == 2
    assert output.splitlines()[-1] == (
        f"unet-bench: {copied / FILE_NAME}: File too large; the rows before none b2 seed 1 are safe"
    )
    assert "Traceback" not in output
    assert lines_of(copied) == before
    assert command.processes() == []


@dataclass
class Interrupted:
    """How the runs of one folder went that were interrupted by signals."""

    folder: Path
    outcomes: dict[str, tuple[int, str]] = field(default_factory=dict)
    lines: dict[str, list[bytes]] = field(default_factory=dict)
    left: dict[str, list[int]] = field(default_factory=dict)

    def ended(self, name: str, command: CommandLine) -> None:
        self.outcomes[name] = command.wait()
        self.lines[name] = lines_of(self.folder)
        self.left[name] = command.processes()

    def statuses(self, name: str) -> list[str]:
        return [json.loads(line)["status"] for line in self.lines[name]]


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Interrupted:
    """Two trials, of which the second hangs: interrupted, terminated, and let run to its end."""
    path = tmp_path_factory.mktemp("interrupted")
    mark = path / "mark"
    toml = write_toml(path / "toy.toml", variants=["none", "hang"], batch_size=4, mark=str(mark))
    story = Interrupted(path / "out")

    def start(timeout_s: float = 100) -> CommandLine:
        return CommandLine("sweep", toml, "--out", story.folder, "--timeout", str(timeout_s))

    def is_locked() -> bool:
        with (story.folder / FILE_NAME).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    def hangs(command: CommandLine) -> None:
        wait_until(lambda: len(lines_of(story.folder)) > 0 and is_locked())
        wait_until(lambda: len(command.processes()) == 3)
        wait_until(mark.exists)
        mark.unlink()

    first = start()
    hangs(first)
    story.ended("second sweep", start())
    story.left["first sweep"] = first.processes()
    first.send(signal.SIGINT)
    story.ended("SIGINT", first)
    again = start()
    hangs(again)
    again.send(signal.SIGTERM)
    story.ended("SIGTERM", again)
    story.ended("to its end", start(timeout_s=0.5))
    return story


def test_a_second_sweep_in_a_folder_is_refused_and_disturbs_nothing(
    interrupted: Interrupted,
) -> None:
    code, output = interrupted.outcomes["second sweep"]
    assert code == 2
    assert output.splitlines()[-1] == (
        f"unet-bench: --out {interrupted.folder}: another sweep is writing there"
    )
    assert interrupted.left["second sweep"] == []
    assert len(interrupted.left["first sweep"]) == 3  # the parent, its server and the trial
    assert interrupted.statuses("second sweep") == ["ok"]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupted_sweep_ends_in_good_order(interrupted: Interrupted, name: str) -> None:
    code, output = interrupted.outcomes[name]
    assert code == 130, output
    row = json.loads(interrupted.lines[name][-1])
    assert (row["status"], row["trial"]["variant"]) == ("interrupted", "hang")
    assert row["reason"] == "stopped before its end"
    assert "images/s" in output
    assert f"--out {interrupted.folder}" in output.replace("\n", "")
    assert "Traceback" not in output
    assert interrupted.left[name] == []


def test_what_was_interrupted_runs_again(interrupted: Interrupted) -> None:
    assert interrupted.statuses("SIGTERM") == ["ok", "interrupted", "interrupted"]
    assert interrupted.outcomes["to its end"][0] == 0
    assert interrupted.statuses("to its end")[3:] == ["timeout"]
    assert [r.result.status for r in journal.read(interrupted.folder)] == ["ok", "timeout"]
    for name in ("SIGINT", "SIGTERM"):
        before = interrupted.lines[name]
        assert interrupted.lines["to its end"][: len(before)] == before


# A parent that could not import torch if it wanted to.
WITHOUT_TORCH = (
    "-c",
    "import sys; sys.modules['torch'] = None; from bench.cli import main; main()",
)


def test_random_kills_lose_at_most_the_trial_under_way_and_leave_no_process(
    tmp_path: Path,
) -> None:
    toml = write_toml(
        tmp_path / "toy.toml",
        variants=["none", "none+sweet", "raise", "abort"],
        batch_size=[1, 2, 4, 8],
        sleep_ms=8,
        measured_steps=3,
    )
    folder = tmp_path / "out"
    dice = random.Random(2)
    lines: list[bytes] = []
    kills = 0
    while True:
        command = CommandLine(
            "sweep", toml, "--out", folder, program=WITHOUT_TORCH, start_new_session=True
        )
        if kills < 3:
            # Once while it starts, then at any moment after the first new row.
            rows = len(lines) + 1 if kills else 0
            wait_until(lambda rows=rows: len(lines_of(folder)) >= rows)  # type: ignore[misc]
            time.sleep(dice.uniform(0.0, 0.8))
            command.send(signal.SIGKILL)
            kills += 1
        code, output = command.wait()
        wait_until(lambda command=command: command.processes() == [])  # type: ignore[misc]
        path = folder / FILE_NAME
        finished = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
        now = [line + b"\n" for line in finished.splitlines()]
        assert now[: len(lines)] == lines
        lines = now
        if code == 0:
            break
        assert code == -signal.SIGKILL, output
    assert kills == 3
    # Each trial has one line: none was lost after it was written, none ran twice.
    assert len(lines) == 16
    assert set(Counter(json.loads(line)["key"] for line in lines).values()) == {1}
    assert "images/s" in output
    assert {row.result.status for row in journal.read(folder)} == {Status.OK, Status.CRASH}


def test_a_row_is_implied_only_as_long_as_its_ground_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values: dict[str, Any] = {"variants": ["oom"], "batch_size": [2, 4], "oom_from": 1}
    folder = tmp_path / "out"
    assert sweep.run(toy_plan(folder, **values), Recorder())
    fits = Runner.run

    def run(self: Runner, trial: Trial, *rest: Any, **more: Any) -> TrialResult:
        """As if the batch that ran out of memory would fit this time."""
        return fits(self, replace(trial, axes={**trial.axes, "fault": "none"}), *rest, **more)

    monkeypatch.setattr(Runner, "run", run)
    again = Recorder()
    assert sweep.run(toy_plan(folder, (Status.OOM,), **values), again)
    assert [(row.trial.batch_size, row.result.status) for row in again.rows] == [
        (2, "ok"),
        (4, "ok"),
    ]


def test_the_first_round_of_what_ended_well_has_previews_and_no_picture_is_there_twice(
    tmp_path: Path,
) -> None:
    variants = ["none", "none+sweet", "raise", "unpictured"]
    recorder = Recorder()
    sweep.run(toy_plan(tmp_path / "out", variants=variants, batch_size=2, rounds=2), recorder)
    pictures = {
        (row.trial.label, caption): (tmp_path / "out/previews" / name).read_bytes()
        for row in recorder.rows
        for caption, name in row.result.previews.items()
    }
    assert pictures == {
        ("none b2", "true"): b"as all have it",
        ("none b2", "predicted"): b"(4, 'none')",
        ("none+sweet b2", "true"): b"as all have it",
        ("none+sweet b2", "predicted"): b"(4, 'none')",
    }
    assert len(list((tmp_path / "out/previews").iterdir())) == 2
    lacking = [row for row in recorder.rows if row.trial.label == "unpictured b2"]
    assert [row.result.status for row in lacking] == [Status.OK]
    assert lacking[0].result.facts["no_previews"] == "RuntimeError: there is nothing to see"


def test_previews_may_be_done_without(tmp_path: Path) -> None:
    recorder = Recorder()
    sweep.run(toy_plan(tmp_path / "out", batch_size=2, previews=0), recorder)
    assert [row.result.previews for row in recorder.rows] == [{}]
    assert not (tmp_path / "out/previews").exists()
