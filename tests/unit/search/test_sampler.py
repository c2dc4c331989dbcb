"""Proposals: inside the space, the preset first, the same after a restart, and drawn to where everything is kept."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest

from raymds.search.sampler import _distribution, _told, constraints, propose
from raymds.search.space import Choice, Int, LogUniform, Params, Space, Uniform
from raymds.search.trials import FAILED, FINISHED, RUNNING, STOPPED, Measurement, Trial

SPACE: Space = {"a": LogUniform(10, 1000), "b": Uniform(0, 1), "c": Int(1, 9), "d": Choice(("x", "y"))}
OWN: Params = {"a": 100.0, "b": 0.5, "c": 4, "d": "x"}
ALGORITHMS = ["tpe", "gp", "random", "grid"]


def measured(number: int, params: Params, target: float, **tasks: float) -> Trial:
    return Trial(number, params, FINISHED, (Measurement(10, target, tasks),))


def corner(number: int, params: Params) -> Trial:
    """Everything is kept in a twentieth of the space, where the target is lowest."""
    x, y = np.log10(params["a"]) / 2 - 0.5, params["b"]
    deltas = {"near_x": 0.1 - abs(x - 0.9), "near_y": 0.12 - abs(y - 0.1)}
    return measured(number, params, 0.1 + 0.3 * (1 - x) + 0.3 * y, **deltas)


def search(algorithm: str, trials: int, seed: int, run: Callable[[int, Params], Trial] = corner) -> list[Trial]:
    past: list[Trial] = []
    while (params := propose(SPACE, OWN, algorithm, seed, trials, past)) is not None:
        past.append(run(len(past), params))
    return past


@pytest.mark.parametrize("algorithm", ["tpe", "random", "grid"])
def test_the_preset_comes_first_and_everything_lies_in_the_space(algorithm: str) -> None:
    settings = [trial.params for trial in search(algorithm, 25, 0)]
    assert settings[0] == OWN
    assert len(settings) == 25 if algorithm != "grid" else 10 < len(settings) <= 25
    assert len({json.dumps(params) for params in settings}) == len(settings)
    assert all(SPACE[key].contains(value) for params in settings for key, value in params.items())
    assert all(type(params["c"]) is int and list(params) == list(SPACE) for params in settings)


@pytest.mark.parametrize("algorithm", ["tpe", "random", "grid"])
def test_the_seed_decides(algorithm: str) -> None:
    first, again, other = (search(algorithm, 14, seed) for seed in (0, 0, 1))
    assert first == again
    assert [trial.params for trial in first] != [trial.params for trial in other]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_restored_search_goes_on_as_if_never_interrupted(algorithm: str) -> None:
    past = search("random", 11, 5)
    past[3] = Trial(3, past[3].params, FAILED, reason="the loss is not finite")
    past.append(Trial(11, {**OWN, "b": 0.25}))
    restored = [Trial.from_json(record) for record in json.loads(json.dumps([trial.to_json() for trial in past]))]
    assert restored == past
    assert propose(SPACE, OWN, algorithm, 5, 40, restored) == propose(SPACE, OWN, algorithm, 5, 40, past)


@pytest.mark.parametrize("algorithm", ["tpe", "gp"])
def test_the_order_in_which_trials_ended_changes_nothing(algorithm: str) -> None:
    past = search("random", 60, 5)
    assert propose(SPACE, OWN, algorithm, 5, 99, past[::-1]) == propose(SPACE, OWN, algorithm, 5, 99, past)


def test_constraints_are_the_losses_of_accuracy_and_hold_at_zero() -> None:
    trial = measured(0, OWN, 0.2, kept=0.0, lost=-0.03, gained=0.01)
    assert constraints(trial) == {"kept": 0.0, "lost": 0.03, "gained": -0.01, "target": -0.2}


def test_the_worst_of_many_tasks_is_one_constraint() -> None:
    found = {f"kind {k}": 0.01 * k for k in range(-2, 60)}
    trial = measured(0, {}, 0.2, **found)
    assert constraints(trial) == {"worst task": 0.02, "target": -0.2}
    kept = measured(0, {}, 0.2, **{name: delta + 0.02 for name, delta in found.items()})
    assert constraints(kept)["worst task"] == 0.0


def test_what_optuna_is_told_agrees_with_what_is_good() -> None:
    distributions = {key: _distribution(dimension) for key, dimension in SPACE.items()}
    study = optuna.create_study(direction="maximize")
    told: list[Any] = [
        measured(0, OWN, 0.9, kept=0.0, lost=-1e-6),
        measured(1, OWN, 0.2, kept=0.0, lost=0.0),
        measured(2, OWN, -0.1, kept=0.1, lost=0.1),
        measured(3, OWN, float("nan"), kept=0.1, lost=0.1),
        Trial(4, OWN, FAILED, (Measurement(10, 0.8, {"kept": 0.1}),)),
        Trial(5, OWN, STOPPED, (Measurement(10, 0.1, {"kept": 0.1}),)),
        Trial(6, OWN, RUNNING, (Measurement(10, 0.7, {"kept": 0.1}),)),
        Trial(7, OWN, STOPPED),
    ]
    for trial in told:
        study.add_trial(_told(trial, distributions))
    assert study.best_trial.number == 1
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE", "COMPLETE", "COMPLETE", "FAIL", "FAIL", "COMPLETE", "RUNNING", "FAIL"]


@pytest.mark.parametrize("algorithm", ["tpe", "gp"])
def test_constrained_search_finds_what_random_search_misses(algorithm: str) -> None:
    def kept(trials: list[Trial]) -> int:
        return sum(trial.best is not None and trial.best.good for trial in trials)

    seeds, trials = (range(3), 40) if algorithm == "tpe" else (range(1), 16)
    found = sum(kept(search(algorithm, trials, seed)) for seed in seeds)
    by_chance = sum(kept(search("random", trials, seed)) for seed in seeds)
    assert found >= 3 * max(1, by_chance)


@pytest.mark.parametrize("algorithm", ["tpe", "gp"])
def test_running_trials_are_kept_away_from(algorithm: str) -> None:
    past = search("random", 15, 2)
    one = propose(SPACE, OWN, algorithm, 2, 40, past)
    assert one is not None
    other = propose(SPACE, OWN, algorithm, 2, 40, [*past, Trial(15, one)])
    assert other is not None
    assert other != one
    crowd = [Trial(number, one) for number in range(15, 25)]
    after = propose(SPACE, OWN, algorithm, 2, 40, [*past, *crowd])
    assert after is not None
    assert abs(after["b"] - one["b"]) > 0.01 or after["d"] != one["d"] or after["c"] != one["c"]


def test_a_grid_is_as_fine_as_the_budget_allows() -> None:
    space: Space = {"a": Uniform(0, 1), "b": Choice(("x", "y", "z"))}
    own: Params = {"a": 0.3, "b": "x"}
    past: list[Trial] = []
    while (params := propose(space, own, "grid", 0, 14, past)) is not None:
        past.append(Trial(len(past), params))
    assert sorted({trial.params["a"] for trial in past[1:]}) == [0, pytest.approx(1 / 3), pytest.approx(2 / 3), 1]
    assert len(past) == 13
