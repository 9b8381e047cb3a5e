"""Gates of `compare`: which changes fail them, and with which exit code."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from bench.trial import Status
from tests.comparing import (
    BASE,
    OTHER,
    SLOWER,
    busy,
    in_seeds,
    in_seeds_by_turns,
    only,
    run_compare,
    with_memory,
    write,
)
from tests.report_rows import (
    at_minutes,
    failed,
    in_environment,
    in_rounds,
    noise_description,
    of_today,
)

Capture = pytest.CaptureFixture[str]
Run = Callable[..., tuple[object, str, str]]


@pytest.fixture
def run(tmp_path: Path, capsys: Capture) -> Run:
    return partial(run_compare, tmp_path, capsys)


def test_a_gate_within_the_margin_is_a_gate(run: Run) -> None:
    there, here = in_rounds("fp32", 4, 100), in_rounds("fp32", 4, 98.5, OTHER)
    assert only(there, here)["ratio_verdict"] == "same"  # within 2 %
    code, out, _ = run(there, here, "--fail-if-slower", "1%")
    assert code == 1
    assert "fp32 b4 has 1.5% worse images_per_s, same" in " ".join(out.split())


@pytest.mark.parametrize("how", ["not in turn", "flagged", "too noisy a machine", "drift"])
def test_no_gate_holds_by_what_nothing_is_concluded_from(how: str, run: Run) -> None:
    there, here = in_rounds("fp32", 4, 100), in_rounds("fp32", 4, 100, OTHER)
    more: list[str] = []
    if how == "flagged":
        here = busy(here)
    elif how == "too noisy a machine":
        loud = noise_description(0.3)
        there, here = in_environment(there, noise=loud), in_environment(here, noise=loud)
    else:
        there, here = at_minutes(there, 0), at_minutes(here, 100)
        more = ["--drift", "10%"] if how == "drift" else []
    code, out, _ = run(there, here, "--fail-if-slower", "5%", *more)
    assert code == 3
    assert "Not shown: --fail-if-slower 5%: fp32 b4" in out
    assert "at most 100.0% worse" not in out  # of an unknown drift nothing is known


def test_a_cell_that_was_not_measured_in_b_leaves_gates_undecided(run: Run) -> None:
    code, out, _ = run(BASE, BASE[:10], "--fail-if-slower", "5%")
    assert code == 3
    assert "Not shown: bf16 b4 was not measured in B" in out


def test_what_neither_side_can_do_leaves_nothing_undecided(run: Run) -> None:
    cannot = [of_today("tf32", 4, failed(Status.UNSUPPORTED), round=k) for k in range(10)]
    there, here = in_rounds("fp32", 4, 100), in_rounds("fp32", 4, 100, OTHER)
    code, _, _ = run(there + cannot, here + cannot, "--fail-if-slower", "5%")
    assert code == 0


def test_what_was_interrupted_breaks_no_gate(run: Run) -> None:
    here = in_rounds("fp32", 4, 100, OTHER)
    here[9] = of_today("fp32", 4, failed(Status.INTERRUPTED), round=9)
    code, _, _ = run(in_rounds("fp32", 4, 100), here, "--fail-if-slower", "5%")
    assert code == 0


def test_what_crashed_now_and_then_before_may_not_vanish(run: Run) -> None:
    there = in_rounds("fp32", 4, 100)
    there[2] = of_today("fp32", 4, failed(Status.CRASH), round=2)
    here = [of_today("fp32", 4, failed(Status.OOM), round=number) for number in range(10)]
    code, _, _ = run(there, here, "--fail-if-slower", "5%")
    assert code == 1


def test_a_reader_that_goes_away_does_not_open_the_gate(tmp_path: Path) -> None:
    folders = [write(tmp_path / "a", BASE), write(tmp_path / "b", SLOWER)]
    command = [sys.executable, "-m", "bench", "compare", *folders, "--fail-if-slower", "5%"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*command, "--format", "json"], stdout=writer, check=False)
    os.close(writer)
    assert done.returncode == 1


def test_a_gate_fails_where_a_shown_difference_reaches_it(run: Run) -> None:
    code, out, _ = run(BASE, SLOWER, "--fail-if-slower", "5%")
    assert code == 1
    assert "Failed: --fail-if-slower 5%: bf16 b4 has 10." in " ".join(out.split())


@pytest.mark.parametrize("limit", ["12%", "20"])
def test_a_gate_holds_where_the_difference_is_shown_to_be_smaller(limit: str, run: Run) -> None:
    code, out, _ = run(BASE, SLOWER, "--fail-if-slower", limit)
    assert code == 0
    assert "Failed" not in out


WILD = (1, 1.3, 0.7, 1.2, 0.8, 1.1, 0.9, 1, 1.4, 0.6)


@pytest.mark.parametrize(("more", "expected"), [([], 3), (["--allow-inconclusive"], 0)])
@pytest.mark.parametrize("here", [WILD, OTHER[:3]], ids=["too noisy", "too few rounds"])
def test_an_inconclusive_gate_passes_only_where_that_is_allowed(
    here: Sequence[float], more: list[str], expected: int, run: Run
) -> None:
    code, out, _ = run(
        in_rounds("fp32", 4, 100), in_rounds("fp32", 4, 100, here), "--fail-if-slower", "5%", *more
    )
    assert code == expected
    assert out.count("--fail-if-slower 5%: fp32 b4") == 1  # which is said in both cases


@pytest.mark.parametrize("more", [[], ["--allow-inconclusive"]])
def test_what_is_inconclusive_is_no_excuse_for_what_failed(more: list[str], run: Run) -> None:
    there = in_rounds("fp32", 4, 100) + in_rounds("bf16", 4, 100)
    here = in_rounds("fp32", 4, 80, OTHER) + in_rounds("bf16", 4, 100, WILD)
    code, _, _ = run(there, here, "--fail-if-slower", "5%", *more)
    assert code == 1


def test_a_comparison_without_a_gate_asks_nothing(run: Run) -> None:
    code, _, _ = run(in_rounds("fp32", 4, 100), in_rounds("fp32", 4, 120, OTHER[:3]))
    assert code == 0


def test_there_is_nothing_inconclusive_to_allow_without_a_gate(run: Run) -> None:
    code, out, error = run(BASE, SLOWER, "--allow-inconclusive")
    assert (code, out) == (2, "")
    assert "--allow-inconclusive: expected a gate beside it" in error
    assert error.count("\n") == 1


def test_a_gate_that_has_nothing_to_judge_does_not_hold(run: Run) -> None:
    nothing = [of_today("tf32", 4, failed(Status.UNSUPPORTED), round=k) for k in range(10)]
    code, _, _ = run(nothing, nothing, "--fail-if-slower", "5%")
    assert code == 3


@pytest.mark.parametrize(
    ("rate", "rounds", "expected"), [(80, 5, 1), (100, 5, 0), (80, 4, 3), (80, 1, 3)]
)
def test_several_seeds_in_turn_round_by_round_are_judged(
    rate: float, rounds: int, expected: int, run: Run
) -> None:
    there, here = in_seeds_by_turns(rate, rounds)
    code, _, _ = run(there, here, "--fail-if-slower", "5%")
    assert code == expected


def test_memory_and_quality_have_gates_of_their_own(run: Run) -> None:
    there = with_memory(in_seeds(100), 2.0)
    here = with_memory(in_seeds(105, OTHER), 2.2)
    gates = ("--fail-if-slower", "5%", "--fail-if-more-memory", "3%", "--fail-if-mse-worse", "2%")
    code, out, _ = run(there, here, *gates)
    assert code == 1
    text = " ".join(out.split())
    assert "--fail-if-more-memory 3%: fp32 b4 has 10.0% worse peak_memory_gib, more" in text
    assert "--fail-if-mse-worse 2%: fp32 b4 has 5.0% worse final_mse, worse" in text
    assert "Failed: --fail-if-slower" not in text


def test_what_is_better_fails_no_gate(run: Run) -> None:
    there = with_memory(in_seeds(100), 2.0)
    here = with_memory(in_seeds(90, OTHER), 1.8)
    gates = ("--fail-if-more-memory", "3%", "--fail-if-mse-worse", "2%")
    code, _, _ = run(there, here, *gates)
    assert code == 0


def test_a_cell_that_no_longer_ends_well_fails_every_gate(run: Run) -> None:
    here = [of_today("fp32", 4, failed(Status.OOM), round=number) for number in range(10)]
    code, out, _ = run(in_rounds("fp32", 4, 100), here, "--fail-if-mse-worse", "2%")
    assert code == 1
    assert "fp32 b4 ended oom in B, and well in A" in " ".join(out.split())


@pytest.mark.parametrize("style", ["csv", "md", "json"])
def test_gates_do_not_get_into_what_a_script_reads(style: str, run: Run) -> None:
    code, out, error = run(BASE, SLOWER, "--fail-if-slower", "5%", "--format", style)
    assert code == 1
    assert "Failed" not in out
    assert "Failed: --fail-if-slower 5%" in error
