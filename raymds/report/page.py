"""From a run's files to its page: what they say, in a sentence, figures, tables and charts."""

import math
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError
from markupsafe import Markup

from raymds.errors import UsageError
from raymds.method.solvers import SOLVERS
from raymds.method.verdict import NOT_CERTIFIABLE, in_groups
from raymds.report import charts, search
from raymds.report.files import RunFiles
from raymds.report.standing import stands
from raymds.report.verdict import Measured, measured_of, verdict
from raymds.report.words import Json, count, percent, points


def render(run: RunFiles, beside: RunFiles | None = None) -> str:
    """The page as HTML text, the same text for the same files; `beside` is a run with the same target to compare with.

    Raises UsageError where a file lacks a field, or where the two runs have different targets.
    """
    environment = Environment(
        loader=PackageLoader("raymds", "report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(percent=percent, points=points, count=count)
    try:
        return environment.get_template("page.html.j2").render(_context(run, beside))
    except (KeyError, UndefinedError) as error:
        raise UsageError(f"a file of the run lacks a field ({error}): is it another version's?") from error


def _context(run: RunFiles, beside: RunFiles | None) -> Json:
    """Everything the template writes."""
    measured = measured_of(run)
    word, sentence = verdict(run)
    evals, steps, starts = (_records(run, event) for event in ("eval", "step", "start"))
    drawn = {
        "accuracies": charts.accuracies(measured.target, measured.tasks),
        "changes": charts.changes(measured.tasks, measured.tolerance) if measured.tasks else "",
        **_progress(measured, run.outcome or {}, evals),
        **_histories(steps),
    }  # fmt: skip
    averaged = charts.averaged(len(steps)) * (steps[0].get("of", 1) if steps else 1)
    found = None if run.tune is None else search.context(run.tune)
    drawn |= found["charts"] if found else {}
    parts = {part: [s["seconds"][part] for s in steps] for part in (steps[0].get("seconds") or {} if steps else {})}
    seconds = {part: statistics.median(values) for part, values in parts.items()}
    drawn["split"] = charts.split(seconds) if any(seconds.values()) else ""
    return {
        "unmeasured": NOT_CERTIFIABLE,
        "word": word, "sentence": sentence, "measured": measured,
        "outcome": run.outcome, "certificate": run.certificate,
        "grouped": in_groups(run.certificate) if run.certificate else None,
        "started": f"{datetime.fromtimestamp(starts[0]['time'], UTC):%Y-%m-%d %H:%M} UTC" if starts else None,
        "charts": {name: Markup(svg) for name, svg in drawn.items()},  # texts escaped in charts
        "most_rows": charts.MOST_ROWS, "most_lines": charts.MOST_LINES, "averaged": averaged,
        "bounded": any(t.get("upper") is not None for t in measured.tasks),
        "every": evals[1]["step"] - evals[0]["step"] if len(evals) > 1 else None,
        "clock": str(timedelta(seconds=round((run.outcome or {})["seconds"]))),
        "stands": stands(run.outcome or {}),
        "flips": _flips(run.flips), "config": run.config,
        "search": found,
        "beside": _beside(run, beside) if beside else None,
    }  # fmt: skip


def _progress(measured: Measured, outcome: Json, evals: Sequence[Json]) -> dict[str, str]:
    """Target accuracy and DevSafety on the validation split over the steps, with the chosen step."""
    if not evals:
        return {"target": "", "devsafety": ""}
    words = f"{measured.role}: step {measured.step}"
    if measured.role == "chosen" and (outcome.get("alpha") or 1) != 1:
        words += f", α = {outcome['alpha']:.2g}"
    at = measured.validation

    def mark(value: float) -> tuple[int, float, str] | None:
        return None if measured.step is None else (measured.step, value, words)

    below = {"tolerance": -measured.tolerance} if measured.tolerance else {}
    steps, feasible = [e["step"] for e in evals], [bool(e["feasible"]) for e in evals]
    before = evals[0]["target"]["old"]
    return {
        "target": charts.progress(
            steps, [e["target"]["new"] for e in evals], feasible, {f"old model {percent(before)}": before},
            mark(at["target"]["new"]), name="target", title="Target accuracy in percent by step",
        ),
        "devsafety": charts.progress(
            steps, [e["devsafety"] for e in evals], feasible, {"none lost": 0.0} | below,
            mark(at["devsafety"]), name="devsafety", title="DevSafety in points by step",
        ),
    }  # fmt: skip


def _histories(steps: Sequence[Json]) -> dict[str, str]:
    """u and λ per task over the steps, the same tasks in the same colours; empty where all are 0 or nothing is told."""
    drawn = {}
    panels: dict[str, list[str]] = {}
    for key, name, title in (("u", "estimates", "Constraint estimate u"), ("lambda", "multipliers", "Multiplier λ")):
        series, told = series_of(steps, key)
        panels = panels or charts.panels_of(series)
        at, words = [step["step"] for step in steps], f"{title} of each capability over the steps"
        drawn[name] = charts.histories(at, series, panels, name=name, title=words) if told else ""
    return drawn


def series_of(steps: Sequence[Json], key: str) -> tuple[dict[str, list[float]], bool]:
    """What `step` records say of every task under `key`, NaN where nothing; whether any of it is not 0."""
    tasks = dict.fromkeys(task for step in steps for task in step.get(key) or {})
    series = {task: [_number((step.get(key) or {}).get(task)) for step in steps] for task in tasks}
    return series, any(v and not math.isnan(v) for values in series.values() for v in values)


def _beside(run: RunFiles, reference: RunFiles) -> Json:
    """Both runs on the validation split, each at the step its own rule hands over."""
    sides = [_handed_over(run), _handed_over(reference)]
    targets = [side["target"]["task"] for side in sides]
    if targets[0] != targets[1]:
        raise UsageError(f"the runs have different targets, {targets[0]} and {targets[1]}: they cannot be compared")
    deltas = [{t["task"]: t for t in [side["target"], *side["tasks"]]} for side in sides]
    shared = [task for task in deltas[0] if task in deltas[1]]
    mine, other = ({task: t["delta"] for task, t in side.items()} for side in deltas)
    rows = [
        {"task": t, "target": t == targets[0], "mine": mine[t], "other": other[t],
         "tolerance": deltas[0][t].get("tolerance", 0.0)} for t in shared
    ]  # fmt: skip
    names = [side["solver"] for side in sides]
    if names[0] == names[1]:
        names = [f"{names[0]}, this run", f"{names[1]}, the other run"]
    return {"rows": rows, "sides": sides, "names": names, "chart": Markup(charts.beside(rows, names[1]))}


def _handed_over(run: RunFiles) -> Json:
    """A run's validation figures: its outcome, or what would have shipped with nothing but the target in view.

    A solver that ignores the constraints is shown as it is used without them: at its step of highest target accuracy,
    not where the choice among feasible steps, or the rescue, has led it back towards the old model.
    """
    measured, solver = measured_of(run), str((run.outcome or {})["solver"])
    trained = [e for e in _records(run, "eval") if e["step"] > 0]
    seeks = solver in SOLVERS and SOLVERS[solver].feasible
    if not seeks and trained:
        best = max(trained, key=lambda e: (e["target"]["new"], -e["step"]))
        return {**best, "solver": solver, "rule": "highest target accuracy"}
    return {**measured.validation, "solver": solver, "step": measured.step, "rule": measured.role}


def _flips(flips: Json | None) -> list[tuple[str, list[Json]]]:
    """Negative flips by task; an image that is not carried in the file itself is left out."""
    groups: dict[str, list[Json]] = {}
    for flip in (flips or {}).get("flips", []):
        image = str(flip.get("image") or "")
        carried = image if image.startswith("data:image/") else None
        groups.setdefault(flip["task"], []).append(flip | {"image": carried})
    return list(groups.items())


def _records(run: RunFiles, event: str) -> list[Json]:
    """Records of one kind in the order of steps; of a step done twice (the run was resumed) the later one."""
    found = {r["step"]: r for r in run.metrics if r.get("event") == event}
    return [found[step] for step in sorted(found)]


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
