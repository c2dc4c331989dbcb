"""The ways to search of `search.py` on real cycles, at the same number of trials.

    python benchmarks/search_cycles.py DATA WEIGHTS FOLDER [--preset demo] [--trials 12] [--seed 0] [--json FILE]

DATA and WEIGHTS are a data set and an old model, such as `raymds demo` makes, FOLDER keeps what every setting measured,
so that the same command goes on after a break. A cycle is the project's own step, loader and measurement on val on one
core, without Ray, checkpoints, and rescue at the end. A setting is trained once, to its end, whoever asks for it; a
scheduler then sees its measurements up to where it ends the trial. The methods search side by side, as many cycles at
a time as there are cores.
"""

import argparse
import functools
import hashlib
import json
import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from search import GP_HALVING, History, row, search, table
from search import methods as all_methods

from raymds import model
from raymds.config import Config, load
from raymds.data.loader import Loader
from raymds.data.shards import DataSet
from raymds.data.split import Split
from raymds.errors import DivergedError
from raymds.search.space import Params, own_setting, parse, trial_config
from raymds.search.trials import Measurement
from raymds.tasks import resolve
from raymds.train import cycle, select
from raymds.train.evaluate import evaluate
from raymds.train.limits import build_sampler

METHODS = (GP_HALVING, "constrained TPE, feasible halving", "random", "TPE on target - 25 x violation", "ASHA")


@functools.cache
def split(uri: str, name: str) -> Split:
    """A split, opened once per process."""
    return DataSet.open(uri).load(name)


def train(config: Config) -> History:
    """What a cycle measures on val, up to where it diverges."""
    torch.set_num_threads(1)
    tasks = resolve(config.task, DataSet.open(config.data.uri).attributes)
    rows, val, limits = split(config.data.uri, "train"), split(config.data.uri, "val"), config.constraints
    net = model.load(config.model.name, config.model.weights, tasks.heads, config.model.head_rank, config.run.seed)
    old = evaluate(net, val, tasks, limits.temperature)
    sampler = build_sampler(rows, tasks, config)
    training = cycle.ConstrainedCycle(net, rows, tasks, sampler, config)
    training.measure_old()
    loader = Loader(rows, sampler.batch, net.preprocess, config.run.seed)
    history = []
    for step in range(1, config.optim.steps + 1):
        try:
            training.step(loader.get(step - 1))
        except DivergedError:
            break
        if step % config.select.every == 0 or step == config.optim.steps:
            new = evaluate(training.candidate, val, tasks, limits.temperature)
            history.append(Measurement.of(select.compare(old, new, tasks, config.select.tolerance, limits.loss), step))
    loader.close()
    return history


class Cycles:
    """Trials by training, each setting once."""

    def __init__(self, config: Config, folder: Path) -> None:
        self._config, self._folder = config, folder
        self.space = parse(config)
        self.own = own_setting(config, self.space)
        self.steps = config.search.steps or config.optim.steps
        # Not forked: by then there are threads.
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(len(os.sched_getaffinity(0)), context)
        self._locks: dict[str, threading.Lock] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def history(self, params: Params) -> History:
        """What the cycle with these settings measured on val."""
        name = hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()[:12]
        file = self._folder / f"{name}.json"
        with self._locks.setdefault(name, threading.Lock()):
            if not file.exists():
                history = self._pool.submit(train, trial_config(self._config, params)).result()
                file.write_text(json.dumps({"params": params, "history": [asdict(m) for m in history]}))
            return [Measurement(**m) for m in json.loads(file.read_text())["history"]]


def main() -> None:
    """Search with every method, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("weights")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", metavar="FILE")
    given = parser.parse_args()
    overrides = [f"data.uri={given.data}", f"model.weights={given.weights}", f"run.uri={given.folder}"]
    cycles = Cycles(load(Config, given.preset, overrides), given.folder)
    methods = all_methods(cycles, given.seed, given.trials)

    def found(name: str) -> dict[str, Any]:
        ask, stop, budget = methods[name]
        return row(search(cycles, ask, stop, budget), cycles.steps)

    with ThreadPoolExecutor(len(METHODS)) as pool:
        result = {name: [figures] for name, figures in zip(METHODS, pool.map(found, METHODS), strict=True)}
    table(result, GP_HALVING)
    if given.json:
        Path(given.json).write_text(json.dumps({"trials": given.trials, "methods": result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
