"""tune.json: who wins, who can't, and the nearest miss by task."""

import json
import random
from typing import Any

import pytest

from raymds.config import Config, load
from raymds.errors import UsageError
from raymds.search.outcome import outcome, restored
from raymds.search.space import Space, Uniform, own_setting, parse
from raymds.search.trials import FAILED, FINISHED, RUNNING, STOPPED, Measurement, Trial
from raymds.train import select

SPACE: Space = {"constraints.beta": Uniform(10, 1000)}


def config() -> Config:
    settings = ["optim.steps=600", "search.steps=0", "search.trials=32", "constraints.beta=200", "search.seed=7"]
    return load(Config, "demo", ["model.weights=w", "data.uri=d", *settings])


def trial(number: int, *history: tuple[float, float], status: str = FINISHED) -> Trial:
    """(target, worst task) of each measurement, from step 0 on."""
    measured = [Measurement(10 * n, target, {"a": worst, "b": 0.5}) for n, (target, worst) in enumerate(history)]
    return Trial(number, {"constraints.beta": 10.0 * number}, status, tuple(measured))


def test_feasible_comes_first_then_the_target() -> None:
    found = outcome(
        config(),
        SPACE,
        [
            trial(0, (0, 0), (0.1, 0.2), (0.05, 0.3)),
            trial(1, (0, 0), (0.9, -0.001)),
            trial(2, (0, 0), (0.1, 0.1), (0.2, 0.0), (0.8, -0.2), status=STOPPED),
        ],
    )
    assert (found["outcome"], found["nearest"]) == ("new", None)
    winner = {key: found["winner"][key] for key in ("number", "step", "target", "devsafety", "params")}
    assert winner == {"number": 2, "step": 20, "target": 0.2, "devsafety": 0.0, "params": {"constraints.beta": 20.0}}
    assert found["counts"] == {"finished": 2, "stopped": 1, "failed": 0, "running": 0, "feasible": 2}
    assert found["reason"].startswith("trial 2 at step 20 has the best target, +20.0 points, of the 2 trials")


@pytest.mark.parametrize("seed", range(20))
def test_an_infeasible_trial_never_wins(seed: int) -> None:
    draw = random.Random(seed)
    trials = [
        trial(n, (0, 0), *[(draw.uniform(-0.2, 0.9), draw.uniform(-0.3, 0.05)) for _ in range(5)]) for n in range(8)
    ]
    found = outcome(config(), SPACE, trials)
    every = [m for one in trials for m in one.history[1:] if m.tasks["a"] >= 0 and m.target > 0]
    if not every:
        assert (found["outcome"], found["winner"]) == ("old", None)
    else:
        assert found["winner"]["devsafety"] >= 0
        assert found["winner"]["target"] == max(m.target for m in every)


@pytest.mark.parametrize("seed", range(20))
def test_the_best_candidate_is_the_one_that_a_cycle_chooses(seed: int) -> None:
    draw = random.Random(seed)
    one = trial(0, (0, 0), *[(draw.uniform(-0.2, 0.9), draw.uniform(-0.3, 0.1)) for _ in range(6)])

    def record(m: Measurement) -> dict[str, Any]:
        target = {"old": 0.3, "new": 0.3 + m.target, "delta": m.target}
        return {"target": target, "devsafety": m.devsafety, "margin": m.margin, "feasible": m.feasible}

    chosen = select.choose([(m.step, record(m)) for m in one.history[1:]], None)
    assert one.best is not None
    assert chosen.candidate == one.best.step if chosen else not one.best.good


def test_those_that_failed_or_still_run_do_not_win() -> None:
    trials = [trial(0, (0, 0), (0.9, 0.1), status=FAILED), trial(1, (0, 0), (0.8, 0.1), status=RUNNING), trial(2)]
    found = outcome(config(), SPACE, trials)
    assert (found["outcome"], found["winner"], found["counts"]["feasible"]) == ("running", None, 0)
    found = outcome(config(), SPACE, [trials[0]])
    assert (found["outcome"], found["reason"]) == ("old", "no trial measured a candidate; 1 failed")


def test_the_nearest_miss_is_named_by_task() -> None:
    measured = Measurement(30, 0.13, {"fog": -0.002, "rain": 0.1, "tunnel": -0.006})
    near = Trial(1, {}, FINISHED, (measured,))
    found = outcome(config(), SPACE, [trial(0, (0, 0), (0.9, -0.2)), near, trial(2, (0, 0), (-0.1, 0.3))])
    assert (found["outcome"], found["winner"]) == ("old", None)
    assert (found["nearest"]["number"], found["nearest"]["lost"]) == (1, ["tunnel", "fog"])
    assert found["reason"] == (
        "no trial improved the target and kept every protected task on val; nearest: trial 1 at step 30 with "
        "tunnel -0.6, fog -0.2 points, the target +13.0"
    )
    found = outcome(config(), SPACE, [trial(2, (0, 0), (-0.1, 0.3))])
    assert found["reason"].endswith("trial 2 at step 10 which keeps every protected task, the target -10.0")
    assert found["nearest"]["lost"] == []


def test_the_old_model_itself_does_not_win() -> None:
    found = outcome(config(), SPACE, [trial(0, (0, 0)), trial(1, (0.4, 0.4), (0.0, 0.1))])
    assert (found["outcome"], found["winner"]) == ("old", None)


def test_a_search_goes_on_from_its_file() -> None:
    trials = [trial(1, (0, 0), (0.1, 0.1)), trial(0, (0, 0), (0.2, -0.1), status=STOPPED), trial(2, status=RUNNING)]
    content = json.loads(json.dumps(outcome(config(), SPACE, trials)))
    assert restored(content, "tune.json") == sorted(trials, key=lambda t: t.number)
    with pytest.raises(UsageError, match=r"run/tune\.json: schema version 1, this raymds reads 2 and can't go on"):
        restored(content | {"schema": 1}, "run/tune.json")
    assert content["trials"][1]["best"]["feasible"] is True
    assert content["trials"][2]["best"] is None


def test_the_file_says_what_was_searched_and_how() -> None:
    space = parse(config())
    search = outcome(config(), space, [Trial(0, own_setting(config(), space))])["search"]
    assert (search["algorithm"], search["scheduler"], search["seed"]) == ("gp", "feasible_halving", 7)
    assert (search["trials"], search["steps"]) == (32, 600)
    again = config()
    again.search.space = json.loads(json.dumps(search["space"]))
    assert parse(again) == space


def test_a_measurement_comes_from_a_record_of_the_log() -> None:
    tasks = [
        {"task": "a", "delta": -0.1, "n": 3, "tolerance": 0.0}, {"task": "b", "delta": 0.1, "n": 3, "tolerance": 0.2}
    ]  # fmt: skip
    record = {"event": "eval", "step": 40, "target": {"delta": 0.1}, "tasks": tasks}
    assert Measurement.of(record, 40) == Measurement(40, 0.1, {"a": -0.1, "b": 0.1}, 1.0, {"b": 0.2})


def test_each_task_may_lose_what_it_is_allowed_to() -> None:
    def one(number: int, target: float, a: float, b: float) -> Trial:
        return Trial(number, {}, FINISHED, (Measurement(10, target, {"a": a, "b": b}, 1.0, {"a": 0.02}),))

    found = outcome(config(), SPACE, [one(0, 0.1, 0.0, 0.0), one(1, 0.3, -0.02, 0.0), one(2, 0.9, 0.0, -0.01)])
    assert (found["winner"]["number"], found["counts"]["feasible"]) == (1, 2)
    assert (found["winner"]["devsafety"], found["winner"]["margin"]) == (-0.02, 0.0)
    near = outcome(config(), SPACE, [one(0, 0.1, -0.05, -0.02), one(1, 0.3, -0.02, -0.01)])
    assert (near["nearest"]["number"], near["nearest"]["lost"]) == (1, ["b"])
    assert outcome(config(), SPACE, [one(0, 0.1, -0.05, -0.02)])["nearest"]["lost"] == ["a", "b"]
    assert restored(json.loads(json.dumps(found)), "tune.json")[1] == one(1, 0.3, -0.02, 0.0)
