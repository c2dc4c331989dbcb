"""The charts of a study: pure functions from numbers to inline SVG, as `report.charts`; all numbers are fractions."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from raymds.report.drawing import GOOD, INK, LINES, MUTED, STROKES, WIDTH, styled, svg
from raymds.report.words import short

_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_ROW = 0.24  # inches of a row of names below a chart, two methods in each
_LONGEST = 20  # characters of a method's name there


@styled()
def trade(found: Mapping[str, Sequence[tuple[float, float]]], *, name: str, title: str) -> str:
    """(DevSafety, Δtarget) of every seed of every method, a dot each; shaded: the target gains, nothing is lost."""
    figure, axes = _axes(len(found), "target change, points")
    left, right = _range([100 * x for points in found.values() for x, _ in points])
    bottom, top = _range([100 * y for points in found.values() for _, y in points])
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    axes.add_patch(Rectangle((0, 0), right, top, facecolor=GOOD, edgecolor="none", alpha=0.15))
    axes.axvline(0, color=INK, linewidth=1)
    axes.axhline(0, color=INK, linewidth=1)
    for i, (method, points) in enumerate(found.items()):
        colour, marker = _look(i)
        at = [100 * x for x, _ in points], [100 * y for _, y in points]
        (dots,) = axes.plot(*at, marker, color=colour, label=short(method, _LONGEST), markersize=6.5, alpha=0.85)
        dots.set_gid(f"seeds{i}")
    axes.set_xlabel("DevSafety (worst protected task), points")
    _legend(axes)
    return svg(figure, name, title)


@styled()
def retention(found: Mapping[str, Sequence[tuple[int, float]]], *, name: str, title: str) -> str:
    """(n_k, retention ratio) of every method: METHOD (4) against the number of retained examples."""
    figure, axes = _axes(len(found), "retention ratio, %")
    for i, (method, points) in enumerate(found.items()):
        colour, marker = _look(i)
        at = [n for n, _ in points], [100 * ratio for _, ratio in points]
        looks = {"color": colour, "linestyle": STROKES[i % len(STROKES)], "markersize": 6.5, "clip_on": False}
        axes.plot(*at, marker=marker, label=short(method, _LONGEST), **looks)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(sorted({float(n) for points in found.values() for n, _ in points})))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(0, 100)
    axes.set_xlabel("retained examples per task")
    _legend(axes)
    return svg(figure, name, title)


def _axes(methods: int, heading: str) -> tuple[Figure, Axes]:
    """Axes under the words that name their y axis, above the names of the methods."""
    foot = 0.55 + _ROW * ((methods + 1) // 2)
    height = 3.0 + foot
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_axes((0.125, foot / height, 0.845, 1 - (foot + 0.28) / height))
    axes.set_title(heading, loc="left", fontsize=11, color=MUTED, pad=5, x=-0.125 / 0.845)
    return figure, axes


def _legend(axes: Axes) -> None:
    axes.figure.legend(
        loc="lower left", bbox_to_anchor=(0.0, 0.0), ncols=2, frameon=False, labelcolor=INK, handletextpad=0.3,
        columnspacing=1.0, borderaxespad=0.0, borderpad=0.2, labelspacing=0.3,
    )  # fmt: skip


def _look(i: int) -> tuple[str, str]:
    """Colour and shape of the i-th method; no two of 35 have both alike."""
    return LINES[i % len(LINES)], _MARKERS[i % len(_MARKERS)]


def _range(values: Sequence[float]) -> tuple[float, float]:
    """The ends of an axis: 0 and all values lie inside, with some room at both ends."""
    low, high = min([0.0, *values]), max([0.0, *values])
    room = 0.12 * (high - low or 1.0)
    return low - room, high + room
