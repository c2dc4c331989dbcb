"""Benchmarks that need no cluster, each at its smallest size."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

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
