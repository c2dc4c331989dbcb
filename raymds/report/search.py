"""What the page says of a search, from `tune.json` alone: its sentence, its charts, its table of trials."""

import math
import re
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from raymds.report import search_charts
from raymds.report.search_charts import PRESET, Dot
from raymds.report.words import Json, losses, named, points, setting, short

MOST_PANELS = 6  # parameters with a chart of their own
LONGEST_REASON = 240  # characters; how a trial failed may be pages long, and they are in its own directory
ENDED = ("finished", "stopped")  # the statuses with which a trial's candidate counts
_OWN_DIRECTORY = re.compile(r"trials/\w+", re.ASCII)  # the only links that the page makes


def context(tune: Json) -> Json:
    """What the template writes of a search; the page shows `charts` with its own."""
    dots = [_dot(trial) for trial in tune["trials"] if _counts(trial)]
    best = tune["winner"] or tune["nearest"]
    ringed = best["number"] if best else None
    space, importance = tune["search"]["space"], tune.get("importance") or {}
    panels = _panels(space, importance)
    drawn = {
        "trade": search_charts.trade(dots, ringed, _tolerated(tune)) if dots else "",
        "course": search_charts.course(dots, ringed, 1 + max(trial["number"] for trial in tune["trials"]))
        if dots
        else "",
        "importance": search_charts.shares(importance) if importance else "",
    }
    return {
        "sentence": sentence(tune), "settings": tune["search"], "parameters": _headings(space),
        "charts": drawn,
        "panels": [
            (key, Markup(search_charts.parameter(dots, key, space[key], ringed, at))) for at, key in enumerate(panels)
        ] if dots else [],
        "absent": _absent(tune), "clipped": search_charts.clipped(dots),
        "mark": "winner" if tune["winner"] else "nearest miss", "preset": any(dot.number == PRESET for dot in dots),
        "rows": [_row(trial, tune, space) for trial in sorted(tune["trials"], key=_order)],
    }  # fmt: skip


def sentence(tune: Json) -> str:
    """How many trials there were, what became of them, which one won; or how near the nearest miss came."""
    trials, counts = len(tune["trials"]), tune["counts"]
    ended = [f"{counts[key]} {word}" for key, word in
             (("finished", "finished"), ("stopped", "stopped early"), ("failed", "failed")) if counts[key]]  # fmt: skip
    words = f"Of {trials} {'trial' if trials == 1 else 'trials'} ({', '.join(ended)}), {counts['feasible'] or 'none'} "
    words += "improved the target and kept every protected capability on the validation split"
    winner, nearest = tune["winner"], tune["nearest"]
    if winner:
        return f"{words}; trial {winner['number']} won at {_step(winner)}, target {points(winner['target'])} points."
    if nearest is None:
        return f"{words}; no trial measured a candidate."
    lost = [(task, nearest["tasks"][task]) for task in nearest["lost"]]
    words += f"; the nearest miss, trial {nearest['number']} at {_step(nearest)}, target {points(nearest['target'])} "
    return words + (f"points, lost {losses(lost)}." if lost else "points, kept every one.")


def _counts(trial: Json) -> bool:
    """Whether the trial has a candidate to draw: one that failed, or measured nothing finite, has none."""
    best = trial["best"]
    return trial["status"] in ENDED and best is not None and _finite(best["target"]) and _finite(best["devsafety"])


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _dot(trial: Json) -> Dot:
    best = trial["best"]
    return Dot(trial["number"], 100 * best["target"], 100 * _margin(best), trial["params"])


def _margin(best: Json) -> float:
    """The worst task's change plus what it may lose; a search of an older version tolerated nothing."""
    return float(best["margin"] if "margin" in best else best["devsafety"])


def _tolerated(tune: Json) -> bool:
    """Whether some task may lose something."""
    return any(_margin(trial["best"]) != trial["best"]["devsafety"] for trial in tune["trials"] if _counts(trial))


def _panels(space: Json, importance: Json) -> list[str]:
    """The keys with a chart, in the space's order: where there are too many, the most important ones."""
    chosen = sorted(space, key=lambda key: -importance.get(key, 0.0))[:MOST_PANELS]
    return [key for key in space if key in chosen]


def _headings(space: Json) -> list[tuple[str, str]]:
    """Every key with its heading in the table: without its section where no other key ends alike."""
    ends = [key.rpartition(".")[2] for key in space]
    return [(key, end if ends.count(end) == 1 else key) for key, end in zip(space, ends, strict=True)]


def _absent(tune: Json) -> str:
    """Which trials the charts do not show: `1 trial that failed`; empty where they show all."""
    failed = tune["counts"]["failed"]
    silent = sum(not _counts(trial) for trial in tune["trials"]) - failed
    found = [(failed, "failed"), (silent, "measured nothing")]
    return " and ".join(f"{n} {'trial' if n == 1 else 'trials'} that {what}" for n, what in found if n > 0)


def _order(trial: Json) -> tuple[int, float, int]:
    """The good ones first, by target; then by the worst task; then what measured nothing; what failed last."""
    if trial["status"] == "failed":
        return 3, 0.0, trial["number"]
    if not _counts(trial):
        return 2, 0.0, trial["number"]
    best = trial["best"]
    if _margin(best) >= 0:
        return 0, -best["target"], trial["number"]
    return 1, -_margin(best), trial["number"]


def _row(trial: Json, tune: Json, space: Sequence[str]) -> dict[str, Any]:
    """A line of the table."""
    number, best, run = trial["number"], trial["best"], str(trial.get("run") or "")
    won = bool(tune["winner"]) and tune["winner"]["number"] == number
    near = bool(tune["nearest"]) and tune["nearest"]["number"] == number
    words = [
        "winner" if won else "nearest miss" if near else "",
        "stopped early" if trial["status"] == "stopped" else trial["status"],
        "the preset's own setting" if number == PRESET else "",
    ]
    tasks = {task: delta for task, delta in (best or {}).get("tasks", {}).items() if _finite(delta)}
    worst = min(tasks, key=lambda task: tasks[task], default=None)
    return {
        "number": number, "key": won, "status": ", ".join(filter(None, words)),
        "reason": short(trial["reason"] or "", LONGEST_REASON),
        "link": f"{run}/report.html" if trial.get("page") and _OWN_DIRECTORY.fullmatch(run) else None,
        "step": _step(best).removeprefix("step ") if best else "–",
        "target": best["target"] if best else None, "devsafety": best["devsafety"] if best else None,
        "worst": named(worst) if worst else "", "lost": bool(best) and _finite(best["devsafety"]) and _margin(best) < 0,
        "params": [setting(trial["params"][key]) if key in trial["params"] else "–" for key in space],
    }  # fmt: skip


def _step(best: Json) -> str:
    """`step 160`, and how far towards it from the old model if not all the way."""
    alpha = best.get("alpha")
    return f"step {best['step']}" + ("" if alpha in (None, 1) else f", α = {alpha:.2g}")
