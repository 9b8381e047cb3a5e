"""How pictures look, and what they are written as."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from io import BytesIO, StringIO
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

INK = "#24292f"
"""Of text, axes and the lines that refer to them: a page may put its own colour in the place."""

_STYLE: Any = {  # matplotlib's own type names all its 300 settings
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # which matplotlib brings along
    "font.size": 9,
    "text.color": INK,
    "axes.facecolor": "none",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#8c959f",
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "svg.fonttype": "none",
}

_WIDTH, _HEIGHT = 7.2, 3.6
"""Inches of a picture with one panel."""

_DOTS_PER_INCH = 150


@contextmanager
def drawn(
    panels: int, height: float = _HEIGHT, more: float = 0.0
) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure in the house's style, with panels beside each other.

    Args:
        panels: How many.
        height: In inches.
        more: Inches of height for a legend below.
    """
    with mpl.rc_context(_STYLE):
        size = (_WIDTH * (1 + 0.6 * (panels - 1)), height + more)
        figure = Figure(figsize=size, layout="constrained")
        yield figure, list(figure.subplots(1, panels, squeeze=False)[0])
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # or it would be laid out a little otherwise each time


def to_svg(figure: Figure, ground: str = "white") -> str:
    """A figure as an SVG file; `ground` is the colour behind it, or "none"."""
    text = StringIO()
    with mpl.rc_context(_STYLE):
        about = {"Date": None, "Description": digest(figure)}
        figure.savefig(text, format="svg", facecolor=ground, metadata=about)
    return _numbered(text.getvalue())


def _numbered(svg: str) -> str:
    """The same with numbers for the ids that matplotlib draws by lot: equal pictures are equal."""
    names = dict.fromkeys(re.findall(r'\bid="([a-z][0-9a-f]{10})"', svg))
    numbers = {name: f"{name[0]}{number}" for number, name in enumerate(names)}
    return re.sub("|".join(names), lambda match: numbers[match[0]], svg) if names else svg


def to_png(figure: Figure) -> bytes:
    """A figure as a PNG file, on white."""
    content = BytesIO()
    with mpl.rc_context(_STYLE):
        about = {"Description": digest(figure)}
        figure.savefig(content, format="png", facecolor="white", dpi=_DOTS_PER_INCH, metadata=about)
    return content.getvalue()


def to_inline_svg(figure: Figure, name: str, title: str) -> str:
    """A figure as an element of a page, which gives it the colour of its text.

    Args:
        figure: The figure.
        name: Sets its ids apart from those of the page's other figures.
        title: For those who cannot see it.
    """
    text = to_svg(figure, "none").replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    size = re.compile(r'<svg (.*?)width="[^"]*pt" height="[^"]*pt"', re.DOTALL)
    return size.sub(rf'<svg role="img" aria-label="{escape(title, quote=True)}" \1', text, count=1)


def digest(figure: Figure) -> str:
    """Tells two pictures apart that show other data, whatever has drawn them.

    Returns:
        SHA-256 of the points of all lines and bars, to six digits, and of all that is written.
    """
    told: list[object] = []
    for axes in figure.axes:
        told.append([axes.get_xlabel(), axes.get_ylabel(), axes.get_title(loc="left")])
        told += [_rounded(line.get_xydata()) for line in axes.lines]
        told += [_rounded(_corners(patch)) for patch in axes.patches]
        told.append([text.get_text() for text in axes.texts])
    told += [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return f"sha256:{hashlib.sha256(json.dumps(told).encode()).hexdigest()}"


def _corners(patch: Patch) -> object:
    return patch.get_path().transformed(patch.get_patch_transform()).vertices


def _rounded(points: object) -> list[str]:
    return [f"{value:.6g}" for value in np.asarray(points, dtype=float).ravel()]
