import math

import pytest

from bench.journal import Row
from bench.report.page import Page
from bench.trial import Status
from tests.report_rows import (
    COMPILED,
    EAGER,
    NEAR,
    SETTINGS,
    SLOWED,
    SLOWER,
    failed,
    of_today,
    page_lines,
    page_texts,
    timed,
    view,
)


def compiled(*rows: Row, **run: float) -> Page:
    return view("compiled-vs-eager", *rows, **run)


def test_compiling_pays_from_the_images_on_whose_savings_outweigh_the_cold_compile() -> None:
    # An image takes 1/100 s or 1/150 s: 1/300 s less. 42 s are saved with 12,600 images.
    page = compiled(EAGER, COMPILED)
    (line,) = page_lines(page)
    assert line["speedup"] == pytest.approx(1.5)
    assert (line["twin_images_per_s"], line["images_per_s"]) == pytest.approx((100, 150))
    assert (line["cold_compile_s"], line["warm_compile_s"]) == pytest.approx((42, 3.2))
    assert line["break_even_images"] == pytest.approx(12_600)
    assert line["break_even_epochs"] == pytest.approx(12.6)
    assert page_texts(page) == [
        {
            "variant": "fp32",
            "batch": "4",
            "mode": "compile",
            "eager images/s": "100.0",
            "compiled images/s": "150.0",
            "speedup": "~1.50x",
            "cold s": "42.0",
            "warm s": "3.2",
            "break-even images": "~12,600",
            "break-even epochs": "~12.6",
            "eager GiB": "2.00",
            "GiB": "2.00",
            "eager MSE": "80.0",
            "MSE": "84.0",
            "status": "ok",
        }
    ]
    assert page.verdict == (
        "Compiling is shown to make no pair faster or slower on Some CPU; the best, fp32 at batch "
        "4 with compile, was ~1.50x and pays after 12,600 images (12.6 epochs), if that gain is "
        "real."
    )
    assert page.bold == [True]


def test_what_compiling_made_slower_never_pays() -> None:
    page = compiled(EAGER, SLOWER)
    (line,), (text,) = page_lines(page), page_texts(page)
    assert line["break_even_images"] == line["break_even_epochs"] == math.inf
    assert (text["speedup"], text["break-even images"]) == ("~0.90x", "never")
    assert text["break-even epochs"] == "never"
    assert page.bold == [False]
    assert page.verdict.endswith(
        "; the best, fp32 at batch 4 with max-autotune, was ~0.90x and never pays."
    )


def test_pairs_that_are_all_faster_are_counted_as_such() -> None:
    rows = [*in_six("fp32", 100), *in_six("fp32+compile", 150)]
    rows += [*in_six("bf16", 200), *in_six("bf16+compile", 230)]
    page = compiled(*rows, images=10**6)
    assert page.verdict.endswith(
        "compiling wins all 2 pairs, at most by 55.4 min (fp32 at batch 4 with compile)."
    )
    assert page_texts(page)[0]["winner over 1,000,000 images"] == "compiled by 55.4 min"


def test_a_gain_that_is_not_shown_wins_no_run() -> None:
    page = compiled(EAGER, COMPILED, SLOWER, images=10**6)
    assert page.verdict.endswith(
        "compiling wins no pair; in 1 of 2 pairs it may, but no speed-up is shown."
    )
    assert page_texts(page)[0]["winner over 1,000,000 images"] == "~compiled by 54.9 min"


def in_six(variant: str, rate: float) -> list[Row]:
    """Six rounds of a compiled variant or an eager one."""
    return [
        timed(variant, 4, rate * factor, 1, 10 if "compile" in variant else None, round=number)
        for number, factor in enumerate(NEAR[:6])
    ]


def test_the_sentence_counts_what_is_shown() -> None:
    rows = [
        *in_six("fp32", 100),
        *in_six("fp32+compile", 90),
        *in_six("bf16", 200),
        *in_six("bf16+compile", 230),
        *in_six("tf32", 150),
        *in_six("tf32+compile", 150),
    ]
    page = compiled(*rows)
    assert page.verdict.startswith(
        "Compiling is shown to make 1 of 3 pairs faster and 1 of 3 pairs slower on Some CPU; the "
        "best, bf16 at batch 4 with compile, was 1.15x ["
    )
    speedups = {text["variant"]: text["speedup"] for text in page_texts(page)}
    assert speedups == {"fp32": "0.90x", "bf16": "1.15x", "tf32": "=1.00x"}


def test_the_sentence_names_the_best() -> None:
    others = [timed("bf16", 4, 200), timed("bf16+compile", 4, 220, 1, 10)]
    page = compiled(EAGER, COMPILED, SLOWER, *others)
    assert "; the best, fp32 at batch 4 with compile, was" in page.verdict
    assert [text["variant"] for text in page_texts(page)] == ["fp32", "fp32", "bf16"]
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
    (text,) = page_texts(compiled(EAGER, COMPILED, **run))
    title = next(title for title in text if title.startswith("winner over "))
    assert text[title] == f"~{winner}"  # of one round


def test_a_stated_run_has_total_times_and_a_sentence() -> None:
    page = compiled(EAGER, COMPILED, SLOWER, epochs=36.6)
    first, second = page_lines(page)
    assert first["run_images"] == pytest.approx(36_600)
    assert (first["twin_run_s"], first["run_s"]) == pytest.approx((366, 286))
    assert first["saved_s"] == pytest.approx(80)
    assert second["saved_s"] == pytest.approx(366 - 300 - 36_600 / 90)
    assert page_texts(page)[0]["eager run"] == "6.1 min"
    assert "Over 36.6 epochs, compiling wins no pair; in 1 of 2 pairs it may" in page.verdict
    lost = compiled(EAGER, COMPILED, SLOWER, images=1000).verdict
    assert lost.endswith("Over 1,000 images, compiling wins no pair: eager is done sooner.")


def test_without_a_stated_run_there_are_no_totals() -> None:
    page = compiled(EAGER, COMPILED)
    assert not {"run_images", "run_s", "saved_s"} & set(page.frame)
    assert "Over" not in page.verdict


def test_a_warm_cache_leaves_the_break_even_not_measured() -> None:
    page = compiled(EAGER, timed("fp32+compile", 4, 150, 3.2), images=1000)
    (text,) = page_texts(page)
    assert text["cold s"] == text["break-even images"] == text["compiled run"] == "not measured"
    assert text["warm s"] == "3.2"
    assert "not known: no cold compile was measured" in page.verdict
    assert page.verdict.endswith("Which is faster over 1,000 images is not known.")


def test_what_is_slower_loses_over_any_run_even_with_a_warm_cache() -> None:
    page = compiled(EAGER, timed("fp32+compile", 4, 90), images=1000)
    assert page.verdict.endswith("compiling wins no pair: eager is done sooner.")


def test_a_pair_whose_twin_is_missing_is_shown_and_says_so() -> None:
    page = compiled(timed("fp32", 8, 100), COMPILED)
    (text,) = page_texts(page)
    assert text["variant"] == "fp32+compile"
    assert (text["eager images/s"], text["compiled images/s"]) == ("not measured", "150.0")
    assert {text[title] for title in ("speedup", "break-even images", "eager MSE")} == {"-"}
    assert text["status"] == "ok; no eager"
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
    first, second = page_texts(page)
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
        line["variant"]: text["status"]
        for line, text in zip(page_lines(page), page_texts(page), strict=True)
    }
    assert status.pop(flagged) == "ok, flagged"
    assert set(status.values()) == {"ok"}
    assert f"the best, {'bf16' if flagged == 'fp32+compile' else 'fp32'} at" in page.verdict
    assert f"{flagged} b4: flagged, and nothing is concluded from it: compiled " in (
        " ".join(page.notes)
    )


def test_a_pair_that_crashed_in_a_round_is_not_judged() -> None:
    crash = of_today("fp32+compile", 4, failed(Status.CRASH), round=1)
    page = compiled(EAGER, COMPILED, crash)
    assert page_texts(page)[0]["speedup"] == "~1.50x"
    assert page_texts(page)[0]["status"] == "ok 1/2, crash 1/2"
    assert "nothing can be said" in page.verdict


def test_nothing_is_compared_with_a_twin_that_ran_out_of_memory_in_a_round() -> None:
    oom = of_today("fp32", 4, failed(Status.OOM), round=1)
    page = compiled(EAGER, oom, COMPILED, images=1000)
    (text,) = page_texts(page)
    assert (text["speedup"], text["status"]) == ("not comparable", "ok; eager ok 1/2, oom 1/2")
    assert text["break-even images"] == text["winner over 1,000 images"] == "-"
    assert "nothing can be said" in page.verdict


def test_rounds_are_one_pair_of_medians() -> None:
    rows = [
        timed(name, 4, rate * factor, 1, cold_s, round=number)
        for number, (factor, cold_s) in enumerate([(0.5, 42), (1, None), (2, 42)])
        for name, rate in [("fp32", 100), ("fp32+compile", 150)]
    ]
    (line,) = page_lines(compiled(*rows))
    assert line["break_even_images"] == pytest.approx(12_600)
    assert page_texts(compiled(*rows))[0]["status"] == "ok 3/3"
    assert any("3 rounds, 5 are needed" in note for note in compiled(*rows).notes)
    assert any("1 round, 5 are needed" in note for note in compiled(*rows[:2]).notes)


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
        for line in page_lines(page)
    }
    assert twins == {
        ("fp32+compile", 4, 0, 32): 400,
        ("fp32+compile", 4, 0, 64): 100,
        ("fp32+compile", 8, 0, 64): 200,
        ("fp32+compile", 4, 1, 64): 300,
        ("bf16+compile", 4, 0, 64): 500,
    }
    assert [text["image_size"] for text in page_texts(page)] == ["32", "64", "64", "64", "64"]
    assert [text["seed"] for text in page_texts(page)] == ["0", "0", "0", "0", "1"]
    assert page.verdict.startswith("At image_size 32: compiling is shown to make no pair")
    assert "At image_size 64: compiling is shown to make no pair" in page.verdict


def test_costs_are_those_of_the_rounds_that_are_shared() -> None:
    # Eager was measured five rounds longer, on a machine that had become slower.
    eager = [timed("fp32", 4, 100 * factor, round=k) for k, factor in enumerate(SLOWED)]
    slow = [
        timed("fp32+compile", 4, 90 * factor, 1, 10, round=k) for k, factor in enumerate(NEAR[:5])
    ]
    page = compiled(*eager, *slow, images=10**6)
    (line,) = page_lines(page)
    assert line["speedup_verdict"] == "slower"
    assert line["twin_images_per_s"] == pytest.approx(100, rel=0.01)
    assert line["images_per_s"] / line["twin_images_per_s"] == pytest.approx(line["speedup"])
    assert line["break_even_images"] == line["break_even_epochs"] == math.inf
    assert line["saved_s"] < 0
    assert page.bold == [False]
    assert "the best" not in page.verdict
    assert "the best" not in view("amp", *eager, *in_six("bf16", 80)[:5]).verdict
    fast = [timed("fp32+compile", 4, 110 * f, 1, 10, round=k) for k, f in enumerate(NEAR[:5])]
    (line,) = page_lines(compiled(*eager, *fast, images=10**6))
    saved_s = 1 / line["twin_images_per_s"] - 1 / line["images_per_s"]
    assert line["break_even_images"] == pytest.approx(10 / saved_s)
    assert 10_000 < line["break_even_images"] < 12_500  # 10 s / (1/100 - 1/110 s)


def test_a_pair_without_a_shared_round_has_no_costs() -> None:
    eager = timed("fp32", 4, 100)
    (line,) = page_lines(compiled(eager, timed("fp32+compile", 4, 150, 1, 10, round=1), images=99))
    names = ("speedup", "break_even_images", "break_even_epochs", "saved_s")
    assert all(line[name] is None or math.isnan(line[name]) for name in names)
