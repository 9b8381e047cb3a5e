from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.journal import FILE_NAME, Row
from bench.report.configurations import pareto
from bench.report.frame import cell_frame
from bench.report.recommend import Recommendation
from bench.report.recommend import recommend as recommended
from bench.report.tables import verdict
from bench.trial import Status
from tests.commands import main
from tests.comparing import busy
from tests.report_rows import (
    GIB,
    NEAR,
    SETTINGS,
    SLOWED,
    bad,
    failed,
    in_rounds,
    of_today,
    page_lines,
    page_texts,
    quality,
    view,
)

SHAPES = [NEAR[seed:] + NEAR[:seed] for seed in range(5)]


def seeded(
    variant: str, batch_size: int, rate: float, mse: float, seeds: int = 5, **more: Any
) -> list[Row]:
    """A cell of several seeds, in two rounds each, whose MSE scatters by a per mille."""
    return [
        row
        for seed in range(seeds)
        for row in in_rounds(
            variant,
            batch_size,
            rate,
            SHAPES[seed][:2],
            seed=seed,
            final_mse=mse * SHAPES[seed][0] ** 0.3,
            **more,
        )
    ]


def taking(rows: list[Row], gib: float) -> list[Row]:
    """The same with another memory peak."""
    monitor = [{**sample, "rss_anon_bytes": int(gib * GIB)} for sample in rows[0].result.monitor]
    memory: dict[str, int | str | None] = {"peak_bytes": int(gib * GIB)}
    return [
        replace(row, result=replace(row.result, monitor=monitor, memory=memory)) for row in rows
    ]


def recommend(
    rows: list[Row], budget_bytes: int | None = None, margin: float = 0.02
) -> Recommendation:
    return recommended(rows, cell_frame(rows), budget_bytes, margin)


def line_of(found: Recommendation, variant: str) -> dict[str, Any]:
    (line,) = [line for line in page_lines(found.page) if line["variant"] == variant]
    return line


def chosen(found: Recommendation) -> str:
    (choice,) = found.choices
    return choice.configuration.label


FP32 = seeded("fp32", 16, 100, 80)
BF16 = seeded("bf16", 16, 150, 80.4)
BF16_LAST = seeded("bf16+channels_last", 16, 200, 90)


def test_the_fastest_that_is_shown_to_cost_no_quality_is_chosen() -> None:
    found = recommend([*FP32, *BF16, *BF16_LAST])
    assert chosen(found) == "bf16 at batch 16"
    sentence = found.choices[0].sentence
    assert sentence.startswith("Use bf16 at batch 16: 1.50x [1.50, 1.50] the images/s of fp32 at ")
    assert "the seed's setup at the largest power of two measured, 2.00 of 8 GiB" in sentence
    assert "MSE not worse by more than 2 % (over 5 seeds, 0.5 % worse by the estimate)" in sentence
    assert "not shown" not in sentence.lower()
    assert found.page.verdict == sentence


def test_a_wider_margin_allows_what_costs_more() -> None:
    rows = [*FP32, *BF16, *BF16_LAST]
    assert chosen(recommend(rows, margin=0.2)) == "bf16+channels_last at batch 16"
    assert chosen(recommend(rows, margin=0.001)) == "fp32 at batch 16"


def test_where_no_seed_tells_of_quality_that_is_said() -> None:
    rows = [*in_rounds("fp32", 16, 100), *in_rounds("bf16", 16, 150, final_mse=101.0)]
    (choice,) = recommend(rows).choices
    assert choice.configuration.label == "bf16 at batch 16"
    assert (
        "not shown that MSE is not worse by more than 2 % (1.0 % worse by the estimate, 1 seed, 5 "
        "are needed)"
    ) in choice.sentence


def test_where_rounds_are_few_the_gain_is_not_shown() -> None:
    rows = [*in_rounds("fp32", 16, 100, NEAR[:1]), *in_rounds("bf16", 16, 150, NEAR[:1])]
    (choice,) = recommend(rows).choices
    assert "~1.50x the images/s of fp32" in choice.sentence
    assert "(not shown: 1 round, 5 are needed)" in choice.sentence
    assert choice.sentence.endswith("Not shown to be faster than fp32 at batch 16.")


def test_what_costs_quality_by_the_estimate_is_not_chosen() -> None:
    rows = [*in_rounds("fp32", 16, 100), *in_rounds("bf16", 16, 150, final_mse=110.0)]
    found = recommend(rows)
    assert chosen(found) == "fp32 at batch 16"
    assert found.page.verdict == (
        "Use fp32 at batch 16: 100.0 images/s in 2.00 of 8 GiB, final MSE 100.0. It is the seed's "
        "setup at the largest power of two measured; nothing else that fits is shown to be "
        "faster without costing quality."
    )


def test_a_budget_leaves_out_what_takes_more() -> None:
    rows = [
        *taking(FP32, 2.0),
        *taking(seeded("fp32", 32, 110, 80), 5.0),
        *taking(BF16, 3.5),
        *taking(seeded("bf16", 8, 120, 80), 1.0),
    ]
    assert chosen(recommend(rows)) == "bf16 at batch 16"
    assert "of fp32 at batch 32" in recommend(rows).page.verdict
    within = recommend(rows, 4 * GIB)
    assert chosen(within) == "bf16 at batch 16"
    assert "3.50 of 4 GiB" in within.page.verdict
    assert "of fp32 at batch 16, the seed's setup at the largest power of two that fits" in (
        within.page.verdict
    )
    assert chosen(recommend(rows, 3 * GIB)) == "bf16 at batch 8"
    assert "Nothing can be recommended here: nothing that fits 0.5 GiB" in (
        recommend(rows, GIB // 2).page.verdict
    )


def test_the_seed_s_batch_fits_where_the_next_one_ran_out_of_memory() -> None:
    rows = [*FP32, *(bad("fp32", 32, Status.OOM, seed=seed) for seed in range(5)), *BF16]
    assert "the largest power of two that fits" in recommend(rows).page.verdict


def test_what_failed_in_one_seed_or_is_flagged_is_no_way_to_train() -> None:
    crashed = [*BF16[:-1], replace(BF16[-1], result=bad("bf16", 16, Status.CRASH).result)]
    assert chosen(recommend([*FP32, *crashed])) == "fp32 at batch 16"


def test_without_the_plain_variant_the_gain_is_not_shown() -> None:
    found = recommend(BF16)
    assert chosen(found) == "bf16 at batch 16"
    assert "what it gains is not shown: fp32 at a power-of-two batch was not measured" in (
        found.page.verdict
    )


def test_what_learns_nothing_tells_nothing_of_quality() -> None:
    rows = [*seeded("fp32", 16, 100, 210), *seeded("bf16", 16, 150, 210)]
    assert "whether it costs quality not shown: MSE is no better than mean colour" in (
        recommend(rows).page.verdict
    )


def test_each_setting_has_its_own() -> None:
    wide = SETTINGS | {"width": 32}
    rows = [*FP32, *BF16, *seeded("fp32", 16, 50, 60, settings=wide)]
    found = recommend(rows)
    labels = [choice.configuration.label for choice in found.choices]
    assert labels == ["bf16 at batch 16", "fp32 at batch 16"]
    assert "At width 16: use bf16" in found.page.verdict
    assert "At width 32: use fp32" in found.page.verdict


def test_the_page_shows_the_pareto_front_and_what_is_spoken_of() -> None:
    rows = [
        *FP32,
        *BF16,
        *BF16_LAST,
        *seeded("fp32", 4, 60, 50),
        *seeded("bf16", 4, 40, 55),  # nobody wants this one
    ]
    page = recommend(rows).page
    roles = {(text["variant"], text["batch"]): text["role"] for text in page_texts(page)}
    assert roles == {
        ("bf16+channels_last", "16"): "front",
        ("bf16", "16"): "recommended, front",
        ("fp32", "16"): "seed's setup, front",
        ("fp32", "4"): "front",
    }
    assert page.bold == [False, True, False, False]
    assert [line["recommended"] for line in page_lines(page)] == page.bold
    assert page_texts(page)[1]["vs seed"] == "1.50x"
    assert page_texts(page)[1]["seeds"] == "5"


def test_the_front_is_what_nothing_beats_in_both() -> None:
    points = [(1, 5), (2, 5), (3, 6), (2, 7), (4, 9), (4, 8), (3, 6)]
    lines = [{"images_per_s": rate, "final_mse": mse} for rate, mse in points]
    front = pareto(lines)
    assert [(line["images_per_s"], line["final_mse"]) for line in front] == [(4, 8), (3, 6), (2, 5)]


# The command.


def write(folder: Path, rows: list[Row]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / FILE_NAME).write_text("".join(row.to_line() for row in rows))
    return folder


def test_the_command_says_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(write(tmp_path / "out", [*FP32, *BF16]))
    code, out, error = main(["recommend", folder, "--quality-margin", "3%"], capsys)
    assert (code, error) == (0, "")
    assert out.splitlines()[-1].startswith("Use bf16 at batch 16: 1.50x")
    assert "unet-bench trial bf16 --batch-size 16" in out
    code, out, _ = main(["recommend", folder, "--budget", "1GiB"], capsys)
    assert code == 1
    assert "Nothing can be recommended" in out
    code, out, _ = main(["recommend", folder, "--format", "csv"], capsys)
    assert out.startswith("data,image_size,width,variant,batch_size,seeds,images_per_s")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--budget", "9GiB"], "--budget 9 GiB: expected at most the 8 GiB that the rows were"),
        (["--budget", "much"], "memory size 'much': expected a number and a unit"),
        (["--quality-margin", "200%"], "--quality-margin '200%': expected a percentage"),
        (["--format", "xml"], "--format 'xml'"),
    ],
)
def test_mistakes_are_one_line(
    more: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(write(tmp_path / "out", FP32))
    code, out, error = main(["recommend", folder, *more], capsys)
    assert (code, out) == (2, "")
    assert words in error
    assert error.count("\n") == 1


def test_what_has_no_figures_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [of_today("fp32", 16, bad("fp32", 16, Status.CRASH).result)]
    code, out, _ = main(["recommend", str(write(tmp_path / "out", rows))], capsys)
    assert code == 1
    assert "Nothing can be recommended here: nothing that fits 8 GiB ended well" in out
    assert quality(1.0)["final_mse"] == 1.0


def scattering(variant: str, rate: float) -> list[Row]:
    """A cell of five rounds that scatter by some three percent."""
    return in_rounds(variant, 16, rate, (1.04, 0.96, 1.02, 0.98, 1.0))


def test_what_is_shown_is_not_called_not_shown_in_the_same_breath() -> None:
    slow = [
        row
        for variant in ("tf32", "bf16+compile", "fp32+compile", "fp32+channels_last")
        for row in in_rounds(variant, 16, 50, NEAR[:5])
    ]
    rows = [*in_rounds("fp32", 16, 100, NEAR[:5]), *scattering("bf16", 116), *slow]
    (choice,) = recommend(rows).choices
    assert choice.sentence.startswith("Use bf16 at batch 16: 1.16x [1.11, 1.21] the images/s of")
    assert "Not shown to be faster" not in choice.sentence
    assert "not shown to be faster" not in verdict(cell_frame(rows))
    # Of what nobody had asked before, it takes more to be told.
    others = [*in_rounds("tf32", 16, 100, NEAR[:5]), *scattering("bf16", 116), *slow[5:]]
    assert "not shown to be faster than tf32 b16" in verdict(cell_frame(others))


def test_what_the_fastest_costs_is_told() -> None:
    rows = [*FP32, *BF16, *seeded("fp32", 4, 60, 50), *seeded("bf16", 4, 70, 40)]
    assert recommend(rows).page.verdict.endswith(
        " A lower MSE by the estimate, and fewer images/s: bf16 at batch 4, 40.0 at 70.0 images/s."
    )
    assert "A lower MSE" not in recommend([*FP32, *BF16]).page.verdict


def test_a_setup_that_learns_nothing_is_no_argument() -> None:
    sentence = recommend([*seeded("fp32", 16, 100, 250), *seeded("bf16", 16, 90, 250)]).page.verdict
    assert "But it is no better than mean colour: nothing is told of quality." in sentence


def test_what_does_not_fit_was_measured_all_the_same() -> None:
    rows = [*taking(FP32, 3.0), *taking(BF16, 1.0)]
    sentence = recommend(rows, 2 * GIB).page.verdict
    assert "what it gains is not shown: fp32 at a power-of-two batch does not fit 2 GiB" in sentence
    assert "whether it costs quality not shown: fp32 at a power-of-two batch does" in sentence


# Conclusions that would mislead.


def test_the_recommended_is_chosen_in_the_rounds_that_are_shared() -> None:
    # Plain was measured five rounds longer, on a machine that had become slower.
    rows = [*in_rounds("fp32", 16, 100, SLOWED), *in_rounds("bf16", 16, 90, NEAR[3:8])]
    found = recommend(rows)
    assert chosen(found) == "fp32 at batch 16"
    assert [line["variant"] for line in page_lines(found.page)] == ["fp32"]  # the front, too
    rows = [*rows, *in_rounds("tf32", 16, 110, NEAR[2:7])]
    found = recommend(rows)
    assert chosen(found) == "tf32 at batch 16"
    plain, other = line_of(found, "fp32"), line_of(found, "tf32")
    assert other["images_per_s"] / plain["images_per_s"] == pytest.approx(other["ratio"])
    assert not plain["on_front"]
    # Without plain: the one with the most rounds is what others are held against.
    rows = [*in_rounds("tf32", 16, 100, SLOWED), *in_rounds("bf16", 16, 90, NEAR[3:8])]
    assert chosen(recommend(rows)) == "tf32 at batch 16"


def test_what_is_shown_to_be_slower_than_another_is_not_recommended() -> None:
    # By its ratio to plain tf32 is ahead; in the rounds that it shares with bf16 it is not.
    rows = [
        *in_rounds("fp32", 16, 100, [1.0, 1.01] * 5),
        *in_rounds("bf16", 16, 120, [1.3, 1.31] * 2 + [1.3] + [0.9] * 5),
        *in_rounds("tf32", 16, 131, [1.0, 1.01] * 2 + [1.0]),
    ]
    found = recommend(rows)
    assert line_of(found, "tf32")["ratio"] > line_of(found, "bf16")["ratio"]
    assert chosen(found) == "bf16 at batch 16"


def test_what_shares_no_seed_is_not_recommended() -> None:
    other = [
        row
        for seed in range(10, 15)
        for row in in_rounds("bf16", 16, 150, NEAR[:2], seed=seed, final_mse=320.0)
    ]
    found = recommend([*FP32, *other])
    assert chosen(found) == "fp32 at batch 16"
    assert "Not compared with fp32 at batch 16, for no seed in common: bf16 at batch 16" in (
        found.page.verdict
    )
    assert "does not fit" not in found.page.verdict
    assert [line["variant"] for line in page_lines(found.page)] == ["fp32"]


@pytest.mark.parametrize(("others", "recommended"), [(320.0, "fp32"), (80.0, "bf16")])
def test_a_few_shared_seeds_do_not_hide_what_the_others_tell(
    others: float, recommended: str
) -> None:
    more = [
        row
        for seed in range(5, 10)
        for row in in_rounds("bf16", 16, 150, NEAR[:2], seed=seed, final_mse=others)
    ]
    found = recommend([*FP32, *BF16, *more])
    line = next(line for line in page_lines(found.page) if line["variant"] == "bf16")
    assert (line["mse_ratio_rounds"], line["seeds"]) == (5, 10)
    assert line["mse_ratio"] == pytest.approx(80.4 / 80)
    assert chosen(found) == f"{recommended} at batch 16"
    assert (line["costs_no_quality"] is True) is (recommended == "bf16")
    assert any("bf16 at batch 16 shares 5 of its 10 seeds" in note for note in found.page.notes)


def test_the_reason_for_no_setup_is_the_true_one() -> None:
    odd = recommend([*seeded("fp32", 24, 100, 80), *BF16])
    assert "fp32 at a power-of-two batch was not measured" in odd.page.verdict
    crashed = [row for seed in range(5) for row in [bad_today("fp32", 16, Status.CRASH, seed=seed)]]
    assert "at a power-of-two batch did not end well" in recommend([*crashed, *BF16]).page.verdict
    no_room = [row for seed in range(5) for row in [bad_today("fp32", 16, Status.OOM, seed=seed)]]
    assert "batch does not fit 8 GiB" in recommend([*no_room, *BF16]).page.verdict


def bad_today(variant: str, batch_size: int, status: Status, **more: Any) -> Row:
    return of_today(variant, batch_size, failed(status), **more)


def unreadable(rows: list[Row], rounds: tuple[int, ...] = (0, 1)) -> list[Row]:
    """The same, but in these rounds nobody could tell what memory they took."""
    monitor = [{**sample, "rss_anon_bytes": 0} for sample in rows[0].result.monitor]
    return [
        replace(row, result=replace(row.result, monitor=monitor, memory={}))
        if row.trial.round in rounds
        else row
        for row in rows
    ]


@pytest.mark.parametrize("rounds", [(0, 1), (1,)])
def test_what_is_not_readable_fits_no_smaller_budget(rounds: tuple[int, ...]) -> None:
    rows = [*FP32, *unreadable(BF16, rounds)]
    assert chosen(recommend(rows)) == "bf16 at batch 16"
    assert chosen(recommend(rows, 8 * GIB)) == "bf16 at batch 16"
    within = recommend(rows, 4 * GIB)
    assert chosen(within) == "fp32 at batch 16"
    assert any("memory is not readable" in note and "bf16" in note for note in within.page.notes)
    alone = recommend([*unreadable(FP32, rounds), *BF16], 4 * GIB)
    assert "may fit 4 GiB or not: its memory is not readable" in alone.page.verdict


def test_what_took_more_in_one_round_does_not_fit() -> None:
    often = seeded("fp32", 32, 110, 80)
    rows = [*FP32, *(taking([row], 4.5 if row.trial.round else 3.0)[0] for row in often)]
    found = recommend(rows, 4 * GIB)
    assert page_lines(found.page)[0]["seed_batch_size"] == 16
    assert max(line["taken_gib"] for line in page_lines(recommend(rows).page)) == 4.5


@pytest.mark.parametrize("flaw", ["round", "seed", "flag"])
def test_every_report_has_the_same_baseline(flaw: str) -> None:
    spoilt = seeded("fp32", 32, 110, 80, seeds=2)
    if flaw == "flag":
        spoilt = busy(spoilt)
    else:
        which = {"round": [1], "seed": [2, 3]}[flaw]
        for place in which:
            trial = spoilt[place].trial
            spoilt[place] = bad_today("fp32", 32, Status.OOM, seed=trial.seed, round=trial.round)
    rows = [*seeded("fp32", 16, 100, 80, seeds=2), *spoilt, *seeded("bf16", 16, 150, 80, seeds=2)]
    frame = cell_frame(rows)
    assert set(frame["seed_batch_size"]) == {16}
    found = recommend(rows)
    assert {line["seed_batch_size"] for line in page_lines(found.page)} == {16}
    if flaw != "flag":  # what is flagged has room all the same
        plain = [
            line for line in page_lines(view("largest-batch", *rows)) if line["variant"] == "fp32"
        ]
        assert {line["largest_batch"] for line in plain} == {16}


# What a verdict is held to.


def test_quality_no_better_than_without_training_is_not_shown_to_cost_nothing() -> None:
    rows = [
        *seeded("fp32", 16, 100, 198),
        *seeded("tf32", 16, 120, 198),
        *seeded("bf16", 16, 150, 200.5),  # mean colour has 200
    ]
    found = recommend(rows)
    assert line_of(found, "bf16")["mse_ratio"] < 1.02
    assert chosen(found) == "tf32 at batch 16"


def test_speed_is_held_to_its_own_margin() -> None:
    rows = [*FP32, *seeded("bf16", 16, 110, 80)]
    for margin in (0.02, 0.5):
        line = line_of(recommend(rows, margin=margin), "bf16")
        assert (line["ratio_verdict"], line["costs_no_quality"]) == ("faster", True)


def test_what_was_not_asked_for_takes_more_to_be_told() -> None:
    # Alone, their ratio would be shown; of 15 pairs, some are as far apart by chance.
    rows = [*in_rounds("fp32", 16, 50, NEAR[:5])]
    rows += in_rounds("tf32", 16, 100, NEAR[:5])
    rows += scattering("bf16", 116)
    for variant in ("bf16+compile", "fp32+compile", "fp32+channels_last"):
        rows += in_rounds(variant, 16, 40, NEAR[:5])
    alone = [row for row in rows if row.trial.variant in ("tf32", "bf16")]
    assert "Not shown to be faster than" not in recommend(alone).page.verdict
    (choice,) = recommend(rows).choices
    assert choice.configuration.label == "bf16 at batch 16"
    assert choice.sentence.endswith("Not shown to be faster than tf32 at batch 16.")
