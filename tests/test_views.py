import io
import json
import math
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from bench.journal import Row
from bench.report import views
from bench.report.frame import cell_frame
from bench.report.page import Page
from bench.report.tables import to_csv, to_json
from bench.trial import Status
from tests.report_rows import SETTINGS, absent, failed, good, measured, of_today, timed

EAGER = timed("fp32", 4, 100, final_mse=80.0)
COMPILED = timed("fp32+compile", 4, 150, 3.2, 42, final_mse=84.0)
SLOWER = timed("fp32+max-autotune", 4, 90, 5.0, 300)


def view(name: str, *rows: Row, **run: float) -> Page:
    return views.page(cell_frame(rows), name, **run)


def compiled(*rows: Row, **run: float) -> Page:
    return view("compiled-vs-eager", *rows, **run)


def lines(page: Page) -> list[dict[str, Any]]:
    return [
        {str(key): value for key, value in line.items()} for line in page.frame.to_dict("records")
    ]


def texts(page: Page) -> list[dict[str, str]]:
    """The printed table, line by line, by heading."""
    titles = [" ".join(title.split()) for title in page.columns]
    return [
        dict(zip(titles, line, strict=True)) for line in zip(*page.columns.values(), strict=True)
    ]


# compiled-vs-eager.


def test_compiling_pays_from_the_images_on_whose_savings_outweigh_the_cold_compile() -> None:
    # An image takes 1/100 s or 1/150 s: 1/300 s less. 42 s are saved with 12,600 images.
    page = compiled(EAGER, COMPILED)
    (line,) = lines(page)
    assert line["speedup"] == pytest.approx(1.5)
    assert (line["twin_images_per_s"], line["images_per_s"]) == pytest.approx((100, 150))
    assert (line["cold_compile_s"], line["warm_compile_s"]) == pytest.approx((42, 3.2))
    assert line["break_even_images"] == pytest.approx(12_600)
    assert line["break_even_epochs"] == pytest.approx(12.6)
    assert texts(page) == [
        {
            "variant": "fp32",
            "batch": "4",
            "mode": "compile",
            "eager images/s": "100.0",
            "compiled images/s": "150.0",
            "speedup": "1.50x",
            "cold s": "42.0",
            "warm s": "3.2",
            "break-even images": "12,600",
            "break-even epochs": "12.6",
            "eager GiB": "2.00",
            "GiB": "2.00",
            "eager MSE": "80.0",
            "MSE": "84.0",
            "status": "ok",
        }
    ]
    assert page.verdict == (
        "Compiling made the one pair faster on Some CPU; the best, fp32 at batch 4 with compile, "
        "was 1.50x and pays after 12,600 images (12.6 epochs)."
    )
    assert page.bold == [True]


def test_what_compiling_made_slower_never_pays() -> None:
    page = compiled(EAGER, SLOWER)
    (line,), (text,) = lines(page), texts(page)
    assert line["break_even_images"] == line["break_even_epochs"] == math.inf
    assert (text["speedup"], text["break-even images"]) == ("0.90x", "never")
    assert text["break-even epochs"] == "never"
    assert page.bold == [False]
    assert page.verdict.endswith(
        "slower on Some CPU; the best, fp32 at batch 4 with max-autotune, was 0.90x and never pays."
    )


def test_pairs_that_are_all_faster_are_counted_as_such() -> None:
    others = [timed("bf16", 4, 200), timed("bf16+compile", 4, 220, 1, 10)]
    page = compiled(EAGER, COMPILED, *others, images=10**6)
    assert page.verdict.startswith("Compiling made all 2 pairs faster on Some CPU; ")
    assert "compiling wins all 2 pairs, at most by" in page.verdict


def test_the_sentence_counts_the_slower_ones_and_names_the_best() -> None:
    others = [timed("bf16", 4, 200), timed("bf16+compile", 4, 220, 1, 10)]
    page = compiled(EAGER, COMPILED, SLOWER, *others)
    assert page.verdict.startswith("Compiling made 1 of 3 pairs slower on Some CPU; the best, fp32")
    assert [text["variant"] for text in texts(page)] == ["fp32", "fp32", "bf16"]
    assert page.bold == [True, False, False]


@pytest.mark.parametrize(
    ("run", "winner"),
    [
        ({"images": 12_600}, "even"),  # the break-even itself
        ({"images": 6_300}, "eager by 21.0 s"),  # 63 s against 42 + 42
        ({"images": 36_600}, "compiled by 80.0 s"),  # 366 s against 42 + 244
        ({"epochs": 36.6}, "compiled by 80.0 s"),
        ({"images": 336_600}, "compiled by 18.0 min"),
    ],
)
def test_over_a_stated_run_the_cold_compile_counts(run: dict[str, float], winner: str) -> None:
    (text,) = texts(compiled(EAGER, COMPILED, **run))
    title = next(title for title in text if title.startswith("winner over "))
    assert text[title] == winner


def test_a_stated_run_has_total_times_and_a_sentence() -> None:
    page = compiled(EAGER, COMPILED, SLOWER, epochs=36.6)
    first, second = lines(page)
    assert first["run_images"] == pytest.approx(36_600)
    assert (first["twin_run_s"], first["run_s"]) == pytest.approx((366, 286))
    assert first["saved_s"] == pytest.approx(80)
    assert second["saved_s"] == pytest.approx(366 - 300 - 36_600 / 90)
    assert texts(page)[0]["eager run"] == "6.1 min"
    assert page.verdict.endswith(
        "Over 36.6 epochs, compiling wins 1 of 2 pairs, at most by 80.0 s (fp32 at batch 4 with "
        "compile)."
    )
    lost = compiled(EAGER, COMPILED, SLOWER, images=1000).verdict
    assert lost.endswith("Over 1,000 images, compiling wins no pair: eager is done sooner.")


def test_without_a_stated_run_there_are_no_totals() -> None:
    page = compiled(EAGER, COMPILED)
    assert not {"run_images", "run_s", "saved_s"} & set(page.frame)
    assert "Over" not in page.verdict


def test_a_warm_cache_leaves_the_break_even_not_measured() -> None:
    page = compiled(EAGER, timed("fp32+compile", 4, 150, 3.2), images=1000)
    (text,) = texts(page)
    assert text["cold s"] == text["break-even images"] == text["compiled run"] == "not measured"
    assert text["warm s"] == "3.2"
    assert "not known: no cold compile was measured" in page.verdict
    assert page.verdict.endswith("Which is faster over 1,000 images is not known.")


def test_what_is_slower_loses_over_any_run_even_with_a_warm_cache() -> None:
    page = compiled(EAGER, timed("fp32+compile", 4, 90), images=1000)
    assert page.verdict.endswith("compiling wins no pair: eager is done sooner.")


def test_a_pair_whose_twin_is_missing_is_shown_and_says_so() -> None:
    page = compiled(timed("fp32", 8, 100), COMPILED)
    (text,) = texts(page)
    assert text["variant"] == "fp32+compile"
    assert (text["eager images/s"], text["compiled images/s"]) == ("not measured", "150.0")
    assert {text[title] for title in ("speedup", "break-even images", "eager MSE")} == {"-"}
    assert text["status"] == "ok; eager missing"
    assert "fp32+compile b4: not measured with eager, otherwise the same." in page.notes
    assert page.verdict == "No pair ended well on both sides: nothing can be said of compiling."
    assert page.bold == [False]


def test_a_pair_of_which_a_side_failed_is_shown_and_says_why() -> None:
    oom = failed(Status.OOM, "needs 9 GiB")
    rows = [
        of_today("fp32", 4, oom),
        COMPILED,
        timed("bf16", 4, 10),
        of_today("bf16+compile", 4, oom),
    ]
    page = compiled(*rows)
    first, second = texts(page)
    assert (first["variant"], first["status"]) == ("fp32", "ok; eager oom")
    assert (second["eager images/s"], second["compiled images/s"]) == ("10.0", "not measured")
    assert (second["cold s"], second["MSE"], second["status"]) == ("-", "-", "oom")
    assert "fp32 b4, bf16+compile b4: oom: needs 9 GiB" in page.notes
    assert "nothing can be said" in page.verdict


@pytest.mark.parametrize("flagged", ["fp32+compile", "bf16+compile"])
def test_a_flagged_pair_is_shown_and_never_judged(flagged: str) -> None:
    rows = [
        timed(name, 4, rate, 1, 10, found={"in_window": int(name == flagged)})
        for name, rate in [
            ("fp32", 100),
            ("fp32+compile", 150),
            ("bf16", 100),
            ("bf16+compile", 160),
        ]
    ]
    page = compiled(*rows)
    status = {
        line["variant"]: text["status"] for line, text in zip(lines(page), texts(page), strict=True)
    }
    assert status.pop(flagged) == "ok, flagged"
    assert set(status.values()) == {"ok"}
    assert "Compiling made the one pair faster" in page.verdict
    assert f"the best, {'bf16' if flagged == 'fp32+compile' else 'fp32'} at" in page.verdict
    assert f"{flagged} b4: flagged, and never called fastest: compiled inside the measured " in (
        " ".join(page.notes)
    )


def test_a_pair_that_crashed_in_a_round_is_not_judged() -> None:
    crash = of_today("fp32+compile", 4, failed(Status.CRASH), round=1)
    page = compiled(EAGER, COMPILED, crash)
    assert texts(page)[0]["speedup"] == "1.50x"
    assert texts(page)[0]["status"] == "crash 1/2"
    assert "nothing can be said" in page.verdict


def test_rounds_are_one_pair_of_medians() -> None:
    rows = [
        timed(name, 4, rate * factor, 1, cold_s, round=number)
        for number, (factor, cold_s) in enumerate([(0.5, 42), (1, None), (2, 42)])
        for name, rate in [("fp32", 100), ("fp32+compile", 150)]
    ]
    (line,) = lines(compiled(*rows))
    assert line["break_even_images"] == pytest.approx(12_600)
    assert texts(compiled(*rows))[0]["status"] == "ok 3/3"
    assert not any("One round" in note for note in compiled(*rows).notes)
    assert any("One round" in note for note in compiled(*rows[:2]).notes)


def test_twins_have_the_same_batch_seed_settings_and_other_axes() -> None:
    small = {**SETTINGS, "image_size": 32}
    rows = [
        timed("fp32", 4, 100),
        timed("fp32", 8, 200),
        timed("fp32", 4, 300, seed=1),
        timed("fp32", 4, 400, settings=small),
        timed("bf16", 4, 500),
        *(timed("fp32+compile", 4, 150, **more) for more in ({}, {"seed": 1}, {"settings": small})),
        timed("fp32+compile", 8, 150),
        timed("bf16+compile", 4, 150),
    ]
    page = compiled(*rows)
    twins = {
        (line["variant"], line["batch_size"], line["seed"], line["image_size"]): round(
            line["twin_images_per_s"]
        )
        for line in lines(page)
    }
    assert twins == {
        ("fp32+compile", 4, 0, 32): 400,
        ("fp32+compile", 4, 0, 64): 100,
        ("fp32+compile", 8, 0, 64): 200,
        ("fp32+compile", 4, 1, 64): 300,
        ("bf16+compile", 4, 0, 64): 500,
    }
    assert [text["image_size"] for text in texts(page)] == ["32", "64", "64", "64", "64"]
    assert [text["seed"] for text in texts(page)] == ["0", "0", "0", "0", "1"]
    assert page.verdict.startswith("At image_size 32: compiling made the one pair slower")
    assert "At image_size 64: compiling made 3 of 4 pairs slower" in page.verdict


# amp.


def test_amp_sets_reduced_precision_beside_the_plain_one() -> None:
    plain = of_today("fp32", 4, measured(100, memory={"peak_bytes": 4 * 2**30}))
    rows = [plain, timed("tf32", 4, 90, final_mse=101.0), timed("bf16", 4, 180, final_mse=110.0)]
    page = view("amp", *rows)
    assert [text["precision"] for text in texts(page)] == ["tf32", "bf16"]
    assert texts(page)[1] == {
        "variant": "fp32",
        "batch": "4",
        "precision": "bf16",
        "fp32 images/s": "100.0",
        "reduced images/s": "180.0",
        "speedup": "1.80x",
        "fp32 GiB": "4.00",
        "GiB": "2.00",
        "GiB ratio": "0.50x",
        "fp32 MSE": "100.0",
        "MSE": "110.0",
        "MSE ratio": "1.10x",
        "status": "ok",
    }
    assert page.verdict == (
        "Reduced precision made 1 of 2 pairs slower on Some CPU; the best, bf16 b4, was 1.80x, in "
        "0.50x the memory, to a final MSE of 110.0 (fp32: 100.0)."
    )
    assert page.bold == [False, True]


def test_amp_without_its_twin_says_so() -> None:
    page = view("amp", timed("bf16", 4, 10))
    assert texts(page)[0]["status"] == "ok; fp32 missing"
    assert page.verdict == "No pair ended well on both sides: nothing can be said of precision."


def test_amp_of_a_published_folder_needs_no_new_keys() -> None:
    page = view("amp", good("bf16", 4, 15.0), good("fp32", 4, 10.0))
    (line,) = lines(page)
    assert line["speedup"] == pytest.approx(1.5)
    assert absent(line["train_size"])


# ladder.


def test_rungs_are_in_the_order_asked_for_and_say_what_changed() -> None:
    names = [
        "fp32",
        "fp32+channels_last",
        "tf32+channels_last",
        "bf16+channels_last+compile",
        "bf16",
        "fp32+compile",
    ]
    page = view("ladder", *(timed(name, 4, 100 + 10 * k) for k, name in enumerate(names)))
    assert [text["variant"] for text in texts(page)] == names
    assert [text["change"] for text in texts(page)] == [
        "fp32",
        "+channels_last",
        "+tf32",
        "tf32 -> bf16, +compile",
        "-channels_last, -compile",
        "-bf16, +compile",
    ]


def test_a_rung_is_compared_with_the_first_and_with_the_one_before() -> None:
    rows = [
        timed(name, batch, rate * batch)
        for batch in (4, 8)
        for name, rate in [("fp32", 10), ("bf16", 15), ("bf16+channels_last", 30)]
    ]
    page = view("ladder", *rows)
    assert [text["vs first"] for text in texts(page)] == ["1.00x", "1.50x", "3.00x"] * 2
    assert [text["vs before"] for text in texts(page)] == ["-", "1.50x", "2.00x"] * 2
    assert page.verdict == (
        "Fastest here: bf16+channels_last at batch 8 with 240.0 images/s, 3.00x fp32, the first "
        "rung; the step that brought the most was +channels_last over bf16 at batch 4: 2.00x."
    )
    assert page.bold == [False] * 5 + [True]


def test_a_rung_that_failed_stays_and_is_stepped_over() -> None:
    rows = [
        timed("fp32", 4, 10),
        of_today("tf32", 4, failed(Status.UNSUPPORTED, "no such cores")),
        timed("bf16", 4, 15),
    ]
    page = view("ladder", *rows)
    second, third = texts(page)[1:]
    assert (second["images/s"], second["status"]) == ("not measured", "unsupported")
    assert second["vs before"] == "-"
    assert (third["change"], third["vs before"]) == ("+bf16", "1.50x")
    assert lines(page)[2]["before_variant"] == "fp32"
    assert "tf32 b4: unsupported: no such cores" in page.notes
    assert any(note.startswith("bf16 b4: compared with fp32, the last") for note in page.notes)


def test_a_flagged_rung_is_no_ground_to_stand_on() -> None:
    rows = [
        timed("fp32", 4, 10),
        timed("fp32+compile", 4, 99, found={"in_window": 1}),
        timed("bf16", 4, 15),
    ]
    page = view("ladder", *rows)
    assert lines(page)[2]["before_variant"] == "fp32"
    assert page.bold == [False, False, True]
    assert "+bf16 over fp32" in page.verdict


def test_without_the_first_rung_nothing_is_compared_with_it() -> None:
    rows = [of_today("fp32", 4, failed(Status.OOM)), timed("bf16", 4, 15), timed("tf32", 4, 12)]
    page = view("ladder", *rows)
    assert [text["vs first"] for text in texts(page)] == ["-", "not measured", "not measured"]
    assert [text["change"] for text in texts(page)] == ["fp32", "bf16", "bf16 -> tf32"]
    assert page.verdict == "Fastest here: bf16 at batch 4 with 15.0 images/s."


def test_compile_seconds_are_rungs_figures_only_where_one_compiled() -> None:
    eager = view("ladder", timed("fp32", 4, 10), timed("bf16", 4, 15))
    assert "cold compile s" not in texts(eager)[0]
    found = texts(view("ladder", EAGER, COMPILED))
    assert [text["cold compile s"] for text in found] == ["-", "42.0"]


def test_a_ladder_of_failures_says_that_nothing_is_fastest() -> None:
    rows = [of_today(name, 4, failed(Status.OOM)) for name in ("fp32", "bf16")]
    assert view("ladder", *rows).verdict.startswith("No rung is called fastest here")


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
    frame = compiled(EAGER, SLOWER).frame
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
    assert texts(page)[0]["break-even epochs"] == "not measured"
    assert page.verdict.split(". Over")[0].endswith("pays after 12,600 images")
    with pytest.raises(ValueError, match="--epochs 5: the rows do not tell how many images"):
        views.page(frame, "compiled-vs-eager", epochs=5)
