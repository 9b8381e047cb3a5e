"""The pictures of a report, and how they are written."""

import io
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from PIL import Image
from skimage.color import rgb2lab

from bench.journal import FILE_NAME, Row
from bench.report.configurations import MOST_VARIANTS
from bench.report.drawing import INK, digest, drawn, to_inline_svg, to_png, to_svg
from bench.report.frame import cell_frame
from bench.report.plots import COLORS, Plot, plots
from bench.report.timeline import thinned, timeline
from bench.trial import Status
from tests.commands import main
from tests.report_rows import (
    GIB,
    NEAR,
    SETTINGS,
    SLOWED,
    bad,
    in_rounds,
    measured,
    of_today,
    row,
    sample,
    timed,
    trial,
)

ROWS = [
    *in_rounds("fp32", 4, 60, final_mse=80.0),
    *in_rounds("fp32", 16, 100, final_mse=95.0),
    *in_rounds("bf16", 4, 90, final_mse=81.0),
    *in_rounds("bf16", 16, 150, final_mse=99.0),
    *in_rounds("bf16+channels_last", 16, 120, final_mse=97.0),
    bad("bf16+channels_last", 4, Status.OOM),
]


def drawn_of(rows: Sequence[Row], chosen: Row | None = None) -> dict[str, Plot]:
    return {plot.name: plot for plot in plots(rows, cell_frame(rows), chosen)}


@pytest.fixture(scope="module")
def pictures() -> dict[str, Plot]:
    return drawn_of(ROWS, ROWS[0])


def lines_of(plot: Plot) -> list[list[tuple[float, float]]]:
    """The points of every line of the first panel."""
    points = [np.asarray(line.get_xydata()) for line in plot.figure.axes[0].lines]
    return [[(float(x), float(y)) for x, y in line] for line in points]


def rectangles(axes: Axes) -> list[Rectangle]:
    return [patch for patch in axes.patches if isinstance(patch, Rectangle)]


def legend_of(plot: Plot) -> list[str]:
    return [text.get_text() for text in plot.figure.legends[0].get_texts()]


def test_a_sweep_has_all_pictures(pictures: dict[str, Plot]) -> None:
    assert list(pictures) == ["throughput", "memory", "quality", "ladder", "steps", "timeline"]


def test_throughput_has_a_line_for_each_variant(pictures: dict[str, Plot]) -> None:
    plot = pictures["throughput"]
    assert legend_of(plot) == ["fp32", "bf16", "bf16+channels_last"]
    points = [[(x, round(y, 1)) for x, y in line] for line in lines_of(plot)]
    assert points == [[(4, 60), (16, 100)], [(4, 90), (16, 150)], [(16, 120)]]
    (axes,) = plot.figure.axes
    assert axes.get_xlabel() == "batch size (images)"
    assert axes.get_ylabel() == "images/s"
    intervals = [bars for bars in axes.collections if isinstance(bars, LineCollection)]
    assert sum(len(bars.get_segments()) for bars in intervals) == 5


def test_memory_has_the_budget_and_what_was_predicted() -> None:
    monitor = [{**seen, "rss_anon_bytes": 3 * GIB} for seen in measured().monitor]
    memory = {"peak_bytes": 3 * GIB, "predicted_bytes": int(2.5 * GIB)}
    rows = [
        of_today("fp32", size, measured(9.0, size, memory=memory, monitor=monitor))
        for size in (4, 8)
    ]
    measured_line, predicted_line, budget = lines_of(drawn_of(rows)["memory"])
    assert measured_line == [(4, 3.0), (8, 3.0)]
    assert predicted_line == [(4, 2.5), (8, 2.5)]
    assert {y for _, y in budget} == {8}
    (axes,) = drawn_of(rows)["memory"].figure.axes
    assert axes.get_ylabel() == "peak memory (GiB)"
    assert [text.get_text() for text in axes.texts] == ["budget 8 GiB"]
    assert axes.get_ylim()[1] > 8


def test_quality_shows_the_pareto_front(pictures: dict[str, Plot]) -> None:
    *_, front = lines_of(pictures["quality"])
    corners = [(round(x), y) for x, y in front]
    assert corners == [(150, 99.0), (120, 97.0), (100, 95.0), (90, 81.0), (60, 80.0)]


def test_the_ladder_s_bars_begin_where_the_one_before_ended(pictures: dict[str, Plot]) -> None:
    axes = pictures["ladder"].figure.axes[0]
    bars = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in rectangles(axes)]
    assert [(round(start), round(end)) for start, end in bars] == [(0, 100), (100, 150), (150, 120)]
    colors = [bar.get_facecolor()[:3] for bar in axes.patches]
    assert colors == [to_rgb(COLORS[place]) for place in (0, 2, 1)]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "fp32",
        "+bf16",
        "+channels_last",
    ]
    assert [text.get_text() for text in axes.texts] == ["100.0", "150.0 (1.50x)", "120.0 (0.80x)"]
    assert axes.get_title(loc="left") == "batch 16"


def test_pictures_compare_the_rounds_that_are_shared() -> None:
    # Plain was measured five rounds longer, on a machine that had become slower.
    rows = [
        *in_rounds("fp32", 16, 100, SLOWED, final_mse=80.0),
        *in_rounds("bf16", 16, 90, NEAR[3:8], final_mse=81.0),
    ]
    pictures = drawn_of(rows)
    *_, front = lines_of(pictures["quality"])
    assert [mse for _, mse in front] == [80.0]
    _, bar = rectangles(pictures["ladder"].figure.axes[0])
    assert bar.get_width() < 0  # from right to left


def test_what_is_not_shown_is_grey() -> None:
    rows = [timed("fp32", 16, 100), timed("bf16", 16, 150)]
    axes = drawn_of(rows)["ladder"].figure.axes[0]
    assert axes.patches[1].get_facecolor()[:3] == to_rgb(COLORS[7])
    assert axes.texts[1].get_text() == "150.0 (~1.50x)"


def test_one_batch_size_has_the_variants_beside_each_other() -> None:
    rows = [timed("fp32", 16, 100), timed("bf16", 16, 150)]
    plot = drawn_of(rows)["throughput"]
    assert [[(x, round(y)) for x, y in line] for line in lines_of(plot)] == [[(0, 100)], [(1, 150)]]
    assert plot.figure.axes[0].get_xlabel() == "variants, at batch 16"


def test_settings_have_panels_of_their_own() -> None:
    wide = SETTINGS | {"width": 32}
    rows = [timed("fp32", 16, 100), timed("fp32", 16, 50, settings=wide)]
    axes = drawn_of(rows)["throughput"].figure.axes
    assert [one.get_title(loc="left") for one in axes] == ["width 16", "width 32"]


def test_of_many_variants_the_fastest_and_the_plain_one_are_drawn() -> None:
    names = ["fp32", *(f"bf16+v{number}" for number in range(12))]
    rows = [
        row(trial(name, 16, axes={"precision": name}), measured(10.0 + place, 16))
        for place, name in enumerate(names)
    ]
    plot = drawn_of(rows)["throughput"]
    shown = legend_of(plot)
    assert len(shown) == MOST_VARIANTS
    assert shown == ["fp32", *names[-MOST_VARIANTS + 1 :]]
    assert "Of 13 variants, the 8 fastest." in plot.caption


def test_what_failed_throughout_has_nothing_to_draw() -> None:
    assert drawn_of([bad("fp32", 4, Status.OOM)]) == {}


def test_colours_are_told_apart_by_colour_blind_people_too() -> None:
    # Machado, Oliveira & Fernandes (2009), severity 1: what deuteranopes and protanopes see.
    blind = {
        "deuteranopia": [
            (0.367322, 0.860646, -0.227968),
            (0.280085, 0.672501, 0.047413),
            (-0.011820, 0.042940, 0.968881),
        ],
        "protanopia": [
            (0.152286, 1.052583, -0.204868),
            (0.114503, 0.786281, 0.099216),
            (-0.003882, -0.048116, 1.051998),
        ],
    }

    def linear(value: float) -> float:
        return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4

    def seen(color: str, matrix: Sequence[Sequence[float]]) -> Any:
        rgb = [linear(value) for value in to_rgb(color)]
        mixed = [sum(m * c for m, c in zip(line, rgb, strict=True)) for line in matrix]
        clipped = [min(max(value, 0.0), 1.0) for value in mixed]
        companded = [
            12.92 * v if v <= 0.0031308 else 1.055 * v ** (1 / 2.4) - 0.055 for v in clipped
        ]
        return rgb2lab([[companded]])[0, 0]

    for matrix in blind.values():
        for place, color in enumerate(COLORS):
            for other in COLORS[:place]:
                assert math.dist(seen(color, matrix), seen(other, matrix)) > 9
    # Good and bad differ in lightness besides: a black-and-white print tells them apart.


# How they are written.


def test_svg_and_png_carry_what_they_show(pictures: dict[str, Plot]) -> None:
    for plot in pictures.values():
        svg, png = to_svg(plot.figure), to_png(plot.figure)
        ET.fromstring(svg)
        assert digest(plot.figure) in svg
        with Image.open(io.BytesIO(png)) as image:
            assert image.info["Description"] == digest(plot.figure)
            assert image.width >= 900
        for axes in plot.figure.axes:
            for words in (axes.get_xlabel(), axes.get_ylabel()):
                assert words in re.sub("&[a-z]+;", "", svg) or "(" in words


def test_equal_rows_make_equal_files(pictures: dict[str, Plot]) -> None:
    again = drawn_of(ROWS, ROWS[0])
    for name, plot in pictures.items():
        assert to_svg(plot.figure) == to_svg(again[name].figure)


def test_other_rows_make_other_digests(pictures: dict[str, Plot]) -> None:
    changed = timed("bf16+channels_last", 16, 119, final_mse=97.1, round=9)
    other = drawn_of([*ROWS[:-2], changed, ROWS[-1]], ROWS[0])
    same = {
        name for name, plot in pictures.items() if digest(other[name].figure) == digest(plot.figure)
    }
    assert same == {"memory", "timeline"}


def test_a_page_s_svg_takes_its_colour_and_has_ids_of_its_own(pictures: dict[str, Plot]) -> None:
    svg = to_inline_svg(pictures["quality"].figure, "quality", 'a "title" & more')
    root = ET.fromstring(svg)
    assert root.get("aria-label") == 'a "title" & more'
    assert root.get("width") is None
    assert "currentColor" in svg
    assert INK not in svg
    assert "<metadata" not in svg
    ids = re.findall(r'\bid="([^"]*)"', svg)
    assert ids
    assert all(one.startswith("quality-") for one in ids)
    used = re.findall(r'(?:href="#|url\(#)([^")]*)', svg)
    assert set(used) <= set(ids)


def test_variants_stand_in_a_picture_as_they_are() -> None:
    with drawn(1) as (figure, (axes,)):
        axes.set_title("<script>alert('&')</script>")
    root = ET.fromstring(to_svg(figure))
    words = [text for text in root.itertext() if "alert" in text]
    assert words == ["<script>alert('&')</script>"]


# Timelines.


def test_a_timeline_tells_utilization_and_memory_over_time() -> None:
    found = timeline(timed("fp32", 4, 100))
    assert found is not None
    assert found["at_s"] == [0.0, 5.0, 10.0, 12.0, 14.0, 30.0]
    # 5 s of CPU time in 5 s on four CPUs, 5 in 5, 6 in 2, 6 in 2, 77 in 16.
    assert found["utilization_percent"] == [None, 25.0, 25.0, 75.0, 75.0, 120.3]
    assert found["memory_gib"] == [7.0, 1.0, 1.5, 1.5, 1.5, 7.0]
    assert found["phases"] == {"measuring": 10.5, "training": 14.0}


def test_on_a_gpu_both_are_the_device_s() -> None:
    samples = [
        sample("measuring", 100.0 + n, 0.0, 1.0, gpu_percent=90.0 + n, gpu_used_bytes=n * GIB)
        for n in range(4)
    ]
    asked = row(trial(device="cuda:0"), measured(monitor=samples))
    found = timeline(asked)
    assert found is not None
    assert found["utilization_percent"] == [None, 91.0, 92.0, 93.0]
    assert found["memory_gib"] == [0.0, 1.0, 2.0, 3.0]
    for one in samples:
        one["gpu_busy_percent"] = 50.0  # since the sample before, which is more to the point
    found = timeline(asked)
    assert found is not None
    assert found["utilization_percent"] == [None, 50.0, 50.0, 50.0]


def test_what_was_hardly_sampled_has_none() -> None:
    assert timeline(bad("fp32", 4, Status.CRASH)) is None


def test_thinning_keeps_the_ends() -> None:
    samples: list[dict[str, float | str | None]] = [{"at_s": float(n)} for n in range(1000)]
    kept = [sample["at_s"] for sample in thinned(samples, 80)]
    assert len(kept) == 80
    assert kept[0] == 0.0
    assert kept[-1] == 999.0
    assert sorted(set(kept)) == kept  # type: ignore[type-var]
    assert thinned(samples[:80], 80) == samples[:80]


# The command.


def test_the_command_writes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / FILE_NAME).write_text("".join(row.to_line() for row in ROWS))
    code, out, error = main(["report", str(tmp_path), "--plots"], capsys)
    assert (code, error) == (0, "")
    names = {path.name for path in (tmp_path / "plots").iterdir()}
    kinds = ["throughput", "memory", "quality", "ladder", "steps", "timeline"]
    assert names == {f"{kind}.{suffix}" for kind in kinds for suffix in ("svg", "png")}
    assert len(out.splitlines()) == 12
    other = tmp_path / "else" / "where"
    main(["report", str(tmp_path), "--plots", "--out", str(other)], capsys)
    assert {path.name for path in (other / "plots").iterdir()} == names
