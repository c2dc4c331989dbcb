"""From what the workers of a cycle return to its outcome and certificate, METHOD 6."""

from typing import Any

from raymds.config import Config
from raymds.data.shards import DataSet
from raymds.log import records
from raymds.run import RunDirectory, digests
from raymds.store import uri as storage
from raymds.train import recorded, select
from raymds.train.advice import advise, says

SCHEMA = 1


def old_outcome(config: Config, reason: str, val: dict[str, Any], step: int, alpha: float) -> dict[str, Any]:
    """That the old model stays, wherever the outcome is read from, and whatever lies in that model's place by then.

    `val` is the record of the candidate of that step and α.
    """
    weights = storage.absolute(str(config.model.weights))
    return {
        **{"schema": SCHEMA, "outcome": "old", "step": 0, "alpha": 0.0, "weights": weights, "tested": False},
        **{"parent": storage.sha256(storage.read(weights)), "reason": reason, "val": val},
        "candidate": {"step": step, "alpha": alpha},
    }


def conclude(
    config: Config, run: RunDirectory, data: DataSet, result: dict[str, Any], use: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The outcome's verdict: the chosen model, or the old one where nothing was feasible or the test says otherwise.

    Writes flips.json and certificate.json where the choice, or without one the nearest candidate, was measured on test.
    The certificate states `use`, which use of the test split it is by the ledger; the outcome says as `tested` whether
    test was measured.
    """
    if "certificate" in result:
        _certify(config, run, data, result, use)
    return _outcome(config, run, result) | {"tested": "certificate" in result}


def _outcome(config: Config, run: RunDirectory, result: dict[str, Any]) -> dict[str, Any]:
    found, choice = _found(config, run, result), result.get("choice")
    if choice is None:
        nearest = max(result["candidates"], key=lambda metrics: select.score(metrics["record"]))
        return old_outcome(config, _nearest(nearest), nearest["record"], nearest["step"], 1.0) | found
    if "certificate" not in result:
        return _new(choice, result, "; the winner of the search alone is certified")
    if result["refused"]:
        return old_outcome(config, result["refused"], choice["record"], choice["step"], choice["alpha"]) | found
    return _new(choice, result) | {key: found[key] for key in found if key != "advice"}


def _certify(
    config: Config, run: RunDirectory, data: DataSet, result: dict[str, Any], use: dict[str, Any] | None
) -> None:
    """Write what was measured on test, with the digests of what it rests on."""
    parent = storage.sha256(storage.read(str(config.model.weights)))
    stored = storage.sha256(run.read("config.yaml") or b"")
    made = digests(stored, data.digest, parent, result["weights"]["sha256"])
    run.write_json("flips.json", {"schema": SCHEMA, "flips": result["flips"]})
    certificate = result["certificate"] | {"digests": made} | ({"use": use} if use else {})
    recorded.write_certificate(config, run.path("certificate.json"), certificate)


def _found(config: Config, run: RunDirectory, result: dict[str, Any]) -> dict[str, Any]:
    """The diagnosis, what it says, and what would help where the old model stays; a search's trial has none."""
    diagnosis = result.get("diagnosis")
    if diagnosis is None:
        return {}
    evals = {r["step"]: r for r in records(run.uri) if r["event"] == "eval"}
    diagnosis |= {"says": says(diagnosis)}
    refused = result["certificate"] if result.get("choice") and result.get("refused") else None
    advice = advise(diagnosis, [evals[step] for step in sorted(evals)], refused, config.select.require)
    return {"diagnosis": diagnosis, "advice": advice}


def _nearest(metrics: dict[str, Any]) -> str:
    """Why there is no choice: the candidate nearest to one, by the task that violates most."""
    record = metrics["record"]
    worst = min(record["tasks"], key=lambda task: task["delta"] + task["tolerance"])
    kept = f"with {worst['task']} {100 * worst['delta']:+.1f} points and the target"
    kept = "which keeps every protected task, the target" if record["feasible"] else kept
    return (
        f"no candidate improved the target and kept every protected task on val; nearest: step {metrics['step']} "
        f"{kept} {100 * record['target']['delta']:+.1f}"
    )


def _new(choice: dict[str, Any], result: dict[str, Any], more: str = "") -> dict[str, Any]:
    """The outcome of a chosen candidate."""
    interpolated = "" if choice["alpha"] == 1 else f", interpolated towards the old model with α = {choice['alpha']}"
    return {
        "schema": SCHEMA,
        "outcome": "new",
        "reason": f"step {choice['step']} has the best target accuracy among feasible candidates{interpolated}{more}",
        "step": choice["step"],
        "alpha": choice["alpha"],
        "weights": result["weights"]["uri"],
        "val": choice["record"],
    }


def effort(run: RunDirectory, config: Config, seconds: float) -> dict[str, Any]:
    """What an outcome says of the work: steps, seconds, workers, images per second (the median step's)."""
    speeds = sorted(r["images_per_second"] for r in records(run.uri) if r["event"] == "step")
    return {
        "steps": config.optim.steps,
        "seconds": seconds,
        "workers": config.run.workers,
        "precision": config.run.precision,
        "images_per_second": speeds[len(speeds) // 2] if speeds else None,
    }
