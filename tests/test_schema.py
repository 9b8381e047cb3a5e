"""The JSON Schema of the journal, which `bench/journal.schema.json` is."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from bench import journal, sweep
from bench.trial import Trial, TrialResult
from tests.harness import Recorder, row_of, toy_plan, toy_trial
from tests.test_results import PUBLISHED

SCHEMA = json.loads((Path(journal.__file__).parent / "journal.schema.json").read_text())


def mistakes(line: dict[str, Any]) -> list[str]:
    return [error.message for error in Draft202012Validator(SCHEMA).iter_errors(line)]


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / journal.FILE_NAME).read_text().splitlines()]


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What a sweep writes of trials that end in every way, compiled ones and previews too."""
    folder = tmp_path_factory.mktemp("schema") / "out"
    variants = ["none", "none+trace", "raise", "exit", "oom", "nan", "unsupported"]
    plan = toy_plan(folder, variants=variants, batch_size=[2, 4], oom_from=2)
    sweep.run(plan, Recorder())
    return lines_of(folder)


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def test_what_a_sweep_writes_fits(lines: list[dict[str, Any]]) -> None:
    statuses = {"ok", "crash", "oom", "implied_oom", "diverged", "unsupported"}
    assert {line["status"] for line in lines} == statuses
    assert any(line["previews"] for line in lines)
    assert any(line["compilation"] for line in lines)
    assert {line["trial"]["variant"]: mistakes(line) for line in lines if mistakes(line)} == {}


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
def test_what_was_ever_published_fits(folder: Path) -> None:
    assert [told for line in lines_of(folder) for told in mistakes(line)] == []


def test_it_knows_every_field_that_is_written() -> None:
    line = json.loads(row_of(toy_trial()).to_line())
    assert set(SCHEMA["properties"]) == set(line)
    assert set(SCHEMA["properties"]["trial"]["properties"]) == {f.name for f in fields(Trial)}
    assert {f.name for f in fields(TrialResult)} < set(SCHEMA["properties"])


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("schema", 2),
        ("key", "another"),
        ("status", "fine"),
        ("unheard_of", 1),
        ("window", [1]),
        ("quality", {}),
        ("losses", ["nan"]),
        ("step_phase_s", [[1, 2, 3]]),
        ("previews", {"true": "../../etc/passwd"}),
        ("trial.batch_size", 0),
        ("trial.device", "tpu"),
        ("trial.axes", {"precision": 16}),
        ("trial.unheard_of", 1),
        ("environment.commit", "main"),
    ],
)
def test_what_is_wrong_does_not_fit(lines: list[dict[str, Any]], place: str, value: object) -> None:
    line = json.loads(json.dumps(next(line for line in lines if line["status"] == "ok")))
    assert mistakes(line) == []
    *path, name = place.split(".")
    there = line[path[0]] if path else line
    there[name] = value
    assert len(mistakes(line)) == 1


@pytest.mark.parametrize("name", ["schema", "key", "trial", "environment", "status"])
def test_what_is_missing_does_not_fit(lines: list[dict[str, Any]], name: str) -> None:
    line = {key: value for key, value in lines[0].items() if key != name}
    assert mistakes(line)
