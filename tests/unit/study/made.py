"""A study whose results are made up, so that its numbers can be worked out by hand."""

from pathlib import Path
from typing import Any

from raymds.config import Config, to_yaml
from raymds.store import uri as storage
from raymds.study.plan import Cell, Plan, Trial, load_plan


def content(uri: str | Path, **more: Any) -> dict[str, Any]:
    """Two methods, of which RM tries two settings, a target and three seeds."""
    made: dict[str, Any] = {
        "uri": str(uri),
        "base": {"model": {"name": "tiny-64"}, "task": {"protect": ["weather", "scene"]}},
        "set": {"optim.steps": 8, "optim": {"warmup": 2}},
        "data": {"scenes": {"data.uri": "data/scenes"}},
        "targets": {"foggy": {"task.target": "weather:foggy", "model.weights": "old.safetensors"}},
        "methods": {
            "raymds": {},
            "RM": {"constraints": {"solver": "regularize"}, "try": {"constraints.beta": [0.3, 3]}},
        },
    }
    return made | more


def plan(uri: str | Path, **more: Any) -> Plan:
    return load_plan(content(uri, **more), [])


def entry(task: str, delta: float, flips: int, verdict: str | None, tolerance: float = 0.01) -> dict[str, Any]:
    """A task of a certificate, of 100 images."""
    found: dict[str, Any] = {"task": task, "n": 100, "delta": delta, "negative_flips": flips}
    return found | ({"verdict": verdict, "tolerance": tolerance} if verdict else {})


def ended(
    made: Plan, cell: Cell, gain: float, deltas: dict[str, float], verdict: str = "retained", outcome: str = "new"
) -> None:
    """Write what a cell's run leaves: of each task as many flips as points lost, and two that were won back."""
    setting = made.settings[cell.method][-1]
    tasks = [entry(task, delta, round(100 * max(-delta, 0)) + 2, verdict) for task, delta in deltas.items()]
    certificate = {"verdict": verdict, "target": entry("weather:foggy", gain, 0, None), "tasks": tasks}
    _write(made.config(cell, setting), outcome, {}, certificate | {"devsafety": min(deltas.values())})


def tried(made: Plan, trial: Trial, gain: float, margin: float) -> None:
    """Write what a trial's run leaves."""
    target = {"task": "weather:foggy", "delta": gain, "new": 0.5 + gain}
    val = {"target": target, "margin": margin, "devsafety": margin, "feasible": margin >= 0, "tasks": []}
    _write(made.config(trial, made.settings[trial.method][trial.number]), "new", val, None)


def _write(config: Config, outcome: str, val: dict[str, Any], certificate: dict[str, Any] | None) -> None:
    uri = config.run.uri
    storage.write(storage.join(uri, "config.yaml"), to_yaml(config).encode())
    found = {"outcome": outcome, "reason": "made by a test", "val": val, "seconds": 10.0}
    found |= {"step": 8, "alpha": 1.0} if outcome == "new" else {"step": 0, "alpha": 0.0}
    found |= {} if outcome == "new" else {"candidate": {"step": 4, "alpha": 0.5}}
    if certificate is not None:
        storage.write_json(storage.join(uri, "certificate.json"), certificate)
    storage.write_json(storage.join(uri, "outcome.json"), found)


A, B = "weather:clear", "scene:tunnel"


def some(uri: str | Path, **more: Any) -> Plan:
    """Three seeds of raymds; of RM, whose second setting is the better one, the first two."""
    made = plan(uri, **more)
    for trial, (gain, margin) in zip(made.trials, ((0.4, -0.1), (0.2, 0.0)), strict=True):
        tried(made, trial, gain, margin)
    cells = {(cell.method, cell.seed): cell for cell in made.cells}
    ended(made, cells["raymds", 0], 0.10, {A: 0.00, B: 0.02}, "certified")
    ended(made, cells["raymds", 1], 0.20, {A: -0.01, B: 0.03}, "retained")
    ended(made, cells["raymds", 2], 0.30, {A: 0.05, B: -0.04}, "violated", "old")
    ended(made, cells["RM", 0], 0.40, {A: -0.20, B: -0.10}, "violated", "old")
    ended(made, cells["RM", 1], 0.60, {A: -0.30, B: 0.10}, "undecided", "old")
    return made
