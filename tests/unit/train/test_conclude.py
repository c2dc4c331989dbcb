"""From what workers return to the outcome: what is chosen, what is refused and why, and what a certificate rests on."""

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest

from raymds.config import Config
from raymds.data.shards import DataSet
from raymds.method.certificate import PairedCounts, certify
from raymds.method.verdict import refusal
from raymds.run import RunDirectory
from raymds.train.conclude import conclude


def entry(task: str, delta: float, tolerance: float = 0.0) -> dict[str, Any]:
    return {"task": task, "n": 100, "old": 0.5, "new": 0.5 + delta, "delta": delta, "tolerance": tolerance}


def record(gain: float, **deltas: float) -> dict[str, Any]:
    tasks = [entry(f"w:{name}", delta) for name, delta in deltas.items()]
    worst = min(deltas.values())
    found = {"devsafety": worst, "margin": worst, "feasible": worst >= 0}
    return {"target": entry("w:t", gain), "tasks": tasks, **found}


def result(config: Config, lost: int, gained: int = 20) -> dict[str, Any]:
    """A choice, and its test split: of 100 images each of w:a and w:b `lost` are lost of w:b, the target gains."""
    counts = [PairedCounts(f"w:{name}", 100, 50, b, 0, 0.5, 0.5) for name, b in (("a", 0), ("b", lost))]
    target = PairedCounts("w:t", 100, 50, 0, gained, 0.5, 0.5)
    made = certify(target, counts, tolerance=0.0, confidence=0.95, digests={})
    return {
        "choice": {"step": 4, "alpha": 0.8, "record": record(0.1, a=0.0, b=0.0)},
        "certificate": made,
        "refused": refusal(made, config.select.require, config.select.require_target),
        "weights": {"uri": "run/weights.safetensors", "sha256": "f" * 64},
        "flips": [],
    }


@pytest.fixture
def run(config: Config) -> RunDirectory:
    made = RunDirectory(config.run.uri)
    made.claim(config)
    return made


@pytest.mark.parametrize(
    ("lost", "gained", "require", "outcome", "reason"),
    [
        (0, 20, "retained", "new", "step 4 has the best target accuracy among feasible candidates, interpolated"),
        (
            2,
            20,
            "retained",
            "old",
            r"leaves open whether w:b \(-2.0 points\) is a loss, and select.require is retained",
        ),
        (2, 20, "undecided", "new", "step 4 has the best"),
        (0, 20, "certified", "old", r"do not exclude a loss of w:a \(\+0.0 points\), w:b \(\+0.0 points\)"),
        (30, 20, "undecided", "old", r"the test split proves a loss of w:b \(-30.0 points\)$"),
        (0, 0, "undecided", "old", r"the target w:t \(\+0.0 points\) does not gain on the test split$"),
    ],
)
def test_what_the_test_split_lets_pass(
    config: Config, run: RunDirectory, lost: int, gained: int, require: str, outcome: str, reason: str
) -> None:
    config.select.require = require
    found = conclude(config, run, DataSet.open(config.data.uri), result(config, lost, gained))
    assert found["outcome"] == outcome
    assert found["weights"] == ("run/weights.safetensors" if outcome == "new" else config.model.weights)
    assert re.search(reason, found["reason"])
    assert found["tested"]
    if outcome == "old":
        assert found["candidate"] == {"step": 4, "alpha": 0.8}
        assert found["parent"] == hashlib.sha256(Path(str(config.model.weights)).read_bytes()).hexdigest()


def test_what_the_test_split_refused_is_advised_on_by_the_certificate(config: Config, run: RunDirectory) -> None:
    F = {"train": {"old": 0.2, "new": -0.2}, "val": {"old": 0.2, "new": -0.2}}
    diagnosed = result(config, 2) | {"diagnosis": {"cosines": [], "objective": F}}
    found = conclude(config, run, DataSet.open(config.data.uri), diagnosed)
    assert found["advice"][0].startswith("no loss is proven on test: select.require=undecided would")


def test_the_certificate_names_the_stored_config_whatever_the_number_of_workers(
    config: Config, run: RunDirectory
) -> None:
    config.run.workers = 2  # as a run that goes on elsewhere
    conclude(config, run, DataSet.open(config.data.uri), result(config, 0))
    made = run.read_json("certificate.json")
    assert made is not None
    assert made["digests"]["config"] == hashlib.sha256(Path(run.path("config.yaml")).read_bytes()).hexdigest()
    old = hashlib.sha256(Path(str(config.model.weights)).read_bytes()).hexdigest()
    assert (made["digests"]["parent"], made["digests"]["weights"]) == (old, "f" * 64)


def test_the_nearest_candidate_is_the_one_that_a_rescue_was_tried_on(config: Config, run: RunDirectory) -> None:
    candidates = [
        {"step": 4, "record": record(-0.1, a=0.1, b=0.2)},
        {"step": 8, "record": record(0.3, a=0.1, b=-0.04)},
        {"step": 12, "record": record(0.6, a=-0.2, b=0.0)},
    ]
    data = DataSet.open(config.data.uri)
    found = conclude(config, run, data, {"choice": None, "candidates": candidates})
    assert found["reason"].endswith("nearest: step 8 with w:b -4.0 points and the target +30.0")
    assert (found["outcome"], found["candidate"]) == ("old", {"step": 8, "alpha": 1.0})
    assert found["tested"] is False
    found = conclude(config, run, data, {"choice": None, "candidates": candidates[:1]})
    assert found["reason"].endswith("nearest: step 4 which keeps every protected task, the target -10.0")
