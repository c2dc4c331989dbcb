"""What a search says without Ray: before it starts, and where every trial failed."""

import copy
import json
from pathlib import Path

import pytest

from raymds.config import Config, load
from raymds.errors import RaymdsError, UsageError
from raymds.search import tune
from raymds.search.book import Book
from raymds.search.space import parse
from tests.conftest import overrides, silent


def test_an_end_of_a_range_that_the_data_have_too_few_images_for_is_named(
    data_uri: str, old_weights: str, tmp_path: Path
) -> None:
    space = "search.space={constraints.images_per_task: {int: [2, 40]}}"
    made = load(Config, None, [*overrides(data_uri, old_weights, str(tmp_path)), space])
    with pytest.raises(
        UsageError, match=r"search\.space\.constraints\.images_per_task: 40 can't be tried: .*lower it to 20"
    ):
        tune.search(made, silent)
    assert not (tmp_path / "config.yaml").exists()


def test_where_every_trial_failed_the_search_says_why(config: Config) -> None:
    book = Book(config, parse(config), silent)
    assert book.next() is not None
    book.ended(0, "step 3: the loss of weather:foggy is nan")
    with pytest.raises(RaymdsError, match="no trial of the search measured anything; the first failed: step 3"):
        tune._conclude(book, copy.deepcopy(config), silent)


def test_where_nothing_can_be_kept_the_outcome_is_the_old_model_and_the_reason_names_the_task(config: Config) -> None:
    book = Book(config, parse(config), silent)
    trial = book.next()
    assert trial is not None

    def entry(task: str, delta: float) -> dict[str, object]:
        return {"task": task, "n": 100, "old": 0.5, "new": 0.5 + delta, "delta": delta, "tolerance": 0.0}

    def record(step: int, target: float, tunnel: float) -> dict[str, object]:
        tasks = [entry("scene:tunnel", tunnel), entry("weather:clear", 0.1)]
        found = {"target": entry("weather:foggy", target), "tasks": tasks, "devsafety": tunnel, "feasible": tunnel >= 0}
        return {"event": "eval", "step": step, **found}

    own = Path(book.config_of(trial).run.uri)
    own.mkdir(parents=True)
    records = [record(0, 0.0, 0.0), record(4, 0.3, -0.04), record(8, 0.4, -0.2)]
    (own / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in records))
    (own / "outcome.json").write_text(json.dumps({"outcome": "old", "alpha": 0.0}))
    book.ended(0, None)
    outcome = tune._conclude(book, config, silent)
    assert (outcome["outcome"], outcome["weights"]) == ("old", config.model.weights)
    assert "nearest: trial 0 at step 4 with scene:tunnel -4.0 points, the target +30.0" in outcome["reason"]
    assert outcome["candidate"] == {"step": 4, "alpha": 1.0}
    assert outcome["val"]["devsafety"] == -0.04
