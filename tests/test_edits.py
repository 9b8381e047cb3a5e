"""No edit of a journal makes a command end in a traceback, or blame the wrong file."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from bench import journal
from bench.arguments import VIEWS
from bench.errors import UserError
from tests.commands import main
from tests.edits import DELETE, Edit, edited, edits
from tests.harness import REPOSITORY

SOURCE = REPOSITORY / "results/2026-11-26_intel-xeon-2-cores_torch-2.14.1_compiled-vs-eager"
VARIANTS = ("fp32", "fp32+compile", "bf16+channels_last+reduce-overhead")
"""Eager, compiled, unsupported."""

READABLE = 8
"""So many of the edits that leave a row in order are reported on, which takes a second each."""


def lines() -> list[dict[str, Any]]:
    """One row of each variant, as it was measured."""
    found = [json.loads(line) for line in (SOURCE / journal.FILE_NAME).read_text().splitlines()]
    return [
        next(line for line in found if line["trial"]["variant"] == variant) for variant in VARIANTS
    ]


LINES = lines()
SCHEMA = json.loads((Path(journal.__file__).parent / "journal.schema.json").read_text())
VALIDATOR = Draft202012Validator(SCHEMA)


def write(folder: Path, place: int = 0, text: str | None = None) -> Path:
    """A journal of these rows, one of them replaced."""
    folder.mkdir(exist_ok=True)
    texts = [json.dumps(line) for line in LINES]
    if text is not None:
        texts[place] = text
    content = "".join(f"{one}\n" for one in texts)
    (folder / journal.FILE_NAME).write_bytes(content.encode(errors="surrogateescape"))
    return folder


EDITS = [(place, edit) for place, line in enumerate(LINES) for edit in edits(line, 60)]


def chosen(count: int, *, readable: bool, folder: Path) -> list[tuple[int, Edit]]:
    """So many of the edits that leave a row in order, or of those that do not."""
    found: list[tuple[int, Edit]] = []
    for place, edit in EDITS:
        write(folder, place, edit.text)
        try:
            journal.read(folder)
        except UserError:
            fits = not readable
        else:
            fits = readable
        if fits:
            found.append((place, edit))
        if len(found) == count:
            break
    return found


def commands(folder: Path, other: Path, to: Path) -> dict[str, list[str]]:
    plan = ["--set", "workload=tests.toy:TOY", "--device", "cpu", "--out", str(folder)]
    return {
        "report": ["report", str(folder)],
        "report --format csv": ["report", str(folder), "--format", "csv"],
        "report --html": ["report", str(folder), "--html"],
        "recommend": ["recommend", str(folder)],
        "compare": ["compare", str(other), str(folder)],
        "publish": ["publish", str(folder), "--to", str(to)],
        "plan": ["plan", "quick", "--device", "cpu", "--out", str(folder)],
        "sweep": ["sweep", "quick", "--device", "cpu", "--out", str(folder)],
        "max-batch": ["max-batch", *plan],
        **{f"report --view {view}": ["report", str(folder), "--view", view] for view in VIEWS[:6]},
    }


@pytest.fixture
def to(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    shutil.copy(REPOSITORY / "results/README.md", folder)
    return folder


def test_every_edit_is_read_or_refused_with_its_line(tmp_path: Path) -> None:
    refused = 0
    for place, edit in EDITS:
        folder = write(tmp_path / "a", place, edit.text)
        try:
            rows = journal.read(folder)
        except UserError as error:
            refused += 1
            message = str(error)
            where = f"{folder / journal.FILE_NAME}, line {place + 1}: "
            assert message.startswith(where), edit.name
            assert len(message.splitlines()) == 1, edit.name
            assert len(message) < len(where) + 600, edit.name
        else:
            assert len(rows) >= len(LINES) - 1, edit.name
    assert refused > len(EDITS) / 2


def test_what_is_refused_ends_every_command_with_file_and_line(
    tmp_path: Path, to: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = write(tmp_path / "good"), tmp_path / "bad"
    found = chosen(100, readable=False, folder=bad)
    assert len(found) == 100
    for place, edit in found:
        write(bad, place, edit.text)
        for name, words in commands(bad, good, to).items():
            code, _, error = main(words, capsys)
            assert code == 2, (name, edit.name, error)
            assert f"{bad / journal.FILE_NAME}, line {place + 1}: " in error, (name, edit.name)
            assert len(error.splitlines()) == 1, (name, edit.name)


def test_what_is_read_ends_no_command_in_a_traceback(
    tmp_path: Path, to: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, odd = write(tmp_path / "good"), tmp_path / "odd"
    asked = commands(odd, good, to)
    for measuring in ("sweep", "max-batch"):  # these would run trials
        del asked[measuring]
    for number, (place, edit) in enumerate(chosen(READABLE, readable=True, folder=odd)):
        write(odd, place, edit.text)
        for name, words in asked.items():
            if name == "report --html" and number:  # plots take seconds
                continue
            code, _, error = main(words, capsys)
            assert code in (0, 1, 2, 3), (name, edit.name, error)
            assert code != 2 or len(error.splitlines()) == 1, (name, edit.name, error)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("quality", "final_mse"), DELETE, "final_mse is missing"),
        (("quality", "final_mse"), None, "final_mse null"),
        (("window",), [-1, 4], "window[0] -1"),
        (("window",), [3, 10**6], "expected a range within"),
        (("window",), [], "window"),
        (("phase_at_s", "training"), DELETE, "training is missing"),
        (("phase_at_s", "training"), 0.0, "expected it after measuring"),
        (("monitor", 0, "at_s"), "soon", 'monitor[0].at_s "soon"'),
        (("monitor", 0), 7, "monitor[0] 7"),
        (("environment", "torch"), DELETE, "environment: torch is missing"),
        (("environment", "cpus_allowed"), True, "environment.cpus_allowed true"),
        (("status",), "fine", 'status "fine"'),
        (("step_samples", 0), 10**40, "step_samples[0] 1000"),
        (("step_samples",), [], "step_samples: 0 items"),
        (("step_phase_s", 1, 2), "x", 'step_phase_s[1][2] "x"'),
        (("started_at",), "yesterday", 'started_at "yesterday"'),
        (("memory", "peak_bytes"), "2 GiB", 'memory.peak_bytes "2 GiB"'),
        (("losses", 0), float("nan"), "not JSON: NaN"),
        (("trial", "batch_size"), True, "trial.batch_size true"),
    ],
)
def test_the_place_and_what_was_expected_are_told(
    place: tuple[str | int, ...], value: object, words: str, tmp_path: Path
) -> None:
    folder = write(tmp_path / "a", 0, json.dumps(edited(LINES[0], place, value)))
    with pytest.raises(UserError) as caught:
        journal.read(folder)
    assert str(caught.value).startswith(f"{folder / journal.FILE_NAME}, line 1: ")
    assert words in str(caught.value)


def test_the_check_agrees_with_the_standards_own_validator() -> None:
    """On every edit that JSON can hold; but numbers beyond 64 bits, and 1.0 for 1, it lets pass."""
    check = journal._schema()
    compared = 0
    for _, edit in EDITS:
        try:
            line = journal._parse(edit.text.encode(errors="surrogateescape"))
        except UserError:
            continue
        if "whole" in edit.name or "large" in edit.name:
            continue
        compared += 1
        assert (check([line]) is None) == VALIDATOR.is_valid(line), edit.name
    assert compared > 100
