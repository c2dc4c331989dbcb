"""Files of runs as a cycle leaves them, without a model."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml


def file(path: Path, content: str) -> str:
    """Write a file; its digest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return sha256(content.encode()).hexdigest()


WEIGHTS = "\2\0\0\0\0\0\0\0{}"  # the shortest safetensors file


def certificate(target: str, protected: list[str], digests: dict[str, str]) -> dict[str, Any]:
    def task(name: str, **more: Any) -> dict[str, Any]:
        return {"task": name, "n": 100, "old": 0.5, "new": 0.6, "delta": 0.1, "lower": 0.02, **more}

    tasks = [task(name, verdict="certified") for name in protected]
    found = {"schema": 2, "verdict": "certified", "confidence": 0.95, "devsafety": 0.1, "target": task(target)}
    return {**found, "tasks": tasks, "digests": {"config": "c", "data": "d", "code": "0.1", **digests}}


def run(
    folder: Path, parent: Path, target: str, protected: list[str], *, outcome: str = "new", certified: bool = True
) -> str:
    """The directory of a finished cycle from the weights `parent`; its URI."""
    old = file(parent, parent.read_text() if parent.exists() else "old weights")
    new = file(folder / "weights.safetensors", f"weights for {target} in {folder.name}")
    file(folder / "data" / "manifest.json", json.dumps({"digest": "d"}))
    config = {"model": {"weights": str(parent)}, "data": {"uri": str(folder / "data")}, "optim": {"lr": 0.1}}
    file(folder / "config.yaml", yaml.safe_dump({**config, "run": {"seed": 0, "uri": str(folder)}}))
    if certified:
        made = certificate(target, protected, {"parent": old, "weights": new})
        file(folder / "certificate.json", json.dumps(made))
    weights = str(folder / "weights.safetensors" if outcome == "new" else parent)
    val = {"target": {"task": target}, "tasks": [{"task": name} for name in protected]}
    told = {"schema": 1, "outcome": outcome, "reason": "made by a test", "weights": weights, "val": val}
    file(folder / "outcome.json", json.dumps(told))
    return str(folder)
