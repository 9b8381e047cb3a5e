"""The pictures of a report: what the tables say, drawn.

Colours are those of Okabe and Ito (Color Universal Design, 2008), which colour-blind people tell
apart too; markers and dashes say the same once more.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from bench.journal import Row
from bench.report import Record, ladder
from bench.report.cells import by_settings, records
from bench.report.configurations import (
    Configuration,
    Group,
    groups_of,
    pareto,
    rates_compared,
    variants_shown,
)
from bench.report.drawing import INK, drawn
from bench.report.timeline import timeline
from bench.trial import Status, rate_text

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7a7a7a")
_MARKERS = "osD^vPX*"
_DASHES: tuple[Any, ...] = (
    *("-", "--", "-.", ":"),
    *((0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 2))),
)
_BLUE, _BAD, _GOOD, _UNKNOWN = COLORS[0], COLORS[1], COLORS[2], COLORS[7]

MOST_PANELS = 3
MOST_RUNGS = 16

Look = dict[str, Any]


@dataclass(frozen=True)
class Plot:
    """A picture.

    Attributes:
        name: Of its files.
        caption: What it shows, in a sentence or two.
        figure: Itself.
    """

    name: str
    caption: str
    figure: Figure


def plots(rows: Sequence[Row], frame: pd.DataFrame, chosen: Row | None) -> list[Plot]:
    """All pictures of a journal that have anything to show.

    Args:
        rows: Of the journal.
        frame: Of `cell_frame`.
        chosen: The trial whose timeline is drawn; `None` for none.
    """
    cells = records(frame)
    groups = groups_of(rows, cells)
    shown = variants_shown(groups)
    panels, looks = groups[:MOST_PANELS], _looks(shown)
    variants = {one.variant for _, group in groups for one in group}
    more = ""
    if len(variants) > len(shown):
        more += f" Of {len(variants)} variants, the {len(shown)} fastest."
    if len(groups) > MOST_PANELS:
        more += f" Of {len(groups)} settings, the first {MOST_PANELS}."
    sizes = any(len({one.batch_size for one in group}) > 1 for _, group in panels)
    by = " by batch size" if sizes else ""
    predicted = any(one.most("predicted_memory_gib") for _, group in panels for one in group)
    pictures = [
        (
            "throughput",
            f"Images/s{by}, with 95 % intervals.{more}",
            throughput(panels, looks),
        ),
        (
            "memory",
            f"Peak memory{by}: measured{' (filled), predicted (hollow)' if predicted else ''}, and "
            f"the budget.{more}",
            memory(panels, looks),
        ),
        (
            "quality",
            "Final MSE (squared Lab units) against images/s; the line is the Pareto front"
            f"{', numbers are batch sizes' if sizes else ''}.{more}",
            quality(panels, looks),
        ),
        (
            "ladder",
            "What each switch bought: green, faster than the one before; vermilion, slower; ~, not "
            f"shown to be a difference. At most {MOST_RUNGS} rungs.",
            waterfall(cells),
        ),
        (
            "steps",
            "Step times of the measured windows, all rounds: quartiles, whiskers to 1.5 times "
            "their range, and every step beyond them.",
            steps(panels, shown),
        ),
        (
            "timeline",
            "Utilization and memory of one trial, as sampled from outside while it ran.",
            over_time(chosen) if chosen else None,
        ),
    ]
    return [Plot(name, words, figure) for name, words, figure in pictures if figure is not None]


def _looks(variants: Sequence[str]) -> dict[str, Look]:
    looks = zip(COLORS, _MARKERS, _DASHES, strict=True)
    return {
        variant: {"color": color, "marker": marker, "linestyle": dashes}
        for variant, (color, marker, dashes) in zip(variants, looks, strict=False)
    }


@contextmanager
def _panels(
    groups: Sequence[Group], looks: dict[str, Look]
) -> Iterator[tuple[Figure, list[tuple[Axes, dict[str, list[Configuration]]]]]]:
    """A figure with a panel for each group, and one legend: variant -> its configurations."""
    with drawn(len(groups), more=0.16 * math.ceil(len(looks) / 2)) as (figure, panels):
        filled = []
        for axes, (words, group) in zip(panels, groups, strict=True):
            axes.set_title(words)
            own = {variant: [one for one in group if one.variant == variant] for variant in looks}
            filled.append((axes, {variant: ones for variant, ones in own.items() if ones}))
        yield figure, filled
        handles = [Line2D([], [], label=variant, **look) for variant, look in looks.items()]
        figure.legend(handles=handles, loc="outside lower left", ncols=2)


def throughput(groups: Sequence[Group], looks: dict[str, Look]) -> Figure | None:
    """Images/s by batch size, a line for each variant, with intervals."""
    if not groups:
        return None
    with _panels(groups, looks) as (figure, panels):
        for axes, variants in panels:
            place = _by_batch(axes, variants)
            for variant, ones in variants.items():
                _line(axes, [(place(one), one.images_per_s) for one in ones], looks[variant])
                known = [one for one in ones if not math.isnan(one.rate.low)]
                axes.vlines(
                    [place(one) for one in known],
                    [one.rate.low for one in known],
                    [one.rate.high for one in known],
                    color=looks[variant]["color"],
                    linewidth=1,
                )
            axes.set_ylabel("images/s")
            axes.set_ylim(bottom=0)
    return figure


def memory(groups: Sequence[Group], looks: dict[str, Look]) -> Figure | None:
    """Peak memory by batch size against the budget."""
    known = [
        (words, [one for one in group if one.most("peak_memory_gib") is not None])
        for words, group in groups
    ]
    known = [(words, group) for words, group in known if group]
    if not known:
        return None
    with _panels(known, looks) as (figure, panels):
        for axes, variants in panels:
            place = _by_batch(axes, variants)
            for variant, ones in variants.items():
                look = looks[variant]
                _line(axes, [(place(one), one.most("peak_memory_gib")) for one in ones], look)
                predicted = [(place(one), one.most("predicted_memory_gib")) for one in ones]
                hollow = {"linestyle": "none", "markerfacecolor": "none", "markersize": 9}
                _line(axes, predicted, look | hollow)
            _budget(axes, float(next(iter(variants.values()))[0].cells[0]["budget_gib"]))
            axes.set_ylabel("peak memory (GiB)")
    return figure


def _budget(axes: Axes, gib: float) -> None:
    """A line at the budget; where it is so far away that nothing else could be told, at the top."""
    _, high = axes.get_ylim()
    far = gib > 3 * high
    top = 1.15 * high if far else 1.1 * max(gib, high)
    line = 0.995 * top if far else gib
    axes.set_ylim(0, top)
    axes.axhline(line, color=INK, linewidth=1, linestyle=(0, (6, 3)))
    text = f"budget {gib:g} GiB{', beyond this scale' if far else ''}"
    place = {"ha": "right", "va": "top" if far else "bottom"}
    _note(axes, text, (1, line), xycoords=("axes fraction", "data"), xytext=(0, -2), **place)


def _line(axes: Axes, points: Sequence[tuple[float, float | None]], look: Look) -> None:
    known = [(x, y) for x, y in points if y is not None]
    axes.plot([x for x, _ in known], [y for _, y in known], **look)


def _note(axes: Axes, text: str, place: tuple[float, float], **how: Any) -> None:
    """A text beside a place, so many points away from it."""
    told: dict[str, Any] = {
        "textcoords": "offset points",
        "xytext": (0, 0),
        "va": "bottom",
        "fontsize": 8,
    }
    axes.annotate(text, place, **(told | how))


def _by_batch(
    axes: Axes, variants: dict[str, list[Configuration]]
) -> Callable[[Configuration], float]:
    """An axis of batch sizes; where there is but one, the variants stand beside each other.

    Returns:
        Where a configuration stands.
    """
    sizes = sorted({one.batch_size for ones in variants.values() for one in ones})
    axes.xaxis.set_minor_locator(NullLocator())
    if len(sizes) == 1:
        axes.set_xticks([])
        axes.set_xlim(-1, len(variants))
        axes.set_xlabel(f"variants, at batch {sizes[0]}")
        order = list(variants)
        return lambda one: order.index(one.variant)
    if len(sizes) > 2 and sizes[-1] >= 4 * sizes[0]:
        axes.set_xscale("log", base=2)
    axes.set_xticks(sizes[:: -(-len(sizes) // 10)])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:.0f}"))
    axes.margins(x=0.08)
    axes.set_xlabel("batch size (images)")
    return lambda one: one.batch_size


def quality(groups: Sequence[Group], looks: dict[str, Look]) -> Figure | None:
    """Final MSE by images/s, with the Pareto front."""
    sound = [(words, [one for one in group if one.is_sound]) for words, group in groups]
    sound = [(words, group) for words, group in sound if group]
    if not sound:
        return None
    with _panels(sound, looks) as (figure, panels):
        for (axes, variants), (_, group) in zip(panels, sound, strict=True):
            rates = rates_compared(group)
            points = [(rate, one.final_mse, one.batch_size) for one, rate in rates.items()]
            for variant, ones in variants.items():
                own = [(rates[one], one.final_mse) for one in ones if one in rates]
                _line(axes, own, looks[variant] | {"linestyle": "none"})
            lines = [{"images_per_s": x, "final_mse": y} for x, y, _ in points]
            front = [(line["images_per_s"], line["final_mse"]) for line in pareto(lines)]
            axes.step(*zip(*front, strict=True), where="post", color=INK, linewidth=1, zorder=0)
            sizes = {(x, y): size for x, y, size in points}
            for place in front[:: -(-len(front) // 8)] if len(set(sizes.values())) > 1 else ():
                _note(axes, f"{sizes[place]}", place, xytext=(5, 5))
            axes.set_xlabel("images/s (more is better)")
            axes.set_ylabel("final MSE (less is better)")
            axes.margins(0.1)
            low, high = axes.get_ylim()
            middle = (low + high) / 2  # at least 4 %, so that noise does not look like a mountain
            axes.set_ylim(min(low, 0.98 * middle), max(high, 1.02 * middle))
    return figure


def waterfall(cells: list[Record]) -> Figure | None:
    """What each switch bought, at the batch size where most rungs were measured."""
    if len({cell["variant"] for cell in cells}) == 1:
        return None
    lines = records(ladder.ladder(cells).frame)
    groups = [(words, rungs[:MOST_RUNGS]) for words, rungs in _rungs(lines) if len(rungs) > 1]
    groups = groups[:MOST_PANELS]
    if not groups:
        return None
    most = max(len(rungs) for _, rungs in groups)
    with drawn(len(groups), height=1.1 + 0.33 * most) as (figure, panels):
        for axes, (words, rungs) in zip(panels, groups, strict=True):
            rate_of: dict[str, float] = {}
            for place, rung in enumerate(rungs):
                rate, before = rung["images_per_s"], rate_of.get(rung["before_variant"])
                if before is not None and pd.notna(rung["speedup_vs_before"]):
                    rate = before * rung["speedup_vs_before"]  # in the rounds that both have
                rate_of[rung["variant"]] = rate
                verdict = rung["speedup_vs_before_verdict"]
                colors = {"faster": _GOOD, "slower": _BAD}
                color = _BLUE if before is None else colors.get(verdict, _UNKNOWN)
                start = before or 0.0
                axes.barh(place, rate - start, left=start, color=color, height=0.62)
                text = rate_text(rate)
                if before is not None:
                    mark = "" if verdict in colors else "~"
                    text += f" ({mark}{rung['speedup_vs_before']:.2f}x)"
                _note(axes, text, (max(rate, start), place), xytext=(5, 0), va="center")
                if place:  # from where the last one ended
                    axes.plot([start] * 2, [place - 1, place], color=INK, linewidth=0.6)
            axes.set_yticks(range(len(rungs)), [rung["change"] for rung in rungs])
            axes.invert_yaxis()
            axes.grid(visible=False, axis="y")
            axes.set_xlabel("images/s")
            axes.set_xlim(0, (1.2 + 0.2 * len(groups)) * max(rate_of.values()))
            axes.set_title(words)
    return figure


def _rungs(lines: list[Record]) -> list[tuple[str, list[Record]]]:
    """For each settings the measured rungs of one batch size and seed."""
    found = []
    for words, group in by_settings(lines):
        rungs: dict[tuple[int, int], list[Record]] = {}
        seeds = {line["seed"] for line in group}
        for line in group:
            if pd.notna(line["images_per_s"]):
                rungs.setdefault((line["batch_size"], -line["seed"]), []).append(line)
        if rungs:
            size, seed = max(rungs, key=lambda place: (len(rungs[place]), place))
            which = f"seed {-seed}" if len(seeds) > 1 else ""
            at = ", ".join(filter(None, (words, f"batch {size}", which)))
            found.append((at, rungs[size, seed]))
    return found


def steps(groups: Sequence[Group], variants: Sequence[str]) -> Figure | None:
    """Step times of each variant, at the batch size where most of them were measured."""
    panels = []
    for words, group in groups:
        own = [one for one in group if one.variant in variants]
        sizes = [one.batch_size for one in own]
        if sizes:
            size = max(sizes, key=lambda size: (sizes.count(size), size))
            title = ", ".join(filter(None, (words, f"batch {size}")))
            panels.append((title, [one for one in own if one.batch_size == size]))
    if not panels:
        return None
    most = max(len(ones) for _, ones in panels)
    with drawn(len(panels), height=1.1 + 0.33 * most) as (figure, filled):
        for axes, (title, ones) in zip(filled, panels, strict=True):
            line = {"color": INK, "linewidth": 1}
            axes.boxplot(
                [_steps_ms(one.rows) for one in ones],
                orientation="horizontal",
                tick_labels=[one.variant for one in ones],
                patch_artist=True,
                widths=0.6,
                boxprops={"facecolor": COLORS[5], "edgecolor": INK, "linewidth": 1},
                medianprops={"color": INK, "linewidth": 2},
                whiskerprops=line,
                capprops=line,
                flierprops={"marker": ".", "markersize": 3, "markeredgecolor": _BAD},
            )
            axes.invert_yaxis()
            axes.grid(visible=False, axis="y")
            _, longest = axes.get_xlim()
            if longest > 6 * np.median([np.median(_steps_ms(one.rows)) for one in ones]):
                axes.set_xscale("log")
                axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            else:
                axes.set_xlim(left=0)
            axes.set_xlabel("step time (ms)")
            axes.set_title(title)
    return figure


def _steps_ms(rows: Sequence[Row]) -> list[float]:
    return [
        1000 * sum(phases_s)
        for row in rows
        if row.result.status is Status.OK
        for phases_s in row.result.step_phase_s[slice(*row.result.window)]
    ]


def over_time(row: Row) -> Figure | None:
    """Utilization and memory of a trial; see `bench.report.timeline`."""
    found = timeline(row)
    if found is None:
        return None
    with drawn(1, height=2.8) as (figure, (axes,)):
        axes.plot(found["at_s"], _gaps(found["utilization_percent"]), color=COLORS[0])
        axes.set_ylabel("utilization (%)", color=COLORS[0])
        axes.set_ylim(0, 105)
        axes.set_xlabel("seconds since the trial began")
        axes.set_title(row.trial.label)
        right = axes.twinx()
        right.spines["right"].set_visible(True)
        right.plot(found["at_s"], _gaps(found["memory_gib"]), color=COLORS[1], linestyle="--")
        right.set_ylabel("memory (GiB, dashed)", color=COLORS[1])
        right.set_ylim(bottom=0)
        right.grid(visible=False)
        for name, at_s in found["phases"].items():
            axes.axvline(at_s, color=INK, linewidth=0.6, alpha=0.5)
            _note(
                axes,
                name.replace("_", " "),
                (at_s, 1),
                xycoords=("data", "axes fraction"),
                xytext=(2, -2),
                rotation=90,
                va="top",
                fontsize=6,
            )
    return figure


def _gaps(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]
