"""`compare`: verdicts on cells, and what cannot be compared."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from bench.journal import Row
from bench.report.compare import compare
from bench.report.sides import Side, by_variant
from bench.trial import Status
from tests.commands import main
from tests.comparing import (
    BASE,
    OTHER,
    SLOWER,
    busy,
    in_seeds,
    lines,
    only,
    run_compare,
    with_memory,
    write,
)
from tests.report_rows import (
    NEAR,
    at_minutes,
    failed,
    in_environment,
    in_rounds,
    noise_description,
    of_today,
    page_lines,
)

Capture = pytest.CaptureFixture[str]
Run = Callable[..., tuple[object, str, str]]


@pytest.fixture
def run(tmp_path: Path, capsys: Capture) -> Run:
    return partial(run_compare, tmp_path, capsys)


# Verdicts.


def test_a_cell_is_faster_slower_or_the_same() -> None:
    base = in_rounds("fp32", 4, 100)
    for rate, word in ((110, "faster"), (90, "slower"), (100.1, "same")):
        line = only(base, in_rounds("fp32", 4, rate, OTHER))
        assert line["ratio_verdict"] == word
        assert line["ratio"] == pytest.approx(rate / 100, rel=0.005)
        assert line["ratio_low"] < line["ratio"] < line["ratio_high"]
        assert line["ratio_rounds"] == 10


def test_rounds_are_paired_so_that_what_meets_both_cancels() -> None:
    storm = [1, 0.5, 0.9, 1.2, 0.6, 1, 0.8, 1.1, 0.7, 1]
    line = only(
        in_rounds("fp32", 4, 100, storm),
        in_rounds("fp32", 4, 110, [x * y for x, y in zip(storm, NEAR, strict=True)]),
    )
    assert line["ratio_verdict"] == "faster"


def test_what_scatters_is_inconclusive() -> None:
    wild = [1, 1.3, 0.7, 1.2, 0.8, 1.1, 0.9, 1, 1.4, 0.6]
    line = only(in_rounds("fp32", 4, 100), in_rounds("fp32", 4, 103, wild))
    assert (line["ratio_verdict"], line["ratio_why"]) == ("inconclusive", "too noisy")


def test_few_rounds_are_inconclusive_and_one_has_no_interval() -> None:
    four = only(in_rounds("fp32", 4, 100, NEAR[:4]), in_rounds("fp32", 4, 200, NEAR[:4]))
    assert four["ratio_verdict"] == "inconclusive"
    assert four["ratio_why"] == "4 rounds, 5 are needed"
    (one,) = lines(in_rounds("fp32", 4, 100, [1]), in_rounds("fp32", 4, 200, [1]))
    assert one["ratio"] == pytest.approx(2)
    assert one["ratio_low"] is None or one["ratio_low"] != one["ratio_low"]


def test_only_rounds_that_ended_well_on_both_sides_count() -> None:
    here = in_rounds("fp32", 4, 110, OTHER)
    here[3] = of_today("fp32", 4, failed(Status.CRASH), round=3)
    line = only(in_rounds("fp32", 4, 100), here)
    assert line["ratio_rounds"] == 9
    assert line["here_status"] == "crash"


def test_rounds_of_all_seeds_count_together() -> None:
    def seeds(rate: float, shape: Sequence[float]) -> list[Row]:
        return [row for seed in (0, 1) for row in in_rounds("fp32", 4, rate, shape[:3], seed=seed)]

    assert only(seeds(100, NEAR), seeds(120, OTHER))["ratio_rounds"] == 6


def test_the_margin_is_the_user_s() -> None:
    there, here = in_rounds("fp32", 4, 100), in_rounds("fp32", 4, 100.1, OTHER)
    assert only(there, here, 0.02)["ratio_verdict"] == "same"
    assert only(there, here, 0.001)["ratio_verdict"] == "inconclusive"


@pytest.mark.parametrize(("gib", "word"), [(2.2, "more"), (1.8, "less"), (2.0, "same")])
def test_memory_is_judged_too(gib: float, word: str) -> None:
    base = in_rounds("fp32", 4, 100)
    line = only(with_memory(base, 2.0), with_memory(base, gib))
    assert line["memory_ratio_verdict"] == word
    assert line["memory_ratio"] == pytest.approx(gib / 2, rel=0.01)


@pytest.mark.parametrize(("mse", "word"), [(110, "worse"), (90, "better"), (100.1, "same")])
def test_quality_is_judged_by_seeds(mse: float, word: str) -> None:
    line = only(in_seeds(100), in_seeds(mse, OTHER))
    assert line["mse_ratio_verdict"] == word
    assert line["mse_ratio_rounds"] == 10


def test_rounds_of_one_seed_tell_nothing_of_quality_unless_they_are_equal() -> None:
    there = in_rounds("fp32", 4, 100, final_mse=100.0)
    line = only(there, in_rounds("fp32", 4, 100, final_mse=120.0))
    assert line["mse_ratio_verdict"] == "inconclusive"
    assert line["mse_ratio_why"] == "1 seed, 5 are needed"
    assert only(there, in_rounds("fp32", 4, 100, OTHER, final_mse=100.0))["mse_ratio_verdict"] == (
        "same"
    )


# The noise floor.


def test_what_lies_below_a_measured_floor_is_not_shown() -> None:
    there, here = in_rounds("fp32", 4, 100), in_rounds("fp32", 4, 103, OTHER)
    assert only(there, here)["ratio_verdict"] == "faster"
    quiet, loud = noise_description(0.005), noise_description(0.1)
    line = only(in_environment(there, noise=quiet), in_environment(here, noise=quiet))
    assert line["ratio_verdict"] == "faster"
    assert line["ratio_floor_source"] == "measured by `doctor --noise`"
    line = only(in_environment(there, noise=quiet), in_environment(here, noise=loud))
    assert (line["ratio_verdict"], line["ratio_why"]) == ("inconclusive", "below the noise floor")
    assert line["ratio_floor_percent"] > 5


def test_a_floor_of_another_class_says_nothing() -> None:
    compiled = noise_description(0.1, "compiled")
    line = only(
        in_environment(in_rounds("fp32", 4, 100), noise=compiled),
        in_environment(in_rounds("fp32", 4, 103, OTHER), noise=compiled),
    )
    assert line["ratio_verdict"] == "faster"
    assert line["ratio_floor_source"] == "by the scatter of these rounds"


def test_nothing_is_concluded_from_a_flagged_cell() -> None:
    line = only(in_rounds("fp32", 4, 100), busy(in_rounds("fp32", 4, 120, OTHER)))
    assert (line["ratio_verdict"], line["ratio_why"]) == ("inconclusive", "flagged")


def test_a_known_drift_is_added_to_what_the_rounds_leave_open() -> None:
    there = at_minutes(in_rounds("fp32", 4, 100), 0)
    for rate, word in ((109, "inconclusive"), (110.1, "inconclusive"), (112, "faster")):
        here = at_minutes(in_rounds("fp32", 4, rate, OTHER), 100)
        (line,) = page_lines(compare(Side("A", there), Side("B", here), 0.02, 0.1).page)
        assert line["ratio_verdict"] == word
    loud = noise_description(0.3)
    known = (
        Side("A", in_environment(there, noise=loud)),
        Side("B", in_environment(here, noise=loud)),
    )
    (line,) = page_lines(compare(known[0], known[1], 0.02, 0.001).page)
    assert line["ratio_why"] == "below the noise floor"  # which no drift lowers


def test_noise_is_told_by_rounds_that_ended_well_and_know_of_it() -> None:
    described = noise_description(0.001)
    described["cells"] += noise_description(0.3, "compiled")["cells"]
    sides = [
        in_rounds("fp32+compile", 4, rate, shape, first_s=1.0, cold_s=10.0)
        for rate, shape in ((100, NEAR), (103, OTHER))
    ]
    sides = [[rows[0], *in_environment(rows[1:], noise=described)] for rows in sides]
    sides[1][0] = of_today("fp32+compile", 4, failed(Status.CRASH), round=0)
    assert only(sides[0], sides[1])["ratio_why"] == "below the noise floor"


def test_equal_quality_stays_equal_where_a_round_is_missing() -> None:
    mse = 0.1 + 0.2  # whose mean depends on how often it is added up
    here = in_rounds("fp32", 4, 100, OTHER[:9], final_mse=mse)
    assert only(in_rounds("fp32", 4, 100, final_mse=mse), here)["mse_ratio_verdict"] == "same"


# What is compared.


def test_two_variants_of_a_folder_are_compared_cell_by_cell(
    tmp_path: Path, capsys: Capture
) -> None:
    rows = BASE + in_rounds("fp32", 8, 100) + in_rounds("bf16", 8, 90, OTHER)
    folder = write(tmp_path / "a", rows)
    words = ["compare", folder, "--variants", "fp32", " bf16", "--format", "json"]
    code, out, _ = main(words, capsys)
    assert code == 0
    found = {line["batch_size"]: line for line in json.loads(out)}
    assert {size: line["ratio_verdict"] for size, line in found.items()} == {
        4: "faster",
        8: "slower",
    }
    assert found[4]["ratio"] == pytest.approx(2, rel=0.01)
    there, here = by_variant(rows, ["fp32", "bf16"])
    assert "2 cells: 1 faster, 1 slower" in compare(there, here, 0.02).page.verdict


def test_two_folders_are_compared_variant_by_variant(run: Run) -> None:
    code, out, _ = run(BASE, SLOWER)
    assert code == 0
    assert "2 cells: 1 same, 1 slower" in " ".join(out.split())


def test_cells_that_only_one_side_has_are_named() -> None:
    here = in_rounds("bf16", 4, 200) + in_rounds("bf16", 8, 300)
    found = compare(Side("A", BASE), Side("B", here), 0.02)
    assert {"Only in A: fp32 b4.", "Only in B: bf16 b8."} <= set(found.page.notes)


def test_the_number_of_cells_is_corrected_for() -> None:
    """A difference that one comparison shows drowns among a hundred."""
    slight = [1.006, 1.0, 1.009, 1.002, 1.008, 1.004, 1.001, 1.007, 1.003, 1.005]
    alone = lines(in_rounds("fp32", 4, 100, [1] * 10), in_rounds("fp32", 4, 100, slight), 0.001)
    assert alone[0]["ratio_verdict"] == "faster"
    there = [row for size in range(1, 101) for row in in_rounds("fp32", size, 100, [1] * 10)]
    here = [row for size in range(1, 101) for row in in_rounds("fp32", size, 100, slight)]
    assert {line["ratio_verdict"] for line in lines(there, here, 0.001)} == {"inconclusive"}


# What cannot be compared.


def test_another_environment_is_refused_by_its_key_unless_it_is_ignored(
    run: Run, capsys: Capture
) -> None:
    here = in_environment(SLOWER, torch="2.16.0")
    code, out, error = run(BASE, here)
    assert (code, out) == (2, "")
    assert "environment.torch is '2.15.0' and '2.16.0'" in error
    assert "--ignore environment.torch" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("key", ["torch", "environment.torch"])
def test_what_is_ignored_is_printed(key: str, run: Run) -> None:
    code, out, _ = run(BASE, in_environment(SLOWER, torch="2.16.0"), "--ignore", key)
    assert code == 0
    assert "Ignored: environment.torch is '2.15.0'" in " ".join(out.split())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--ignore", "tosch"], "--ignore 'tosch': "),
        (["--margin", "0"], "--margin '0': expected a percentage"),
        (["--margin", "much"], "--margin 'much': expected a percentage"),
        (["--fail-if-slower", "-1%"], "expected"),
        (["--fail-if-slower", "nan"], "--fail-if-slower 'nan': expected a percentage"),
        (["--fail-if-more-memory", "100%"], "--fail-if-more-memory '100%': expected"),
        (["--format", "xml"], "--format 'xml': expected one of table"),
        (["--variants", "fp32", "bf16"], "expected one folder beside --variants"),
    ],
)
def test_mistakes_are_told_in_one_line(options: list[str], expected: str, run: Run) -> None:
    code, out, error = run(BASE, SLOWER, *options)
    assert (code, out) == (2, "")
    assert expected in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["fp32", "bf17"], "--variants 'bf17': did you mean 'bf16'?"),
        (["fp32", "fp32"], "expected two that differ"),
    ],
)
def test_variants_that_are_not_there_are_named(
    names: list[str], expected: str, tmp_path: Path, capsys: Capture
) -> None:
    code, _, error = main(["compare", write(tmp_path / "a", BASE), "--variants", *names], capsys)
    assert code == 2
    assert expected in error


def test_folders_that_share_no_cell_or_are_no_folders_are_refused(
    run: Run, tmp_path: Path, capsys: Capture
) -> None:
    code, _, error = run(BASE, in_rounds("fp32", 16, 100) + in_rounds("bf16", 16, 100))
    assert code == 2
    assert "no cell in common" in error
    for words, expected in (
        ([str(tmp_path / "a")], "expected two that differ, or --variants"),
        ([str(tmp_path / "a"), str(tmp_path / "a")], "expected two that differ, or --variants"),
        ([str(tmp_path / "a"), str(tmp_path / "none")], "expected a folder with a journal.jsonl"),
    ):
        code, _, error = main(["compare", *words], capsys)
        assert code == 2
        assert expected in error


def test_what_differs_is_named_where_there_is_no_common_cell() -> None:
    small = in_rounds("fp32", 4, 100, settings={"data": "drive", "image_size": 32, "width": 16})
    with pytest.raises(ValueError, match="image_size is 64 there and 32 here"):
        lines(in_rounds("fp32", 4, 100), small)


def test_a_journal_without_rows_is_refused(run: Run) -> None:
    code, _, error = run(BASE, [])
    assert code == 2
    assert "the journal holds no rows yet" in error


def test_all_that_differs_is_named_at_once(run: Run) -> None:
    here = in_environment(SLOWER, torch="2.16.0", python="3.13.0")
    code, _, error = run(BASE, here)
    assert code == 2
    assert "--ignore environment.torch --ignore environment.python does so" in error
