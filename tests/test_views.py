import io
import json
import math

import pandas as pd
import pytest
from rich.console import Console

from bench.journal import Row
from bench.report import views
from bench.report.frame import cell_frame
from bench.report.page import Page
from bench.report.tables import to_csv, to_json
from bench.trial import Status
from tests.report_rows import (
    COMPILED,
    EAGER,
    SLOWER,
    absent,
    failed,
    good,
    measured,
    of_today,
    page_lines,
    page_texts,
    timed,
    view,
)

# amp.


def test_amp_sets_reduced_precision_beside_the_plain_one() -> None:
    plain = of_today("fp32", 4, measured(100, memory={"peak_bytes": 4 * 2**30}))
    rows = [plain, timed("tf32", 4, 90, final_mse=101.0), timed("bf16", 4, 180, final_mse=110.0)]
    page = view("amp", *rows)
    assert [text["precision"] for text in page_texts(page)] == ["tf32", "bf16"]
    assert page_texts(page)[1] == {
        "variant": "fp32",
        "batch": "4",
        "precision": "bf16",
        "fp32 images/s": "100.0",
        "reduced images/s": "180.0",
        "speedup": "~1.80x",
        "fp32 GiB": "4.00",
        "GiB": "2.00",
        "GiB ratio": "0.50x",
        "fp32 MSE": "100.0",
        "MSE": "110.0",
        "MSE ratio": "1.10x",
        "status": "ok",
    }
    assert page.verdict == (
        "Reduced precision is shown to make no pair faster or slower on Some CPU; the best, bf16 "
        "b4, was ~1.80x, in 0.50x the memory, to a final MSE of 110.0 (fp32: 100.0)."
    )
    assert page.bold == [False, True]


def test_amp_without_its_twin_says_so() -> None:
    page = view("amp", timed("bf16", 4, 10))
    assert page_texts(page)[0]["status"] == "ok; no fp32"
    assert page.verdict == "No pair ended well on both sides: nothing can be said of precision."


def test_amp_of_a_published_folder_needs_no_new_keys() -> None:
    page = view("amp", good("bf16", 4, 15.0), good("fp32", 4, 10.0))
    (line,) = page_lines(page)
    assert line["speedup"] == pytest.approx(1.5)
    assert absent(line["train_size"])


# All of them.

MIXED = [
    EAGER,
    COMPILED,
    SLOWER,
    timed("bf16+channels_last", 16, 240),
    timed("bf16+channels_last+compile", 16, 280, 3, 50),
    of_today("bf16+compile", 16, failed(Status.OOM)),
]


@pytest.mark.parametrize("name", views.VIEWS)
@pytest.mark.parametrize("width", [120, 80])
def test_a_view_fits_the_terminal_and_names_what_it_leaves_out(name: str, width: int) -> None:
    page = view(name, *MIXED)
    file = io.StringIO()
    Console(file=file, width=width).print(page.to_rich(width))
    text = file.getvalue()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    table, _, caption = text.partition("not shown for lack of width: ")
    left_out = " ".join(caption.split()).split(", ") if caption else []
    shown = [title for title in page.columns if " ".join(title.split()) not in left_out]
    assert len(shown) + len(left_out) == len(page.columns)
    for title in shown:
        assert all(part in table for part in title.splitlines())


def test_a_narrow_column_stays_where_a_wide_one_that_had_to_go_has_left_room() -> None:
    columns = {"first": ["a"], "narrow": ["b"], "wide": ["c" * 40], "last": ["d"]}
    page = Page(pd.DataFrame(), columns, [False], ["narrow", "wide"], "", [])
    shown = [str(column.header) for column in page.to_rich(30).columns]
    assert shown == ["first", "narrow", "last"]
    assert str(page.to_rich(30).caption) == "not shown for lack of width: wide"
    assert str(page.to_rich(10).caption) == "not shown for lack of width: narrow, wide"


@pytest.mark.parametrize("name", views.VIEWS)
def test_every_format_holds_the_same_lines(name: str) -> None:
    page = view(name, *MIXED)
    from_csv = pd.read_csv(io.StringIO(to_csv(page.frame)))
    from_json = json.loads(to_json(page.frame))
    markdown = [line for line in page.to_markdown().splitlines() if line.startswith("|")][2:]
    count = len(page.bold)
    assert len(from_csv) == len(from_json) == len(markdown) == count
    for place, item in enumerate(from_json):
        assert set(item) == set(from_csv) == set(page.frame)
        assert item["variant"] == from_csv["variant"][place]
        rate = item["images_per_s"]
        assert (
            absent(from_csv["images_per_s"][place])
            if rate is None
            else f"{rate:.1f}" in (markdown[place])
        )
    assert page.verdict in page.to_markdown()
    assert all(f"- {note}" in page.to_markdown() for note in page.notes)


def test_a_break_even_that_does_not_exist_is_infinite_in_csv_and_null_in_json() -> None:
    frame = view("compiled-vs-eager", EAGER, SLOWER).frame
    assert list(pd.read_csv(io.StringIO(to_csv(frame)))["break_even_images"]) == [math.inf]
    assert [item["break_even_images"] for item in json.loads(to_json(frame))] == [None]


# Mistakes.

OLD = [good("fp32", 4, 10.0), good("bf16", 4, 15.0)]


@pytest.mark.parametrize(
    ("name", "rows", "run", "message"),
    [
        ("ladders", MIXED, {}, "did you mean 'ladder'"),
        (
            "compiled-vs-eager",
            [EAGER, timed("bf16", 4, 10)],
            {},
            "nothing to show, all rows have compile eager",
        ),
        (
            "compiled-vs-eager",
            OLD,
            {},
            "no row has the axis compile, only precision, memory_format",
        ),
        ("amp", [EAGER, COMPILED], {}, "nothing to show, all rows have precision fp32"),
        ("amp", OLD[1:], {}, "do not tell which precision is plain; measure fp32 too"),
        ("ladder", [EAGER], {}, "expected several variants, got fp32"),
        ("ladder", MIXED, {"images": 5}, "--images: only --view compiled-vs-eager"),
        ("compiled-vs-eager", MIXED, {"images": 5, "epochs": 5}, "expected at most one"),
        ("compiled-vs-eager", MIXED, {"images": 0}, "--images 0: expected a number above 0"),
        ("compiled-vs-eager", MIXED, {"epochs": math.inf}, "--epochs inf: expected"),
        ("compiled-vs-eager", MIXED, {"epochs": math.nan}, "--epochs nan: expected"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    name: str, rows: list[Row], run: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=r"^\S") as caught:
        view(name, *rows, **run)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_epochs_need_the_size_of_the_training_set() -> None:
    frame = cell_frame([EAGER, COMPILED])
    frame["train_size"] = pd.NA
    page = views.page(frame, "compiled-vs-eager", images=1000)
    assert page_texts(page)[0]["break-even epochs"] == "not measured"
    assert page.verdict.split(". Over")[0].endswith("after 12,600 images, if that gain is real")
    with pytest.raises(ValueError, match="--epochs 5: the rows do not tell how many images"):
        views.page(frame, "compiled-vs-eager", epochs=5)
