import csv
import io
import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pytest
from rich.console import Console

from bench import cli, sweep
from bench.journal import FILE_NAME, Row, read
from bench.report import frame as frame_module
from bench.report.frame import cell_frame, reproduce, trial_frame
from bench.report.tables import notes, to_csv, to_json, to_markdown, to_rich, verdict
from bench.trial import Scalar, Status, Trial, TrialResult
from tests.harness import Recorder, toy_plan
from tests.toy import TOY as TOY_WORKLOAD
from unet.workload import COLORIZATION

GIB = 2**30
BUDGET = 8 * GIB
AXES = {
    "fp32": {"precision": "fp32", "memory_format": "contiguous"},
    "bf16": {"precision": "bf16", "memory_format": "contiguous"},
    "bf16+channels_last": {"precision": "bf16", "memory_format": "channels_last"},
}
SETTINGS: dict[str, Scalar] = {"data": "drive", "image_size": 64, "width": 16}
ENVIRONMENT = {
    "device_name": "Some CPU",
    "torch": "2.15.0",
    "commit": "abc",
    "dirty": False,
    "cpus_allowed": 4,
}

CONTRACT = {
    "images_per_s",
    "step_ms",
    "final_mse",
    "utilization_percent",
    "peak_memory_gib",
    "speedup",
    "speedup_vs_seed",
    "status",
    "variant",
    "batch_size",
}


def trial(
    variant: str = "fp32",
    batch_size: int = 4,
    settings: Mapping[str, Scalar] = SETTINGS,
    **more: Any,
) -> Trial:
    fields: dict[str, Any] = {
        "workload": "unet.workload:COLORIZATION",
        "variant": variant,
        "axes": AXES[variant],
        "settings": dict(settings),
        "batch_size": batch_size,
        "seed": 0,
        "round": 0,
        "samples": 1024,
        "warmup_steps": 1,
        "measured_steps": 3,
        "device": "cpu",
        "budget_bytes": BUDGET,
    }
    return Trial(**(fields | more))


def sample(
    phase: str | None, at_s: float, cpu_s: float, rss_gib: float, **gpu: Any
) -> dict[str, Any]:
    return {
        "at_s": at_s,
        "phase": phase,
        "cpu_s": cpu_s,
        "rss_anon_bytes": int(rss_gib * GIB),
        **gpu,
    }


def measured(rate: float = 8.0, batch_size: int = 4, **more: Any) -> TrialResult:
    """First step, one warm-up step, three measured ones, one smaller one."""
    fields: dict[str, Any] = {
        "status": Status.OK,
        "start_s": 0.05,
        "duration_s": 20.0,
        "phase_at_s": {"measuring": 100.0, "training": 100.0 + 3 * batch_size / rate},
        "parent_phase_at_s": {"measuring": 100.5, "training": 104.0},
        "step_phase_s": [
            [0.100, 0.200, 0.300, 0.400],
            [9.0, 9.0, 9.0, 9.0],
            [0.001, 0.010, 0.020, 0.003],  # 34 ms in all
            [0.002, 0.030, 0.010, 0.001],  # 43 ms
            [0.004, 0.020, 0.060, 0.002],  # 86 ms
            [7.0, 7.0, 7.0, 7.0],
        ],
        "step_samples": [batch_size] * 5 + [1],
        "window": [2, 5],
        "memory": {"peak_bytes": 2 * GIB, "first_step_peak_bytes": 3 * GIB},
        "quality": {"final_mse": 100.0, "grey_mse": 400.0, "mean_color_mse": 200.0},
        "monitor": [
            sample("starting", 90.0, 0.0, 7.0),
            sample("warming_up", 95.0, 5.0, 1.0),
            sample("measuring", 100.0, 10.0, 1.5),
            sample("measuring", 102.0, 16.0, 1.5),
            sample("training", 104.0, 22.0, 1.5),
            sample("evaluating", 120.0, 99.0, 7.0),
        ],
    }
    return TrialResult(**(fields | more))


def failed(status: Status, reason: str = "for a reason") -> TrialResult:
    return TrialResult(status, reason)


WORKLOAD_BASELINES = {"mean_color_mse": "mean colour", "grey_mse": "grey"}
WORKLOAD = {"name": "colorization", "plain": "fp32", "baselines": WORKLOAD_BASELINES}


def row(asked: Trial, result: TrialResult, **environment: Any) -> Row:
    return Row(
        asked,
        WORKLOAD,
        {"fingerprint": "f"},
        ENVIRONMENT | environment,
        result,
    )


def good(variant: str, batch_size: int, rate: float, **more: Any) -> Row:
    return row(trial(variant, batch_size, **more), measured(rate, batch_size))


def bad(variant: str, batch_size: int, status: Status, **more: Any) -> Row:
    return row(trial(variant, batch_size, **more), failed(status))


def cells(*rows: Row) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", cell_frame(rows).to_dict("records"))


def one(result: TrialResult, **asked: Any) -> dict[str, Any]:
    (cell,) = cells(row(trial(**asked), result))
    return cell


def absent(value: Any) -> bool:
    return bool(pd.isna(value))


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


CUDA = {
    "mode": "emulated",
    "card_bytes": int(79.1 * GIB),
    "peak_bytes": 2 * GIB,
    "peak_reserved_bytes": 3 * GIB,
    "process_bytes": 4 * GIB,
    "context_bytes": GIB // 2,
    "first_step_peak_bytes": 5 * GIB,
}


def gpu_samples(*percents: float | None) -> list[dict[str, Any]]:
    return [
        sample("warming_up", 99.0, 0.0, 1.0, gpu_percent=1.0),
        sample("measuring", 100.5, 0.0, 1.0, gpu_percent=3.0),
        sample("measuring", 101.4, 0.0, 1.0, gpu_percent=4.0),
        *(sample("measuring", 101.5, 0.0, 1.0, gpu_percent=percent) for percent in percents),
        sample("training", 104.0, 0.0, 1.0, gpu_percent=2.0),
    ]


def test_memory_on_cuda_is_the_allocators_and_its_share_the_whole_processs() -> None:
    cell = one(measured(memory=CUDA, monitor=gpu_samples(50.0)), device="cuda")
    assert cell["peak_memory_gib"] == pytest.approx(2.0)
    assert cell["budget_percent"] == pytest.approx(100 * 3.5 / 8)
    assert cell["first_step_peak_memory_gib"] == pytest.approx(5.0)
    assert cell["peak_reserved_gib"] == pytest.approx(3.0)
    assert cell["process_gib"] == pytest.approx(4.0)


def test_process_memory_that_is_not_readable_is_absent() -> None:
    memory = {name: size for name, size in CUDA.items() if name != "process_bytes"}
    for known in (memory, memory | {"process_bytes": None}):
        assert absent(one(measured(memory=known), device="cuda")["process_gib"])


def test_memory_of_cuda_is_absent_on_cpu() -> None:
    cell = one(measured())
    for name in ("peak_reserved_gib", "process_gib", "card_gib"):
        assert absent(cell[name])


def test_a_bigger_card_that_was_capped_is_told() -> None:
    rows = [
        row(trial(device="cuda"), TrialResult(Status.CRASH, "early")),
        row(trial(device="cuda", round=1), measured(memory=CUDA)),
        row(trial("bf16", device="cuda"), measured(memory=CUDA)),
    ]
    assert [cell["memory_mode"] for cell in cells(*rows)] == ["emulated", "emulated"]
    told = [note for note in notes_of(rows) if "emulated" in note]
    assert told == ["Budget emulated: a card of 79.1 GiB capped to 8 GiB."]


@pytest.mark.parametrize("memory", [CUDA | {"mode": "native"}, {}], ids=["native", "unknown"])
def test_a_card_of_the_budgets_size_is_not_called_emulated(memory: dict[str, Any]) -> None:
    rows = [row(trial(device="cuda"), measured(memory=memory))]
    (cell,) = cells(*rows)
    assert absent(cell["memory_mode"]) if not memory else cell["memory_mode"] == "native"
    assert not any("emulated" in note for note in notes_of(rows))


def test_utilization_on_cuda_is_the_mean_of_nvmls_a_second_into_the_window() -> None:
    cell = one(measured(memory=CUDA, monitor=gpu_samples(90.0, None, 80.0)), device="cuda:1")
    assert cell["utilization_percent"] == pytest.approx(85.0)


def texts(*rows: Row) -> list[dict[str, str]]:
    """The Markdown table, line by line, by heading; without the winner's bold."""
    head, _, *lines = [
        [word.strip().strip("*") for word in line.strip("|").split("|")]
        for line in to_markdown(cell_frame(rows)).splitlines()
        if line.startswith("|")
    ]
    return [dict(zip(head, line, strict=True)) for line in lines]


def test_utilization_of_a_window_below_a_second_is_not_readable_on_cuda() -> None:
    cell = one(measured(memory=CUDA, monitor=gpu_samples()), device="cuda")
    assert absent(cell["utilization_percent"])


def test_what_is_not_readable_is_said_and_never_zero() -> None:
    result = measured(memory={}, monitor=gpu_samples(None, None))
    cell = one(result, device="cuda")
    (text,) = texts(row(trial(device="cuda"), result))
    for name in ("utilization_percent", "peak_memory_gib", "budget_percent"):
        assert absent(cell[name])
    assert text["util %"] == text["peak GiB"] == text["budget %"] == "not readable"


def test_cpu_memory_that_neither_kernel_nor_samples_tell_is_not_readable() -> None:
    samples = [sample("measuring", 100.0, 1.0, 0.0), sample("training", 101.0, 2.0, 0.0)]
    result = measured(memory={"peak_bytes": None}, monitor=samples)
    (text,) = texts(row(trial(), result))
    assert text["peak GiB"] == text["budget %"] == "not readable"


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
def test_a_cell_that_was_not_measured_says_so_and_why(status: Status) -> None:
    rows = [good("fp32", 4, 8.0), bad("bf16", 4, status)]
    frame = cell_frame(rows)
    cell = cells(*rows)[1]
    for name in ("images_per_s", "step_ms", "peak_memory_gib", "final_mse", "speedup"):
        assert absent(cell[name])
    text = texts(*rows)[1]
    assert text["images/s"] == "not measured"
    assert text["status"] == status
    assert {text[title] for title in ("speedup", "vs seed", "step ms", "peak GiB", "MSE")} == {"-"}
    assert f"bf16 b4: {status}: for a reason" in notes(frame)


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
    assert texts(*rows)[0]["speedup"] == "not measured"


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


@pytest.mark.parametrize("status", [Status.OOM, Status.IMPLIED_OOM])
def test_out_of_memory_at_twice_the_batch_is_the_budgets_edge(status: Status) -> None:
    rows = [good("fp32", 8, 10.0), bad("fp32", 16, status)]
    assert any("at batch 8, the largest power of two that fits" in note for note in notes_of(rows))


@pytest.mark.parametrize(
    "more",
    [
        [],
        [bad("fp32", 16, Status.CRASH)],
        [bad("fp32", 32, Status.OOM)],
        [bad("bf16", 16, Status.OOM)],
        [bad("fp32", 16, Status.OOM, seed=1)],
    ],
    ids=["nothing", "a crash", "four times", "another variant", "another seed"],
)
def test_otherwise_it_is_only_the_largest_that_was_measured(more: list[Row]) -> None:
    (note,) = [note for note in notes_of([good("fp32", 8, 10.0), *more]) if "vs seed:" in note]
    assert "at batch 8, the largest power of two measured here; the budget may hold" in note


def notes_of(rows: Sequence[Row]) -> list[str]:
    return notes(cell_frame(rows))


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
    assert len(trial_frame(rows)) == 3


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
    assert cell["images_per_s"] == pytest.approx(20.0)
    (text,) = texts(*rows)
    assert text["status"] == "crash 2/4"
    assert text["images/s"] == "20.0"


def test_only_a_cell_all_of_whose_rounds_ended_well_may_be_the_fastest() -> None:
    rows = [
        good("fp32", 4, 10.0),
        good("bf16", 4, 30.0),
        bad("bf16", 4, Status.CRASH, round=1),
    ]
    assert [cell["fastest"] for cell in cells(*rows)] == [True, False]
    assert verdict(cell_frame(rows)).startswith("Fastest here: fp32 at batch 4")
    assert verdict(cell_frame(rows[1:])) == (
        "Nothing is called fastest here: no row ended well in all its rounds."
    )
    assert any("MSE without training: 200.0 for" in note for note in notes_of(rows[1:]))


def test_commits_of_all_rounds_are_told() -> None:
    rows = [
        row(trial(round=0), measured(), commit="def"),
        row(trial(round=1), measured(), commit="abc"),
        row(trial(round=2), measured(), commit="def"),
    ]
    assert cells(*rows)[0]["commit"] == "def,abc"
    assert "Rows come from several commits: abc, def." in notes_of(rows)
    assert not any("commits" in note for note in notes_of(rows[:1]))


@pytest.mark.parametrize("dirty", [False, True])
def test_uncommitted_changes_in_any_round_are_told_once(dirty: bool) -> None:
    rows = [
        *(row(trial(name, round=0), measured()) for name in ("fp32", "bf16")),
        *(row(trial(name, round=1), measured(), dirty=dirty) for name in ("fp32", "bf16")),
    ]
    assert [cell["dirty"] for cell in cells(*rows)] == [dirty, dirty]
    assert notes_of(rows).count("Measured with uncommitted changes.") == int(dirty)


def test_rows_from_outside_git_are_no_trouble() -> None:
    outside = [row(trial(round=number), measured(), commit=None, dirty=None) for number in range(2)]
    (cell,) = cells(*outside)
    assert absent(cell["commit"])
    assert absent(cell["dirty"])
    assert not any("commit" in note for note in notes_of(outside))
    mixed = [*outside, row(trial(round=2), measured(), dirty=True)]
    assert cells(*mixed)[0]["commit"] == "outside git,abc"
    assert cells(*mixed)[0]["dirty"] is True
    assert "Rows come from several commits: abc, outside git." in notes_of(mixed)


def test_one_round_is_warned_of_and_several_are_not() -> None:
    several = [row(trial(round=number), measured()) for number in range(2)]
    assert any("One round" in note for note in notes_of(several[:1]))
    assert not any("One round" in note for note in notes_of(several))


# Formats.

MIXED = [
    good("fp32", 4, 10.0),
    good("bf16", 4, 15.0),
    bad("bf16+channels_last", 4, Status.OOM),
    good("fp32", 8, 12.0),
    row(
        trial("bf16", 8),
        measured(
            48.0,
            8,
            memory={"peak_bytes": None},
            monitor=[sample("measuring", 100.0, 1.0, 0.0), sample("training", 101.0, 2.0, 0.0)],
        ),
    ),
]


def test_csv_and_json_hold_the_frame_under_the_contracts_names() -> None:
    frame = cell_frame(MIXED)
    expected = frame.to_dict("records")
    from_csv = list(csv.DictReader(io.StringIO(to_csv(frame))))
    from_json = json.loads(to_json(frame))
    assert len(from_csv) == len(from_json) == len(expected) == 5
    for cell, text, item in zip(expected, from_csv, from_json, strict=True):
        assert set(text) == set(item) == set(cell)
        assert set(cell) >= CONTRACT
        for name, value in cell.items():
            if absent(value):
                assert text[str(name)] == ""
                assert item[name] is None
            elif isinstance(value, float):
                assert float(text[str(name)]) == value
                assert math.isclose(item[name], value, rel_tol=1e-9)
            else:
                assert text[str(name)] == str(value)
                assert item[name] == value


def rendered(frame: pd.DataFrame, width: int | None) -> str:
    file = io.StringIO()
    Console(file=file, width=width or 10_000).print(to_rich(frame, width))
    return file.getvalue()


def test_markdown_and_table_hold_the_same_numbers() -> None:
    frame = cell_frame(MIXED)
    lines = rendered(frame, None).splitlines()
    for cell, text in zip(frame.to_dict("records"), texts(*MIXED), strict=True):
        assert text["variant"] == cell["variant"]
        assert text["batch"] == str(cell["batch_size"])
        if not absent(cell["images_per_s"]):
            assert text["images/s"] == f"{cell['images_per_s']:.1f}"
            assert text["speedup"] == f"{cell['speedup']:.2f}x"
            assert text["vs seed"] == f"{cell['speedup_vs_seed']:.2f}x"
            assert text["step ms"] == f"{cell['step_ms']:.1f}"
            assert text["MSE"] == f"{cell['final_mse']:.1f}"
            assert text["vs mean colour"] == "0.50x"
            assert text["vs grey"] == "0.25x"
        shown = [word.strip() for word in text.values()]
        assert any("  ".join(line.split()) == "  ".join(" ".join(shown).split()) for line in lines)


def test_the_winner_is_bold() -> None:
    bold = [line for line in to_markdown(cell_frame(MIXED)).splitlines() if "**" in line]
    assert len(bold) == 1
    assert bold[0].startswith("| **bf16** | **8** | **48.0** |")


@pytest.mark.parametrize("width", [110, 90, 80, 70, 60, 50])
def test_a_narrow_terminal_gets_fewer_columns_and_is_told_which(width: int) -> None:
    rows = [good("fp32", 4, 10.0), good("bf16+channels_last", 16, 15.0)]
    wide, text = rendered(cell_frame(rows), None), rendered(cell_frame(rows), width)
    table, _, caption = text.partition("not shown for lack of width: ")
    left_out = " ".join(caption.split()).split(", ")
    titles = wide.splitlines()[1].split("  ")
    found = [title.strip() for title in titles if title.strip()]
    assert left_out
    for title in found:
        assert (title in table) == (title not in left_out)
    assert not {"variant", "batch", "images/s", "status"} & set(left_out)
    assert {"fp32", "bf16+channels_last", "10.0", "15.0", "ok"} <= set(table.split())
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width


def test_a_wide_terminal_gets_all_columns() -> None:
    assert "not shown" not in rendered(cell_frame(MIXED), 200)


def test_two_image_sizes_are_told_apart_and_judged_apart() -> None:
    small = {**SETTINGS, "image_size": 32}
    rows = [
        good("fp32", 4, 10.0),
        good("bf16", 4, 15.0),
        bad("bf16", 8, Status.OOM),
        good("fp32", 4, 40.0, settings=small),
        row(
            trial("bf16", 4, small),
            measured(quality={"final_mse": 1.0, "grey_mse": 4.0, "mean_color_mse": 3.0}),
        ),
    ]
    frame = cell_frame(rows)
    assert [text["image_size"] for text in texts(*rows)] == ["32", "32", "64", "64", "64"]
    assert "width" not in texts(*rows)[0]
    sentence = verdict(frame)
    assert "Fastest at image_size 64: bf16 at batch 4 with 15.0 images/s, 1.50x plain" in sentence
    assert "Fastest at image_size 32: fp32 at batch 4 with 40.0 images/s" in sentence
    bold = [line for line in to_markdown(frame).splitlines() if line.startswith("| **")]
    assert len(bold) == 2
    assert "bf16 b8 at image_size 64: oom: for a reason" in notes(frame)
    assert any("at image_size 64: 200.0 for" in note for note in notes(frame))
    assert any("at image_size 32: 200.0 for" in note for note in notes(frame))


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


def test_one_image_size_needs_no_column() -> None:
    assert "image_size" not in texts(*MIXED)[0]
    assert "seed" not in texts(*MIXED)[0]


def test_two_seeds_are_told_apart() -> None:
    found = texts(good("fp32", 4, 10.0), good("fp32", 4, 10.0, seed=7))
    assert [text["seed"] for text in found] == ["0", "7"]


# The verdict.


def test_the_verdict_says_what_is_fastest_against_what_and_at_which_price() -> None:
    rows = [
        good("fp32", 8, 20.0),
        row(trial("bf16", 8), measured(50.0, 8, quality=quality(90.0))),
        good("fp32", 4, 10.0),
    ]
    assert verdict(cell_frame(rows)) == (
        "Fastest here: bf16 at batch 8 with 50.0 images/s, 2.50x plain fp32 at the same batch, "
        "in 2.00 of 8 GiB, to a final MSE of 90.0 (plain: 100.0)."
    )


def quality(final_mse: float) -> dict[str, float]:
    return {"final_mse": final_mse, "grey_mse": 400.0, "mean_color_mse": 200.0}


def test_the_verdict_compares_plain_with_nothing() -> None:
    assert verdict(cell_frame([good("fp32", 4, 10.0), good("bf16", 4, 5.0)])) == (
        "Fastest here: fp32 at batch 4 with 10.0 images/s, in 2.00 of 8 GiB, "
        "to a final MSE of 100.0."
    )


def test_the_verdict_without_a_good_row_says_so() -> None:
    assert verdict(cell_frame([bad("fp32", 4, Status.OOM)])) == (
        "Nothing was measured here: no row ended well."
    )


def test_the_notes_name_machine_budget_and_baselines() -> None:
    found = notes_of(MIXED)
    assert "Measured on Some CPU, torch 2.15.0, budget 8 GiB, 1024 training samples a row." in found
    assert "MSE without training: 200.0 for mean colour, 400.0 for grey." in found
    mixed = [*MIXED, row(trial("fp32", 16), measured(), commit="def")]
    assert "Rows come from several commits: abc, def." in notes_of(mixed)


# Baselines.


def described(baselines: Mapping[str, str] | None, **figures: float) -> list[Row]:
    """A good and a bad row of a workload with these baselines."""
    workload = {"name": "w", "plain": "fp32"} | (
        {} if baselines is None else {"baselines": baselines}
    )
    result = measured(quality={"final_mse": 100.0, **figures})
    found = [row(trial(), result), bad("bf16", 4, Status.OOM)]
    return [replace(each, workload=workload) for each in found]


def test_baselines_are_the_workloads_own() -> None:
    words = {"last_mse": "yesterday", "zero_mse": "zero", "odd_mse": "a coin"}
    rows = described(words, last_mse=50.0, zero_mse=0.0, odd_mse=400.0)
    first, second = texts(*rows)
    assert list(first)[-5:] == ["MSE", "vs yesterday", "vs zero", "vs a coin", "status"]
    assert [first["vs yesterday"], first["vs a coin"]] == ["2.00x", "0.25x"]
    assert first["vs zero"] == "not measured"
    assert {second["vs yesterday"], second["vs zero"], second["vs a coin"]} == {"-"}
    assert "MSE without training: 50.0 for yesterday, 0.0 for zero, 400.0 for a coin." in notes_of(
        rows
    )
    assert cells(*rows)[0]["last_mse"] == 50.0
    assert absent(cells(*rows)[1]["last_mse"])


def test_of_several_baselines_the_first_is_left_out_last() -> None:
    words = {"first_mse": "first", "second_mse": "second", "third_mse": "third"}
    rows = described(words, first_mse=1.0, second_mse=2.0, third_mse=3.0)
    text = " ".join(rendered(cell_frame(rows), 60).split())
    _, _, hidden = text.partition("not shown for lack of width: ")
    assert hidden.startswith("vs third, vs second, budget %, step ms, util %, vs seed, vs first")


@pytest.mark.parametrize("baselines", [None, {}], ids=["a row of old", "none"])
def test_a_workload_without_baselines_shows_none(baselines: Mapping[str, str] | None) -> None:
    rows = described(baselines)
    (text, _) = texts(*rows)
    assert [title for title in text if title.startswith("vs ")] == ["vs seed"]
    assert text["MSE"] == "100.0"
    assert not any("without training" in note for note in notes_of(rows))
    assert rendered(cell_frame(rows), 40)


def test_baselines_that_were_never_measured_have_columns_but_no_note() -> None:
    rows = [bad("fp32", 4, Status.OOM)]
    assert texts(*rows)[0]["vs grey"] == "-"
    assert not any("without training" in note for note in notes_of(rows))


def test_baselines_travel_from_the_workload_through_the_journal_to_the_table(
    tmp_path: Path,
) -> None:
    heard = Recorder()
    assert sweep.run(toy_plan(tmp_path / "out", batch_size=4), heard)
    (found,) = heard.rows
    assert found.workload["baselines"] == TOY_WORKLOAD.baselines
    (text,) = texts(*read(tmp_path / "out"))
    assert {"vs a good guess", "vs a bad guess"} <= set(text)


def test_colorizations_baselines_are_named_in_order() -> None:
    assert list(COLORIZATION.baselines.items()) == list(WORKLOAD_BASELINES.items())


def test_the_report_knows_no_colours() -> None:
    for path in Path(frame_module.__file__).parent.glob("*.py"):
        assert not re.search(r"gr[ea]y|mean.colou?r|\bab\b", path.read_text()), path


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
    assert capsys.readouterr().err == "unet-bench: the journal holds no rows yet\n"


@pytest.mark.parametrize("style", ["table", "md", "csv", "json"])
def test_a_report_is_the_same_in_every_format_after_the_journal(
    style: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / FILE_NAME).write_text("".join(each.to_line() for each in MIXED))
    with pytest.raises(SystemExit) as caught:
        cli.main(["report", str(tmp_path), "--format", style])
    out, error = capsys.readouterr()
    assert (caught.value.code, error) == (0, "")
    frame = cell_frame(MIXED)
    expected = {"md": to_markdown, "csv": to_csv, "json": to_json}
    if style == "table":
        assert verdict(frame) in out
        assert rendered(frame, None).strip() in out
    else:
        assert out == expected[style](frame)


# Doing it again.


class Captured(Exception):  # noqa: N818 (no error, but the way out)
    """Carries the plan that a command would have carried out."""


def plan_of(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> sweep.Plan:
    def run(plan: sweep.Plan, observer: sweep.Observer) -> bool:
        raise Captured(plan)

    monkeypatch.setattr(sweep, "run", run)
    with pytest.raises(Captured) as caught:
        cli.main(words)
    plan = caught.value.args[0]
    assert isinstance(plan, sweep.Plan)
    return plan


FULL: dict[str, Scalar] = {
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
    "settings": {"size": 50, "sleep_ms": 2, "oom_from": 9},
    "axes": {"fault": "raise", "flavor": "sweet"},
    "variant": "raise+sweet",
}


@pytest.mark.parametrize("round_", [0, 2])
@pytest.mark.parametrize(
    "asked",
    [
        trial("fp32", 7, FULL),
        trial("bf16+channels_last", 3, FULL, seed=9, samples=333, budget_bytes=123456789),
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


def test_a_row_measured_beside_something_else_is_told() -> None:
    quiet, busy = good("fp32", 4, 8.0), good("bf16", 4, 8.0)
    for asked, slowed in ((quiet, 1), (busy, 3)):
        result = asked.result
        first, last = result.window
        step_s = (result.phase_at_s["training"] - result.phase_at_s["measuring"]) / (last - first)
        result.step_phase_s = [[step_s / 4 / slowed] * 4 for _ in result.step_phase_s]
    told = [note for note in notes(cell_frame([quiet, busy])) if "busy" in note]
    assert len(told) == 1
    assert told[0].startswith("bf16 b4: steps took 3.0x their median on average")
