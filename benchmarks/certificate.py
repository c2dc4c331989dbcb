"""What a certificate shows of many tasks with few test images each, by simulation: Places365's 364 times 100.

    python benchmarks/certificate.py [--tasks 364] [--images 100] [--runs 10000] [--seed 0] [--json FILE]

Each run draws a test split's flips and judges them as a certificate does, with a tolerance of 0 at 95 % confidence.
Of every task 2 % of the images turn wrong and 2 % turn right, so nothing is truly lost; in a run with a loss one task
has that many more turned wrong. The target rises from 20 to 50 %. Printed: how often a model that lost nothing becomes
the outcome, by select.require, and how often a true loss of so many points is proven.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raymds.method import power
from raymds.method.certificate import lower_bound, upper_bound
from raymds.method.verdict import VERDICTS, Verdict, verdict_of

CONFIDENCE = 0.95
CHANGES = {"nothing changes": 0.0, "every task gains 3 points": 0.03, "every task gains 10 points": 0.10}
REQUIRED: tuple[Verdict, ...] = ("undecided", "retained", "certified")
LOSSES = (5, 10, 15, 20, 25, 30, 40)


def flips(random: np.random.Generator, images: int, change_RT: np.ndarray) -> np.ndarray:
    """(b, c) of each task in each run's test split: (R, T, 2); `change_RT` are the tasks' true changes."""
    down, up = power.FLIPS + np.maximum(-change_RT, 0), power.FLIPS + np.maximum(change_RT, 0)
    return random.multinomial(images, np.stack([down, up, 1 - down - up], axis=-1))[..., :2]


def verdicts(tasks: int, images: int) -> np.ndarray:
    """Rank in VERDICTS of every (b, c) that a task may have: (images + 1, images + 1)."""
    b, c = np.meshgrid(np.arange(images + 1), np.arange(images + 1), indexing="ij")
    c = np.minimum(c, images - b)
    error = (1 - CONFIDENCE) / tasks
    lower, upper, delta = lower_bound(b, c, images, error), upper_bound(b, c, images, error), (c - b) / images
    each = [verdict_of(*numbers, 0.0) for numbers in zip(delta.flat, lower.flat, upper.flat, strict=True)]
    return np.array([VERDICTS.index(verdict) for verdict in each]).reshape(delta.shape)


def measure(tasks: int, images: int, runs: int, seed: int) -> dict[str, Any]:
    """Shares of runs: `new` by what is true and what is required, `proven` by the points truly lost in one task."""
    random, rank = np.random.default_rng(seed), verdicts(tasks, images)
    new, found = {}, {}
    for name, change in CHANGES.items():
        b, c = np.moveaxis(flips(random, images, np.full((runs, tasks), change)), -1, 0)
        gain = np.moveaxis(flips(random, images, np.full((runs, 1), 0.3)), -1, 0)
        worst, gained = rank[b, c].min(axis=1), (gain[1] > gain[0]).all(axis=1)
        new[name] = {need: ((worst >= VERDICTS.index(need)) & gained).mean().item() for need in REQUIRED}
    for points in LOSSES:
        b, c = np.moveaxis(flips(random, images, np.full((runs, 1), -points / 100)), -1, 0)
        found[points] = (rank[b, c] == VERDICTS.index("violated")).mean().item()
    return {"tasks": tasks, "images": images, "runs": runs, "new": new, "proven": found}


def table(figures: dict[str, Any]) -> None:
    """For people."""
    print(f"{figures['tasks']} tasks with {figures['images']} test images each, {figures['runs']} runs")
    print("the outcome is the new model, share of runs, by select.require:")
    print(f"{'':<28}" + "".join(f"{need:>12}" for need in REQUIRED))
    for name, shares in figures["new"].items():
        print(f"{name:<28}" + "".join(f"{shares[need]:>12.3f}" for need in REQUIRED))
    print("a true loss in one task is proven, share of runs (as computed by `power.proven`):")
    for points, share in figures["proven"].items():
        expected = power.proven(figures["images"], -points / 100, (1 - CONFIDENCE) / figures["tasks"], 0.0)
        print(f"{points:>4} points {share:>8.3f}  ({expected:.3f})")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write as JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=364)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    figures = measure(options.tasks, options.images, options.runs, options.seed)
    table(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
