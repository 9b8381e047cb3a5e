from bench.trial import Status
from tests.report_rows import COMPILED, EAGER, failed, of_today, page_lines, page_texts, timed, view


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
    assert [text["variant"] for text in page_texts(page)] == names
    assert [text["change"] for text in page_texts(page)] == [
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
    assert [text["vs first"] for text in page_texts(page)] == ["1.00x", "~1.50x", "~3.00x"] * 2
    assert [text["vs before"] for text in page_texts(page)] == ["-", "~1.50x", "~2.00x"] * 2
    assert page.verdict == (
        "Fastest here: bf16+channels_last at batch 8 with 240.0 images/s, ~3.00x fp32, the first "
        "rung; of the steps to a rung faster than all before, the largest was +channels_last over "
        "bf16 at batch 4: ~2.00x."
    )
    assert page.bold == [False] * 5 + [True]


def test_a_rung_that_failed_stays_and_is_stepped_over() -> None:
    rows = [
        timed("fp32", 4, 10),
        of_today("tf32", 4, failed(Status.UNSUPPORTED, "no such cores")),
        timed("bf16", 4, 15),
    ]
    page = view("ladder", *rows)
    second, third = page_texts(page)[1:]
    assert (second["images/s"], second["status"]) == ("not measured", "unsupported")
    assert second["vs before"] == "-"
    assert (third["change"], third["vs before"]) == ("+bf16", "~1.50x")
    assert page_lines(page)[2]["before_variant"] == "fp32"
    assert "tf32 b4: unsupported: no such cores" in page.notes
    assert any(note.startswith("bf16 b4: compared with fp32, the last") for note in page.notes)


def test_a_flagged_rung_is_no_ground_to_stand_on() -> None:
    rows = [
        timed("fp32", 4, 10),
        timed("fp32+compile", 4, 99, found={"in_window": 1}),
        timed("bf16", 4, 15),
    ]
    page = view("ladder", *rows)
    assert page_lines(page)[2]["before_variant"] == "fp32"
    assert page.bold == [False, False, True]
    assert "+bf16 over fp32" in page.verdict


def test_a_step_that_only_undoes_a_loss_has_not_brought_the_most() -> None:
    rows = [timed("fp32", 4, 100), timed("bf16", 4, 50), timed("bf16+channels_last", 4, 95)]
    assert "the largest was" not in view("ladder", *rows).verdict
    page = view("ladder", *rows, timed("fp32+compile", 4, 110))
    assert "the largest was" in page.verdict
    assert "over bf16+channels_last at batch 4: ~1.16x" in page.verdict


def test_nothing_is_compared_with_what_ran_out_of_memory_in_a_round() -> None:
    oom = [of_today(name, 4, failed(Status.OOM), round=1) for name in ("fp32", "tf32")]
    rows = [timed("fp32", 4, 10), timed("tf32", 4, 12), timed("bf16", 4, 15)]
    page = view("ladder", *rows, *oom)
    assert [text["vs first"] for text in page_texts(page)] == ["not comparable"] * 3
    assert page_texts(page)[0]["status"] == "ok 1/2, oom 1/2"
    page = view("ladder", *rows, oom[1])
    assert page_lines(page)[2]["before_variant"] == "fp32"


def test_nothing_is_compared_with_a_flagged_first_rung() -> None:
    first = timed("fp32+compile", 4, 99, found={"in_window": 1})
    page = view("ladder", first, timed("bf16", 4, 15), timed("tf32", 4, 12))
    assert [text["vs first"] for text in page_texts(page)] == ["not comparable"] * 3
    assert page.verdict == "Fastest here: bf16 at batch 4 with 15.0 images/s."


def test_without_the_first_rung_nothing_is_compared_with_it() -> None:
    rows = [of_today("fp32", 4, failed(Status.OOM)), timed("bf16", 4, 15), timed("tf32", 4, 12)]
    page = view("ladder", *rows)
    assert [text["vs first"] for text in page_texts(page)] == [
        "-",
        "not comparable",
        "not comparable",
    ]
    assert [text["change"] for text in page_texts(page)] == ["fp32", "bf16", "bf16 -> tf32"]
    assert page.verdict == "Fastest here: bf16 at batch 4 with 15.0 images/s."


def test_compile_seconds_are_rungs_figures_only_where_one_compiled() -> None:
    eager = view("ladder", timed("fp32", 4, 10), timed("bf16", 4, 15))
    assert "cold compile s" not in page_texts(eager)[0]
    found = page_texts(view("ladder", EAGER, COMPILED))
    assert [text["cold compile s"] for text in found] == ["-", "42.0"]


def test_a_ladder_of_failures_says_that_nothing_is_fastest() -> None:
    rows = [of_today(name, 4, failed(Status.OOM)) for name in ("fp32", "bf16")]
    assert view("ladder", *rows).verdict.startswith("No rung is called fastest here")
