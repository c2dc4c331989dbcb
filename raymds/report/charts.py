"""The charts of a cycle: pure functions from numbers to inline SVG, the same bytes for the same numbers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from raymds.report.drawing import BAD, GOOD, INK, LINES, MUTED, STROKES, WIDTH, styled, svg, write
from raymds.report.words import Json, attribute, label, short

MOST_ROWS = 30  # a chart of more tasks is a wall; the table has them all
MOST_LINES = 5
MOST_PANELS = 4
MOST_POINTS = 60  # of a history: its trend, not the noise of single steps


def worst(tasks: Sequence[Json]) -> list[Json]:
    """At most `MOST_ROWS` of the tasks, in their own order: those whose accuracy moved least upwards."""
    kept = sorted(range(len(tasks)), key=lambda i: (tasks[i]["delta"], i))[:MOST_ROWS]
    return [tasks[i] for i in sorted(kept)]


@styled()
def accuracies(target: Json, tasks: Sequence[Json]) -> str:
    """Old → new accuracy of every task, with the joint bounds of the change laid around the new one."""
    figure, axes, rows = _rows([target, *worst(tasks)], {target["task"]: "target"}, "accuracy, %")
    for y, task in rows:
        old, new = 100 * task["old"], 100 * task["new"]
        low, high = _interval(task)
        low, high = max(old + low, 0), min(old + high, 100)
        axes.plot([low, high], [y, y], color=MUTED, alpha=0.35, linewidth=7, solid_capstyle="butt")
        axes.plot([old, new], [y, y], color=MUTED, linewidth=1.2)
        axes.plot(old, y, "o", markersize=6.5, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=1.4)
        colour, marker, fill = _mark(task) if task is not target else (LINES[0], "D", LINES[0])
        axes.plot(new, y, marker, markersize=6.5, color=colour, markerfacecolor=fill, markeredgewidth=1.8)
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, -1), min(high, 101))
    return svg(figure, "accuracies", "Accuracy of the target and of each protected capability, old and new model")


@styled()
def changes(tasks: Sequence[Json], tolerance: float | None) -> str:
    """Change of accuracy of every protected task with its joint bounds, against zero and against its tolerance.

    `tolerance` is that of all tasks, None where each has its own.
    """
    figure, axes, rows = _rows(worst(tasks), {}, "change of accuracy, points")
    axes.axvline(0, color=INK, linewidth=1)
    if tolerance:
        axes.axvline(-100 * tolerance, color=BAD, linewidth=1.2, linestyle=(0, (4, 2)))
    for y, task in rows:
        colour, marker, fill = _mark(task)
        if tolerance is None and task["tolerance"]:
            axes.plot(
                [-100 * task["tolerance"]] * 2, [y - 0.4, y + 0.4], color=BAD, linewidth=1.2, linestyle=(0, (4, 2))
            )
        low, high = _interval(task)
        axes.plot([low, high], [y, y], color=colour, linewidth=1.6)
        for end in (low, high) if low < high else ():
            axes.plot(end, y, "|", color=colour, markersize=7, markeredgewidth=1.6)
        axes.plot(100 * task["delta"], y, marker, color=colour, markerfacecolor=fill, markersize=7, markeredgewidth=1.8)
    return svg(figure, "changes", "Change of accuracy of each protected capability with its joint bounds")


@styled()
def beside(rows: Sequence[Json], name: str) -> str:
    """Change of accuracy per task of this run (`mine`) and of the other (`other`); `name` is the other's."""
    chosen = worst([row | {"delta": min(row["mine"], row["other"])} for row in rows])
    headings = {row["task"]: "target" for row in rows if row["target"]}
    figure, axes, placed = _rows(chosen, headings, "change of accuracy, points")
    axes.axvline(0, color=INK, linewidth=1)
    for y, row in placed:
        mine, other = 100 * row["mine"], 100 * row["other"]
        axes.plot([mine, other], [y, y], color=MUTED, linewidth=1.2)
        axes.plot(other, y, "s", color=LINES[1], markerfacecolor="none", markersize=6.5, markeredgewidth=1.7)
        axes.plot(mine, y, "o", color=LINES[0], markersize=6.5)
    return svg(figure, "beside", f"Change of accuracy per capability, this run and the run with solver {name}")


@styled()
def progress(
    steps: Sequence[int],
    values: Sequence[float],
    feasible: Sequence[bool],
    levels: Mapping[str, float],
    mark: tuple[int, float, str] | None,
    *,
    name: str,
    title: str,
) -> str:
    """One validation figure over the steps, in percent, with levels to compare with; `mark` is (step, value, words)."""
    figure = Figure(figsize=(WIDTH, 2.9))
    axes = figure.add_axes((0.125, 0.17, 0.845, 0.76))
    axes.plot(steps, [100 * v for v in values], color=LINES[0])
    for wanted, marker, fill in ((True, "o", LINES[0]), (False, "X", BAD)):
        chosen = [i for i, fits in enumerate(feasible) if fits is wanted]
        axes.plot([steps[i] for i in chosen], [100 * values[i] for i in chosen], marker, color=fill, markersize=6)
    for i, (words, level) in enumerate(levels.items()):
        axes.axhline(100 * level, color=MUTED, linewidth=1.1, linestyle=(0, (4, 2)))
        # The second level lies below the first, perhaps close: its words go under its line.
        looks: Any = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "top" if i else "bottom"}
        write(axes, words, (1, 100 * level), (0, -3 if i else 2), color=MUTED, **looks)
    if mark:
        step, value, words = mark
        axes.axvline(step, color=INK, linewidth=1, linestyle=(0, (1, 2)))
        axes.plot(step, 100 * value, "o", markersize=12, markerfacecolor="none", color=INK, markeredgewidth=1.6)
        right = step > 0.5 * max(steps)
        side, shift = ("right", -5) if right else ("left", 5)
        looks = {"xycoords": ("data", "axes fraction"), "ha": side, "va": "top", "weight": "bold"}
        write(axes, words, (step, 1), (shift, -2), **looks)
    axes.margins(y=0.16)
    axes.set_xlabel("step")
    return svg(figure, name, title)


@styled()
def histories(
    steps: Sequence[int],
    series: Mapping[str, Sequence[float]],
    panels: Mapping[str, Sequence[str]],
    *,
    name: str,
    title: str,
) -> str:
    """One small panel per attribute, one line per task with its name at the end; NaN where a task was not yet seen."""
    height, top, foot = 1.55, 0.28, 0.45
    total = (height + top) * len(panels) + foot
    figure = Figure(figsize=(WIDTH, total))
    steps, series = _thinned(steps, series)
    for i, (group, tasks) in enumerate(panels.items()):
        bottom = total - (i + 1) * (height + top)
        axes = figure.add_axes((0.135, bottom / total, 0.575, height / total))
        axes.set_title(group or "tasks", loc="left", fontsize=11, weight="bold", color=INK, pad=5)
        for j, task in enumerate(tasks):
            axes.plot(steps, series[task], color=LINES[j], linestyle=STROKES[j])
        axes.locator_params(axis="y", nbins=4)
        axes.locator_params(axis="x", nbins=4)
        if i < len(panels) - 1:
            axes.tick_params(labelbottom=False)
        _name_ends(axes, [(label(task), series[task]) for task in tasks], height * 72)
    axes.set_xlabel("step")
    return svg(figure, name, title)


@styled()
def split(seconds: Mapping[str, float]) -> str:
    """The parts of one step as bars with their milliseconds and share."""
    total = sum(seconds.values())
    height = 0.34 * len(seconds) + 0.1
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_axes((0.25, 0, 0.75, 1))
    for i, value in enumerate(seconds.values()):
        axes.barh(-i, value, height=0.62, color=LINES[0])
        share = value / total if total else 0
        write(axes, f"{1000 * value:.3g} ms · {100 * share:.0f} %", (value, -i), (5, 0), va="center")
    axes.set_yticks([-i for i in range(len(seconds))], [short(part) for part in seconds])
    axes.set_xlim(0, 1.75 * max(seconds.values()) or 1)
    axes.set_xticks([])
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    return svg(figure, "split", "Median time of each part of one step")


def averaged(steps: int) -> int:
    """How many steps each point of a history stands for."""
    return math.ceil(steps / MOST_POINTS)


def panels_of(series: Mapping[str, Sequence[float]]) -> dict[str, list[str]]:
    """Attribute → tasks for `histories` to draw: no more than can be told apart, those with the largest peaks."""
    peaks = {task: max((v for v in values if not math.isnan(v)), default=-math.inf) for task, values in series.items()}
    groups: dict[str, list[str]] = {}
    for task in sorted(series, key=lambda task: (-peaks[task], task)):
        groups.setdefault(attribute(task), []).append(task)
    loudest = list(groups)[:MOST_PANELS]
    drawn = {task for group in loudest for task in groups[group][:MOST_LINES]}
    order = [group for group in dict.fromkeys(map(attribute, series)) if group in loudest]
    return {group: [task for task in series if task in drawn and attribute(task) == group] for group in order}


def _absent(number: float | None) -> bool:
    return number is None or not math.isfinite(number)


def _interval(task: Json) -> tuple[float, float]:
    """The joint bounds of the change, in points; a side that the certificate does not give ends at the estimate."""
    low, high = task.get("lower"), task.get("upper")
    return 100 * (task["delta"] if low is None else low), 100 * (task["delta"] if high is None else high)


def _mark(task: Json) -> tuple[str, str, str]:
    """Colour, shape and fill that say the task's verdict; the shape says it alone."""
    verdict = task.get("verdict") or ("violated" if task["delta"] < -task["tolerance"] else "retained")
    looks = {"violated": (BAD, "X", BAD), "undecided": (INK, "v", "none"), "certified": (GOOD, "o", GOOD)}
    return looks.get(verdict, (INK, "^", "none"))


def _rows(
    tasks: Sequence[Json], headings: Mapping[str, str], xlabel: str
) -> tuple[Figure, Axes, list[tuple[float, Json]]]:
    """Axes whose rows are the tasks, from the top, under a bold line for each attribute (or the task's own heading)."""
    lines: list[tuple[str, Json | None]] = []
    group: str | None = None
    for task in sorted(tasks, key=lambda task: task["task"] not in headings):
        heading = headings.get(task["task"], attribute(task["task"]))
        if heading != group and heading:
            lines.append((heading, None))
        group = heading
        lines.append((label(task["task"]), task))
    height = 0.25 * len(lines) + 0.6
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_axes((0.285, 0.5 / height, 0.685, 1 - 0.55 / height))
    axes.set_ylim(-len(lines) + 0.4, 0.6)
    axes.set_yticks([-i for i, (_, task) in enumerate(lines) if task], [short(words) for words, task in lines if task])
    for tick in axes.get_yticklabels():
        tick.set_color(INK)
    for i, (words, row) in enumerate(lines):
        if row is None:
            looks: Any = {"xycoords": ("figure fraction", "data"), "va": "center", "weight": "bold"}
            write(axes, short(words, 40), (0, -i), (3, 0), **looks)
    axes.set_xlabel(xlabel)
    axes.margins(x=0.07)
    return figure, axes, [(-i, task) for i, (_, task) in enumerate(lines) if task]


def _thinned(
    steps: Sequence[int], series: Mapping[str, Sequence[float]]
) -> tuple[Sequence[int], Mapping[str, Sequence[float]]]:
    """At most `MOST_POINTS` points, each the mean of `averaged` steps."""
    width = averaged(len(steps))
    if width <= 1:
        return steps, series
    starts = range(0, len(steps), width)

    def mean(values: Sequence[float]) -> float:
        seen = [v for v in values if not math.isnan(v)]
        return sum(seen) / len(seen) if seen else math.nan

    return [steps[min(i + width, len(steps)) - 1] for i in starts], {
        task: [mean(values[i : i + width]) for i in starts] for task, values in series.items()
    }


def _name_ends(axes: Axes, ends: Sequence[tuple[str, Sequence[float]]], height: float) -> None:
    """Each line's name right of its last value, moved apart where two would overlap, after a stub in its stroke."""
    low, high = axes.get_ylim()
    last = [next((v for v in reversed(values) if not math.isnan(v)), low) for _, values in ends]
    order = sorted(range(len(ends)), key=lambda i: (last[i], i))
    gap, places = 13.5 / height, {}
    floor = 0.0
    for i in order:
        floor = places[i] = max((last[i] - low) / (high - low), floor)
        floor += gap
    ceiling = 1.0
    for i in reversed(order):
        ceiling = places[i] = min(places[i], ceiling)
        ceiling -= gap
    axes.set_ylim(low, high)
    for i, (words, _) in enumerate(ends):
        looks: Any = {"color": LINES[i], "linestyle": STROKES[i], "transform": axes.transAxes, "clip_on": False}
        axes.plot([1.02, 1.09], [places[i]] * 2, **looks)
        axes.text(1.105, places[i], short(words), transform=axes.transAxes, va="center", color=INK)
