"""What each saving of the constrained step gives: the step without it, beside the step as it is.

    python benchmarks/savings.py [--model tiny-64] [--shapes 5 364] [--scale 1.0] [--steps 7] [--json FILE]

One process, one thread, random images, the published sizes and rule of `step.py`, 30 % of the constraints violated
unless a row says otherwise. All kinds of step take turns; a figure is the ratio of their median times, above 1 where
the saving pays. None of them changes a gradient: `tests/multiproc` has them in fp64.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from step import SHAPES, Shape, asked, configured, violate

from raymds.data.loader import Loaded, Loader
from raymds.data.shards import DataSet
from raymds.model import ClipWithHeads
from raymds.model import load as load_model
from raymds.tasks import resolve
from raymds.train import cycle, limits

VIOLATED = 0.3
Changed = Callable[[cycle.ConstrainedCycle], None]


def whole_context(net: ClipWithHeads) -> None:
    """Texts at the tower's full context, as where it is not causal."""
    net._cut = False


def every_example(ours: cycle.ConstrainedCycle) -> None:
    """A gradient of every example, and of all prompts, whatever its λ."""
    every = SimpleNamespace(examples=True, old=False, fisher=False, multipliers=None, penalty=None)
    ours._baseline = every  # type: ignore[assignment]
    ours._may_pass_once = False


def two_passes(ours: cycle.ConstrainedCycle) -> None:
    """Examples once without a graph and once with one, also where most of them need one."""
    ours._may_pass_once = False


def one_by_one(ours: cycle.ConstrainedCycle) -> None:
    """AdamW and the mean of the weights tensor by tensor."""
    optimizer = ours._learner.optimizer
    for group in optimizer.param_groups:
        group["fused"] = group["foreach"] = False
    take = optimizer.step

    def step() -> None:
        del optimizer.found_inf  # type: ignore[attr-defined]  # which the fused kernel alone looks at
        take()

    optimizer.step = step  # type: ignore[method-assign, assignment]

    def mean() -> None:
        with torch.no_grad():
            for average, current in zip(ours._averaged, ours._current, strict=True):
                average.lerp_(current, 1 - ours._config.select.average)

    ours._update_average = mean  # type: ignore[method-assign]


ROWS: dict[str, tuple[float, Callable[[ClipWithHeads], None] | None, Changed | None]] = {
    "texts cut behind the longest one": (VIOLATED, whole_context, None),
    "no gradient where λ is 0": (VIOLATED, None, every_example),
    "one pass where most are violated (all are)": (1.0, None, two_passes),
    "AdamW and mean of all tensors at once": (VIOLATED, None, one_by_one),
}


def measure(shape: Shape, model: str, steps: int) -> dict[str, dict[str, Any]]:
    """By saving: seconds of the step without it and with it (medians of their `times`), and the ratio."""
    with tempfile.TemporaryDirectory() as folder:
        config = configured(folder, shape, model, steps)
        config.select.average = 0.98
        data = DataSet.open(config.data.uri)
        tasks = resolve(config.task, data.attributes)
        train = data.load("train", tasks.vocabularies)
        sampler = limits.build_sampler(train, tasks, config)

        def build(violated: float, of_net: Any = None, of_step: Changed | None = None) -> Callable[[Loaded], Any]:
            net = load_model(model, None, tasks.heads, None, 0)
            if of_net:
                of_net(net)
            ours = cycle.ConstrainedCycle(net, train, tasks, sampler, config)
            ours.measure_old()
            violate(ours, round(violated * len(tasks.protected)))
            if of_step:
                of_step(ours)
            return ours.step

        kinds = {name: build(*row) for name, row in ROWS.items()}
        kinds |= {str(violated): build(violated) for violated, *_ in ROWS.values()}
        loader = Loader(train, sampler.batch, load_model(model, None, [], None, 0).preprocess, 0, ahead=0)
        times: dict[str, list[float]] = {name: [] for name in kinds}
        for number in range(steps + 1):
            loaded = loader.get(number)
            for name, step in kinds.items():
                begin = time.perf_counter()
                step(loaded)
                if number:  # the first step allocates, and finds which constraints are violated
                    times[name].append(time.perf_counter() - begin)
    seconds = {name: statistics.median(values) for name, values in times.items()}
    return {
        name: {
            "without": seconds[name],
            "with": seconds[str(violated)],
            "ratio": seconds[name] / seconds[str(violated)],
            "times": {"without": times[name], "with": times[str(violated)]},
        }
        for name, (violated, *_) in ROWS.items()
    }


def main() -> None:
    """Measure, print, write."""
    options = asked(__doc__)
    result: dict[str, Any] = {}
    for protected in options.shapes:
        shape = SHAPES[protected].scaled(options.scale)
        result[str(protected)] = measure(shape, options.model, options.steps)
        for name, row in result[str(protected)].items():
            both = f"{1000 * row['without']:8.0f} → {1000 * row['with']:6.0f} ms"
            print(f"m = {shape.protected:<4}{name:<46}{both}{row['ratio']:8.2f}", flush=True)
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
