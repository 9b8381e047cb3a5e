"""What a sweep is planned to do: the default preset, what is done, and how long the rest takes."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench import cli, sweep
from bench.trial import Status
from tests.commands import main, plan_of
from tests.harness import Recorder, toy_plan, write_toml


@pytest.mark.parametrize(
    ("gpu", "words", "preset"),
    [
        (False, ["sweep"], "quick"),
        (True, ["sweep"], "gpu-8gb"),
        (True, ["sweep", "--device", "cpu"], "quick"),
        (True, ["sweep", "--device", "cuda:1"], "gpu-8gb"),
        (True, ["sweep", "ladder"], "ladder"),
    ],
)
def test_the_default_preset_is_the_one_for_this_machine(
    gpu: bool, words: Sequence[str], preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.commands.measuring.has_gpu", lambda: gpu)
    assert plan_of(words, monkeypatch).spec.name == preset


@pytest.mark.parametrize("gpu", [False, True])
def test_plan_and_sweep_have_the_same_default(
    gpu: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bench.commands.measuring.has_gpu", lambda: gpu)
    preset = plan_of(["sweep"], monkeypatch).spec.name
    plain = ["--set", "variants=fp32"]  # of others a process tells what they mean here
    assert main(["plan", *plain], capsys) == main(["plan", preset, *plain], capsys)


def test_the_plan_tells_of_the_limit(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["plan", "quick", "--set", "variants=fp32"]
    limits = ["--set", "time_limit_s=90", "--set", "unsupported=skip"]
    _, out, _ = main([*words, *limits], capsys)
    assert "No trial begins that is not expected to end within 90 s." in out.splitlines()
    _, out, _ = main(words, capsys)
    assert "No trial begins" not in out


def test_the_plan_leaves_out_what_its_device_does_not_support(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = {"variants": ["none", "unsupported"], "batch_size": [4], "unsupported": "skip"}
    words = ["plan", str(write_toml(tmp_path / "toys.toml", **asked))]
    _, out, _ = main(words, capsys)
    assert "Variants left out: 1 of 2: cpu cannot do this." in out.splitlines()
    assert "1 trial of toy" in out
    # Of a device that is not here nothing is known.
    _, out, _ = main([*words, "--device", "cuda:99"], capsys)
    assert "What the device does not support is planned too: " in out
    assert "2 trials of toy" in out


# What is done already.


@pytest.fixture(scope="module")
def half_done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with half of a sweep's rows, and the sweep."""
    path = tmp_path_factory.mktemp("plan")
    half = toy_plan(path / "out", variants=["none", "raise"], batch_size=[4])
    assert sweep.run(half, Recorder())
    write_toml(path / "toy.toml", variants=["none", "raise"], batch_size=[4, 8])
    return path


def plan(path: Path, out: Path, capsys: pytest.CaptureFixture[str], *more: str) -> list[str]:
    code, text, error = main(["plan", str(path / "toy.toml"), "--out", str(out), *more], capsys)
    assert (code, error) == (0, "")
    return text.splitlines()


def test_a_plan_marks_what_is_done_and_estimates_the_rest(
    half_done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = half_done / "out"
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    *cells, total, rest = plan(half_done, out, capsys)
    fields = [re.split(r"\s{2,}", line.strip()) for line in cells]
    assert [field[1] for field in fields] == ["none b4", "raise b4", "none b8", "raise b8"]
    assert [field[3] for field in fields[:2]] == [f"done: {Status.OK}", f"done: {Status.CRASH}"]
    assert all(re.fullmatch(r"about \d+ s", field[3]) for field in fields[2:])
    assert total.startswith("4 trials of toy on cpu within 1 GiB, 64 samples each")
    assert re.fullmatch(
        re.escape(f"2 of 4 are done in {out}; the rest will take about ") + r"\d+ s\.", rest
    )
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before


def test_a_plan_for_a_folder_that_is_not_there_is_the_plan_without(
    half_done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = half_done / "nowhere"
    found = plan(half_done, nowhere, capsys)
    _, without, _ = main(["plan", str(half_done / "toy.toml")], capsys)
    assert found == without.splitlines()
    assert not nowhere.exists()


def test_a_plan_as_json_has_the_keys_of_the_rows(
    half_done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = plan(half_done, half_done / "out", capsys, "--json")
    journal = (half_done / "out" / "journal.jsonl").read_text().splitlines()
    done = {json.loads(line)["key"] for line in journal}
    assert done < {json.loads(line)["key"] for line in lines}


def test_a_plan_refuses_a_folder_that_the_sweep_would_refuse(
    half_done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["plan", str(half_done / "toy.toml"), "--out", str(half_done / "out")]
    with pytest.raises(SystemExit) as caught:
        cli.main([*words, "--budget", "3GiB"])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert "budget_bytes is " in error
    assert error.count("\n") == 1


def test_json_events_are_all_there_is_on_stdout(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    toml = write_toml(tmp_path / "toy.toml", variants=["none", "raise"], batch_size=[4])
    with pytest.raises(SystemExit) as caught:
        cli.main(["sweep", str(toml), "--out", str(tmp_path / "out"), "--json"])
    out, error = capfd.readouterr()
    assert (caught.value.code, error) == (0, "")
    events = [json.loads(line) for line in out.splitlines()]
    names = [event["event"] for event in events]
    assert names[-2:] == ["table", "end"]
    assert names.count("table") == names.count("end") == names.count("begin") == 1
    assert names.count("trial") == names.count("row") == 2
    *_, table, end = events
    assert [cell["status"] for cell in table["cells"]] == ["ok", "crash"]
    assert table["cells"] == json.loads((tmp_path / "out" / "table.json").read_text())
    assert (end["done"], end["total"], end["complete"]) == (2, 2, True)
    assert all(event["at_s"] > 0 for event in events)
