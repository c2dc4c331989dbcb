"""What a search tries next, through Optuna, with each protected task as one of its constraints."""

import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from raymds.search.space import Choice, Dimension, Int, LogUniform, Params, Space
from raymds.search.trials import FAILED, RUNNING, Trial

Live = Callable[[Params], Params]

_TASKS = 50  # protected ones that are a constraint each: a sampler models every one by itself

optuna.logging.set_verbosity(optuna.logging.WARNING)  # a line per study is no news to a user
# A trial is dear. Optuna draws ten at random before it models anything: of a dozen trials nearly all. That TPE weighs
# more candidates gives better winners and more feasible trials in benchmarks/search.py.
SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed, n_startup_trials=5, n_ei_candidates=128),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed, n_startup_trials=3),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}


def propose(
    space: Space, own: Params, algorithm: str, seed: int, trials: int, past: Sequence[Trial], live: Live = dict
) -> Params | None:
    """The setting of trial number `len(past)`, or None where there is nothing left to try.

    `live` leaves out of a setting what changes nothing in it, the numbers of another solver. TPE is told of such a
    number by the trials alone in which it meant something; the Gaussian process, which wants every number of every
    trial, is told the preset's.

    The first is `own`, the preset's. `algorithm` is tpe, gp, random or grid, `trials` the search's budget. A pure
    function: a search that goes on from its records proposes what it would have proposed without the break. Trials
    that still run are in `past` too; tpe and gp keep away from them.
    """
    number = len(past)
    if number == 0:
        return live(own)
    if number >= trials:
        return None
    if algorithm == "grid":
        points = _grid(space, own, trials - 1, seed, live)
        return points[number - 1] if number <= len(points) else None
    distributions = {key: _distribution(dimension) for key, dimension in space.items()}
    study = optuna.create_study(direction="maximize", sampler=SAMPLERS[algorithm](_seed(seed, number)))
    for trial in sorted(past, key=lambda t: t.number):
        told = replace(trial, params=own | trial.params) if algorithm == "gp" else trial
        study.add_trial(_told(told, distributions))
    asked = study.ask(distributions)
    return live({key: asked.params[key] for key in space})


def constraints(trial: Trial) -> dict[str, float]:
    """A finished trial's constraints by name, kept iff ≤ 0: −(Δacc + tolerance) per protected task, and −Δtarget.

    Accuracies, not h_k: the slack, which may be searched, is part of h_k. The target is among them because a model
    that keeps everything and gained nothing is no better than the old one, and a near miss tells more than it does.
    Of many tasks the worst one is a single constraint, kept iff all are.
    """
    assert trial.best is not None
    kept = {task: -margin for task, margin in trial.best.margins.items()}
    kept = kept if len(kept) <= _TASKS else {"worst task": max(kept.values())}
    return kept | {"target": -trial.best.target}


def importance(space: Space, past: Sequence[Trial]) -> dict[str, float]:
    """Share of each key in what decides how good a trial's best candidate is, the largest first; sum 1.

    PED-ANOVA over the trials that measured something, ordered as the search orders them: feasible first. Empty where
    there are fewer than twice as many trials as keys, which would decide nothing.
    """
    distributions = {key: _distribution(dimension) for key, dimension in space.items()}
    measured = [trial for trial in past if trial.status not in {RUNNING, FAILED} and trial.best is not None]
    if len(space) < 2 or len(measured) < 2 * len(space):
        return {}
    study = optuna.create_study(direction="maximize")
    ordered = sorted(measured, key=lambda trial: trial.best.rank if trial.best else (0.0, 0.0))
    for place, trial in enumerate(ordered):
        known = {key: distributions[key] for key in trial.params}
        study.add_trial(optuna.trial.create_trial(value=place, params=trial.params, distributions=known))
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {key: float(share) for key, share in found.items()}


def _told(trial: Trial, distributions: dict[str, BaseDistribution]) -> optuna.trial.FrozenTrial:
    """A trial as Optuna knows it; one that failed or measured nothing finite is told as failed: it teaches nothing."""
    states = optuna.trial.TrialState
    known = {key: distributions[key] for key in trial.params}
    common: dict[str, Any] = {"params": trial.params, "distributions": known}
    if trial.status == RUNNING:
        return optuna.trial.create_trial(state=states.RUNNING, **common)
    measured = trial.status != FAILED and trial.best is not None
    if not measured or not all(map(math.isfinite, constraints(trial).values())):
        return optuna.trial.create_trial(state=states.FAIL, **common)
    assert trial.best is not None
    return optuna.trial.create_trial(
        state=states.COMPLETE, value=trial.best.target, constraints=constraints(trial), **common
    )


def _distribution(dimension: Dimension) -> BaseDistribution:
    match dimension:
        case Choice(options):
            return CategoricalDistribution(options)
        case Int(low, high):
            return IntDistribution(low, high)
        case LogUniform(low, high):
            return FloatDistribution(low, high, log=True)
        case _:
            return FloatDistribution(dimension.low, dimension.high)


def _seed(seed: int, number: int) -> int:
    """One stream per proposal."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def _grid(space: Space, own: Params, most: int, seed: int, live: Live) -> list[Params]:
    """At most `most` points of a grid as fine as that allows, in an order drawn from the seed, without `own`."""
    axes = {key: dimension.grid(1) for key, dimension in space.items()}
    finer = True
    while finer:
        finer = False
        for key, dimension in space.items():
            axis = dimension.grid(len(axes[key]) + 1)
            size = math.prod(len(other) for name, other in axes.items() if name != key) * len(axis)
            if len(axis) > len(axes[key]) and size <= most:
                axes[key], finer = axis, True
    points = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    different = {repr(live(point)): live(point) for point in points}
    points = [point for point in different.values() if point != live(own)]
    random.Random(seed).shuffle(points)
    return points[:most]
