"""Charts of a history: a small panel per capability, its accuracy over the cycles with the bounds of each change."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from raymds.report.drawing import BAD, INK, LINES, MUTED, WIDTH, styled, svg
from raymds.report.words import label, short

_COLUMNS = 2
_HEIGHT, _TOP, _FOOT = 0.95, 0.3, 0.42  # inches: of a panel, of its heading, of the axis below the last row
_LEAST = 0.1  # of accuracy that a panel shows: smaller changes are not blown up


@dataclass(frozen=True)
class Point:
    """A capability after one cycle; accuracies are fractions."""

    cycle: int
    released: bool
    """Whether the model that the cycle measured is in service after it; else the old one is."""
    accuracy: float
    """Of the model that is in service after the cycle."""
    low: float
    high: float
    """The joint bounds of the change, laid around the accuracy of the model that the cycle measured."""
    measured: float
    """Accuracy of the model that the cycle measured."""
    target: bool
    lost: bool


@styled()
def capabilities(group: str, series: dict[str, Sequence[Point]], cycles: Sequence[int], name: str) -> str:
    """The capabilities of one attribute over `cycles`, as an SVG element with ids of its own by `name`."""
    lines = -(-len(series) // _COLUMNS)
    total = lines * (_HEIGHT + _TOP) + _FOOT
    figure = Figure(figsize=(WIDTH, total))
    for i, (task, points) in enumerate(series.items()):
        row, column = divmod(i, _COLUMNS)
        bottom = total - (row + 1) * (_HEIGHT + _TOP)
        axes = figure.add_axes((0.09 + 0.5 * column, bottom / total, 0.39, _HEIGHT / total))
        axes.set_title(short(label(task), 18), loc="left", fontsize=11, color=INK, pad=4)
        _course(axes, points)
        axes.set_xlim(cycles[0] - 0.6, cycles[-1] + 0.6)
        axes.locator_params(axis="y", nbins=4)
        axes.set_xticks([*{cycles[0], cycles[-1]}])
        if i < len(series) - _COLUMNS:
            axes.tick_params(labelbottom=False)
        else:
            axes.set_xlabel("cycle")
    return svg(figure, name, f"Accuracy of every capability of {group or 'no attribute'} over the cycles, in percent")


def _course(axes: Axes, points: Sequence[Point]) -> None:
    """One capability: what each cycle measured with its bounds, and a line through what was in service."""
    for point in points:
        colour = BAD if point.lost else LINES[0] if point.target else MUTED
        axes.plot([point.cycle] * 2, [100 * point.low, 100 * point.high], color=colour, linewidth=1.6, alpha=0.55)
        marker = "X" if point.lost else "D" if point.target else "o"
        fill = colour if point.released else "none"
        axes.plot(
            point.cycle, 100 * point.measured, marker, color=colour, markerfacecolor=fill, markersize=5.5,
            markeredgewidth=1.4,
        )  # fmt: skip
    axes.plot([p.cycle for p in points], [100 * p.accuracy for p in points], color=INK, linewidth=1.2)
    low, high = min(min(p.low, p.accuracy) for p in points), max(max(p.high, p.accuracy) for p in points)
    spare = max(_LEAST - (high - low), 0) / 2 + 0.01
    axes.set_ylim(100 * (low - spare), 100 * (high + spare))
