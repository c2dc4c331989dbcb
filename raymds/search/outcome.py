"""What a search ends with: `tune.json`, the best trial of those that keep everything, or the nearest miss."""

from collections.abc import Sequence
from typing import Any

from raymds.config import Config
from raymds.errors import UsageError
from raymds.search.space import Space
from raymds.search.trials import FAILED, RUNNING, Measurement, Trial

SCHEMA = 2


def outcome(config: Config, space: Space, trials: Sequence[Trial]) -> dict[str, Any]:
    """The content of `tune.json`, good to write at any moment of a search. Deltas and devsafety are fractions, of val.

    schema, outcome (new | old | running), reason, search {algorithm, scheduler, seed, trials, steps, space},
    counts {finished, stopped, failed, running, feasible}, trials [{number, params, status, reason, best, history}],
    winner {number, params, step, alpha, target, devsafety, margin, feasible, tasks} or null, nearest (the same with
    lost [task, …]) or null. `importance` {key: share of what decides how a trial ends} is added where enough trials
    have ended.

    The winner is the good candidate (feasible and above the old model) with the highest target. An infeasible trial
    can't win, nor one that failed or still runs; one that was stopped can, by what it had measured. Where there is no
    winner, `nearest` is the candidate nearest to feasible of those that gained, its lost tasks worst first.
    """
    ended = [trial for trial in trials if trial.status not in {RUNNING, FAILED}]
    candidates = [(trial, trial.best) for trial in sorted(ended, key=lambda t: t.number) if trial.best is not None]
    best = max(candidates, key=lambda candidate: candidate[1].rank, default=None)
    won = best is not None and best[1].good
    nearest = best if not won else None
    counts = {status: sum(trial.status == status for trial in trials) for status in ("finished", "stopped", "failed")}
    counts["running"] = sum(trial.status == RUNNING for trial in trials)
    counts["feasible"] = sum(measured.good for _, measured in candidates)
    return {
        "schema": SCHEMA,
        "outcome": "running" if counts["running"] else "new" if won else "old",
        "reason": _reason(best, counts),
        "search": {
            "algorithm": config.search.algorithm,
            "scheduler": config.search.scheduler,
            "seed": config.search.seed,
            "trials": config.search.trials,
            "steps": config.search.steps or config.optim.steps,
            "space": {key: dimension.described() for key, dimension in space.items()},
        },
        "counts": counts,
        "trials": [trial.to_json() | {"best": _entry(trial.best)} for trial in sorted(trials, key=lambda t: t.number)],
        "winner": _named(*best) if best is not None and won else None,
        "nearest": _named(*nearest) | {"lost": _lost(nearest[1])} if nearest is not None else None,
    }


def restored(content: dict[str, Any], where: str) -> list[Trial]:
    """The trials of the `tune.json` at `where`, to go on from; UsageError where another version wrote it."""
    if content["schema"] != SCHEMA:
        raise UsageError(
            f"{where}: schema version {content['schema']}, this raymds reads {SCHEMA} and can't go on with it; give "
            "another run.uri, or finish the search with the version that began it"
        )
    return [Trial.from_json(record) for record in content["trials"]]


def _reason(best: tuple[Trial, Measurement] | None, counts: dict[str, int]) -> str:
    if best is None:
        return f"no trial measured a candidate; {counts['failed']} failed"
    trial, measured = best
    if measured.good:
        return (
            f"trial {trial.number} at step {measured.step} has the best target, {100 * measured.target:+.1f} points, "
            f"of the {counts['feasible']} trials that keep every protected task on val"
        )
    lost = ", ".join(f"{task} {100 * measured.tasks[task]:+.1f}" for task in _lost(measured))
    kept = f"with {lost} points" if lost else "which keeps every protected task"
    return (
        f"no trial improved the target and kept every protected task on val; nearest: trial {trial.number} at step "
        f"{measured.step} {kept}, the target {100 * measured.target:+.1f}"
    )


def _lost(measured: Measurement) -> list[str]:
    """Tasks that lost more than they may, worst first."""
    margins = measured.margins
    return sorted((task for task, margin in margins.items() if margin < 0), key=lambda task: margins[task])


def _entry(measured: Measurement | None) -> dict[str, Any] | None:
    if measured is None:
        return None
    return {
        "step": measured.step,
        "alpha": measured.alpha,
        "target": measured.target,
        "devsafety": measured.devsafety,
        "margin": measured.margin,
        "feasible": measured.feasible,
        "tasks": measured.tasks,
    }


def _named(trial: Trial, measured: Measurement) -> dict[str, Any]:
    return {"number": trial.number, "params": trial.params, **(_entry(measured) or {})}
