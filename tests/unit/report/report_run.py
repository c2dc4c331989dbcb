"""A small run directory, made up but shaped like a real one: 300 steps, 13 protected tasks, every verdict."""

import base64
import dataclasses
import io
import json
import math
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from raymds.method.verdict import verdict_of
from raymds.report import RunFiles
from raymds.run import RunDirectory

TARGET = "weather:foggy"
CLASSES = {
    "weather": ["clear", "overcast", "partly cloudy", "rainy", "snowy"],
    "scene": ["city street", "highway", "residential", "parking lot", "tunnel"],
    "timeofday": ["daytime", "dawn/dusk", "night"],
}
TASKS = [f"{attribute}:{name}" for attribute, names in CLASSES.items() for name in names]
STEPS, EVERY, CHOSEN = 300, 25, 225
CONFIG = """\
model: {name: ViT-B-16, weights: s3://fleet/models/weather.safetensors, head_rank: 32}
task: {target: "weather:foggy", protect: [weather, scene, timeofday], retained: 1000}
select: {every: 25, interpolate: true, tolerance: 0.02, confidence: 0.95}
"""


def run(verdict: str = "certified", solver: str = "squared_hinge") -> dict[str, bytes]:
    """File name → bytes. `verdict`: certified, retained, undecided, violated, or old (none was feasible)."""
    made: dict[str, Any] = {"outcome.json": outcome(verdict, solver), "flips.json": flips()}
    if verdict != "old":
        made["certificate.json"] = certificate(verdict)
    records = metrics(solver, sinks=verdict == "old" or solver == "none")
    return {
        "config.yaml": CONFIG.encode(),
        "metrics.jsonl": "".join(json.dumps(record) + "\n" for record in records).encode(),
        **{name: json.dumps(value).encode() for name, value in made.items()},
    }


def parsed(files: dict[str, bytes]) -> RunFiles:
    """What the page takes from files."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            Path(folder, name).write_bytes(content)
        return RunFiles.parse(RunDirectory(folder))


def outcome(verdict: str, solver: str) -> dict[str, Any]:
    old = verdict == "old"
    return {
        "schema": 1, "outcome": "old" if old else "new", "step": 0 if old else CHOSEN,
        "alpha": 0.0 if old else 1.0, "steps": STEPS,
        "reason": "no candidate was feasible" if old else "highest target accuracy among the feasible steps",
        "weights": "s3://fleet/runs/foggy/checkpoints/225", "seconds": 754.3, "workers": 2, "images_per_second": 143.2,
        "solver": solver, "seed": 0,
        "val": evaluation(EVERY, sinks=True) if old else evaluation(CHOSEN, sinks=False),
        **({"candidate": {"step": EVERY, "alpha": 1.0}} if old else {}),
    }  # fmt: skip


def certificate(verdict: str) -> dict[str, Any]:
    tasks: list[dict[str, Any]] = []
    for i, task in enumerate(TASKS):
        delta = 0.031 - 0.003 * i
        lower, upper = delta - 0.012, delta + 0.013
        if verdict == "retained" and i >= 10:
            delta, lower, upper = -0.004, -0.031, 0.009
        if verdict == "violated" and task in ("timeofday:night", "scene:tunnel"):
            losses = {"timeofday:night": (-0.034, -0.052, -0.021), "scene:tunnel": (-0.0222, -0.041, -0.0201)}
            delta, lower, upper = losses[task]
        if verdict == "undecided" and i >= 11:
            delta, lower, upper = -0.03 - 0.001 * i, -0.08, -0.004
        word: str = verdict_of(delta, lower, upper, 0.02)
        tasks.append({
            "task": task, "n": 1000, "old": 0.7 + 0.01 * i, "new": 0.7 + 0.01 * i + delta, "delta": delta,
            "lower": lower, "upper": upper, "tolerance": 0.02,
            "negative_flips": 40, "positive_flips": 40 + round(1000 * delta),
            "loss_old": 0.8, "loss_new": 0.79, "verdict": word,
            "more_examples": 1200 + 100 * i if word in ("retained", "undecided") else None,
        })  # fmt: skip
    target = {"task": TARGET, "n": 1000, "old": 0.412, "new": 0.63, "delta": 0.218, "lower": 0.171, "upper": 0.26,
              "negative_flips": 9, "positive_flips": 227, "loss_old": 1.4, "loss_new": 0.9}  # fmt: skip
    return {
        "schema": 1, "verdict": verdict, "tolerance": 0.02, "confidence": 0.95, "target": target, "tasks": tasks,
        "devsafety": min(task["delta"] for task in tasks),
        "digests": dict.fromkeys(("config", "data", "parent", "weights", "code"), "sha256:" + "0123456789abcdef" * 4),
    }  # fmt: skip


def metrics(solver: str, sinks: bool) -> list[dict[str, Any]]:
    noise = random.Random(0)
    records: list[dict[str, Any]] = [{"event": "start", "step": 0, "workers": 2, "time": 1_790_000_000.0}]
    records.append({"event": "eval", "step": 0, **evaluation(0, sinks)})
    for step in range(1, STEPS + 1):
        seen = [] if solver == "none" else TASKS if step > 5 else TASKS[:8]
        u = {task: _loss(i, step, sinks) + noise.gauss(0, 0.004) for i, task in enumerate(TASKS) if task in seen}
        records.append({
            "event": "step", "step": step, "loss": 2 * math.exp(-step / 90) + noise.gauss(0, 0.03), "lr": 1e-6,
            "grad_norm": 1.0, "images_per_second": 143.0, "u": u, "h": u,
            "lambda": {task: 100 * max(value, 0) for task, value in u.items()},
            "seconds": {"data": 0.012, "forward": 0.41, "exchange": 0.031, "backward": 0.83, "optimiser": 0.09},
        })  # fmt: skip
        if step % EVERY == 0:
            records.append({"event": "eval", "step": step, **evaluation(step, sinks)})
    return records


def flips() -> dict[str, Any]:
    found = []
    for i, task in enumerate(("weather:rainy", "timeofday:night")):
        name = task.partition(":")[2]
        for j in range(5):
            shown = {"truth": name, "old": name, "new": "foggy", "image": _jpeg(10 * i + j)}
            found.append({"task": task, "id": f"test-{i}{j}", **shown})
    return {"schema": 1, "flips": found}


def evaluation(step: int, sinks: bool) -> dict[str, Any]:
    gain = 0.24 * (1 - math.exp(-step / 120))
    target = {"task": TARGET, "n": 500, "old": 0.41, "new": 0.41 + gain, "delta": gain}
    tasks: list[dict[str, Any]] = []
    for i, task in enumerate(TASKS):
        fall = -0.004 * i * gain / 0.04 if sinks else 0.02 * gain - (0.006 if step in (50, 75) and i == 4 else 0.0)
        tasks.append({"task": task, "n": 500, "old": 0.9 - 0.01 * i, "new": 0.9 - 0.01 * i + fall, "delta": fall,
                      "tolerance": 0.0, "loss_old": 0.8, "loss_new": 0.8 - fall})  # fmt: skip
    worst = min(float(task["delta"]) for task in tasks)
    return {"target": target, "tasks": tasks, "devsafety": worst, "margin": worst, "feasible": worst >= 0}


def _loss(i: int, step: int, sinks: bool) -> float:
    if sinks:
        return 0.0004 * i * step / 10
    return 0.02 * math.exp(-(((step - 40 - 6 * i) / 50) ** 2)) - 0.002 * (i % 5) - 0.003


def _jpeg(seed: int) -> str:
    noise = random.Random(seed)
    sky, road = (tuple(noise.randrange(60, 200) for _ in range(3)) for _ in range(2))
    image = Image.new("RGB", (32, 32), sky)
    image.paste(road, (0, 20, 32, 32))
    image.paste((40, 40, 40), (10, 14, 20, 24))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def changed(run: RunFiles, name: str, change: Callable[[Any], None]) -> RunFiles:
    """The run with one of its files changed in place on a copy."""
    value = json.loads(json.dumps(getattr(run, name)))
    change(value)
    return dataclasses.replace(run, **{name: value})
