"""Whether others on the machine are noticed in a row, by what was sampled in its window."""

from typing import Any

import pytest

from bench.report.disturbance import BUSY_FLAG, CROWDED_FLAG, LIMIT_PERCENT, THROTTLED_FLAG
from bench.report.frame import BUSY, cell_frame
from bench.report.recommend import recommend
from bench.report.tables import notes
from bench.trial import TrialResult
from tests.report_rows import absent, cells, measured, row, sample, trial

CPUS = 4  # of `tests.report_rows.ENVIRONMENT`
WALL_S = 4.0
CPU_S = 10.0

CALM = {
    "wait_s": (5.0, 5.1),
    "machine_busy_s": (100.0, 110.1),
    "machine_stolen_s": (1.0, 1.0),
    "quota_periods": (10, 50),
    "quota_throttled": (2, 2),
}


Counters = dict[str, Any]


def watched(rate: float = 8.0, wall_s: float = WALL_S, **counters: Any) -> TrialResult:
    """A trial in whose window counters grew, each from its first value to its last."""
    first, last = (
        {name: pair[place] for name, pair in (CALM | counters).items()} for place in (0, 1)
    )
    monitor = [
        sample("warming_up", 99.0, 0.0, 1.0, **dict.fromkeys(first, 0.0)),
        sample("measuring", 100.0, 20.0, 1.0, **first),
        sample("measuring", 100.1, 20.1, 1.0, **first),
        sample("training", 100.0 + wall_s, 20.0 + CPU_S, 1.0, **last),
        sample("evaluating", 120.0, 99.0, 1.0, **dict.fromkeys(last, 9999.0)),
    ]
    steps = [[0.1] * 4] * 6
    return measured(rate, monitor=monitor, step_phase_s=steps)


def waited(percent: float) -> tuple[float, float]:
    """So much of the time in which its threads were ready."""
    return 5.0, 5.0 + CPU_S * percent / (100 - percent)


def others(percent: float) -> tuple[float, float]:
    """So much of the CPUs, beside what the trial used."""
    return 100.0, 100.0 + CPU_S + percent / 100 * WALL_S * CPUS


def test_shares_are_of_the_measured_window() -> None:
    found = watched(
        wait_s=waited(40),
        machine_busy_s=others(30),
        machine_stolen_s=(1.0, 1.0 + 0.02 * WALL_S * CPUS),
        quota_periods=(10, 50),
        quota_throttled=(2, 22),
    )
    (cell,) = cells(row(trial(), found))
    assert cell["waited_percent"] == pytest.approx(40)
    assert cell["others_percent"] == pytest.approx(30)
    assert cell["stolen_percent"] == pytest.approx(2)
    assert cell["throttled_percent"] == pytest.approx(50)
    assert (cell["rounds_busy"], cell["rounds_throttled"]) == (1, 1)


NEAR_BELOW, NEAR_ABOVE = LIMIT_PERCENT - 0.1, LIMIT_PERCENT + 0.1


@pytest.mark.parametrize(
    ("counters", "flags"),
    [
        ({}, ""),
        ({"wait_s": waited(NEAR_ABOVE), "machine_busy_s": others(NEAR_ABOVE)}, BUSY_FLAG),
        # Its own threads wait for each other.
        ({"wait_s": waited(60), "machine_busy_s": others(NEAR_BELOW)}, ""),
        # Others run where it does not.
        ({"wait_s": waited(NEAR_BELOW), "machine_busy_s": others(60)}, ""),
        # Where only one can be read, it decides.
        ({"wait_s": (None, None), "machine_busy_s": others(NEAR_ABOVE)}, BUSY_FLAG),
        ({"wait_s": (None, None), "machine_busy_s": others(NEAR_BELOW)}, ""),
        ({"wait_s": waited(NEAR_ABOVE), "machine_busy_s": (None, None)}, BUSY_FLAG),
        ({"machine_stolen_s": (1.0, 1.0 + 0.06 * WALL_S * CPUS)}, BUSY_FLAG),
        ({"quota_periods": (0, 628), "quota_throttled": (0, 315)}, THROTTLED_FLAG),
        ({"quota_periods": (0, 100), "quota_throttled": (0, 4)}, ""),
        ({"quota_periods": (7, 7), "quota_throttled": (5, 5)}, ""),  # there is no quota
        # Too short a window for clock ticks of 10 ms.
        ({"wall_s": 0.09, "wait_s": waited(60), "machine_busy_s": others(60)}, ""),
    ],
)
def test_a_disturbed_row_is_flagged(counters: Counters, flags: str) -> None:
    (cell,) = cells(row(trial(), watched(**counters)))
    assert cell["flags"] == flags
    assert cell["fastest"] == (not flags)


DISTURBED: Counters = {"wait_s": waited(40), "machine_busy_s": others(30)}


def test_a_flagged_row_is_named_and_nothing_rests_on_it() -> None:
    rows = [
        row(trial("fp32"), watched(8.0)),
        row(trial("bf16"), watched(90.0, **DISTURBED)),
        row(trial("bf16", 8), watched(80.0, quota_periods=(0, 10), quota_throttled=(0, 5))),
    ]
    frame = cell_frame(rows)
    assert list(frame["fastest"]) == [True, False, False]
    told = notes(frame)
    (busy,) = [note for note in told if note.startswith("bf16 b4: its threads")]
    assert "40 %" in busy
    assert "30 %" in busy
    assert any(note.startswith("bf16 b8: a CPU quota stopped it in up to 50 %") for note in told)
    assert not any(note.startswith("fp32 b4: its threads") for note in told)
    slowed = watched(90.0, **DISTURBED)
    slowed.step_phase_s[slowed.window[0]] = [9.0] * 4
    told = notes(cell_frame([*rows, row(trial("bf16", 16), slowed)]))
    (busy,) = [note for note in told if note.startswith("bf16 b16: ")]  # the cause, once
    assert "40 %" in busy
    (choice,) = recommend(rows, frame).choices
    assert choice.configuration.variant == "fp32"


@pytest.mark.parametrize(("disturbed", "flags"), [(1, ""), (2, BUSY_FLAG), (3, BUSY_FLAG)])
def test_a_cell_is_flagged_if_half_of_its_rounds_were_disturbed_and_any_are_told(
    disturbed: int, flags: str
) -> None:
    rows = [
        row(trial(round=number), watched(**(DISTURBED if number < disturbed else {})))
        for number in range(4)
    ]
    (cell,) = cells(*rows)
    assert cell["flags"] == flags
    assert cell["rounds_busy"] == disturbed
    (found,) = [note for note in notes(cell_frame(rows)) if f"in {disturbed} of 4 rounds" in note]
    assert "40 %" in found  # of the rounds that were, however many were not


@pytest.mark.parametrize(
    ("environment", "device", "flags"),
    [
        ({"threads": 4}, "cpu", ""),
        ({"threads": 5}, "cpu", CROWDED_FLAG),
        ({"threads": 5}, "cuda:0", ""),
        ({"threads": 4, "cpu_quota": "none"}, "cpu", ""),
        ({"threads": 4, "cpu_quota": None}, "cpu", ""),
        ({"threads": 4, "cpu_quota": 2.5}, "cpu", CROWDED_FLAG),
        ({"threads": 2, "cpu_quota": 2.5}, "cpu", ""),
    ],
)
def test_more_threads_than_cpus_are_told(
    environment: dict[str, Any], device: str, flags: str
) -> None:
    rows = [row(trial(device=device), watched(), **environment)]
    if device != "cpu":
        rows[0].result.memory.update(context_bytes=0)
        rows[0].result.parent_phase_at_s.update(measuring=100.0)
    (cell,) = cells(*rows)
    assert cell["flags"] == flags
    told = [note for note in notes(cell_frame(rows)) if f"{environment['threads']} threads" in note]
    assert len(told) == (1 if flags else 0)


def test_what_cannot_be_read_is_said_and_rows_of_old_are_no_such_case() -> None:
    nothing: Counters = dict.fromkeys(CALM, (None, None))
    rows = [row(trial(), watched(**nothing)), row(trial("bf16"), watched())]
    found = cells(*rows)
    for name in ("waited_percent", "others_percent", "stolen_percent", "throttled_percent"):
        assert absent(found[0][name])
        assert not absent(found[1][name])
    told = [note for note in notes(cell_frame(rows)) if "not readable here" in note]
    assert len(told) == 1
    assert told[0].startswith("fp32 b4: ")
    assert found[0]["unreadable"].count(";") == 1
    (old,) = cells(row(trial(), measured()))
    assert old["unreadable"] == ""
    assert absent(old["waited_percent"])


@pytest.mark.parametrize(("factor", "flags"), [(0.99, ""), (1.01, BUSY_FLAG)])
def test_steps_far_beyond_their_median_flag_a_row(factor: float, flags: str) -> None:
    assert BUSY == 1.25
    result = watched()
    first, end = result.window
    last_s = 3 * factor * BUSY - 2  # the mean of 1, 1 and this is so much of their median
    result.step_phase_s[first:end] = [[0.0, step_s, 0.0, 0.0] for step_s in (1, 1, last_s)]
    (cell,) = cells(row(trial(), result))
    assert cell["slowdown"] == pytest.approx(factor * BUSY)
    assert cell["flags"] == flags
