"""Our constrained step against the published step as it stands, and against unconstrained finetuning.

    python benchmarks/step.py [--model tiny-64|ViT-B-32] [--shapes 5 364] [--scale 1.0] [--steps 7] [--json FILE]

One process, one thread, random images. Per shape (m protected classes of one attribute) three kinds of step take turns,
so that a busy machine slows them alike, and the figures are ratios of their median times:

- published: every caption and every prompt goes through the text tower at its full context, and every image of the
  constraints through the image tower with a graph, whether its constraint is violated or not;
- ours, with none, 30 % and all of the constraints violated;
- plain: the objective alone with the same pairs, no constraints.

All three compute the same objective. `limit` is what arithmetic allows: the ratio of the floating-point operations that
torch counts in the two steps. --scale shrinks batches, tasks and classes together.
"""

import argparse
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from raymds.config import Config, load
from raymds.data.loader import Loaded, Loader
from raymds.data.shards import DataSet, Row, write_manifest, write_shard
from raymds.method import contrastive
from raymds.model import load as load_model
from raymds.tasks import Tasks, resolve
from raymds.train import cycle, limits
from raymds.train.step import Learner

VIOLATED = {"none": 0.0, "30 %": 0.3, "all": 1.0}


@dataclass(frozen=True)
class Shape:
    """Published sizes of a step (METHOD 8)."""

    protected: int
    pairs: int
    tasks: int  # sampled per step
    images: int  # per task

    def scaled(self, scale: float) -> "Shape":
        """Everything but the images of a task made smaller."""
        protected, pairs, tasks = (max(2, round(scale * n)) for n in (self.protected, self.pairs, self.tasks))
        return Shape(protected, pairs + pairs % 2, min(tasks, protected), self.images)


SHAPES = {5: Shape(5, 256, 5, 10), 364: Shape(364, 64, 240, 2)}


def data_set(folder: str, shape: Shape, size: int) -> str:
    """Random images, of every class as many as a task draws, of the target as many as a step does."""
    dice, kinds = np.random.default_rng(0), [f"kind {k}" for k in range(shape.protected + 1)]
    rows = []
    for k, kind in enumerate(kinds):
        for i in range(shape.images if k else shape.pairs // 2):
            buffer = io.BytesIO()
            Image.fromarray(dice.integers(0, 256, (size, size, 3), np.uint8)).save(buffer, "PNG")
            rows.append(Row(f"{k}-{i}", buffer.getvalue(), f"photo {i} of {kind}", {"kind": kind}))
    shards = {"train": [write_shard(folder, "train-0.parquet", rows, {"kind": kinds})]}
    write_manifest(folder, {"kind": kinds}, shards, {"made_by": "benchmarks/step.py"})
    return folder


class Published:
    """The published step, transcribed plainly: METHOD (10) to (12) without any saving."""

    def __init__(self, config: Config, tasks: Tasks, *, constrained: bool, device: str = "cpu") -> None:
        self.net = load_model(config.model.name, None, tasks.heads, None, 0).to(device)
        self._learner, self._config, self._tasks = Learner(self.net, config), config, tasks
        self._constrained = constrained
        self._old: Tensor | None = None
        self._log_s: Tensor | None = None

    def _texts(self, texts: list[str]) -> Tensor:
        embedded: Tensor = self.net.clip.encode_text(self.net.tokenizer(texts).to(self.net.mean.device), normalize=True)
        return embedded

    def step(self, loaded: Loaded) -> None:
        """One step, with every image and every text in the graph."""
        pairs, count = loaded.pairs, len(loaded.batch.positive)
        images = torch.cat([pairs, loaded.examples]) if self._constrained else pairs
        device = self.net.mean.device
        image, text = self.net.encode_image(images.to(device)), self._texts(list(loaded.captions))
        loss = self._objective(image[: len(pairs)], text, count)
        if self._constrained:
            prompts = self._texts([row[0] for row in self._tasks.prompts["kind"]])
            label = torch.tensor([self._tasks.protected[k].label for k in loaded.batch.example_task], device=device)
            cosines = image[len(pairs) :] @ prompts.T
            losses = nn.functional.cross_entropy(cosines / self._config.constraints.temperature, label)
            self._old = losses.detach() if self._old is None else self._old
            loss = loss + float((losses.detach() - self._old).clip(min=0)) * losses
        self._learner.descend(loss, loaded.batch.step, lambda part: torch.enable_grad())

    def _objective(self, image: Tensor, text: Tensor, count: int) -> Tensor:
        t = self._config.objective.temperature
        found = contrastive.differences(image[:count], text[:count], image[count:], text[count:])
        log_g = torch.stack([contrastive.log_normaliser(d.double(), t) for d in found], dim=1).detach()
        self._log_s = log_g if self._log_s is None else contrastive.track(self._log_s, log_g, 0.8)
        rows = [contrastive.surrogate(d, self._log_s[:, i], t) for i, d in enumerate(found)]
        return torch.stack(rows).sum() / found[0].numel()


def steps_of(config: Config, data: DataSet) -> tuple[dict[str, Callable[[Loaded], Any]], Loader]:
    """The kinds of step by name, and what loads their batches."""
    tasks = resolve(config.task, data.attributes)
    train = data.load("train", tasks.vocabularies)
    sampler = limits.build_sampler(train, tasks, config)
    kinds: dict[str, Callable[[Loaded], Any]] = {}
    for name, violated in VIOLATED.items():
        net = load_model(config.model.name, None, tasks.heads, None, 0)
        ours = cycle.ConstrainedCycle(net, train, tasks, sampler, config)
        ours.measure_old()
        active = round(violated * len(tasks.protected))
        violate(ours, active)
        kinds[f"ours, {name}"] = ours.step
    kinds["published"] = Published(config, tasks, constrained=True).step
    kinds["plain"] = Published(config, tasks, constrained=False).step
    loader = Loader(train, sampler.batch, Published(config, tasks, constrained=False).net.preprocess, 0, ahead=0)
    return kinds, loader


def violate(ours: cycle.ConstrainedCycle, active: int) -> None:
    """As if the old model had been far better on the first `active` tasks, and far worse on the others."""
    for k, losses in enumerate(ours.old_losses):
        losses.add_(-10 if k < active else 10)


def configured(folder: str, shape: Shape, model: str, steps: int) -> Config:
    """The published rule on a data set of that shape, which is made there."""
    settings = [
        f"data.uri={data_set(folder, shape, load_model(model, None, [], None, 0).image_size)}",
        f"model.name={model}",
        "run.uri=none",
        "task.target=kind:kind 0",
        "task.protect=[kind]",
        f"task.retained={shape.images}",
        'task.prompts.kind="a photo of a {}."',
        f"objective.batch={shape.pairs}",
        f"constraints.tasks_per_step={shape.tasks}",
        f"constraints.images_per_task={shape.images}",
        f"optim.steps={steps + 3}",
        "optim.warmup=1",
        "select.average=0",
    ]
    published = ["solver=squared_hinge", "loss=cross_entropy", "units=absolute", "margin=0", "held_out=0", "beta=1"]
    return load(Config, None, [*settings, *(f"constraints.{setting}" for setting in published)])


def measure(shape: Shape, model: str, steps: int) -> dict[str, dict[str, Any]]:
    """By kind of step: seconds (the median of `times`), operations, ratios to those of published and plain, limits."""
    with tempfile.TemporaryDirectory() as folder:
        config = configured(folder, shape, model, steps)
        kinds, loader = steps_of(config, DataSet.open(config.data.uri))
        times: dict[str, list[float]] = {name: [] for name in kinds}
        operations: dict[str, float] = {}
        for number in range(steps + 2):
            loaded = loader.get(number)
            for name, step in kinds.items():
                if number == 1:  # λ answers to what the step before found
                    with FlopCounterMode(display=False) as counted:
                        step(loaded)
                    operations[name] = float(counted.get_total_flops())
                    continue
                begin = time.perf_counter()
                step(loaded)
                if number:  # the first step allocates
                    times[name].append(time.perf_counter() - begin)
    seconds = {name: statistics.median(values) for name, values in times.items()}
    return {
        name: {
            "seconds": seconds[name],
            "times": times[name],
            "operations": operations[name],
            "published/this": seconds["published"] / seconds[name],
            "limit": operations["published"] / operations[name],
            "this/plain": seconds[name] / seconds["plain"],
            "least": operations[name] / operations["plain"],
        }
        for name in kinds
    }


def asked(description: str | None) -> argparse.Namespace:
    """What the command line says; from here on this process has one thread."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-64")
    parser.add_argument("--shapes", type=int, nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--json", metavar="FILE")
    torch.set_num_threads(1)
    return parser.parse_args()


def main() -> None:
    """Measure, print, write."""
    options = asked(__doc__)
    result: dict[str, Any] = {}
    print(f"{'m':>4} {'step':<12}{'ms':>8}{'published/this':>16}{'limit':>7}{'this/plain':>12}{'least':>7}")
    for protected in options.shapes:
        shape = SHAPES[protected].scaled(options.scale)
        result[str(protected)] = measure(shape, options.model, options.steps)
        for name, row in result[str(protected)].items():
            ratios = row["published/this"], row["limit"], row["this/plain"], row["least"]
            numbers = f"{ratios[0]:16.2f}{ratios[1]:7.2f}{ratios[2]:12.2f}{ratios[3]:7.2f}"
            print(f"{shape.protected:>4} {name:<12}{1000 * row['seconds']:>8.0f}{numbers}", flush=True)
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
