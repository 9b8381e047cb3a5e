"""What a sweep's words for "the best that the device supports" come to, on any device."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import journal, spec, support, sweep
from bench.runner import Runner
from bench.trial import Status
from tests.commands import main
from tests.harness import Recorder, toy_plan, toy_spec, write_toml
from unet.workload import COLORIZATION

MEANINGS = {"best": "none", "first": "nan"}  # the toy's device supports no "unsupported"


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Runner("tests.toy_task:ToyTask", 60) as started:
        yield started


def names(asked: spec.SweepSpec) -> list[str]:
    return [asked.workload.variant_name(axes) for axes in asked.variants]


@pytest.mark.parametrize(
    ("variants", "expected", "told"),
    [
        (["best"], ["none"], {"best"}),
        (["none", "best", "best+sweet"], ["none", "none+sweet"], {"best"}),
        (["first", "best"], ["nan", "none"], {"best", "first"}),
        (["raise", "unsupported"], ["raise", "unsupported"], set()),
    ],
)
def test_a_word_means_the_first_value_that_the_device_supports(
    variants: list[str], expected: list[str], told: set[str], tmp_path: Path, runner: Runner
) -> None:
    asked = toy_spec(tmp_path, variants=variants, batch_size=[4])
    notes = list[str]()
    meanings = support.resolve(asked, runner, "cpu", notes.append)
    assert meanings == MEANINGS
    assert names(asked.resolved(meanings)) == expected
    assert {word for word in MEANINGS if any(f"'{word}'" in note for note in notes)} == told
    assert len(notes) == len(told)


def test_rows_of_a_resolved_sweep_hold_values_and_say_what_words_meant(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path / "out", variants=["none", "best+sweet"], batch_size=[4])
    assert sweep.run(plan, Recorder())
    rows = journal.read(plan.folder)
    assert [row.trial.variant for row in rows] == ["none", "none+sweet"]
    assert {row.trial.axes["fault"] for row in rows} == {"none"}
    assert [row.workload["meanings"] for row in rows] == [MEANINGS] * 2
    # By its rows alone it is known which trials were asked for.
    assert [row.trial for row in rows] == plan.spec.trials_like(rows[0])


def test_what_is_named_is_a_row_beside_the_word_that_avoids_it(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path / "out", variants=["best", "unsupported"], batch_size=[4])
    assert sweep.run(plan, Recorder())
    found = {row.trial.variant: row.result.status for row in journal.read(plan.folder)}
    assert found == {"none": Status.OK, "unsupported": Status.UNSUPPORTED}


def test_one_trial_of_a_word_is_measured_as_its_value(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    sets = {
        "workload": "tests.toy:TOY",
        "samples": 64,
        "warmup_steps": 1,
        "measured_steps": 4,
        "budget": "1GiB",
    }
    words = [word for name, value in sets.items() for word in ("--set", f"{name}={value}")]
    command = ["trial", "best+sweet", "--batch-size", "4", "--device", "cpu", *words]
    code, _, error = main([*command, "--out", str(folder)], capsys)
    assert code == 0, error
    (row,) = journal.read(folder)
    assert (row.trial.variant, row.result.status) == ("none+sweet", Status.OK)


def planned(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[list[str], str]:
    """The variants of a plan, and what it says besides."""
    code, out, error = main(["plan", *words, "--json"], capsys)
    assert code == 0, error
    found = [json.loads(line) for line in out.splitlines()]
    return [trial["variant"] for trial in found], error


def test_a_plan_names_values_and_says_what_the_words_mean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toml = write_toml(tmp_path / "toy.toml", variants=["best+sweet", "none"], batch_size=[4])
    assert planned([str(toml)], capsys)[0] == ["none+sweet", "none"]
    assert "'best' is none" in planned([str(toml)], capsys)[1]


def test_a_plan_for_a_device_that_is_not_here_takes_the_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toml = write_toml(tmp_path / "toy.toml", variants=["best"], batch_size=[4])
    variants, error = planned([str(toml), "--device", "cuda:99"], capsys)
    assert variants == ["unsupported"]
    assert "'best' is planned as unsupported" in error


# The presets.


@pytest.mark.parametrize("preset", spec.preset_names())
@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_every_preset_tells_something_whatever_reduced_means(preset: str, precision: str) -> None:
    asked = spec.load(preset, {}).resolved({"reduced": precision})
    axes = [dict(one) for one in asked.variants]
    fp32 = [one for one in axes if one["precision"] == "fp32"]
    assert len(fp32) >= 1
    reduced = [one for one in axes if one["precision"] == precision]
    assert len(reduced) >= 2
    assert len({tuple(one.values()) for one in axes}) == len(axes)


@pytest.mark.parametrize("preset", ["quick", "ladder"])
def test_without_reduced_precision_every_other_switch_is_measured(preset: str) -> None:
    with_it, without = (
        spec.load(preset, {}).resolved({"reduced": precision}) for precision in ("bf16", "fp32")
    )
    for axis in set(COLORIZATION.axes) - {"precision"}:
        assert {axes[axis] for axes in with_it.variants} == {
            axes[axis] for axes in without.variants
        }


def test_no_preset_names_a_precision_that_a_word_would_name_better() -> None:
    """Of bf16 by name there is the precision itself, where precisions are compared."""
    named = {
        (preset, name)
        for preset in set(spec.preset_names()) - {"grid"}
        for axes in spec.load(preset, {}).variants
        if axes["precision"] in ("bf16", "fp16")
        for name in [COLORIZATION.variant_name(axes)]
    }
    assert named == {
        ("batch-amp", "fp16"),
        ("batch-amp", "bf16"),
        ("gpu-8gb", "fp16"),
        ("gpu-8gb", "fp16+channels_last+fused"),
    }


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({}, "skip"),
        ({"variants": ["bf16"]}, "row"),
        ({"variants": ["bf16"], "unsupported": ["skip"]}, "skip"),
        ({"batch_size": ["4"]}, "skip"),
    ],
)
def test_what_the_user_names_is_never_left_out_unasked(
    overrides: dict[str, list[str]], expected: str
) -> None:
    assert spec.load("batch-amp", overrides).one("unsupported") == expected
