"""A made-up history of four cycles: fog, tunnels that were refused, nothing feasible, night without clear."""

import json
from typing import Any

from tests.unit.report import report_run

Json = dict[str, Any]


def history() -> list[Json]:
    first, second, last = (
        json.loads(json.dumps(report_run.certificate(v))) for v in ("certified", "violated", "retained")
    )
    retarget(second, "scene:tunnel", 0.03)
    retarget(last, "timeofday:night", 0.03)
    last["tasks"] = [task for task in last["tasks"] if task["task"] != "weather:clear"]
    return [
        record(1, "new", first),
        record(2, "old", second),
        record(3, "old", None, target="scene:tunnel"),
        record(4, "new", last)
        | {"waivers": [{"task": "weather:clear", "reason": "its cameras are gone", "by": "J. Doe"}]},
    ]


def record(number: int, outcome: str, certificate: Json | None, target: str = "") -> Json:
    return {
        "number": number, "time": 1_790_000_000.0 + 30 * 86400 * number, "run": f"s3://fleet/runs/{number}",
        "target": certificate["target"]["task"] if certificate else target, "outcome": outcome,
        "certificate": certificate, "parent": f"{number - 1:064x}", "weights": f"{number:064x}", "waivers": [],
    }  # fmt: skip


def retarget(certificate: Json, task: str, gained: float) -> None:
    """Make a protected task the target, and the target a protected task; everything else rises by `gained`."""
    others = [entry for entry in certificate["tasks"] if entry["task"] != task]
    (own,) = (entry for entry in certificate["tasks"] if entry["task"] == task)
    before = certificate["target"] | {"tolerance": 0.02, "verdict": "certified", "more_examples": None}
    certificate["target"] = own | {"new": own["old"] + 0.1, "delta": 0.1, "lower": 0.06, "upper": 0.14}
    certificate["tasks"] = [before | {"old": 0.63, "new": 0.64, "delta": 0.01, "lower": -0.01, "upper": 0.03}]
    certificate["tasks"] += [e | {"old": e["old"] + gained, "new": e["new"] + gained} for e in others]
