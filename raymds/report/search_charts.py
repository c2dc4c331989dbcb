"""The charts of a search: every trial's best candidate, on the validation split, in points against the old model.

A trial that keeps everything is a dot and one that does not a cross; a ring marks the winner, or the nearest miss, and
a square the preset's own setting.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from raymds.report.drawing import BAD, GOOD, INK, LINES, MUTED, WIDTH, styled, svg, write
from raymds.report.words import Json, setting, short

PRESET = 0  # the trial that has the preset's own setting
MOST_TICKS = 5
CORNERS = ((1, 1), (-1, 1), (1, -1), (-1, -1))  # of a dot, where its name may stand: right or left, above or below


@dataclass(frozen=True)
class Dot:
    """A trial's best candidate. Target and margin are in points."""

    number: int
    target: float
    margin: float  # the worst task's change, plus what it may lose
    params: Json

    @property
    def feasible(self) -> bool:
        """Whether it keeps every protected task."""
        return self.margin >= 0


Place = Callable[[Dot], float | None]  # where a dot lies on the x axis; None: nowhere


@styled()
def trade(dots: Sequence[Dot], ringed: int | None, tolerated: bool = False) -> str:
    """Target change against the worst retention, with the region in which everything is kept and the target gains.

    `tolerated`: tasks may lose something, so what is kept begins below a retention of 0.
    """
    figure, axes = _axes(3.3)
    left, right = _range([dot.margin for dot in dots])
    bottom, top = _range([dot.target for dot in dots])
    right += 0.2 * (right - left)  # for the names of those that keep everything, which often lie in a narrow band
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    axes.add_patch(Rectangle((0, 0), right, top, facecolor=GOOD, edgecolor="none", alpha=0.15))
    axes.axvline(0, color=INK, linewidth=1)
    axes.axhline(0, color=INK, linewidth=1)
    _draw(axes, dots, lambda dot: dot.margin, ringed)
    _name(axes, dots, {PRESET: "preset"} | ({} if ringed is None else {ringed: f"trial {ringed}"}))
    axes.set_xlabel("worst retention + tolerance, points" if tolerated else "worst retention, points")
    return svg(figure, "trade", "Target change against worst retention of every trial's best candidate")


@styled()
def course(dots: Sequence[Dot], ringed: int | None, trials: int) -> str:
    """Target change by trial, and the best so far of those that keep everything; the old model, 0, keeps it too."""
    figure, axes = _axes(2.9)
    axes.set_ylim(*_range([dot.target for dot in dots]))
    axes.set_xlim(-0.05 * trials - 0.5, 1.05 * trials - 0.5)
    best, line = 0.0, [(-0.5, 0.0)]
    for dot in sorted(dots, key=lambda dot: dot.number):
        best = max(best, dot.target) if dot.feasible else best
        line.append((dot.number, best))
    line.append((trials - 0.5, best))
    axes.step([x for x, _ in line], [y for _, y in line], where="post", color=MUTED, linewidth=1.6)
    _draw(axes, dots, lambda dot: dot.number, ringed)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlabel("trial")
    return svg(figure, "course", "Target change of every trial's best candidate in the order of the trials")


@styled()
def parameter(
    dots: Sequence[Dot], key: str, dimension: Mapping[str, Sequence[Any]], ringed: int | None, at: int
) -> str:
    """Target change against the value of one parameter over all of its range; `at` is the panel's place on the page."""
    figure, axes = _axes(1.95, foot=0.42 if "choice" in dimension else 0.27)
    axes.set_ylim(*_range([dot.target for dot in dots]))
    place = _scale(axes, key, dimension)
    _draw(axes, dots, place, ringed)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    return svg(figure, f"parameter{at}", f"Target change against {key}")


@styled()
def shares(importance: Mapping[str, float]) -> str:
    """Each parameter's share as a bar under its name, the largest first."""
    height = 0.5 * len(importance) + 0.06
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_axes((0.01, 0, 0.98, 1))
    for i, (key, share) in enumerate(sorted(importance.items(), key=lambda item: (-item[1], item[0]))):
        axes.barh(-i, share, height=0.32, color=LINES[0])
        write(axes, short(key, 40), (0, -i), (0, 19), va="top")
        write(axes, f"{100 * share:.0f} %", (share, -i), (5, 0), va="center")
    axes.set_xlim(0, 1.18 * max(importance.values()) or 1)
    axes.set_ylim(-len(importance) + 0.72, 0.62)
    axes.axis("off")
    return svg(figure, "importance", "Importance of each parameter")


def clipped(dots: Sequence[Dot]) -> tuple[bool, bool]:
    """Whether some dot lies so far to the left, and so far down, that it is drawn at the edge."""
    across, down = [dot.margin for dot in dots], [dot.target for dot in dots]
    return min(across, default=0.0) < _range(across)[0], min(down, default=0.0) < _range(down)[0]


def ticks(low: float, high: float) -> list[float]:
    """At most `MOST_TICKS` round numbers of a logarithmic axis, or its ends where there is no round number between."""
    found: list[float] = []
    for digits in ((1,), (1, 3), (1, 2, 5)):
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        made = [float(f"{digit}e{power}") for power in powers for digit in digits]
        found = [tick for tick in made if low <= tick <= high]
        if len(found) > 2:
            break
    return found[:: math.ceil(len(found) / MOST_TICKS)] if len(found) > 1 else [low, high]


def _axes(height: float, foot: float = 0.5) -> tuple[Figure, Axes]:
    """Axes under the words that name their y axis: beside it, they would take the width that a phone lacks."""
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_axes((0.125, foot / height, 0.845, 1 - (foot + 0.28) / height))
    axes.set_title("target change, points", loc="left", fontsize=11, color=MUTED, pad=5, x=-0.125 / 0.845)
    return figure, axes


def _draw(axes: Axes, dots: Sequence[Dot], place: Place, ringed: int | None) -> None:
    """Dots, crosses, ring and square; what lies beyond the axes is drawn at their edge with an arrow."""
    left, _ = axes.get_xlim()
    bottom, _ = axes.get_ylim()
    for wanted, marker, colour in ((False, "X", BAD), (True, "o", LINES[0])):
        for dot in (dot for dot in dots if dot.feasible is wanted):
            x, y = place(dot), max(dot.target, bottom)
            if x is None:
                continue
            if x < left or dot.target < bottom:
                side = x < left
                looks: Any = {"color": colour, "ha": "left" if side else "center", "va": "center" if side else "bottom"}
                write(axes, "←" if side else "↓", (max(x, left), y), (7, 0) if side else (0, 6), **looks)
            looks = {"markeredgewidth": 0.6, "markeredgecolor": colour, "clip_on": False, "zorder": 3}
            axes.plot(max(x, left), y, marker, color=colour, markersize=6.5, **looks)
            looks = {"markerfacecolor": "none", "color": INK, "clip_on": False, "zorder": 4}
            if dot.number == PRESET:
                axes.plot(max(x, left), y, "s", markersize=11.5, markeredgewidth=1.3, **looks)
            if dot.number == ringed:
                axes.plot(max(x, left), y, "o", markersize=13.5, markeredgewidth=1.6, **looks)


def _name(axes: Axes, dots: Sequence[Dot], names: Mapping[int, str]) -> None:
    """Words beside the dots of these numbers, each at the corner where it covers the fewest dots and other words."""
    (left, _), (bottom, _) = axes.get_xlim(), axes.get_ylim()
    at = {dot.number: (max(dot.margin, left), max(dot.target, bottom)) for dot in dots}
    pixels = {number: tuple(map(float, axes.transData.transform(place))) for number, place in at.items()}
    frame, taken = axes.get_window_extent(), [*pixels.values()]
    for number, words in names.items():
        if number not in at:
            continue
        boxes = [_box(pixels[number], words, corner) for corner in CORNERS]
        covered = [
            sum(x0 <= x <= x1 and y0 <= y <= y1 for x, y in taken)
            + len(taken) * (x0 < frame.x0 or x1 > frame.x1 or y0 < frame.y0 or y1 > frame.y1)
            for x0, x1, y0, y1 in boxes
        ]
        best = covered.index(min(covered))
        (side, up), (x0, x1, y0, y1) = CORNERS[best], boxes[best]
        looks: Any = {"ha": "left" if side > 0 else "right", "va": "bottom" if up > 0 else "top", "weight": "bold"}
        write(axes, words, at[number], (7 * side, 6 * up), **looks)
        taken += [(x0 + part * (x1 - x0), (y0 + y1) / 2) for part in (0, 0.25, 0.5, 0.75, 1)]


def _box(point: tuple[float, ...], words: str, corner: tuple[int, int]) -> tuple[float, float, float, float]:
    """Left, right, lower and upper end of words at a corner of a point, in pixels at matplotlib's 100 per inch."""
    x, y = point
    across, up = x + (12 + 9.5 * len(words)) * corner[0], y + 27 * corner[1]
    return min(x + 4 * corner[0], across), max(x + 4 * corner[0], across), min(y, up), max(y, up)


def _floor(values: Sequence[float]) -> float:
    """Where an axis ends: one trial far out must not press all others together.

    Tukey's outer fence, three interquartile ranges (of at least 1 point) below the first quartile, and never above 0.
    """
    if len(values) < 4:
        return min(0.0, *values) if values else 0.0
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return min(first - 3 * max(third - first, 1.0), 0.0)


def _range(values: Sequence[float]) -> tuple[float, float]:
    """The ends of an axis: 0 and all values from `_floor` on lie inside, with some room at both ends."""
    low = min(0.0, max(min(values, default=0.0), _floor(values)))
    high = max(0.0, *values) if values else 0.0
    room = 0.12 * (high - low or 1.0)
    return low - room, high + room


def _scale(axes: Axes, key: str, dimension: Mapping[str, Sequence[Any]]) -> Place:
    """The x axis of a parameter's range; what is returned places a trial on it."""
    kind, values = next(iter(dimension.items()))
    if kind == "choice":
        return _choices(axes, key, values)
    low, high = float(values[0]), float(values[1])
    if kind == "loguniform":
        axes.set_xscale("log")
        room = (high / low) ** 0.05
        axes.set_xlim(low / room, high * room)
        axes.set_xticks(ticks(low, high))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.set_xlim(low - 0.05 * (high - low), high + 0.05 * (high - low))
        axes.xaxis.set_major_locator(MaxNLocator(MOST_TICKS, integer=kind == "int"))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: setting(float(value))))

    def place(dot: Dot) -> float | None:
        value = dot.params.get(key)
        return float(value) if isinstance(value, int | float) else None

    return place


def _choices(axes: Axes, key: str, options: Sequence[Any]) -> Place:
    """An axis of options side by side, long names on two lines."""
    width = max(3, 44 // len(options))
    names = [setting(option) for option in options]
    names = [name if len(name) <= width else name.replace("_", "_\n", 1) for name in names]
    names = ["\n".join(short(line, width) for line in name.split("\n")) for name in names]
    axes.set_xlim(-0.5, len(options) - 0.5)
    axes.set_xticks(range(len(options)), names)
    axes.grid(False, axis="x")
    known = [repr(option) for option in options]

    def place(dot: Dot) -> float | None:
        value = repr(dot.params.get(key))
        return float(known.index(value)) if value in known else None

    return place
