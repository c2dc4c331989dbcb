"""How far a solver's settings carry over: the share of a decade-wide grid that ends feasible with a gain.

    python benchmarks/carry_over.py FOLDER PRESET… [--points 3] [--steps N] [--solvers …] [--losses …] [--json FILE]

A PRESET is a file as `datasets.py` writes them, with data and old model. Every number that a solver reads takes
`points` values from a third to three times its middle, each with each. A cycle is the project's own step, loader
and measurement on val on one core, without Ray, checkpoints and rescue (`search_cycles.train`); it counts where some
candidate is feasible on val and gains at the target. FOLDER keeps what every setting measured, so that the same command
goes on after a break.
"""

import argparse
import functools
import itertools
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from search_cycles import Cycles

from raymds.config import Config, load
from raymds.method.constraints import LOSSES
from raymds.method.solvers import SOLVERS
from raymds.search.space import Params

MIDDLE: dict[str, dict[str, float]] = {  # of the solvers that seek feasibility, in the objective's units
    "squared_hinge": {"beta": 20.0},
    "hinge": {"beta": 1.0},
    "smoothed_hinge": {"beta": 1.0, "rho": 0.02},
    "augmented_lagrangian": {"beta": 3.0, "eta": 30.0},
    "pi": {"beta": 10.0, "eta": 50.0},
    "multiplicative": {"start": 0.4, "eta": 30.0},
}
NATS = 4.0  # a change of cross-entropy is about so many times that of the probability of being wrong


def grid(solver: str, loss: str, points: int) -> Iterator[Params]:
    """Settings of a solver over a decade around its middle; with cross-entropy the slopes are in its unit."""
    axes = []
    for name, middle in MIDDLE[solver].items():
        unit = 1.0 if loss != "cross_entropy" or name == "start" else NATS if name == "rho" else 1 / NATS
        unit = 1.0 if name == "beta" and "hinge" in solver and solver != "squared_hinge" else unit
        values = middle * unit * np.geomspace(10**-0.5, 10**0.5, points)
        axes.append([(f"constraints.{name}", float(value)) for value in values])
    for setting in itertools.product(*axes):
        yield {"constraints.solver": solver, "constraints.loss": loss, **dict(setting)}


def held(cycles: Cycles, params: Params) -> bool:
    """Whether a cycle with these settings has a feasible candidate that gains."""
    return any(m.feasible and m.target > 0 for m in cycles.history(params))


def main() -> None:
    """Train, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("presets", nargs="+")
    parser.add_argument("--points", type=int, default=3)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--solvers", nargs="+", default=list(MIDDLE), choices=list(SOLVERS))
    parser.add_argument("--losses", nargs="+", default=list(LOSSES), choices=list(LOSSES))
    parser.add_argument("--json", metavar="FILE")
    given = parser.parse_args()
    result: dict[str, dict[str, Any]] = {}
    print(f"{'solver, loss':<40}" + "".join(f"{Path(preset).stem[:12]:>14}" for preset in given.presets), flush=True)
    for solver, loss in itertools.product(given.solvers, given.losses):
        name, line = f"{solver}, {loss}", f"{solver}, {loss:<{38 - len(solver)}}"
        for preset in given.presets:
            folder = given.folder / Path(preset).parent.name / Path(preset).stem
            steps = [f"optim.steps={given.steps}", "search.steps=0"] if given.steps else []
            cycles = Cycles(load(Config, preset, [f"run.uri={folder}", *steps]), folder)
            settings = list(grid(solver, loss, given.points))
            with ThreadPoolExecutor(len(settings)) as pool:
                share = sum(pool.map(functools.partial(held, cycles), settings)) / len(settings)
            result.setdefault(name, {})[preset] = share
            line += f"{100 * share:>12.0f} %"
        print(line, flush=True)
    if given.json:
        Path(given.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
