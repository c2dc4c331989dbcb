"""Benchmarks that need no cluster, each at its smallest size."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from raymds.config import Config
from raymds.train import driver

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs a benchmark's command and gives the figures that it writes."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def run(name: str, *arguments: str) -> Any:
        out = tmp_path / "figures.json"
        monkeypatch.setattr(sys, "argv", [name, *arguments, "--json", str(out)])
        importlib.import_module(name).main()
        return json.loads(out.read_text())

    return run


def test_a_step(figures: Any) -> None:
    found = figures("step", "--shapes", "5", "--scale", "0.05", "--steps", "1")["5"]
    assert set(found) == {"ours, none", "ours, 30 %", "ours, all", "published", "plain"}
    assert found["published"]["published/this"] == found["published"]["limit"] == 1
    assert found["ours, none"]["limit"] > found["ours, all"]["limit"]  # of counted operations


def test_memory(figures: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, whose peak says nothing of so small a step; that all kinds of step run."""
    memory = importlib.import_module("memory")
    found: dict[str, tuple[int, int]] = {}

    def alone(model: str, batch: int, times: int) -> dict[str, float]:
        for kind, sizes in {"open_clip": (batch, 0), "ours": (batch, 0), "in parts": (times * batch, batch)}.items():
            memory.peak(kind, model, *sizes)
            found[kind] = sizes
        return dict.fromkeys(found, 1.0)

    monkeypatch.setattr(memory, "measure", alone)
    assert set(figures("memory", "--model", "tiny-64", "--batch", "8", "--times", "2")) == set(found)


def test_a_search(figures: Any) -> None:
    found = figures("search", "--seeds", "1", "--trials", "3")
    assert len(found["methods"]) > 2
    assert all(len(rows) == 1 for rows in found["methods"].values())


def test_scenes(figures: Any) -> None:
    assert figures("scenes", "--size", "16")


def test_three_ways_without_data(
    figures: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, old_weights: str
) -> None:
    """Without the cycles themselves, which need Ray: each can begin, and what it protects is what it is called."""
    prepared: dict[str, Any] = {}

    def cell(config: Config, show: Any, *, nearest: bool) -> dict[str, Any]:
        assert nearest
        prepared[Path(config.run.uri).name] = driver.prepare(config, show)
        return {"outcome": "new", "weights": config.model.weights}

    monkeypatch.setattr(driver, "cell", cell)
    found = figures("without_data", old_weights, str(tmp_path / "sets"), "--small")
    ways = {name: ready.tasks for name, ready in prepared.items()}
    assert list(ways) == ["examples-0", "old-answers-0", "nothing-0"]
    named = {name: {task.name for task in tasks.protected} for name, tasks in ways.items()}
    assert named["examples-0"] - named["nothing-0"] == {"weather:snowy"}
    assert named["old-answers-0"] == named["nothing-0"]
    assert [task.name for task in ways["old-answers-0"].without_data] == ["weather:snowy"]
    with_examples, without = (prepared[name].data for name in ("examples-0", "nothing-0"))
    assert with_examples.count("train", "weather", "snowy") > 0 == without.count("train", "weather", "snowy")
    assert with_examples.split_digest("test") == without.split_digest("test")
    assert {row["gone"]["delta"] for row in found.values()} == {0.0}  # the old model, compared with itself
    assert found["nothing"]["gone"]["n"] == with_examples.count("test", "weather", "snowy")
