"""The ways to search of `search.py` on real cycles, at the same number of trials.

    python benchmarks/search_cycles.py DATA WEIGHTS FOLDER [--preset demo] [--trials 16] [--seed 0] [--json FILE]

DATA and WEIGHTS are a data set and an old model, such as `raymds demo` makes, FOLDER keeps every cycle, so that the
same command goes on after a break. A setting is run once, to its end, whoever asks for it; a scheduler then sees its
measurements up to where it ends the trial. The methods search side by side, each in a thread, as many cycles at a time
as there are CPUs.
"""

import argparse
import hashlib
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray
from search import History, row, search, table
from search import methods as all_methods

from raymds.config import Config, load
from raymds.run import RunDirectory
from raymds.search.book import history_of
from raymds.search.space import Params, own_setting, parse, trial_config
from raymds.train import driver

OURS = "constrained TPE, feasible halving"
METHODS = (OURS, "random", "TPE on target - 5 x violation", "TPE on target - 25 x violation", "ASHA")


@ray.remote(num_cpus=0)
def cycle(config: Config, old: str) -> None:
    """A cycle as a trial of a search has it: no certificate, the old model's results shared."""
    driver.finetune(config, lambda record: None, old)


class Cycles:
    """Trials by training, each setting once."""

    def __init__(self, config: Config, folder: Path) -> None:
        self._config, self._folder = config, folder
        self.space = parse(config)
        self.own = own_setting(config, self.space)
        self.steps = config.search.steps or config.optim.steps
        self._room = threading.Semaphore(len(os.sched_getaffinity(0)) // config.run.workers)
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def history(self, params: Params) -> History:
        """What the cycle with these settings measured on val."""
        name = hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()[:12]
        config = trial_config(self._config, params)
        config.run.uri = str(self._folder / name)
        with self._lock:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:
            history, ended = history_of(RunDirectory(config.run.uri))
            if not ended:
                with self._room:
                    ray.get(cycle.remote(config, str(self._folder / "old")))
                history, _ = history_of(RunDirectory(config.run.uri))
        return history


def main() -> None:
    """Search with every method, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("weights")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", metavar="FILE")
    given = parser.parse_args()
    overrides = [f"data.uri={Path(given.data).absolute()}", f"model.weights={Path(given.weights).absolute()}"]
    config = load(Config, given.preset, [*overrides, f"run.uri={given.folder.absolute()}", "run.workers=1"])
    cycles = Cycles(config, given.folder.absolute())
    driver.start_ray(lambda record: None)
    cycles.history(cycles.own)  # by itself: it measures the old model for all
    methods = all_methods(cycles, given.seed, given.trials)

    def found(name: str) -> dict[str, Any]:
        ask, stop, budget = methods[name]
        return row(search(cycles, ask, stop, budget), cycles.steps)

    with ThreadPoolExecutor(len(METHODS)) as pool:
        result = {name: [figures] for name, figures in zip(METHODS, pool.map(found, METHODS), strict=True)}
    table(result, OURS)
    if given.json:
        Path(given.json).write_text(json.dumps({"trials": given.trials, "methods": result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
