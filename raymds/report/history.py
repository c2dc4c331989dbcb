"""One page for the whole history of a model: targets, capabilities with their bounds, waivers and models, from JSON.

A record says of one cycle: number, time (seconds since 1970, UTC), run (URI), target, outcome (new | old), certificate
(its content, or None where nothing was measured on test), parent and weights (digests), waivers (a list of {task, …}).
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError
from markupsafe import Markup

from raymds.errors import UsageError
from raymds.method.verdict import NOT_CERTIFIABLE, not_certifiable
from raymds.report.history_charts import Point, capabilities
from raymds.report.words import Json, attribute, count, label, percent, points

_NEVER = "9999-12-31"
MOST_DRAWN = 12  # capabilities of one attribute in a chart; the table has all of them


def render(cycles: Sequence[Json]) -> str:
    """The page as HTML text, the same text for the same records; UsageError where a record lacks a field."""
    environment = Environment(
        loader=PackageLoader("raymds", "report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(percent=percent, points=points, count=count, label=label)
    try:
        return environment.get_template("history.html.j2").render(_context(cycles))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, OSError, UndefinedError) as error:
        raise UsageError(f"a record of a cycle lacks a field, or has another type in it ({error})") from error


def _context(cycles: Sequence[Json]) -> Json:
    ordered = sorted(cycles, key=lambda cycle: cycle["number"])
    series = dict(sorted(_series(ordered).items(), key=lambda item: attribute(item[0])))
    groups: dict[str, dict[str, Sequence[Point]]] = {}
    for task, at in series.items():
        groups.setdefault(attribute(task), {})[task] = at
    numbers = [cycle["number"] for cycle in ordered]
    without = [(task, cycle["number"]) for cycle in ordered for task in not_certifiable(cycle["certificate"] or {})]
    listed = {**series, **{task: series.get(task, []) for task, _ in without}}
    return {
        "rows": [_row(cycle) for cycle in ordered],
        "sentence": _sentence(ordered, len(series)),
        "charts": [
            (group, len(tasks), Markup(capabilities(group, _drawn(tasks), numbers, f"history-{i}")))  # texts escaped
            for i, (group, tasks) in enumerate(groups.items())
        ],
        "most": MOST_DRAWN,
        "numbers": numbers,
        "cells": [(task, [{p.cycle: p for p in at}.get(n) for n in numbers]) for task, at in listed.items()],
        "without": without, "unmeasured": NOT_CERTIFIABLE,
        "waivers": [(cycle["number"], *_waiver(waiver)) for cycle in ordered for waiver in cycle["waivers"]],
        "left": list(_left(ordered)),
        "models": [(cycle, cycle["outcome"] == "new") for cycle in ordered],
    }  # fmt: skip


def _series(cycles: Sequence[Json]) -> dict[str, list[Point]]:
    """Every capability's accuracy after each cycle that measured it."""
    found: dict[str, list[Point]] = {}
    for cycle in cycles:
        for entry in _entries(cycle):
            new = cycle["outcome"] == "new"
            target = entry["task"] == cycle["certificate"]["target"]["task"]
            found.setdefault(entry["task"], []).append(
                Point(
                    cycle["number"],
                    new,
                    entry["new"] if new else entry["old"],
                    max(entry["old"] + entry["lower"], 0.0),
                    min(entry["old"] + entry["upper"], 1.0),
                    entry["new"],
                    target,
                    entry["delta"] < -entry.get("tolerance", 0.0),
                )
            )
    return found


def _entries(cycle: Json) -> list[Json]:
    certificate = cycle["certificate"]
    return [] if certificate is None else [certificate["target"], *certificate["tasks"]]


def _drawn(tasks: Mapping[str, Sequence[Point]]) -> dict[str, Sequence[Point]]:
    """At most `MOST_DRAWN` of an attribute's capabilities, in their own order: those that sank most."""

    def sunk(at: Sequence[Point]) -> float:
        return min(point.accuracy for point in at) - at[0].accuracy

    kept = sorted(tasks, key=lambda task: sunk(tasks[task]))[:MOST_DRAWN]
    return {task: at for task, at in tasks.items() if task in kept}


def _row(cycle: Json) -> Json:
    """What the table of cycles says of one."""
    certificate = cycle["certificate"]
    worst = min(certificate["tasks"], key=lambda task: task["delta"], default=None) if certificate else None
    return {
        **cycle, "day": _day(cycle), "worst": worst,
        "moved": certificate["target"] if certificate else None,
        "verdict": certificate["verdict"] if certificate else None,
        "protected": len(certificate["tasks"]) if certificate else None,
    }  # fmt: skip


def _sentence(cycles: Sequence[Json], capabilities_seen: int) -> str:
    """The history in a sentence."""
    if not cycles:
        return "No cycle is recorded yet."
    new = [cycle for cycle in cycles if cycle["outcome"] == "new"]
    stayed = len(cycles) - len(new)
    words = f"{len(cycles)} {'cycle' if len(cycles) == 1 else 'cycles'}, {len(new)} with a new model"
    words += f", {stayed} in which the old one stayed" if stayed else ""
    words += f"; {capabilities_seen} capabilities measured"
    last = f"; in service: the model of cycle {new[-1]['number']}." if new else "; in service: the first model."
    return words + last


def _left(cycles: Sequence[Json]) -> Iterator[tuple[int, str]]:
    """(cycle, task) where a capability that was developed or protected before is neither, and nothing waives it.

    A waiver holds until its last day, or until a later cycle names the capability.
    """
    known, waived = set[str](), dict[str, str]()
    for cycle in cycles:
        here = {entry["task"] for entry in _entries(cycle)}
        waived |= {waiver["task"]: waiver.get("expires", _NEVER) for waiver in cycle["waivers"]}
        if here:
            left = (task for task in sorted(known - here) if waived.get(task, "") < _day(cycle))
            yield from ((cycle["number"], task) for task in left)
            known |= here if cycle["outcome"] == "new" else here - {cycle["certificate"]["target"]["task"]}
        # Its waivers were written before it: what it names, they waive no more.
        waived = {task: day for task, day in waived.items() if task not in here}


def _day(cycle: Json) -> str:
    return f"{datetime.fromtimestamp(cycle['time'], UTC):%Y-%m-%d}"


def _waiver(waiver: Mapping[str, Any]) -> Iterator[str]:
    """The task that is no longer protected, and what else is written of it."""
    yield str(waiver["task"])
    yield "; ".join(f"{key}: {value}" for key, value in waiver.items() if key != "task")
