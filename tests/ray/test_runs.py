"""Whole runs on two Ray Train workers: pretraining, a cycle, a killed worker, resumption, errors, the command line."""

import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch
from ray.util.state import list_actors

from raymds.config import Config, load
from raymds.errors import DivergedError, RaymdsError, UsageError
from raymds.model import ClipWithHeads, read_weights
from raymds.train import driver
from tests.conftest import finetune, last_checkpoint, records, silent

pytestmark = pytest.mark.usefixtures("cluster")


def test_a_run_directory_holds_what_is_promised(undisturbed: Path) -> None:
    outcome = json.loads((undisturbed / "outcome.json").read_text())
    expected = {"schema", "outcome", "reason", "step", "alpha", "weights", "val", "steps", "seconds", "workers"}
    assert expected | {"images_per_second", "solver", "seed"} <= set(outcome)
    assert (outcome["steps"], outcome["workers"], outcome["solver"]) == (8, 2, "squared_hinge")
    assert (undisturbed / "config.yaml").is_file()
    steps = [r for r in records(undisturbed) if r["event"] == "step"]
    assert [r["step"] for r in steps] == list(range(1, 9))
    assert set(steps[0]["seconds"]) == {"data", "forward", "exchange", "backward", "optimiser"}
    assert steps[0]["h"].keys() == steps[0]["u"].keys()
    assert all(value == 0.0 for value in steps[0]["h"].values())  # invariant 1, on two workers
    evaluations = [r for r in records(undisturbed) if r["event"] == "eval"]
    assert [r["step"] for r in evaluations] == [0, 4, 8]
    assert evaluations[0]["devsafety"] == 0.0
    if outcome["outcome"] == "new":
        certificate = json.loads((undisturbed / "certificate.json").read_text())
        assert set(certificate["digests"]) == {"config", "data", "parent", "weights", "code"}
        assert len(certificate["tasks"]) == 13
        stored = hashlib.sha256((undisturbed / "config.yaml").read_bytes()).hexdigest()
        assert certificate["digests"]["config"] == stored


def test_the_outcome_is_feasible_or_the_old_model(undisturbed: Path, old_weights: str) -> None:
    outcome = json.loads((undisturbed / "outcome.json").read_text())
    if outcome["outcome"] == "new":
        assert outcome["val"]["margin"] >= 0  # within the tolerance of the test's settings
        assert read_weights(outcome["weights"])[0]
    else:
        assert outcome["weights"] == old_weights


def test_a_finished_run_is_not_run_again(undisturbed: Path, settings: list[str]) -> None:
    before = (undisturbed / "metrics.jsonl").stat().st_mtime_ns
    assert finetune(settings, undisturbed) == json.loads((undisturbed / "outcome.json").read_text())
    assert (undisturbed / "metrics.jsonl").stat().st_mtime_ns == before


def test_another_config_is_refused_in_the_same_directory(undisturbed: Path, settings: list[str]) -> None:
    with pytest.raises(UsageError, match=r"holds a run with another config .*lr: 0\.0001; .*lr: 0\.0002"):
        finetune(settings, undisturbed, "optim.lr=2e-4")


def test_a_killed_worker_changes_nothing(undisturbed: Path, settings: list[str], tmp_path: Path) -> None:
    """Invariant 3: SIGKILL after step 5; the run goes on from step 4 and ends with the same bits."""
    run = tmp_path / "run"
    killed: list[int] = []

    def kill_once(record: dict[str, Any]) -> None:
        if record["event"] == "step" and record["step"] >= 5 and not killed:
            killed.append(one_worker())
            os.kill(killed[0], signal.SIGKILL)

    finetune(settings, run, "optim.steps=8", show=kill_once)
    assert killed
    assert [r["step"] for r in records(run) if r["event"] == "start"][-1] == 4
    assert [r["step"] for r in records(run) if r["event"] == "step"] == list(range(1, 9))
    assert last_checkpoint(run) == last_checkpoint(undisturbed)


def test_a_worker_that_hangs_is_named(settings: list[str], tmp_path: Path) -> None:
    hanging: list[int] = []

    def hang_once(record: dict[str, Any]) -> None:
        if record["event"] == "step" and not hanging:
            hanging.append(one_worker())
            os.kill(hanging[0], signal.SIGSTOP)
            # Ray waits for it to end; by then the other one's patience is over.
            threading.Timer(15, os.kill, (hanging[0], signal.SIGCONT)).start()

    named = r"run\.max_failures is used up: .*; last heard of rank [01]: step \d+, \d+ s ago$"
    with pytest.raises(RaymdsError, match=named):
        finetune(
            settings, tmp_path / "run", "run.timeout=5", "run.max_failures=0", "optim.steps=100", "select.every=100",
            show=hang_once,
        )  # fmt: skip
    assert hanging


def one_worker() -> int:
    """The newest process of a worker, as that of a run before may take a while to end."""
    of_training = [("class_name", "=", "RayTrainWorker"), ("state", "=", "ALIVE")]
    alive = list_actors(address=ray.get_runtime_context().gcs_address, filters=of_training, detail=True)
    return max((int(actor.pid) for actor in alive), key=lambda pid: psutil.Process(pid).create_time())


def test_a_killed_driver_goes_on_with_the_same_command(undisturbed: Path, settings: list[str], tmp_path: Path) -> None:
    """The command is killed after its first checkpoint; the same command ends with the same bits.

    Another one for the same directory, given while it starts, is told who works there and changes nothing.
    """
    run = tmp_path / "run"
    command = [sys.executable, "-m", "raymds.cli", "finetune", str(undisturbed / "config.yaml"), f"run.uri={run}"]
    joined = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    first = subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, text=True, env=joined)
    assert first.stdout is not None
    watchdog = threading.Timer(240, first.kill)
    watchdog.start()
    while first.poll() is None and not [*run.glob("lease/*.json")]:
        time.sleep(0.1)
    with pytest.raises(UsageError, match=rf"{run}: .* \(process {first.pid}, since .*\) works on it"):
        finetune(settings, run)
    for line in first.stdout:
        record = json.loads(line)
        if record["event"] == "step" and record["step"] >= 5:
            break
    first.kill()
    first.wait()
    watchdog.cancel()
    assert not (run / "outcome.json").exists()
    begin = time.monotonic()
    second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400, env=joined)
    assert second.returncode in {0, 3}, second.stderr
    assert "going on after step 4" in second.stdout, (second.stdout, time.monotonic() - begin)
    assert [r["step"] for r in records(run) if r["event"] == "step"] == list(range(1, 9))
    assert last_checkpoint(run) == last_checkpoint(undisturbed)


def test_a_diverging_run_stops_and_keeps_the_last_checkpoint(settings: list[str], tmp_path: Path) -> None:
    """Nor does Ray's own handler of Ctrl-C, which ends a program with status 0, outlast the run."""
    on_ctrl_c = signal.getsignal(signal.SIGINT)
    with pytest.raises(DivergedError, match=r"step \d+: the loss of .* is (nan|inf|-inf); lower optim\.lr"):
        finetune(settings, tmp_path / "run", "optim.lr=1e30", "select.every=1", "optim.clip=1e30")
    assert [*tmp_path.glob("run/checkpoints/train/step-*")]
    assert not (tmp_path / "run" / "outcome.json").exists()
    assert signal.getsignal(signal.SIGINT) == on_ctrl_c


def test_pretraining_makes_weights_a_cycle_can_use(
    data_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths are relative here: a worker, whose current directory is another, has to find the same files."""
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "old"
    settings = [
        "model.name=tiny-64",
        f"data.uri={os.path.relpath(data_uri)}",
        "run.uri=old",
        "run.workers=2",
        "objective.batch=32",
    ]
    config = load(Config, None, [*settings, "optim.steps=4", "optim.warmup=1", "optim.lr=1e-3", "select.every=2"])
    weights = driver.pretrain(config, silent)
    assert weights["uri"] == str(run / "weights.safetensors")
    losses = [r["loss"] for r in records(run) if r["event"] == "step"]
    assert len(losses) == 4
    assert losses[0] == pytest.approx(math.log(32), abs=0.5)  # nothing is known yet: each of 32 captions is as likely
    made, start = read_weights(weights["uri"])[0], ClipWithHeads("tiny-64", [], 32, 0).weights()
    assert not torch.equal(made["visual.proj"], start["visual.proj"])
    assert torch.equal(made["heads.shared.B"], start["heads.shared.B"])  # heads are for the cycle
