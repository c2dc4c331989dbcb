"""What all charts share: one style, colours that follow the page, and a figure as inline SVG.

Every chart is narrow and tall, so that its 11 pt text is still about 11 px on a phone 360 px wide. Colours leave here
as CSS variables (`var(--ink)`), so that one SVG is legible on a light and on a dark page.
"""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from markupsafe import escape
from matplotlib import rc_context, rcdefaults, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH = 4.4  # inches; one inch is 72 user units of the SVG
INK, MUTED, GRID, GOOD, BAD = "#1b1f25", "#5a626e", "#d9dde3", "#0b6b4f", "#b3261e"
LINES = ("#1f5fa8", "#b4480b", "#0b6e50", "#7a3e9d", "#8a6101")
STROKES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (9, 2)))
_VARIABLES = {
    INK: "--ink", MUTED: "--muted", GRID: "--rule", GOOD: "--good", BAD: "--bad",
    **{colour: f"--line-{i}" for i, colour in enumerate(LINES)},
}  # fmt: skip
_STYLE: Any = {
    "svg.fonttype": "none", "text.parse_math": False, "font.size": 11, "text.color": INK,
    "axes.labelcolor": MUTED, "axes.labelsize": 11, "axes.edgecolor": GRID, "axes.axisbelow": True, "axes.grid": True,
    "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False,
    "grid.color": GRID, "grid.linewidth": 0.7, "lines.linewidth": 1.8,
    "xtick.labelsize": 11, "xtick.color": MUTED, "xtick.major.size": 0,
    "ytick.labelsize": 11, "ytick.color": MUTED, "ytick.major.size": 0,
}  # fmt: skip


@contextmanager
def styled() -> Iterator[None]:
    """Matplotlib's own defaults and ours, whatever the user's matplotlibrc says."""
    with rc_context():
        rcdefaults()
        rcParams.update(_STYLE)
        yield


def write(axes: Axes, words: str, at: tuple[float, float], shift: tuple[float, float], **looks: Any) -> None:
    """Words beside a point given in the axes' data (or in the `xycoords` given); `shift` is in points."""
    axes.annotate(words, at, shift, textcoords="offset points", **looks)


def svg(figure: Figure, name: str, title: str) -> str:
    """The figure as an SVG element to stand in a page: a title, ids of its own, colours as CSS variables."""
    buffer = io.StringIO()
    with warnings.catch_warnings(), rc_context({"svg.hashsalt": name}):
        warnings.filterwarnings("ignore", message="Glyph")  # the browser has the fonts for a name in any script
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    body = text[text.index(">", text.index("<svg")) + 1 :].replace("xlink:href", "href")
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", body)  # ids are of the page, not of the picture
    for colour, variable in _VARIABLES.items():
        body = re.sub(rf"((?:fill|stroke): ){colour}\b", rf"\g<1>var({variable})", body)
    width, height = (72 * size for size in figure.get_size_inches())
    return (
        f'<svg role="img" aria-labelledby="{name}-title" viewBox="0 0 {width:.1f} {height:.1f}">'
        f'<title id="{name}-title">{escape(title)}</title>{body}'
    )


def alone(element: str) -> str:
    """An element that `svg` made as a file of its own, in the colours of a light page."""
    for colour, variable in _VARIABLES.items():
        element = element.replace(f"var({variable})", colour)
    return element.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" style="background: #ffffff" ', 1) + "\n"
