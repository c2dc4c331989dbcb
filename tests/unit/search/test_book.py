"""The book of a search: proposals, ends, and what is left of it after a death at any moment."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raymds.config import Config, load
from raymds.errors import UsageError
from raymds.run import RunDirectory
from raymds.search.book import Book, _measured
from raymds.search.space import parse
from raymds.search.trials import FAILED, FINISHED, RUNNING, STOPPED, Measurement, Trial

SETTINGS = [
    "model.weights=w",
    "data.uri=d",
    "search.trials=4",
    "search.steps=100",
    "search.space.optim.lr={loguniform: [1e-4, 1e-3]}",
]


def opened(folder: Path, *more: str, show: Any = lambda record: None) -> Book:
    config = load(Config, "demo", [*SETTINGS, f"run.uri={folder}", *more])
    return Book(config, parse(config), show)


def record(step: int, target: float, worst: float) -> dict[str, Any]:
    entry = {"n": 10, "old": 0.5, "new": 0.5 + worst, "tolerance": 0.0}
    tasks = [{"task": "weather:clear", "delta": worst, **entry}]
    goal = {"task": "weather:foggy", "n": 10, "old": 0.2, "new": 0.2 + target, "delta": target}
    return {"event": "eval", "step": step, "target": goal, "tasks": tasks, "devsafety": worst, "feasible": worst >= 0}


def measurement(step: int, target: float, worst: float) -> Measurement:
    return Measurement.of(record(step, target, worst), step)


def logged(book: Book, trial: Trial, *found: tuple[int, float, float], outcome: dict[str, Any] | None = None) -> None:
    """What a trial's own directory holds."""
    own = Path(book.config_of(trial).run.uri)
    own.mkdir(parents=True, exist_ok=True)
    lines = [record(0, 0.0, 0.0), *(record(*each) for each in found)]
    (own / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if outcome is not None:
        (own / "outcome.json").write_text(json.dumps(outcome))


def given(book: Book) -> Trial:
    trial = book.next()
    assert trial is not None
    return trial


def test_a_trial_is_a_cycle_with_the_searchs_budget_in_a_directory_of_its_own(tmp_path: Path) -> None:
    book = opened(tmp_path)
    first, second = given(book), given(book)
    assert (first.number, first.params) == (0, {"optim.lr": 3.5e-4})  # the preset's own setting
    config = book.config_of(second)
    assert config.run.uri == f"{tmp_path}/trials/001"
    assert (config.optim.steps, config.optim.lr) == (100, second.params["optim.lr"])


def test_a_proposal_is_published_before_it_runs_and_an_end_before_it_counts(tmp_path: Path) -> None:
    book = opened(tmp_path)
    trial = given(book)
    assert [t["status"] for t in json.loads((tmp_path / "tune.json").read_text())["trials"]] == [RUNNING]
    logged(book, trial, (50, 0.1, 0.0), (100, 0.2, 0.01), outcome={"outcome": "new", "alpha": 1.0})
    book.ended(0, None)
    content = json.loads((tmp_path / "tune.json").read_text())
    assert content["trials"][0]["status"] == FINISHED
    assert [m["step"] for m in content["trials"][0]["history"]] == [50, 100]
    assert content["winner"]["step"] == 100


def test_a_failed_trial_is_recorded_and_the_next_is_proposed(tmp_path: Path) -> None:
    book = opened(tmp_path)
    given(book)
    book.ended(0, "step 3: the loss of weather:foggy is nan")
    assert (book.trials[0].status, book.trials[0].reason) == (FAILED, "step 3: the loss of weather:foggy is nan")
    assert given(book).number == 1


def test_how_far_the_trials_are_is_shown(tmp_path: Path) -> None:
    shown: list[dict[str, Any]] = []
    book = opened(tmp_path, show=shown.append)
    first, second, third = given(book), given(book), given(book)
    logged(book, first, (100, 0.2, 0.0), outcome={"outcome": "new", "alpha": 1.0})
    book.ended(first.number, None)
    book.at({second.number: 37, third.number: 0})
    what = "trial 1 in step 37 of 100, trial 2 starts"
    assert shown[-1] == {"event": "progress", "what": what, "done": 1, "total": 4}


def test_what_was_rescued_counts_as_what_it_became(tmp_path: Path) -> None:
    book = opened(tmp_path)
    trial = given(book)
    rescued = {"outcome": "new", "step": 100, "alpha": 0.7, "val": record(100, 0.15, 0.0)}
    logged(book, trial, (50, 0.1, -0.1), (100, 0.3, -0.02), outcome=rescued)
    book.ended(0, None)
    best = book.trials[0].best
    assert best is not None
    assert (best.step, best.alpha, best.target, best.good) == (100, 0.7, 0.15, True)
    earlier = {"outcome": "new", "step": 50, "alpha": 0.7, "val": record(50, 0.15, 0.0)}
    second = given(book)
    logged(book, second, (50, 0.1, -0.1), (100, 0.3, -0.02), outcome=earlier)
    book.ended(second.number, None)
    for kept in (book, opened(tmp_path)):  # known when the trial had ended, not at its step
        assert [(m.step, m.alpha) for m in kept.trials[1].history] == [(50, 1.0), (100, 1.0), (50, 0.7)]


def test_a_restored_book_goes_on_with_what_was_cut_off_and_repeats_nothing(tmp_path: Path) -> None:
    book = opened(tmp_path)
    first, second = given(book), given(book)
    logged(book, first, (100, 0.2, 0.0), outcome={"outcome": "new", "alpha": 1.0})
    book.ended(0, None)
    logged(book, second, (50, 0.1, 0.1))
    again = opened(tmp_path)
    assert again.trials[0] == book.trials[0]
    resumed = given(again)
    assert (resumed.number, resumed.params) == (1, second.params)
    assert [m.step for m in resumed.history] == [50]  # measured, and logged before a checkpoint; not yet in the book
    assert given(again).number == 2


def test_a_death_between_a_trials_end_and_its_entry_costs_nothing(tmp_path: Path) -> None:
    book = opened(tmp_path)
    logged(book, given(book), (100, 0.2, 0.0), outcome={"outcome": "old", "alpha": 0.0})
    again = opened(tmp_path)
    assert again.trials[0].status == FINISHED
    assert given(again).number == 1


def test_a_death_between_a_measurement_and_its_judgement_costs_nothing(tmp_path: Path) -> None:
    book = opened(tmp_path)
    given(book)
    book._enter(replace(book.trials[0], history=(measurement(75, 0.5, -0.4),)))  # hopeless at the last rung
    again = opened(tmp_path)
    assert again.trials[0].status == STOPPED
    assert given(again).number == 1


def test_a_measurement_made_again_is_not_taken_or_judged_twice(tmp_path: Path) -> None:
    book = opened(tmp_path)
    given(book)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "tune.json", tmp_path)}
    assert not book.measured(0, measurement(30, 0.1, 0.0))
    own = tmp_path / "measured" / "000-30.json"
    before |= {own: own.stat().st_mtime_ns}
    assert not book.measured(0, measurement(30, 0.1, 0.0))
    assert (tmp_path / "tune.json").stat().st_mtime_ns == before[tmp_path / "tune.json"]  # nor is the book written
    assert own.stat().st_mtime_ns == before[own]


def test_what_was_measured_since_the_book_was_written_is_remembered(tmp_path: Path) -> None:
    """Of a thousandth trial, too; what an ended one measured is in the book."""
    book = opened(tmp_path, "search.trials=1002")
    first, second = given(book), given(book)
    for step in (100, 20, 30):
        book.measured(second.number, measurement(step, 0.1, 0.0))
    book.measured(first.number, measurement(20, 0.2, 0.0))
    book.ended(first.number, "step 21: it failed")
    book._enter(replace(book.trials[0], number=2, history=(), status=RUNNING))
    book.measured(second.number, measurement(40, 0.3, 0.0))
    again = opened(tmp_path, "search.trials=1002")
    assert [[m.step for m in trial.history] for trial in again.trials] == [[20], [20, 30, 40, 100], []]
    assert again.trials[1].history[2] == measurement(40, 0.3, 0.0)
    (tmp_path / "measured" / "001-50.json").write_text("{}")
    with pytest.raises(UsageError, match=r"measured/001-50.json: is not what a trial measured; remove it"):
        opened(tmp_path, "search.trials=1002")
    numbers = [_measured(number, 5) for number in (1, 10, 100, 1000)]
    assert all(not b.startswith(_measured(1, "").removesuffix(".json")) for b in numbers[1:])


@pytest.mark.parametrize(("scheduler", "ends"), [("feasible_halving", True), ("none", False)])
def test_the_scheduler_ends_a_trial_that_cant_come_back(tmp_path: Path, scheduler: str, ends: bool) -> None:
    book = opened(tmp_path, f"search.scheduler={scheduler}")
    given(book)
    assert book.measured(0, measurement(75, 0.5, -0.4)) is ends
    assert book.trials[0].status == (STOPPED if ends else RUNNING)
    assert book.measured(0, measurement(80, 0.5, -0.4)) is ends  # one that was on its way
    book.ended(0, None)
    assert book.trials[0].status == (STOPPED if ends else RUNNING)  # without an outcome it was cut off


def test_there_are_as_many_trials_as_asked_for(tmp_path: Path) -> None:
    book = opened(tmp_path)
    numbers = []
    while (trial := book.next()) is not None:
        numbers.append(trial.number)
        logged(book, trial, (100, 0.1, 0.0), outcome={"outcome": "new", "alpha": 1.0})
        book.ended(trial.number, None)
    assert numbers == [0, 1, 2, 3]
    assert book.running == 0
    assert book.content()["outcome"] == "new"
    assert RunDirectory(str(tmp_path)).read_json("tune.json") == book.content()
