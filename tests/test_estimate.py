from typing import Any

import pytest

from bench.estimate import estimate_s, format_duration, remaining_s
from bench.journal import Row
from bench.trial import Status, Trial
from tests.harness import row_of, toy_trial


def trial(flavor: str = "plain", batch_size: int = 4, size: int = 64, **more: Any) -> Trial:
    axes = {"fault": "none", "flavor": flavor}
    return toy_trial(
        variant=flavor, axes=axes, settings={"size": size}, batch_size=batch_size, **more
    )


def took(asked: Trial, duration_s: float | None, status: Status = Status.OK) -> Row:
    row = row_of(asked, status)
    row.result.duration_s = duration_s
    return row


def test_nothing_is_known_before_anything_has_run() -> None:
    assert estimate_s(trial(), []) is None
    assert remaining_s([trial()], []) is None
    assert remaining_s([], []) == 0
    # What has not started tells nothing of what will.
    rows = [took(trial("sweet"), 0.1, Status.UNSUPPORTED)]
    assert estimate_s(trial(), rows) is None


def test_another_round_of_the_same_cell_knows_best() -> None:
    rows = [
        took(trial(), 10.0),
        took(trial(round=1), 12.0),
        took(trial(round=2), 90.0),  # the machine was busy
        took(trial(batch_size=8), 5.0),
        took(trial("sweet"), 3.0),
    ]
    assert estimate_s(trial(round=3), rows) == 12.0
    assert estimate_s(trial(seed=1), rows) == 12.0


def test_another_batch_size_of_the_variant_is_corrected_by_how_others_scale() -> None:
    rows = [
        took(trial("plain", 4), 10.0),
        took(trial("plain", 16), 8.0),
        took(trial("sweet", 4), 5.0),
        took(trial("sweet", 16), 6.0),
        took(trial("plain", 64), 7.0),
        took(trial("plain", 16, size=128), 1.0),  # other settings scale as they like
        took(trial("plain", 64, size=128), 9.0),
        took(trial("sour", 16, size=128), 1.0),
        took(trial("sour", 64, size=128), 9.0),
    ]
    # The nearest size it ran at is 16, from which plain went on at 7/8.
    assert estimate_s(trial("sweet", 64), rows) == pytest.approx(6.0 * 7 / 8)
    # Nobody ran at 128: as the nearest.
    assert estimate_s(trial("sweet", 128), rows) == 6.0


def test_a_variant_that_never_ran_takes_what_others_take_at_its_batch_size() -> None:
    rows = [
        took(trial("a", 4), 10.0),
        took(trial("b", 4), 20.0),
        took(trial("a", 8), 2.0),
        took(trial("a", 4, size=128), 100.0),
    ]
    assert estimate_s(trial("c", 4), rows) == 15.0
    assert estimate_s(trial("c", 4, size=128), rows) == 100.0
    assert estimate_s(trial("c", 16), rows) == pytest.approx(32 / 3)
    assert estimate_s(trial("c", 4, size=256), rows) is None  # nothing ran at such a size


@pytest.mark.parametrize("status", [Status.OOM, Status.UNSUPPORTED])
def test_what_does_not_start_takes_no_time(status: Status) -> None:
    rows = [took(trial("plain", 4), 10.0), took(trial("sweet", 8), 0.5, status)]
    assert estimate_s(trial("sweet", 16), rows) == 0
    assert estimate_s(trial("sweet", 8, round=1), rows) == 0.5
    # Half a second is no measure for those that run.
    assert estimate_s(trial("sour", 8), rows) == 10.0
    assert remaining_s([trial("sweet", 16), trial("plain", 4, round=1)], rows) == 10.0


def test_a_size_that_no_kernel_takes_says_nothing_of_smaller_ones() -> None:
    refused = took(trial("sweet", 16), 3.0, Status.UNSUPPORTED)
    refused.result.step_samples = [16, 16]
    rows = [took(trial("plain", 4), 10.0), refused]
    assert estimate_s(trial("sweet", 32), rows) == 0
    assert estimate_s(trial("sweet", 8), rows) == 10.0


def test_a_smaller_batch_than_one_that_ran_out_of_memory_takes_time() -> None:
    rows = [took(trial("plain", 4), 10.0), took(trial("plain", 8), 1.0, Status.OOM)]
    assert estimate_s(trial("plain", 2), rows) == 10.0


def test_implied_rows_and_interrupted_ones() -> None:
    rows = [
        took(trial("plain", 8), None, Status.IMPLIED_OOM),
        took(trial("plain", 4), 1.0, Status.INTERRUPTED),
        took(trial("sweet", 4), 30.0, Status.TIMEOUT),
    ]
    assert estimate_s(trial("plain", 8, round=1), rows) == 0
    assert estimate_s(trial("plain", 4), rows) == 30.0


def test_compiling_happens_once_a_cell() -> None:
    first = took(trial("compile"), 50.0)
    first.result.phase_at_s = {"compiling": 100.0, "starting": 140.0, "evaluating": 149.0}
    assert estimate_s(trial("compile", round=1), [first]) == 10.0
    assert estimate_s(trial("compile", batch_size=8), [first]) == 50.0
    # A warm round beside it changes neither.
    rows = [first, took(trial("compile", round=1), 10.0)]
    assert estimate_s(trial("compile", round=2), rows) == 10.0
    assert estimate_s(trial("compile", batch_size=8), rows) == 50.0


def test_the_rest_of_a_sweep_is_the_sum_of_its_trials() -> None:
    rows = [took(trial("a", 4), 10.0), took(trial("b", 4), 20.0)]
    to_do = [trial(flavor, round=r) for r in (1, 2) for flavor in "ab"]
    assert remaining_s(to_do, rows) == 60.0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.9, "1 min"),
        (250.0, "4 min 10 s"),
        (3599.9, "1 h"),
        (7500.0, "2 h 5 min"),
    ],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert format_duration(seconds) == words
