"""A plan of cycles that is killed again and again ends as one that nobody disturbed: same models, same ledger."""

import contextlib
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from raymds.ledger.chain import Ledger
from raymds.store import uri as storage
from tests.conftest import PROMPTS

KILLS = 10


@pytest.fixture
def plan(data_uri: str, old_weights: str, tmp_path: Path) -> Path:
    base = {
        "model": {"head_rank": 4},
        "data": {"uri": data_uri},
        "task": {"protect": ["weather", "scene", "timeofday"], "prompts": yaml.safe_load(PROMPTS), "retained": 20},
        "objective": {"batch": 16},
        "constraints": {"images_per_task": 3, "held_out": 0},
        "optim": {"lr": 1e-4, "warmup": 2, "steps": 8},
        "select": {"every": 2, "tolerance": 0.5, "require": "undecided"},
        "run": {"workers": 1},
        "ledger": {"author": "Ann"},
    }
    targets = ["weather:foggy", "scene:tunnel", "weather:overcast"]
    content = {"model": old_weights, "base": base, "on_old": "next", "cycles": [{"task.target": t} for t in targets]}
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_plan_that_is_killed_ends_as_one_that_is_not(cluster: None, plan: Path, tmp_path: Path) -> None:
    joined = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}

    def command(name: str) -> "subprocess.Popen[str]":
        words = [sys.executable, "-m", "raymds.cli", "cycle", str(plan), f"uri={tmp_path / name}", "--accept-old"]
        return subprocess.Popen(words, env=joined, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    begin = time.monotonic()
    undisturbed = command("undisturbed")
    out, error = undisturbed.communicate(timeout=600)
    assert undisturbed.returncode == 0, (out, error)
    seconds = time.monotonic() - begin
    moments = [random.uniform(0.1, 0.8) * seconds for _ in range(KILLS)]
    for moment in moments:
        killed = command("killed")
        with contextlib.suppress(subprocess.TimeoutExpired):
            killed.wait(timeout=moment)
        killed.kill()
        killed.communicate()
    last = command("killed")
    out, error = last.communicate(timeout=600)
    assert last.returncode == 0, (moments, out, error)
    assert told(tmp_path / "undisturbed") == told(tmp_path / "killed"), moments


def told(plan: Path) -> list[Any]:
    """What the ledger says, without places, times and digests of what names places."""
    entries = Ledger(str(plan / "ledger")).entries()
    weights = [storage.sha256(path.read_bytes()) for path in sorted(plan.glob("cycles/*/*.safetensors"))]
    said = [
        [entry.number, entry.kind, *(entry.content.get(name) for name in ("outcome", "target", "protected", "number"))]
        for entry in entries
    ]
    return [said, weights]
