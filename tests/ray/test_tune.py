"""A search on one machine: its trials, its winner, its book, and what is left of it after a kill."""

import json
from pathlib import Path
from typing import Any

import pytest

from raymds import tune
from raymds.config import Config, load
from tests.conftest import silent

pytestmark = pytest.mark.usefixtures("cluster")

# At this learning rate nothing changes, and nothing is lost: a trial's model is feasible, if it gains.
SEARCH = [
    "run.workers=1",
    "search.trials=3",
    "search.scheduler=none",
    "search.space={optim.lr: {loguniform: [1e-5, 1e-3]}, constraints.beta: {loguniform: [1, 1e4]}}",
]


def search(settings: list[str], run: Path, *more: str, show: Any = silent) -> dict[str, Any]:
    return tune.search(load(Config, None, [*settings, *SEARCH, f"run.uri={run}", *more]), show)


def book(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "tune.json").read_text())
    return content


def test_a_search_holds_what_is_promised(settings: list[str], tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    outcome = search(settings, tmp_path, show=seen.append)
    content = book(tmp_path)
    print(json.dumps(content, indent=1)[:3000])
    print(outcome)
    assert content["counts"]["finished"] == 3
    print([r for r in seen if r["event"] != "step"])
