"""Benchmarks that need no cluster, each at its smallest size."""

import importlib
import json
import statistics
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import create_autospec

import numpy as np
import pytest
import scipy.stats
import torch

from raymds.config import Config
from raymds.cycles.plan import Cycle
from raymds.log import MetricsLog, join
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


def test_what_each_saving_gives(figures: Any) -> None:
    found = figures("savings", "--shapes", "5", "--scale", "0.05", "--steps", "2")["5"]
    assert len(found) == 4
    for row in found.values():
        assert [len(times) for times in row["times"].values()] == [2, 2]
        assert row["ratio"] == row["without"] / row["with"]


def test_memory(figures: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, whose peak says nothing of so small a step; that all kinds of step run."""
    memory = importlib.import_module("memory")
    found: dict[str, tuple[int, int]] = {}

    def alone(model: str, batch: int, times: int) -> dict[str, float]:
        jobs = {"open_clip": (batch, 0), "ours": (batch, 0), "again": (batch, 0), "in parts": (times * batch, batch)}
        for kind, sizes in jobs.items():
            memory.peak(kind, model, *sizes)
            found[kind] = sizes
        return dict.fromkeys(found, 1.0)

    monkeypatch.setattr(memory, "measure", alone)
    assert set(figures("memory", "--model", "tiny-64", "--batch", "8", "--times", "2")) == set(found)


def test_what_a_plan_leaves(figures: Any) -> None:
    plans = importlib.import_module("plans")
    fog, tunnel = (Cycle(number, "", "finetune", {"task.target": name}) for number, name in enumerate("ft", 1))
    found = [
        (fog, "", {"f": 0.2, "t": 0.5, "x": 0.9}),
        (fog, "new", {"f": 0.8, "t": 0.3, "x": 0.895}),  # t is a target that was not reached yet: no loss
        (tunnel, "new", {"f": 0.6, "t": 0.7, "x": 0.9}),
    ]
    first, second = plans.rows(found, ["f", "t"])
    assert (first["held"], first["lost"], first["worst"]) == (1, 0, "x")
    assert (second["held"], second["lost"], second["worst"]) == (2, 1, "f")
    assert second["change"] == pytest.approx(-0.2)


def test_a_search(figures: Any) -> None:
    found = figures("search", "--seeds", "1", "--trials", "3")
    assert len(found["methods"]) > 2
    assert all(len(rows) == 1 for rows in found["methods"].values())


def test_scenes(figures: Any) -> None:
    assert figures("scenes", "--size", "16")


def test_size(figures: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process; a split of 200 shards does not fit in the memory that it has by default."""
    size = importlib.import_module("size")

    def run(command: list[str], **_: Any) -> SimpleNamespace:
        uri, classes, steps = command[-3:]
        return SimpleNamespace(stdout=json.dumps(size.alone(uri, int(classes), int(steps))))

    monkeypatch.setattr(size.subprocess, "run", run)
    monkeypatch.setattr(size.loader, "load", size.loader.load)  # put back afterwards
    (found,) = figures("size", "--classes", "5", "--rows", "25600", "--steps", "1").values()
    assert found["start"].keys() >= {"labels file", "manifest", "counts", "sampler", "pinning"}
    assert found["step"].keys() == {"batch", "step", "records", "whole step"}
    assert found["read"]["fetched/used"] >= 1
    assert 0.9 < found["read"]["fetched/part"] < 2  # 8 where every rank reads every shard
    assert found["read"]["fetched/part of slices"] > 6
    assert found["read"]["GB pinned by each for itself"] == pytest.approx(8 * found["read"]["GB pinned"])  # 200 shards


def test_measure(figures: Any, tmp_path: Path) -> None:
    log = MetricsLog(str(tmp_path / "run"))
    log.add({"event": "start", "step": 0})
    log.add({"event": "eval", "step": 0})
    log.add({"event": "step", "step": 1, "seconds": {"data": 1.0, "forward": 5.0}})
    log.add({"event": "eval", "step": 1, "seconds": 2.0})
    log.flush()
    found = figures("measure", str(tmp_path / "run"), "--images", "40", "--size", "64", "--repeats", "1")
    assert found["run"] == {"steps": 6.0, "val": 2.0, "share": 0.25}
    rate = found["images_per_second"]
    assert found["of the slower"] == pytest.approx(rate["evaluate"] / min(rate["decoding"], rate["model"]))


def test_agreement_of_losses_with_what_was_lost(figures: Any, tmp_path: Path) -> None:
    """Two tasks, two candidates: cross-entropy falls where most is lost; a run of an older version says no `h`."""

    def task(name: str, delta: float, **more: Any) -> dict[str, Any]:
        return {"task": name, "delta": delta, "loss_old": 1.0, "loss_new": 1.0 + delta, **more}

    def write(run: Path, loss: str, candidates: list[list[dict[str, Any]]]) -> None:
        log = MetricsLog(str(run))
        log.add({"event": "start", "step": 0, "tasks": ["a", "b"]})
        log.add({"event": "eval", "step": 0, "tasks": [task("a", 0.0), task("b", 0.0)]})
        for step, tasks in enumerate(candidates, 1):
            log.add({"event": "step", "step": step, "u": np.array([0.1 * step, np.nan])})
            log.add({"event": "eval", "step": step, "tasks": tasks})
        log.flush()
        join(str(run))
        (run / "config.yaml").write_text(f"constraints: {{loss: {loss}}}")

    nats, delta = [0.1, -0.3, 0.2, -0.1], [-0.02, -0.5, 0.0, 0.1]
    points = [
        task(name, d, h={"cross_entropy": n, "error": -d}) for name, n, d in zip("abab", nats, delta, strict=True)
    ]
    write(tmp_path / "cells" / "new", "error", [points[:2], points[2:]])
    write(tmp_path / "cells" / "older", "cross_entropy", [[task("a", -0.4), task("b", 0.3)]])
    found = figures("agreement", str(tmp_path / "cells"))
    nats, delta = [*nats, -0.4, 0.3], [*delta, -0.4, 0.3]
    lost = [-d for d in delta]
    assert set(found) == {"h of cross_entropy", "h of error", "u of cross_entropy", "u of error"}
    entropy = found["h of cross_entropy"]
    assert entropy["correlation"] == pytest.approx(statistics.correlation(nats, lost))
    assert entropy["of ranks"] == pytest.approx(scipy.stats.spearmanr(nats, lost).statistic)
    assert entropy["tasks"]["b"] == pytest.approx(statistics.correlation(nats[1::2], lost[1::2]))
    assert (entropy["losses"], entropy["unseen"]) == (3, pytest.approx(2 / 3))  # of 2, 50 and 40 points
    assert found["h of error"]["correlation"] == pytest.approx(1.0)
    assert found["h of error"]["unseen"] == 0
    assert found["u of error"]["points"] == 2  # of a alone
    assert found["u of error"]["tasks"]["a"] == pytest.approx(-1.0)


def test_gpu(figures: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, with towers that are traced for a compiler and then run as they are."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    options = "--device", "cpu", "--model", "tiny-64", "--shapes", "5", "--scale", "0.05", "--steps", "1"
    found = figures("gpu", *options)["5"]
    assert list(found) == ["published", "fp32", "tf32", "bf16", "compile", "all on"]
    for name in list(found)[1:]:
        assert found[name]["h"] == 0
        assert found[name]["cosine"] > (0.99 if name in {"bf16", "all on"} else 1 - 1e-6)
        assert 0 < found[name]["outside"] < 1


def test_three_ways_without_data(
    figures: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, old_weights: str
) -> None:
    """Without the cycles themselves, which need Ray: each can begin, and what it protects is what it is called."""
    prepared: dict[str, Any] = {}

    def cell(config: Config, show: Any, *_: Any, nearest: bool) -> dict[str, Any]:
        assert nearest
        prepared[Path(config.run.uri).name] = driver.prepare(config, show)
        return {"outcome": "new", "weights": config.model.weights}

    monkeypatch.setattr(driver, "cell", create_autospec(driver.cell, side_effect=cell))
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
