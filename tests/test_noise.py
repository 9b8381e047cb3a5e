"""The noise floor: measured, kept with the environment, and recorded in rows."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from bench import noise, sweep
from bench.environment import COMPARABLE, RECORDED_LATER
from bench.report.noise import noise_page
from bench.trial import Status
from tests.commands import main
from tests.harness import Recorder, toy_plan, write_toml
from tests.report_rows import (
    absent,
    cells,
    failed,
    in_environment,
    in_rounds,
    noise_description,
    notes_of,
    of_today,
    page_lines,
    page_texts,
    texts,
)

Capture = pytest.CaptureFixture[str]

SHAPE = [1.0, 1.02] * 10


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def test_the_rounds_of_a_cell_are_equal_processes() -> None:
    rows = [
        *in_rounds("fp32", 4, 100, SHAPE),
        *in_rounds("fp32+compile", 4, 150, SHAPE[:10]),
        *in_rounds("bf16", 4, 200, SHAPE[:9]),  # too few to tell anything
        of_today("fp32", 4, failed(Status.CRASH), round=20),
    ]
    found = noise.describe(rows[::-1])
    assert sorted((cell["class"], cell["label"]) for cell in found["cells"]) == [
        ("compiled", "fp32+compile b4"),
        ("eager", "fp32 b4"),
    ]
    by_class = {cell["class"]: cell["images_per_s"] for cell in found["cells"]}
    assert by_class["eager"] == pytest.approx([100 * factor for factor in SHAPE])
    json.dumps(found)


def test_what_was_kept_before_more_was_recorded_is_still_found() -> None:
    told = {name: "same" for name in COMPARABLE if name not in RECORDED_LATER}
    noise.write(told, noise_description(0.1))
    assert noise.read({**told, **dict.fromkeys(RECORDED_LATER)}) == noise_description(0.1)
    for name in RECORDED_LATER:  # another environment
        assert noise.read({**told, name: "A=1"}) is None


def test_a_class_is_as_noisy_as_its_noisiest_cell_of_the_same_settings() -> None:
    described = noise_description(0.01)
    described["cells"] += noise_description(0.05)["cells"]
    described["cells"] += noise_description(0.2, "compiled")["cells"]
    (other,) = noise_description(0.3)["cells"]
    described["cells"].append({**other, "settings": {**other["settings"], "width": 4}})
    (row,) = in_environment(in_rounds("fp32", 4, 100, [1]), noise=described)
    found = noise.of_row(row)
    assert found is not None
    assert found.spread == pytest.approx(math.log(1.05))
    assert found.degrees == 10
    for nothing in (None, noise_description(0.1, "compiled")):
        assert noise.of_rows(in_environment([row], noise=nothing)) is None


@pytest.mark.parametrize(
    "other",
    [
        {"batch_size": 8},
        {"samples": 512},
        {"warmup_steps": 2},
        {"measured_steps": 1},
        {"settings": {"data": "drive", "image_size": 32, "width": 16}},
        {"settings": {"data": "drive", "image_size": 64, "width": 8}},
    ],
    ids=lambda other: " ".join(other),
)
def test_a_floor_of_another_window_says_nothing(other: dict[str, Any]) -> None:
    rows = in_environment(in_rounds("fp32", 4, 100, [1]), noise=noise_description(0.1))
    assert noise.of_rows(rows) is not None
    rows = in_environment(rows, noise=noise_description(0.1, **other))
    assert noise.of_rows(rows) is None


def test_a_report_says_that_no_floor_of_this_window_was_measured() -> None:
    rows = in_rounds("fp32", 4, 100) + in_rounds("bf16", 4, 103)
    one_step = in_environment(rows, noise=noise_description(0.2, measured_steps=1))
    (_, cell) = cells(*one_step)
    assert cell["speedup_floor_source"] == "by the scatter of these rounds"
    assert absent(cell["noise_percent"])
    measured = in_environment(rows, noise=noise_description(0.001))
    told = [any("None was measured" in note for note in notes_of(r)) for r in (one_step, measured)]
    assert told == [True, False]


def test_a_floor_in_a_journal_of_old_is_one_of_the_preset_as_it_was() -> None:
    old = noise_description(0.1)
    for name in noise.WINDOW:
        del old["cells"][0][name]
    preset = {"samples": 512, "warmup_steps": 5, "measured_steps": 20}
    for more, known in (({}, True), ({"samples": 2048}, False), ({"measured_steps": 1}, False)):
        (row,) = in_rounds("fp32", 16, 100, [1], **(preset | more))
        assert (noise.of_row(in_environment([row], noise=old)[0]) is not None) is known


def test_what_does_not_tell_its_window_is_not_kept_for_later_rows() -> None:
    old = noise_description(0.1)
    del old["cells"][0]["samples"]
    noise.write({}, old)
    assert noise.read({}) is None


@pytest.mark.parametrize(
    "name",
    [
        *("device_name", "driver", "cpu_model", "cpus_allowed", "threads", "torch", "triton"),
        *("cuda", "cudnn", "python", "malloc"),
    ],
)
def test_what_decides_speed_decides_whose_floor_it_is(name: str) -> None:
    noise.write({name: "1"}, noise_description(0.01))
    assert noise.read({name: "1"}) is not None
    assert noise.read({name: "2"}) is None
    assert noise.read({}) is None


def test_it_is_kept_for_its_environment_and_no_other() -> None:
    environment = {"torch": "2.15.0", "device_name": "d", "command": "any"}
    assert noise.read(environment) is None
    noise.write(environment, noise_description(0.01))
    noise.write(environment, noise_description(0.02))
    assert noise.read(environment | {"command": "other"}) == noise_description(0.02)
    assert noise.read(environment | {"torch": "2.16.0"}) is None


def test_what_cannot_be_read_is_not_known() -> None:
    path = noise.write({}, noise_description(0.01))
    path.write_text("{")
    assert noise.read({}) is None


def test_a_report_holds_speed_ups_to_it() -> None:
    rows = in_rounds("fp32", 4, 100) + in_rounds("bf16", 4, 103)
    (_, plain) = cells(*rows)
    assert plain["speedup_verdict"] == "faster"
    assert plain["speedup_floor_source"] == "by the scatter of these rounds"
    loud = in_environment(rows, noise=noise_description(0.2))
    (_, below) = cells(*loud)
    assert below["speedup_verdict"] == "inconclusive"
    assert below["noise_percent"] == pytest.approx(20)
    assert below["speedup_floor_source"] == "measured by `doctor --noise`"
    assert texts(*loud)[1]["speedup"] == "~1.03x"
    assert any("below the noise floor" in note for note in notes_of(loud))


def line(shape: list[float]) -> dict[str, Any]:
    (found,) = page_lines(noise_page(noise.describe(in_rounds("fp32", 4, 100, shape))))
    return found


def test_the_page_tells_the_floor_and_how_many_rounds_a_difference_takes() -> None:
    found = line([1.0, 1.01, 1.01, 1.0] * 5)
    assert found["rounds"] == 10
    assert found["ratio"] == pytest.approx(1, abs=1e-3)
    assert found["verdict"] in ("same", "inconclusive")
    assert 0.5 < found["floor_percent"] < 1
    assert 0 <= found["drift_percent"] < 1
    rounds = [found[f"rounds_to_show_{percent}_percent"] for percent in (5, 2, 1)]
    assert rounds == sorted(rounds)
    assert 5 <= rounds[0] < rounds[2]


def test_what_takes_too_many_rounds_is_said_to() -> None:
    page = noise_page(noise.describe(in_rounds("fp32", 4, 100, [1.0, 1.3, 1.3, 1.0] * 5)))
    assert page_texts(page)[0]["rounds for 1 %"] == "> 1000"


def test_an_alarm_is_raised_where_equal_things_differ() -> None:
    page = noise_page(noise.describe(in_rounds("fp32", 4, 100, [1.0, 1.1] * 10)))
    assert page.verdict.startswith("Equal things were called different: fp32 b4.")
    calm = noise_page(noise.describe(in_rounds("fp32", 4, 100, [1.0, 1.01, 1.01, 1.0] * 5)))
    assert calm.verdict == "No equal things were called different."
    assert not any(calm.bold)


def test_a_machine_at_something_else_tells_nothing_of_its_noise() -> None:
    assert not noise.is_hopeless(noise_description(0.1))
    assert noise.is_hopeless(noise_description(1.5))


def test_doctor_measures_it_and_later_rows_record_it(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noise, "LEAST_PROCESSES", 4)  # each takes seconds
    source = write_toml(tmp_path / "noise.toml", batch_size=4, rounds=4, sleep_ms=20)
    out = tmp_path / "noise"
    code, told, _ = main(["doctor", "--noise", str(source), "--out", str(out), "--json"], capsys)
    (found,) = json.loads(told)
    assert (found["class"], found["cell"], found["rounds"]) == ("eager", "none b4", 2)
    assert code == 0
    recorder = Recorder()
    sweep.run(toy_plan(tmp_path / "later", batch_size=4), recorder)
    recorded = recorder.rows[0].environment["noise"]
    assert recorded == noise.read(recorder.rows[0].environment)
    assert len(recorded["cells"][0]["images_per_s"]) == 4
    code, told, _ = main(["doctor", "--device", "cpu", "--json"], capsys)
    assert json.loads(told)["noise"] == recorded


def test_too_few_processes_tell_nothing(tmp_path: Path, capsys: Capture) -> None:
    source = write_toml(tmp_path / "toy.toml", batch_size=4, rounds=9)
    code, _, error = main(["doctor", "--noise", str(source), "--out", str(tmp_path / "n")], capsys)
    assert code == 2
    assert "rounds 9: expected at least 10" in error
