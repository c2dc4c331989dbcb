"""The constrained step against the unconstrained one at the same number of images per step.

    python benchmarks/step.py [--steps 20] [--json FILE]

One process, one thread, tiny CLIP on rendered scenes. Four kinds of step take turns, so that a busy machine slows them
alike; the figure is the ratio of their median times. "unconstrained" spends all images on pairs of the objective; the
constrained ones have as many images, 13 tasks among them, with every constraint satisfied (λ = 0), half of the tasks
violated, or all violated.
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from raymds.config import Config, load
from raymds.data.config import ScenesConfig
from raymds.data.loader import Loader
from raymds.data.shards import DataSet
from raymds.model import ClipWithHeads, pack_weights
from raymds.model import load as load_model
from raymds.scenes import dataset as scene_set
from raymds.tasks import resolve
from raymds.train import cycle, limits

PAIRS, PER_TASK = 128, 8


def build(config: Config, violated: float | None) -> tuple[cycle.ConstrainedCycle, Loader, int]:
    """A training whose share `violated` of constraints is active; None: no constraints at all."""
    data = DataSet.open(config.data.uri)
    tasks, train = resolve(config.task, data.attributes), data.load("train")
    net = load_model("tiny-64", config.model.weights, tasks.heads, config.model.head_rank, 0)
    sampler = limits.build_sampler(train, tasks, config)
    images = PAIRS + PER_TASK * len(tasks.protected)
    if violated is None:
        sampler = dataclasses.replace(sampler, tasks_per_step=0, positives=images // 2, negatives=images - images // 2)
    training = cycle.ConstrainedCycle(net, train, tasks, sampler, config)
    training.measure_old()
    active = round((violated or 0) * len(tasks.protected))
    for k in range(len(tasks.protected)):
        training.old_losses[k] += -10 if k < active else 10  # as if the old model had been far better, or far worse
    return training, Loader(train, sampler.batch, training.model.preprocess, 0, ahead=0), images


def measure(steps: int, directory: str) -> dict[str, dict[str, float]]:
    """Median seconds of each kind of step and of its parts."""
    scenes = load(ScenesConfig, None, ["rows.train=2000", "rows.val=0", "rows.test=0", "frequencies.weather.foggy=0.5"])
    scene_set.make(f"{directory}/data", scenes, 2, lambda record: None)
    weights = Path(directory) / "old.safetensors"
    weights.write_bytes(pack_weights(ClipWithHeads("tiny-64", [], 32, 0)))
    settings = [
        f"data.uri={directory}/data",
        f"model.weights={weights}",
        "task.retained=40",
        f"objective.batch={PAIRS}",
    ]
    config = load(Config, "demo", [*settings, f"constraints.images_per_task={PER_TASK}"])
    kinds = {"unconstrained": None, "all satisfied": 0.0, "half violated": 0.5, "all violated": 1.0}
    built = {name: build(config, violated) for name, violated in kinds.items()}
    times: dict[str, list[float]] = {name: [] for name in kinds}
    parts: dict[str, list[dict[str, float]]] = {name: [] for name in kinds}
    for step in range(steps + 2):
        for name, (training, loader, _) in built.items():
            loaded = loader.get(step)
            begin = time.perf_counter()
            metrics = training.step(loaded)
            if step >= 2:  # the first steps allocate
                times[name].append(time.perf_counter() - begin)
                parts[name].append(metrics["seconds"])
    return {
        name: {
            "seconds": statistics.median(times[name]),
            "ratio": statistics.median(times[name]) / statistics.median(times["unconstrained"]),
            "images": built[name][2],
            **{part: statistics.median(p[part] for p in parts[name]) for part in parts[name][0]},
        }
        for name in kinds
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        result = measure(options.steps, directory)
    print(f"{'step':<16}{'images':>8}{'ms':>8}{'ratio':>8}   forward exchange backward optimiser (ms)")
    for name, row in result.items():
        split = " ".join(f"{1000 * row[part]:8.1f}" for part in ("forward", "exchange", "backward", "optimiser"))
        print(f"{name:<16}{row['images']:>8.0f}{1000 * row['seconds']:>8.0f}{row['ratio']:>8.2f}  {split}")
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
