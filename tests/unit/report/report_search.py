"""A small search directory, made up but shaped like a real one: 12 trials of 6 parameters."""

import json
from typing import Any

from tests.unit.report import report_run

SPACE: dict[str, dict[str, list[Any]]] = {
    "optim.lr": {"loguniform": [2e-7, 5e-6]},
    "constraints.beta": {"loguniform": [10.0, 1000.0]},
    "constraints.gamma": {"uniform": [0.1, 1.0]},
    "constraints.slack": {"uniform": [-0.5, 0.0]},
    "constraints.images_per_task": {"int": [4, 16]},
    "constraints.solver": {"choice": ["squared_hinge", "regularize"]},
}
IMPORTANCE = dict(zip(SPACE, [0.31, 0.42, 0.05, 0.15, 0.04, 0.03], strict=True))
WINNER, NEAREST = 7, 9

# lr, beta, gamma, slack, images, solver; status; points of target and worst task; step
_TRIALS: list[tuple[tuple[Any, ...], str, float | None, float, int]] = [
    ((1e-6, 100.0, 0.5, -0.1, 8, 0), "finished", 2.1, 0.1, 120),
    ((3.1e-7, 450.0, 0.83, -0.32, 5, 0), "finished", 0.8, 0.3, 160),
    ((4.6e-6, 14.0, 0.22, -0.02, 12, 1), "stopped", 7.4, -6.2, 40),
    ((2.2e-6, 61.0, 0.61, -0.21, 16, 0), "finished", 4.0, -0.3, 160),
    ((4.9e-6, 10.5, 0.97, 0.0, 4, 1), "stopped", 5.2, -48.0, 40),
    ((1.4e-6, 210.0, 0.34, -0.44, 9, 0), "finished", 3.2, 0.0, 120),
    ((2.9e-6, 880.0, 0.15, -0.11, 14, 0), "failed", None, 0.0, 0),
    ((1.9e-6, 330.0, 0.71, -0.37, 11, 0), "finished", 4.6, 0.2, 160),
    ((5.4e-7, 25.0, 0.49, -0.06, 7, 1), "finished", 1.7, -1.1, 80),
    ((2.5e-6, 270.0, 0.68, -0.29, 10, 0), "finished", 5.1, -0.1, 160),
    ((1.2e-6, 720.0, 0.9, -0.48, 15, 0), "stopped", -0.6, 0.2, 40),
    ((3.6e-6, 38.0, 0.12, -0.17, 6, 1), "stopped", None, 0.0, 0),
]
_REASONS = {
    "finished": "",
    "stopped": "scene:tunnel can no longer be kept",
    "failed": "out of memory on rank 1 of 2",
}


def run(won: bool = True) -> dict[str, bytes]:
    """File name → bytes: a search with a winner that was certified, or one in which whatever gained lost a task."""
    number = WINNER if won else NEAREST
    cycle = report_run.run("certified" if won else "old")
    outcome = json.loads(cycle["outcome.json"])
    best = tune(won)["winner" if won else "nearest"]
    outcome |= {"trial": number, "params": best["params"]}
    if won:
        outcome["step"] = best["step"]
    else:
        outcome["candidate"]["step"] = best["step"]
    del cycle["metrics.jsonl"]
    made = {"outcome.json": outcome, "tune.json": tune(won)}
    return cycle | {name: json.dumps(value).encode() for name, value in made.items()}


def tune(won: bool = True) -> dict[str, Any]:
    """Content of tune.json."""
    trials = [_trial(number, *row) for number, row in enumerate(_TRIALS)]
    for best in () if won else [trial["best"] for trial in trials if trial["best"] and trial["best"]["target"] > 0]:
        if best["feasible"]:
            best["tasks"]["scene:tunnel"] = best["devsafety"] = -0.004
            best["feasible"] = False
    winner, nearest = (next((t for t in trials if t["number"] == number), None) for number in (WINNER, NEAREST))
    counts = {status: sum(t["status"] == status for t in trials) for status in ("finished", "stopped", "failed")}
    good = sum(bool(t["best"]) and t["best"]["feasible"] and t["best"]["target"] > 0 for t in trials)
    lost = ["scene:tunnel", "timeofday:night"]
    return {
        "schema": 1, "outcome": "new" if won else "old", "reason": "as made up",
        "search": {"algorithm": "tpe", "scheduler": "halving", "seed": 0, "trials": 12, "steps": 160, "space": SPACE},
        "counts": {**counts, "running": 0, "feasible": good}, "trials": trials, "importance": IMPORTANCE,
        "winner": _named(winner) if won and winner else None,
        "nearest": _named(nearest) | {"lost": lost} if nearest and not won else None,
    }  # fmt: skip


def _trial(number: int, values: tuple[Any, ...], status: str, target: float | None, worst: float, step: int) -> Any:
    *numbers, solver = values
    params = dict(zip(SPACE, [*numbers, SPACE["constraints.solver"]["choice"][solver]], strict=True))
    tasks = {task: (0.5 + max(worst, 0)) / 100 for task in report_run.TASKS}
    tasks |= {"scene:tunnel": worst / 100, "timeofday:night": (worst + (0.04 if worst < 0 else 0.3)) / 100}
    best = None if target is None else {
        "step": step, "alpha": 0.8 if number == 8 else 1.0, "target": target / 100, "devsafety": worst / 100,
        "feasible": worst >= 0, "tasks": tasks,
    }  # fmt: skip
    return {
        "number": number, "params": params, "status": status, "reason": _REASONS[status], "history": [],
        "best": best, "run": f"trials/{number:03d}", "page": status == "finished",
    }  # fmt: skip


def _named(trial: dict[str, Any]) -> dict[str, Any]:
    return {"number": trial["number"], "params": trial["params"], **trial["best"]}
