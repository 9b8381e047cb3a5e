"""The page of evidence, from records as they may be."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import spec
from bench.evidence import outcomes, page, record
from bench.evidence.parts import Budget, Kernels, Suite, Sweep
from bench.evidence.plan import Plan
from bench.journal import FILE_NAME
from bench.trial import Status
from tests.report_rows import failed, of_today, timed

GIB = 2**30


def audited(**changes: Any) -> dict[str, Any]:
    found = {
        "budget_bytes": 8 * GIB,
        "context_bytes": GIB // 2,
        "taken_bytes": 7 * GIB,
        "process_bytes": 8 * GIB - 2**27,
        "device_rise_bytes": None,
        "refused": True,
        "recognized": True,
        "recovered": True,
    }
    return found | changes


def budget_page(folder: Path, **changes: Any) -> str:
    record.append(folder, "budget", part="budget", **audited(**changes))
    return page.render(Plan("own", "cuda", (Budget("budget", 1, ""),)), folder)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "Refused after 7 GiB in blocks, within a budget of 8 GiB; the whole process had "
             "7.88 GiB, 128 MiB under the budget."),
        ({"process_bytes": 9 * GIB}, "had 9 GiB, 1 GiB over the budget."),
        ({"process_bytes": None, "device_rise_bytes": 6 * GIB}, "had 6 GiB, 2 GiB under"),
        ({"process_bytes": None}, "what the whole process had is not readable."),
        ({"refused": False}, "Not refused after 7 GiB in blocks"),
        ({"refused": False}, "Fault: the budget is not enforced."),
        ({"recognized": False}, "Fault: the refusal is not recognized as out of memory."),
        ({"recovered": False}, "Fault: the process cannot go on after the refusal."),
    ],
)  # fmt: skip
def test_the_budget_in_words(changes: dict[str, Any], expected: str, tmp_path: Path) -> None:
    text = budget_page(tmp_path, **changes)
    summary, section = text.split("## budget")
    assert expected in summary
    assert expected in section
    assert ("Fault" in text) == (
        "Fault" in expected
        or not all(changes.get(name, True) for name in ("refused", "recognized", "recovered"))
    )
    assert "| context_bytes | 536870912 (512 MiB) |" in section


def test_two_parts_of_one_kind_have_an_answer_each(tmp_path: Path) -> None:
    first, second = Budget("budget", 1, ""), Budget("again", 1, "")
    record.append(tmp_path, "budget", part="budget", **audited(refused=False))
    assert (first.left(tmp_path), second.left(tmp_path)) == (0, None)
    record.append(tmp_path, "budget", part="again", **audited())
    assert second.left(tmp_path) == 0
    assert first.faults(tmp_path)
    assert not second.faults(tmp_path)


def test_what_has_not_begun_is_not_measured(tmp_path: Path) -> None:
    parts = (
        Suite("tests", 1, "gpu", (), ()),
        Budget("budget", 1, ""),
        Kernels("kernels", 1, 10),
        Sweep("ladder", 1, "ladder", {}, "ladder", ()),
    )
    text = page.render(Plan("own", "cuda", parts), tmp_path)
    assert text.startswith("# Evidence: not measured\n")
    for part in parts:
        assert f"| {part.name} | not begun | 0 | not measured |" in text
        assert f"## {part.name}\n\nnot measured\n" in text


def test_a_part_that_failed_says_why(tmp_path: Path) -> None:
    ended = {"name": "tests", "command": [], "seconds": 1.5, "outcome": "failed"}
    record.append(tmp_path, "part", **ended, reason="exit code 1: ImportError: no pytest")
    text = page.summary(Plan("own", "cpu", (Suite("tests", 1, "gpu", (), ()),)), tmp_path)
    assert text.endswith(
        "| tests | failed | 2 | not measured (exit code 1: ImportError: no pytest) |"
    )


def test_a_sweep_shows_its_own_rows_and_how_many_are_missing(tmp_path: Path) -> None:
    values = {"variants": ["fp32", "bf16", "tf32", "fp16"], "batch_size": ["4"], "device": ["cpu"]}
    part = Sweep("ladder", 1, "quick", values, "ladder", ())
    other = spec.load("quick", {**values, "batch_size": ["8"]}).trials("cpu", 8 * GIB)
    plain, half, tf32, _ = spec.load("quick", values).trials("cpu", 8 * GIB)
    rows = [
        replace(timed("fp32", 4, 10), trial=plain),
        replace(timed("bf16", 4, 15), trial=half),
        replace(of_today("tf32", 4, failed(Status.INTERRUPTED)), trial=tf32),
        replace(timed("fp32", 8, 99), trial=other[0]),
    ]
    (tmp_path / FILE_NAME).write_text("".join(row.to_line() for row in rows))
    assert part.rows(rows) == rows[:3]
    assert part.left(tmp_path) == 2
    text = page.render(Plan("own", "cpu", (part,)), tmp_path)
    assert "Trials that are not measured yet: 2." in text
    assert "Fastest here: bf16 at batch 4 with 15.0 images/s, ~1.50x fp32" in text
    assert "99.0" not in text


def test_a_page_cannot_be_broken_by_what_it_quotes(tmp_path: Path) -> None:
    text = budget_page(tmp_path, message="a | b\nc")
    assert "| message | a \\| b c |" in text


def test_what_a_test_has_printed_can_always_be_written(tmp_path: Path) -> None:
    outcomes.append(tmp_path, "tests", "a", "failed", seconds=0.0, detail="x\ud800\x1b[1m\0")
    record.append(tmp_path, "selected", part="tests", source=outcomes.source(), tests=["a"])
    page.write(Plan("own", "cpu", (Suite("tests", 1, "gpu", (), ()),)), tmp_path)
    text = (tmp_path / page.FILE_NAME).read_text()
    assert "    x\\ud800\\x1b[1m\\x00" in text


def test_a_mark_that_matches_nothing_is_a_fault(tmp_path: Path) -> None:
    record.append(tmp_path, "selected", part="tests", source=outcomes.source(), tests=[])
    suite = Suite("tests", 1, "nosuch", (), ())
    assert suite.faults(tmp_path) == ["no test matches 'nosuch'"]
    assert "| No test matches. |" in page.summary(Plan("own", "cpu", (suite,)), tmp_path)
