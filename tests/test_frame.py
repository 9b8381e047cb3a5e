import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import cli
from bench.journal import FILE_NAME, Row
from bench.report.disturbance import BUSY_FLAG
from bench.report.frame import THRASHING_FLAG, cell_frame, reproduce
from bench.report.tables import notes
from bench.trial import Scalar, Status, Trial
from tests import toy
from tests.commands import plan_of
from tests.report_rows import (
    CUDA,
    GIB,
    SETTINGS,
    absent,
    bad,
    cells,
    failed,
    good,
    gpu_samples,
    measured,
    notes_of,
    one,
    row,
    sample,
    texts,
    trial,
)
from unet.workload import COLORIZATION

# Derived figures.


def test_rate_and_times_are_of_the_measured_window() -> None:
    cell = one(measured(rate=8.0))
    assert cell["images_per_s"] == pytest.approx(8.0)
    assert cell["step_ms"] == pytest.approx(43.0)
    assert cell["data_ms"] == pytest.approx(2.0)
    assert cell["forward_ms"] == pytest.approx(20.0)
    assert cell["backward_ms"] == pytest.approx(20.0)
    assert cell["optimizer_ms"] == pytest.approx(2.0)
    assert cell["first_step_ms"] == pytest.approx(1000.0)
    assert cell["start_s"] == pytest.approx(0.05)


def test_utilization_on_cpu_is_the_share_of_the_allowed_cores_in_the_window() -> None:
    # 12 s of CPU time in 4 s on 4 cores.
    assert one(measured())["utilization_percent"] == pytest.approx(75.0)


def test_memory_on_cpu_is_the_peak_the_kernel_tracked() -> None:
    cell = one(measured())
    assert cell["peak_memory_gib"] == pytest.approx(2.0)
    assert cell["budget_percent"] == pytest.approx(25.0)
    assert cell["first_step_peak_memory_gib"] == pytest.approx(3.0)
    assert cell["budget_gib"] == pytest.approx(8.0)


def test_memory_on_cpu_counts_processes_the_trial_has_started() -> None:
    samples = [
        sample("starting", 90.0, 0.0, 7.0),
        sample("measuring", 100.0, 1.0, 4.0),  # the tree's sum is beyond the process's own peak
        sample("training", 101.0, 2.0, 3.0),
    ]
    cell = one(measured(monitor=samples))
    assert cell["peak_memory_gib"] == pytest.approx(4.0)
    assert cell["budget_percent"] == pytest.approx(50.0)


@pytest.mark.parametrize(("wall_s", "readable"), [(0.09, False), (0.11, True)])
def test_utilization_on_cpu_needs_ten_clock_ticks(wall_s: float, readable: bool) -> None:
    samples = [
        sample("measuring", 100.0, 10.0, 1.5),
        sample("training", 100.0 + wall_s, 10.0 + wall_s, 1.5),
    ]
    result = measured(monitor=samples)
    assert absent(one(result)["utilization_percent"]) != readable
    (text,) = texts(row(trial(), result))
    assert text["util %"] == ("25" if readable else "not readable")


def test_memory_on_cuda_is_the_allocators_and_its_share_the_whole_processs() -> None:
    cell = one(measured(memory=CUDA, monitor=gpu_samples(50.0)), device="cuda")
    assert cell["peak_memory_gib"] == pytest.approx(2.0)
    assert cell["budget_percent"] == pytest.approx(100 * 3.5 / 8)
    assert cell["first_step_peak_memory_gib"] == pytest.approx(5.0)
    assert cell["peak_reserved_gib"] == pytest.approx(3.0)
    assert cell["process_gib"] == pytest.approx(4.0)


def test_retries_are_those_of_the_window_and_of_the_first_step_apart() -> None:
    cell = one(measured(memory=CUDA), device="cuda")
    assert (cell["first_step_alloc_retries"], cell["alloc_retries"]) == (2, 0)
    assert cell["unused_reserved_gib"] == pytest.approx(1.0)
    assert cell["flags"] == ""
    old = {name: count for name, count in CUDA.items() if name != "warmup_alloc_retries"}
    assert one(measured(memory=old), device="cuda")["alloc_retries"] == 1
    assert absent(one(measured())["alloc_retries"])


def test_a_cell_that_needed_retries_in_any_round_is_flagged_and_never_the_fastest() -> None:
    thrashing = CUDA | {"alloc_retries": 10}
    found = cells(
        row(trial("fp32", device="cuda"), measured(10.0, memory=CUDA)),
        row(trial("bf16", device="cuda"), measured(90.0, memory=CUDA)),
        row(trial("bf16", device="cuda", round=1), measured(90.0, memory=thrashing)),
    )
    assert [cell["flags"] for cell in found] == ["", THRASHING_FLAG]
    assert [cell["alloc_retries"] for cell in found] == [0, 7]
    assert [cell["fastest"] for cell in found] == [True, False]


def test_every_flag_is_told() -> None:
    steps = [[0.1] * 4, [0.1] * 4, [0.1] * 4, [0.1] * 4, [0.9] * 4, [0.1] * 4]
    memory = CUDA | {"alloc_retries": 10}
    cell = one(measured(memory=memory, step_phase_s=steps), device="cuda")
    assert cell["flags"] == f"{BUSY_FLAG}; {THRASHING_FLAG}"


def test_process_memory_that_is_not_readable_is_absent() -> None:
    memory = {name: size for name, size in CUDA.items() if name != "process_bytes"}
    for known in (memory, memory | {"process_bytes": None}):
        assert absent(one(measured(memory=known), device="cuda")["process_gib"])


def test_the_share_of_the_budget_is_absent_where_the_context_is_not_readable() -> None:
    cell = one(measured(memory=CUDA | {"context_bytes": None}), device="cuda")
    assert absent(cell["budget_percent"])
    assert cell["peak_reserved_gib"] == 3


def scaled(skipped: list[int], scale: float) -> Row:
    facts = {"skipped_steps": skipped, "loss_scale": scale}
    return row(trial(), measured(facts=facts))


def test_steps_of_the_window_that_updated_nothing_are_counted_and_told() -> None:
    first, second = scaled([0, 1, 5], 32768.0), scaled([1, 2, 4], 16384.0)
    assert cells(first)[0]["skipped_steps"] == 0
    assert not [note for note in notes_of([first]) if "overflowed" in note]
    rounds = [first, replace(second, trial=replace(second.trial, round=1))]
    (cell,) = cells(*rounds)
    assert (cell["skipped_steps"], cell["loss_scale"]) == (2, 16384)
    (told,) = [note for note in notes_of(rounds) if "overflowed" in note]
    assert told.startswith("fp32 b4: 2 of ")
    assert "16384" in told
    plain = one(measured())
    assert absent(plain["skipped_steps"])
    assert absent(plain["loss_scale"])


def test_what_a_device_does_not_do_of_a_variant_is_told_once() -> None:
    rows = [
        row(trial(batch_size=size), measured(8.0, size, facts={"caveats": ["It is so."]}))
        for size in (4, 8)
    ]
    assert [note for note in notes_of(rows) if "It is so" in note] == [
        "fp32 b4, fp32 b8: It is so."
    ]


def test_memory_of_cuda_is_absent_on_cpu() -> None:
    cell = one(measured())
    for name in ("peak_reserved_gib", "unused_reserved_gib", "process_gib", "card_gib"):
        assert absent(cell[name])


def test_utilization_on_cuda_is_the_mean_of_nvmls_a_second_into_the_window() -> None:
    cell = one(measured(memory=CUDA, monitor=gpu_samples(90.0, None, 80.0)), device="cuda:1")
    assert cell["utilization_percent"] == pytest.approx(85.0)


@pytest.mark.parametrize(
    ("percents", "expected"),
    [
        # 1 s, 1 s and 2 s of a window of which the samples of the start and the end are the edges.
        ((1.0, 60.0, 90.0, 80.0), (60 + 90 + 2 * 80) / 4),
        ((1.0, None, 90.0, None), 90.0),  # NVML had no new sample
        ((1.0, 0.0, 0.0, 0.0), 0.0),
        ((1.0, None, None, None), 7.0),  # no history: the rate from 1 s into the window on
    ],
)
def test_utilization_on_cuda_is_by_nvml_s_own_history_of_the_window(
    percents: Sequence[float | None], expected: float
) -> None:
    phases = ("measuring", "measuring", "measuring", "training")
    samples = [
        sample(phase, at_s, 0.0, 1.0, gpu_percent=rate, gpu_busy_percent=percent)
        for phase, at_s, rate, percent in zip(
            phases, (100.0, 101.0, 102.0, 104.0), (1.0, 1.0, 7.0, 1.0), percents, strict=True
        )
    ]
    cell = one(measured(memory=CUDA, monitor=samples), device="cuda:0")
    assert cell["utilization_percent"] == pytest.approx(expected)


# Speed-ups.


def test_speedup_is_against_plain_at_the_same_batch() -> None:
    found = cells(
        good("fp32", 4, 10.0),
        good("bf16", 4, 15.0),
        good("fp32", 8, 20.0),
        good("bf16", 8, 50.0),
    )
    assert [cell["speedup"] for cell in found] == pytest.approx([1.0, 1.5, 1.0, 2.5])


@pytest.mark.parametrize("plain", [[], [bad("fp32", 4, Status.CRASH)]], ids=["absent", "failed"])
def test_without_plain_there_is_no_speedup(plain: list[Row]) -> None:
    rows = [good("bf16", 4, 15.0), *plain, good("fp32", 8, 20.0), good("bf16", 8, 30.0)]
    cell = cells(*rows)[0]
    assert absent(cell["speedup"])
    assert cell["speedup_vs_seed"] == pytest.approx(15 / 20)
    assert texts(*rows)[0]["speedup"] == "not comparable"


def test_nothing_is_compared_across_seeds_or_settings() -> None:
    small = {**SETTINGS, "image_size": 32}
    rows = [
        good("fp32", 4, 40.0, settings=small),
        good("bf16", 4, 60.0, settings=small),
        good("fp32", 4, 10.0),
        good("fp32", 4, 20.0, seed=1),
        good("bf16", 4, 30.0, seed=1),
        good("bf16", 4, 30.0, seed=2),
    ]
    found = cells(*rows)
    assert [cell["speedup"] for cell in found[:5]] == pytest.approx([1.0, 1.5, 1.0, 1.0, 1.5])
    assert [cell["speedup_vs_seed"] for cell in found[:5]] == pytest.approx([1, 1.5, 1, 1, 1.5])
    assert absent(found[5]["speedup"])
    assert absent(found[5]["speedup_vs_seed"])


def test_speedup_vs_seed_is_against_plains_largest_power_of_two() -> None:
    rows = [
        good("fp32", 8, 10.0),
        good("fp32", 16, 20.0),
        good("fp32", 22, 40.0),
        good("bf16", 22, 60.0),
        bad("fp32", 32, Status.OOM),
        good("bf16", 32, 80.0),
    ]
    found = cells(*rows)
    assert [cell["speedup_vs_seed"] for cell in (found[3], found[5])] == pytest.approx([3.0, 4.0])
    assert {cell["seed_batch_size"] for cell in found} == {16}
    assert (
        "vs seed: against plain fp32 at batch 16, the largest power of two that fits the budget."
        in notes(cell_frame(rows))
    )


# Rounds.


def test_rounds_are_one_cell_with_their_medians() -> None:
    rows = [
        row(trial(round=0), measured(rate=10.0, start_s=0.3)),
        row(trial(round=1), measured(rate=40.0, start_s=0.1)),
        row(trial(round=2), measured(rate=20.0, start_s=0.2)),
    ]
    (cell,) = cells(*rows)
    assert cell["images_per_s"] == pytest.approx(20.0)
    assert cell["start_s"] == pytest.approx(0.2)
    assert (cell["rounds"], cell["rounds_ok"], cell["status"]) == (3, 3, "ok")
    assert texts(*rows)[0]["status"] == "ok 3/3"


def test_a_cell_whose_rounds_ended_differently_bears_the_worst_and_the_figures_of_the_good() -> (
    None
):
    rows = [
        row(trial(round=0), failed(Status.TIMEOUT, "killed after 3 s")),
        row(trial(round=1), measured(rate=10.0)),
        row(trial(round=2), failed(Status.CRASH, "RuntimeError: boom")),
        row(trial(round=3), measured(rate=30.0)),
    ]
    (cell,) = cells(*rows)
    assert (cell["status"], cell["reason"]) == ("crash", "RuntimeError: boom")
    assert (cell["rounds"], cell["rounds_ok"]) == (4, 2)
    assert cell["images_per_s"] == pytest.approx(300**0.5)  # the geometric mean
    (text,) = texts(*rows)
    assert text["status"] == "ok 2/4, timeout 1/4, crash 1/4"
    assert text["images/s"] == "17.3"


def test_rows_are_in_the_tables_order_not_in_the_journals() -> None:
    sizes = {size: {**SETTINGS, "image_size": size} for size in (32, 64, 128)}
    rows = [
        good("bf16", 16, 1.0, settings=sizes[128]),
        good("fp32", 16, 1.0, settings=sizes[128]),
        good("fp32", 8, 1.0, settings=sizes[128]),
        good("bf16", 8, 1.0, settings=sizes[128]),
        good("fp32", 8, 1.0, settings=sizes[64]),
        good("fp32", 8, 1.0, settings=sizes[32]),
    ]
    assert [(cell["image_size"], cell["batch_size"], cell["variant"]) for cell in cells(*rows)] == [
        (32, 8, "fp32"),
        (64, 8, "fp32"),
        (128, 8, "bf16"),
        (128, 8, "fp32"),
        (128, 16, "bf16"),
        (128, 16, "fp32"),
    ]


# What cannot be compared.


@pytest.mark.parametrize(
    ("other", "key"),
    [
        (row(trial(batch_size=8, budget_bytes=GIB), measured()), "budget_bytes"),
        (row(trial(batch_size=8, samples=99), measured()), "samples"),
        (row(trial(batch_size=8, device="cuda"), measured()), "device"),
        (row(trial(batch_size=8), measured(), torch="2.16.0"), "environment.torch"),
        (row(trial(batch_size=8), measured(), device_name="Other"), "environment.device_name"),
        (replace(row(trial(batch_size=8), measured()), data={"fingerprint": "g"}), "data.finger"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_rows_that_cannot_be_compared_are_refused_by_key(
    other: Row, key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = good("fp32", 4, 10.0)
    (tmp_path / FILE_NAME).write_text(first.to_line() + other.to_line())
    with pytest.raises(SystemExit) as caught:
        cli.main(["report", str(tmp_path)])
    out, error = capsys.readouterr()
    assert caught.value.code == 2
    assert out == ""
    assert f": {key}" in error
    assert error.count("\n") == 1


def test_a_journal_without_rows_is_refused_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / FILE_NAME).touch()
    with pytest.raises(SystemExit) as caught:
        cli.main(["report", str(tmp_path)])
    assert caught.value.code == 2
    path = tmp_path / FILE_NAME
    assert capsys.readouterr().err == f"unet-bench: {path}: the journal holds no rows yet\n"


# Doing it again.


FULL: dict[str, Scalar] = {
    **COLORIZATION.settings,
    "data": "drive",
    "data_seed": 3,
    "frames": 600,
    "split": "random",
    "validation_percent": 10,
    "gap": 0,
    "image_size": 48,
    "width": 12,
    "depth": 3,
    "upsampling": "nearest",
}


TOY: dict[str, Any] = {
    "workload": "tests.toy:TOY",
    "settings": {**toy.TOY.settings, "size": 50, "sleep_ms": 2, "oom_from": 9},
    "axes": toy.TOY.parse_variant("raise+sweet"),
    "variant": "raise+sweet",
}


def colorization(variant: str, batch_size: int, **more: Any) -> Trial:
    """On all axes that there are today."""
    return trial(variant, batch_size, FULL, axes=COLORIZATION.parse_variant(variant), **more)


@pytest.mark.parametrize("round_", [0, 2])
@pytest.mark.parametrize(
    "asked",
    [
        colorization("fp32", 7),
        colorization("bf16+channels_last", 3, seed=9, samples=333, budget_bytes=123456789),
        replace(trial(), **TOY),
    ],
    ids=["plain", "changed", "toy"],
)
def test_a_rows_command_line_asks_for_the_same_trial(
    asked: Trial, round_: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, *words = shlex.split(reproduce(row(replace(asked, round=round_), measured())))
    assert program == "unet-bench"
    again = plan_of(words, monkeypatch).spec
    assert again.budget_bytes == asked.budget_bytes
    (found,) = again.trials(again.one("device"), again.budget_bytes)
    assert found == asked
    assert found.key == asked.key
