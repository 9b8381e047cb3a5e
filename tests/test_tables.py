import csv
import io
import json
import math
import re
from pathlib import Path

import pytest

from bench import cli
from bench.journal import FILE_NAME, Row
from bench.report import frame as frame_module
from bench.report.frame import cell_frame
from bench.report.tables import notes, to_csv, to_json, to_markdown, verdict
from bench.trial import Status
from tests.report_rows import (
    CUDA,
    MIXED,
    SETTINGS,
    absent,
    bad,
    cells,
    good,
    gpu_samples,
    measured,
    notes_of,
    one,
    quality,
    rendered,
    row,
    sample,
    texts,
    trial,
)

# Cells.


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


# Notes.


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
    ],
    ids=["nothing", "a crash", "four times", "another variant"],
)
def test_otherwise_it_is_only_the_largest_that_was_measured(more: list[Row]) -> None:
    (note,) = [note for note in notes_of([good("fp32", 8, 10.0), *more]) if "vs seed:" in note]
    assert "at batch 8, the largest power of two measured here; the budget may hold" in note


def test_the_notes_name_machine_budget_and_baselines() -> None:
    found = notes_of(MIXED)
    assert "Measured on Some CPU, torch 2.15.0, budget 8 GiB, 1024 training samples a row." in found
    assert "MSE without training: 200.0 for mean colour, 400.0 for grey." in found
    mixed = [*MIXED, row(trial("fp32", 16), measured(), commit="def")]
    assert "Rows come from several commits: abc, def." in notes_of(mixed)


# Formats.


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


def test_markdown_and_table_hold_the_same_numbers() -> None:
    frame = cell_frame(MIXED)
    lines = rendered(frame, None).splitlines()
    for cell, text in zip(frame.to_dict("records"), texts(*MIXED), strict=True):
        assert text["variant"] == cell["variant"]
        assert text["batch"] == str(cell["batch_size"])
        if not absent(cell["images_per_s"]):
            assert text["images/s"] == f"{cell['images_per_s']:.1f}"
            assert text["speedup"].strip("~") == f"{cell['speedup']:.2f}x"
            assert text["vs seed"].strip("~") == f"{cell['speedup_vs_seed']:.2f}x"
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
    assert "Fastest at image_size 64: bf16 at batch 4 with 15.0 images/s, ~1.50x plain" in sentence
    assert "Fastest at image_size 32: fp32 at batch 4 with 40.0 images/s" in sentence
    bold = [line for line in to_markdown(frame).splitlines() if line.startswith("| **")]
    assert len(bold) == 2
    assert "bf16 b8 at image_size 64: oom: for a reason" in notes(frame)
    assert any("at image_size 64: 200.0 for" in note for note in notes(frame))
    assert any("at image_size 32: 200.0 for" in note for note in notes(frame))


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
        "Fastest here: bf16 at batch 8 with 50.0 images/s, ~2.50x plain fp32 at the same batch, "
        "in 2.00 of 8 GiB, to a final MSE of 90.0 (plain: 100.0)."
    )


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


def test_the_verdict_compares_plain_with_nothing() -> None:
    assert verdict(cell_frame([good("fp32", 4, 10.0), good("bf16", 4, 5.0)])) == (
        "Fastest here: fp32 at batch 4 with 10.0 images/s, in 2.00 of 8 GiB, "
        "to a final MSE of 100.0."
    )


def test_the_verdict_without_a_good_row_says_so() -> None:
    assert verdict(cell_frame([bad("fp32", 4, Status.OOM)])) == (
        "Nothing was measured here: no row ended well."
    )


# Baselines.


def test_the_report_knows_no_colours() -> None:
    for path in Path(frame_module.__file__).parent.glob("*.py"):
        assert not re.search(r"gr[ea]y|mean.colou?r|\bab\b", path.read_text()), path


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
