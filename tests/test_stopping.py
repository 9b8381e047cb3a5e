"""When a sweep has measured enough, and what it records of its end."""

import json
import math
import os
import signal
from functools import cache
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

from bench import stopping, sweep
from bench.stats import LEAST_ROUNDS, estimate
from bench.stopping import CONFIRMING_ROUNDS, Run, Stop, widest_interval
from bench.trial import Status, Trial
from tests.commands import main
from tests.harness import Recorder, toy_plan, write_toml
from tests.report_rows import NEAR, PLAIN, failed, in_rounds, of_today

Capture = pytest.CaptureFixture[str]


STORM = [0.9**number for number in range(10)]
"""A machine that slows down."""


def test_the_widest_interval_is_that_of_the_speed_ups() -> None:
    fp32 = in_rounds("fp32", 4, 100, STORM)
    storm = [factor * near for factor, near in zip(STORM, NEAR, strict=True)]
    alone = widest_interval(fp32, PLAIN, 10)
    assert alone is not None
    assert alone > 0.5
    # What meets both alike is no uncertainty of their ratio.
    both = widest_interval(fp32 + in_rounds("bf16", 4, 200, storm), PLAIN, 10)
    assert both == pytest.approx(estimate([math.log(near) for near in NEAR]).width)
    one_sided = widest_interval(fp32 + in_rounds("bf16", 4, 200), PLAIN, 10)
    assert one_sided is not None
    assert one_sided > 0.5
    lone = widest_interval(in_rounds("bf16", 4, 200), PLAIN, 10)
    assert lone == pytest.approx(both)  # its own rate


def test_a_cell_with_too_few_rounds_leaves_it_open_and_failed_ones_are_left_out() -> None:
    rows = in_rounds("fp32", 4, 100)
    assert widest_interval(rows, PLAIN, LEAST_ROUNDS - 1) is None
    assert widest_interval(rows + in_rounds("bf16", 4, 200, NEAR[:4]), PLAIN, 10) is None
    crashed = [of_today("bf16", 4, failed(Status.CRASH), round=number) for number in range(10)]
    assert widest_interval(rows + crashed, PLAIN, 10) == widest_interval(rows, PLAIN, 10)
    assert widest_interval(crashed, PLAIN, 10) is None


@cache
def coverage(target: float) -> float:
    """How often an interval holds the truth where measuring stops as it becomes so narrow."""
    random = np.random.default_rng(0)
    covered = []
    for _ in range(2000):
        logs = list(random.normal(0, 0.02, 30))
        rounds = LEAST_ROUNDS
        while rounds < 30 and estimate(logs[:rounds]).width >= target:
            rounds += 1
        found = estimate(logs[: rounds + CONFIRMING_ROUNDS])
        covered.append(found.low <= 1 <= found.high)
    return float(np.mean(covered))


@pytest.mark.parametrize("target", [0.015, 0.02, 0.025, 0.03, 0.04, 0.05])
def test_intervals_cover_the_truth_also_when_measuring_stops_as_they_become_narrow(
    target: float,
) -> None:
    assert coverage(target) >= 0.93


def test_who_stops_at_once_stops_where_the_scatter_happens_to_be_small() -> None:
    # With no round to confirm they cover 93.1 % at these widths, with one 93.6 %, with two 94.3 %.
    assert (coverage(0.02) + coverage(0.025)) / 2 >= 0.94


def run(folder: Path, **asked: Any) -> tuple[Recorder, Run]:
    recorder = Recorder()
    sweep.run(toy_plan(folder, batch_size=4, **asked), recorder)
    run = stopping.last(folder)
    assert run is not None
    return recorder, run


def test_a_sweep_stops_when_its_intervals_are_narrow_or_its_rounds_or_its_time_are_over(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "LEAST_ROUNDS", 3)  # each takes seconds
    monkeypatch.setattr(stopping, "CONFIRMING_ROUNDS", 1)
    folder = tmp_path / "out"
    recorder, found = run(folder, ci_width="90%", sleep_ms=5)
    assert found.stopped_by is Stop.CI_WIDTH
    assert 3 + 1 <= found.rounds == len(recorder.rows) < 30
    assert found.widest is not None
    assert found.widest < 0.9
    assert found.sentence in recorder.notes
    _, out, _ = main(["report", str(folder)], capsys)
    assert "to confirm that every interval is narrow enough" in " ".join(out.split())
    again, _ = run(folder, ci_width="90%", sleep_ms=5)
    assert not again.rows

    narrower = {"ci_width": "0.001%", "sleep_ms": 5}  # which it never is
    recorder, last = run(folder, **narrower, rounds=found.rounds + 1)
    assert (last.stopped_by, last.rounds) == (Stop.ROUNDS, found.rounds + 1)
    assert last.ci_width == pytest.approx(1e-5)
    assert len(recorder.rows) == 1
    with pytest.MonkeyPatch.context() as patch:  # a second has passed, however fast the machine
        patch.setattr("bench.sweep.time", SimpleNamespace(monotonic=count().__next__))
        recorder, last = run(folder, **narrower, time_limit_s=1)
    assert last.stopped_by is Stop.MAX_TIME
    assert last.rounds == found.rounds + 2  # the first trial of a run may always begin
    assert last.sentence.startswith("Time was up after ")
    assert "0.001 % were asked for" in last.sentence


def test_a_sweep_that_was_interrupted_says_so(tmp_path: Path) -> None:
    def interrupt(trial: Trial, phase: str, child: psutil.Process) -> None:
        if trial.round == 1 and phase == "measuring":
            os.kill(os.getpid(), signal.SIGINT)

    recorder = Recorder(on_phase=interrupt)
    sweep.run(toy_plan(tmp_path / "out", batch_size=4, rounds=9, sleep_ms=50), recorder)
    found = stopping.last(tmp_path / "out")
    assert found is not None
    assert (found.stopped_by, found.rounds) == (Stop.INTERRUPTED, 1)
    assert found.ci_width is None


def test_each_run_adds_a_line(tmp_path: Path) -> None:
    run(tmp_path / "out")
    run(tmp_path / "out", rounds=2)
    lines = (tmp_path / "out" / stopping.FILE_NAME).read_text().splitlines()
    assert [json.loads(line)["rounds"] for line in lines] == [1, 2]
    assert stopping.last(tmp_path) is None


BAD_TYPE = (
    '{"command": "c", "started_at": "", "ended_at": "", "stopped_by": "rounds", "rounds": 1, '
    '"ci_width": "1%", "widest": null}\n'
)


@pytest.mark.parametrize("tail", ["{", "[]\n", '{"stopped_by": "boredom"}\n', "\n", BAD_TYPE])
def test_a_run_that_cannot_be_read_is_as_if_it_were_not_there(tail: str, tmp_path: Path) -> None:
    path = tmp_path / stopping.FILE_NAME
    path.write_text(tail)
    assert stopping.last(tmp_path) is None
    again = Run(
        "c", "2026-01-01T00:00:00+00:00", "2026-01-01T00:01:00+00:00", Stop.ROUNDS, 1, None, None
    )
    stopping.record(tmp_path, again)
    assert stopping.last(tmp_path) == again


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--ci-width", "0"], "ci_width '0': expected a percentage"),
        (["--ci-width", "narrow"], "ci_width 'narrow': expected a percentage"),
        (["--ci-width", "1%", "--rounds", "4"], "rounds 4: ci_width needs at least 5"),
        (["--max-time", "soon"], "--max-time 'soon': expected a length of time"),
        (["--max-time", "0"], "--max-time '0': expected a length of time"),
        (["--max-time", "-5m"], "--max-time '-5m': expected a length of time"),
        (["--max-time", "1h30"], "--max-time '1h30': expected a length of time"),
        (["--max-time", "5x"], "--max-time '5x': expected a length of time"),
    ],
)
def test_mistakes_are_told_in_one_line(words: list[str], expected: str, capsys: Capture) -> None:
    code, _, error = main(["plan", *(f"{words[0]}={words[1]}", *words[2:])], capsys)
    assert code == 2
    assert expected in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("20m", 1200), ("20min", 1200), ("1h30m", 5400), ("0.5h", 1800)],
)
def test_lengths_of_time_in_usual_spellings(
    text: str, seconds: int, tmp_path: Path, capsys: Capture
) -> None:
    toys = write_toml(tmp_path / "toys.toml", variants=["none"], batch_size=[4])
    _, out, _ = main(["plan", str(toys), "--max-time", text], capsys)
    assert f"expected to end within {seconds} s" in " ".join(out.split())


def test_a_width_makes_room_for_as_many_rounds_as_it_takes(tmp_path: Path, capsys: Capture) -> None:
    words = ["plan", str(write_toml(tmp_path / "toys.toml", variants=["none"], batch_size=[4, 8]))]
    _, one, _ = main([*words, "--json"], capsys)
    _, many, _ = main([*words, "--json", "--ci-width", "1%"], capsys)
    assert len(many.splitlines()) == 30 * len(one.splitlines())
    _, some, _ = main([*words, "--json", "--ci-width", "1%", "--rounds", "8"], capsys)
    assert len(some.splitlines()) == 8 * len(one.splitlines())
