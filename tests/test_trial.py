import json
from dataclasses import fields, replace
from typing import Any

import pytest

from bench.trial import Status, Trial, TrialResult

TRIAL = Trial(
    workload="unet.workload:COLORIZATION",
    variant="bf16+channels_last",
    axes={"precision": "bf16", "memory_format": "channels_last"},
    settings={"data": "drive", "image_size": 64, "width": 16},
    batch_size=16,
    seed=3,
    round=1,
    samples=1000,
    warmup_steps=5,
    measured_steps=20,
    device="cpu",
    budget_bytes=2**33,
)

OTHER: dict[str, Any] = {
    "workload": "tests.toy:TOY",
    "axes": {"precision": "bf16", "memory_format": "contiguous"},
    "settings": {"data": "drive", "image_size": 64, "width": 32},
    "batch_size": 8,
    "seed": 4,
    "round": 0,
    "samples": 1001,
    "warmup_steps": 4,
    "measured_steps": 21,
    "device": "cuda",
    "budget_bytes": 2**32,
}


def test_the_key_of_a_trial_is_for_ever() -> None:
    # Old journals are resumed by this key: a change here makes them measure everything again.
    assert TRIAL.key == "3a8c7beca15e3468"


def test_every_field_is_tried() -> None:
    assert set(OTHER) | {"variant"} == {field.name for field in fields(Trial)}


@pytest.mark.parametrize("name", OTHER)
def test_the_key_changes_with(name: str) -> None:
    assert replace(TRIAL, **{name: OTHER[name]}).key != TRIAL.key


def test_the_key_does_not_change_with_the_derived_label_or_the_order_of_names() -> None:
    renamed = replace(TRIAL, variant="another name")
    shuffled = replace(TRIAL, settings=dict(reversed(list(TRIAL.settings.items()))))
    assert renamed.key == shuffled.key == TRIAL.key


def test_a_trial_survives_json() -> None:
    again = Trial.from_json(json.loads(json.dumps(TRIAL.to_json())))
    assert again == TRIAL
    assert again.key == TRIAL.key


def test_json_with_a_field_too_many_or_too_few_is_refused_by_name() -> None:
    data = TRIAL.to_json()
    with pytest.raises(ValueError, match="colour"):
        Trial.from_json({**data, "colour": "red"})
    del data["batch_size"]
    with pytest.raises(ValueError, match=r"odd: \['batch_size'\]"):
        Trial.from_json(data)


@pytest.mark.parametrize(
    ("samples", "batch_size", "steps"), [(1000, 16, 63), (1024, 16, 64), (1, 16, 1), (17, 16, 2)]
)
def test_the_last_step_may_be_smaller(samples: int, batch_size: int, steps: int) -> None:
    assert replace(TRIAL, samples=samples, batch_size=batch_size).steps == steps


def test_labels_say_what_sets_a_trial_apart() -> None:
    assert TRIAL.label == "bf16+channels_last b16 seed 3 round 1"
    assert replace(TRIAL, seed=0, round=0).label == "bf16+channels_last b16"


def test_images_per_s_is_images_of_the_window_by_its_wall_time() -> None:
    result = TrialResult(
        Status.OK,
        phase_at_s={"first_step": 0.0, "measuring": 10.0, "training": 14.0},
        step_samples=[4, 4, 8, 8, 2],
        window=[2, 4],
    )
    assert result.images_per_s == 16 / 4.0
