"""Ways to search for a setting that keeps everything, at the same number of trials, on synthetic response surfaces.

    python benchmarks/search.py [--seeds 10] [--trials 32] [--gp] [--json FILE]

No training: a trial's history comes from a formula (`Surface`), so that all of it takes a minute or two. A surface has
the shape of what constrained cycles do. The target rises with the learning rate and falls with what is asked of the
constraints. Thirteen tasks forget with the learning rate, less the higher β and the more images a step has for them;
they gain with the margin (a slack below 0), suffer where β and learning rate together make the weights swing, and where
γ₂ is far from a middle value. How strongly, task by task, is drawn anew for each seed, and so is the noise of val (0.4
points per task, 1 for the target). As training goes on, deltas first fall and then come back; the target comes late.

The first trial is the same for all: the middle of the space, which keeps nothing. A trial counts as feasible if one of
its candidates keeps all tasks and is above the old model; the best of those by target is the winner, for every method
alike, also for those that did not search for it.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import optuna

from raymds.search.halving import verdict
from raymds.search.sampler import SAMPLERS, propose
from raymds.search.space import Int, LogUniform, Params, Space, Uniform
from raymds.search.trials import FINISHED, STOPPED, Measurement, Trial

TASKS, STEPS, EVALUATIONS = 13, 600, 15
SPACE: Space = {
    "constraints.beta": LogUniform(10, 1000),
    "optim.lr": LogUniform(7e-5, 1.75e-3),
    "constraints.gamma": Uniform(0.1, 1.0),
    "constraints.slack": Uniform(-0.5, 0.0),
    "constraints.images_per_task": Int(6, 24),
}
OWN: Params = {
    "constraints.beta": 100.0, "optim.lr": 3.5e-4, "constraints.gamma": 0.8, "constraints.slack": 0.0,
    "constraints.images_per_task": 12,
}  # fmt: skip
GP, GP_HALVING = "constrained GP", "constrained GP, feasible halving"
History = list[Measurement]


class Surface:
    """Histories of trials as a function of their settings; `seed` draws the tasks and the noise."""

    space, own, steps = SPACE, OWN, STEPS

    def __init__(self, seed: int) -> None:
        self._seed = seed
        rng = np.random.default_rng([seed, 0])
        self.forgets, self.swings, self.lags, self.gains = rng.uniform(0.3, 1.7, (4, TASKS))

    def final(self, params: Params) -> tuple[float, np.ndarray, float]:
        """Target and tasks [TASKS] at the end without noise, and how far the tasks fall on the way; fractions."""
        beta = math.log10(params["constraints.beta"] / 100)
        lr = math.log(params["optim.lr"] / 3.5e-4) / math.log(5)
        images = math.log2(params["constraints.images_per_task"] / 12)
        margin = -params["constraints.slack"]
        drift = 0.03 * math.exp(1.3 * lr - 1.2 * beta - 0.4 * images)
        swing = 0.01 * math.exp(1.2 * (lr + beta))
        lag = 0.02 * math.log(params["constraints.gamma"] / 0.35) ** 2
        tasks = 0.15 * margin * self.gains - drift * self.forgets - swing * self.swings - lag * self.lags
        target = 0.5 + 0.25 * lr - 0.12 * beta - 0.5 * margin - 0.5 * swing
        return min(target, 0.72), np.maximum(tasks, -0.95), drift

    def history(self, params: Params) -> History:
        """What a trial measures, evaluation by evaluation."""
        target, tasks, drift = self.final(params)
        rng = np.random.default_rng([self._seed, *np.frombuffer(json.dumps(params).encode(), np.uint8)])
        history = []
        for number in range(1, EVALUATIONS + 1):
            share = number / EVALUATIONS
            early = share / 0.15 * math.exp(1 - share / 0.15)  # 1 at 15 % of the budget, then back towards 0
            deltas = tasks * (1 - math.exp(-4 * share)) - (0.02 + drift) * early * self.forgets
            come = 1 / (1 + math.exp(-8 * (share - 0.55))) / (1 / (1 + math.exp(-8 * 0.45)))
            gain = target * come - 0.3 * early
            noise = rng.normal(0, 0.004, TASKS)
            named = {f"task {k}": float(v) for k, v in enumerate(deltas + noise)}
            history.append(Measurement(round(share * STEPS), gain + float(rng.normal(0, 0.01)), named))
        return history


class Problem(Protocol):
    """What is searched: its space, the setting to begin with, the steps of a whole trial."""

    space: Space
    own: Params
    steps: int

    def history(self, params: Params) -> History:
        """What a trial that is let go to its end measures."""
        ...


Ask = Callable[[Sequence[Trial]], Params | None]
Stop = Callable[[History, Sequence[History], int], bool]


def search(problem: Problem, ask: Ask, stop: Stop, budget: float = math.inf) -> list[Trial]:
    """Trials one after the other until `ask` gives none or as many steps are taken as `budget` whole trials have."""
    past: list[Trial] = []
    while taken(past) < budget * problem.steps and (params := ask(past)) is not None:
        whole, others = problem.history(params), [list(trial.history) for trial in past]
        upto = next((n for n in range(1, len(whole) + 1) if stop(whole[:n], others, problem.steps)), len(whole))
        status = FINISHED if upto == len(whole) else STOPPED
        past.append(Trial(len(past), params, status, tuple(whole[:upto])))
    return past


def taken(trials: Sequence[Trial]) -> int:
    """Steps that these trials took."""
    return sum(trial.history[-1].step for trial in trials)


def penalised(measured: Measurement, weight: float) -> float:
    """The score of a search without constraints: the target less so many times the worst violation."""
    return measured.target + weight * min(0.0, measured.devsafety)


def unconstrained(weight: float, problem: Problem, seed: int, trials: int) -> Ask:
    """Optuna's TPE, set up as the project's, on the penalised score of a trial's best candidate."""
    study = optuna.create_study(direction="maximize", sampler=SAMPLERS["tpe"](seed))
    study.enqueue_trial(problem.own)
    asked: list[optuna.Trial] = []

    def ask(past: Sequence[Trial]) -> Params | None:
        if past:
            study.tell(asked[-1], max(penalised(m, weight) for m in past[-1].history))
        if len(past) == trials:
            return None
        asked.append(study.ask())
        params: Params = {}
        for key, dimension in problem.space.items():
            match dimension:
                case Int(low, high):
                    params[key] = asked[-1].suggest_int(key, low, high)
                case Uniform(low, high):
                    params[key] = asked[-1].suggest_float(key, low, high, log=isinstance(dimension, LogUniform))
        return params

    return ask


def asha(history: History, others: Sequence[History], steps: int, weight: float = 25.0) -> bool:
    """Plain asynchronous halving: at an eighth, a quarter and a half, the better half by penalised score goes on."""
    step = history[-1].step
    before = history[-2].step if len(history) > 1 else 0
    for rung in (1 / 8, 1 / 4, 1 / 2):
        if before < rung * steps <= step:
            here = [next((penalised(m, weight) for m in other if m.step == step), None) for other in others]
            scores = [score for score in here if score is not None]
            if len(scores) >= 2 and penalised(history[-1], weight) < statistics.median(scores):
                return True
    return False


def never(history: History, others: Sequence[History], steps: int) -> bool:
    """No scheduler."""
    return False


def halving(history: History, others: Sequence[History], steps: int) -> bool:
    """The project's scheduler."""
    return verdict(history, others, steps) is not None


def methods(problem: Problem, seed: int, trials: int) -> dict[str, tuple[Ask, Stop, float]]:
    """Every method: what it asks, when it stops a trial, its budget in whole trials where that is not their number."""

    def proposing(algorithm: str, count: int = trials) -> Ask:
        return lambda past: propose(problem.space, problem.own, algorithm, seed, count, past)

    def penalty(weight: float) -> Ask:
        return unconstrained(weight, problem, seed, trials)

    return {
        "constrained TPE": (proposing("tpe"), never, math.inf),
        "constrained TPE, feasible halving": (proposing("tpe"), halving, math.inf),
        GP: (proposing("gp"), never, math.inf),
        GP_HALVING: (proposing("gp"), halving, math.inf),
        "random": (proposing("random"), never, math.inf),
        "random, feasible halving": (proposing("random"), halving, math.inf),
        "TPE on the target alone": (penalty(0), never, math.inf),
        "TPE on target - 1 x violation": (penalty(1), never, math.inf),
        "TPE on target - 5 x violation": (penalty(5), never, math.inf),
        "TPE on target - 25 x violation": (penalty(25), never, math.inf),
        "TPE on target - 100 x violation": (penalty(100), never, math.inf),
        "ASHA": (proposing("random"), asha, math.inf),
        "ASHA, as many steps": (proposing("random", 100 * trials), asha, float(trials)),
    }


def row(trials: list[Trial], steps: int) -> dict[str, Any]:
    """Figures of one search with trials of so many steps."""
    good = [trial.best.target for trial in trials if trial.best is not None and trial.best.good]
    budgets = taken(trials) / steps
    return {"trials": len(trials), "feasible": len(good), "best": max(good, default=None), "budgets": budgets}


def measure(seeds: int, trials: int, gp: bool) -> dict[str, Any]:
    """Figures of every method on every surface, and the share of each space that is feasible."""
    found: dict[str, list[dict[str, Any]]] = {}
    shares = []
    for seed in range(seeds):
        surface = Surface(seed)
        rng = np.random.default_rng([seed, 1])
        drawn = [
            {key: d.low * (d.high / d.low) ** rng.random() if isinstance(d, LogUniform) else rng.uniform(d.low, d.high)
             for key, d in SPACE.items() if isinstance(d, Uniform)}
            for _ in range(4000)
        ]  # fmt: skip
        finals = [surface.final(params) for params in drawn]
        shares.append(sum(target > 0 and tasks.min() >= 0 for target, tasks, _ in finals) / len(drawn))
        for name, (ask, stop, budget) in methods(surface, seed, trials).items():
            if name in {GP, GP_HALVING} and not gp:
                continue
            found.setdefault(name, []).append(row(search(surface, ask, stop, budget), STEPS))
    return {"seeds": seeds, "trials": trials, "feasible_share": shares, "methods": found}


def show(result: dict[str, Any]) -> None:
    """Print it."""
    shares = [100 * share for share in result["feasible_share"]]
    print(
        f"{result['seeds']} surfaces, {result['trials']} trials, {min(shares):.1f}-{max(shares):.1f} % of it feasible"
    )
    table(result["methods"], GP if GP in result["methods"] else "constrained TPE")


def table(found: dict[str, list[dict[str, Any]]], own: str) -> None:
    """The figures of every method, a row per search, beside those of the project's own."""
    ours = found[own]
    print(f"{'method':<36}{'budgets':>8}{'feasible':>9}{'range':>8}{'found':>7}{'target':>8}{'ours worse':>12}")
    for name, rows in found.items():
        counts, best = [r["feasible"] for r in rows], [r["best"] or 0.0 for r in rows]
        worse = sum((one["best"] or 0.0) < other for one, other in zip(ours, best, strict=True))
        any_found = f"{sum(count > 0 for count in counts)}/{len(rows)}"
        print(
            f"{name:<36}{statistics.mean(r['budgets'] for r in rows):>8.1f}{statistics.mean(counts):>9.1f}"
            f"{f'{min(counts)}-{max(counts)}':>8}{any_found:>7}{100 * statistics.mean(best):>+8.1f}{worse:>12}"
        )
    print(
        "budgets: steps taken, in those of a whole trial; feasible: trials, mean and range; found: searches with any;"
    )
    print("target: the winner's, mean in points, 0 where the old model stays; ours worse: searches in which")
    print(f"{own} ends with a lower one than this method")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--gp", action="store_true", help="also with a Gaussian process: a minute or two per surface")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    begin = time.perf_counter()
    result = measure(options.seeds, options.trials, options.gp)
    show(result)
    print(f"{time.perf_counter() - begin:.0f} s")
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
