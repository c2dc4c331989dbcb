"""Jobs of a token-protected cluster of three nodes: submitted, stopped, gone on with, one node lost on the way."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

from raymds.store import uri as storage
from tests.cluster.conftest import EVERY, STEPS, wait_for_checkpoint
from tests.conftest import last_checkpoint, records


@pytest.fixture(scope="module")
def nodes(local: ModuleType) -> Iterator[Any]:
    """Three nodes with one CPU each, so that two workers are on two nodes and the third is spare."""
    with local.cluster(3, 1) as cluster:
        yield cluster


def raymds(nodes: Any, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "raymds.cli", *arguments]
    environment = {**os.environ, **nodes.variables, **variables}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_wrong_token_is_refused(nodes: Any, undisturbed: Path) -> None:
    wrong = raymds(nodes, "submit", "finetune", str(undisturbed / "config.yaml"), RAY_AUTH_TOKEN="0" * 64)
    _, error = wrong.communicate(timeout=120)
    assert wrong.returncode == 2, error
    assert "the cluster refuses the token; set RAY_AUTH_MODE=token" in error


def test_a_stopped_job_goes_on_and_loses_a_node_and_ends_with_the_same_bits(
    nodes: Any, long: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    submit = ["submit", "finetune", str(long / "config.yaml"), f"run.uri={run}"]
    first = raymds(nodes, *submit)
    assert first.stdout is not None
    said = next((line for line in first.stdout if line.startswith("job: ")), "")
    assert said, first.communicate()
    job = said.split()[1].rstrip(";")
    first.kill()  # losing the terminal: the job goes on
    first.wait()
    follower = raymds(nodes, "follow", job, "--json")
    wait_for_checkpoint(run, EVERY)
    stop(nodes, job)
    rest, error = follower.communicate(timeout=120)
    assert "stopped after step" in error, (rest, error)
    stopped = [r["step"] for r in records(run) if r["event"] == "step"][-1]
    assert storage.exists(f"{run}/checkpoints/train/step-{stopped:07d}/checkpoint.json")
    assert EVERY <= stopped < STEPS - EVERY, "the stop came too late for what follows"

    begun = time.time()
    again = raymds(nodes, *submit, "--json")
    following = (stopped // EVERY + 1) * EVERY
    wait_for_checkpoint(run, following)
    lose_a_node_with_a_worker(nodes.nodes[1:], begun)
    rest, error = again.communicate(timeout=300)
    assert again.returncode in {0, 3}, (rest, error)
    starts = [r["step"] for r in records(run) if r["event"] == "start"]
    assert starts[0] == 0
    assert following <= starts[-1] < STEPS, rest
    assert [r["step"] for r in records(run) if r["event"] == "step"] == list(range(1, STEPS + 1))
    assert last_checkpoint(run, STEPS) == last_checkpoint(long, STEPS)


def test_a_run_goes_on_with_fewer_workers_and_with_more_again(nodes: Any, undisturbed: Path, tmp_path: Path) -> None:
    """Follows the test above: a node is lost, another joins."""
    nodes.join()
    wait_for_room(nodes, 3)
    run = tmp_path / "run"
    settings = [f"run.uri={run}", "run.workers=3", "run.min_workers=1", "select.every=50"]
    settings += ["optim.steps=100000", "run.log_every=1"]
    driver = raymds(nodes, "finetune", str(undisturbed / "config.yaml"), *settings, "--json")
    assert driver.stdout is not None
    workers: list[int] = []
    begun = 0
    for line in driver.stdout:
        record = json.loads(line)
        if record["event"] == "start":
            workers.append(record["workers"])
            begun = record["step"]
        elif record["event"] == "step" and record["step"] == begun + 60:
            if workers == [3]:
                lose_a_node_with_a_worker(nodes.nodes[1:])
            elif workers == [3, 2]:
                nodes.join()
            elif workers[-1] == 3:
                driver.send_signal(signal.SIGTERM)
    _, error = driver.communicate()
    assert workers == [3, 2, 3]
    assert driver.returncode == 143, error
    steps = [r["step"] for r in records(run) if r["event"] == "step"]
    assert steps == list(range(1, len(steps) + 1))


def test_a_machine_that_is_announced_to_go_costs_no_failure(nodes: Any, undisturbed: Path, tmp_path: Path) -> None:
    """Follows the tests above: `ray drain-node` leads to a checkpoint at once, and the machine is left at its deadline.

    Had it gone before, Ray would take it for a failure.
    """
    while sum(node.poll() is None for node in nodes.nodes) < 3:
        nodes.join()
    run = tmp_path / "run"
    settings = [f"run.uri={run}", "run.workers=2", "run.placement=spread", "run.max_failures=0"]
    settings += ["optim.steps=100000", "select.every=100000"]
    noticing = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1"}
    driver = raymds(nodes, "finetune", str(undisturbed / "config.yaml"), *settings, "--json", **noticing)
    assert driver.stdout is not None
    starts, checkpoints = list[int](), list[int]()
    going: Any = None
    for line in driver.stdout:
        record = json.loads(line)
        if record["event"] == "start":
            starts.append(record["step"])
            if going:
                lose(going)
        elif record["event"] == "checkpoint" and record["step"]:
            checkpoints.append(record["step"])
        elif record["event"] == "step" and record["step"] == 20 and not going:
            going = drain(nodes)
        elif record["event"] == "step" and len(starts) == 2 and record["step"] == checkpoints[0] + 20:
            driver.send_signal(signal.SIGTERM)
    _, error = driver.communicate()
    assert driver.returncode == 143, error
    assert starts == [0, checkpoints[0]]
    assert 20 < checkpoints[0] < 5000


def drain(nodes: Any) -> Any:
    """Announce the end of a machine with a worker, not the head's; the node that it is."""
    listing = ["list", "actors", "--filter", "class_name=RayTrainWorker", "--filter", "state=ALIVE", "--format", "json"]
    for actor in json.loads(ray_command(nodes, *listing)):
        above = {process.pid for process in psutil.Process(actor["pid"]).parents()}
        for node in nodes.nodes[1:]:
            if node.pid in above:
                reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
                told = ["--node-id", actor["node_id"], *reason, "--deadline-remaining-seconds", "30"]
                ray_command(nodes, "drain-node", "--address", nodes.variables["RAY_ADDRESS"], *told)
                return node
    raise AssertionError("no worker on the nodes beside the head")


def ray_command(nodes: Any, *arguments: str) -> str:
    command = [str(Path(sys.executable).with_name("ray")), *arguments]
    done = subprocess.run(command, env={**os.environ, **nodes.variables}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def wait_for_room(nodes: Any, cpus: int) -> None:
    """Until a node that joined is known, and what the job before held is free: a run would begin with less."""
    end = time.monotonic() + 120
    while f" 0.0/{cpus}.0 CPU" not in (said := ray_command(nodes, "status")):
        assert time.monotonic() < end, said
        time.sleep(1)
    time.sleep(21)  # what tells Ray Train which machines there are looks every 20 seconds


def stop(nodes: Any, job: str) -> None:
    """As `ray job stop` does, without the seconds that it takes to begin."""
    url = f"{nodes.variables['RAY_API_SERVER_ADDRESS']}/api/jobs/{job}/stop"
    headers = {"Authorization": f"Bearer {nodes.variables['RAY_AUTH_TOKEN']}"}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers, method="POST"), timeout=30) as answer:
        assert answer.status == 200


def lose_a_node_with_a_worker(nodes: list[Any], begun: float = 0) -> None:
    """One whose worker was begun since: that of a job before may take a while to end."""
    for node in (node for node in nodes if node.poll() is None):
        family = [*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)]
        if any("RayTrainWorker" in " ".join(p.cmdline()) and p.create_time() > begun for p in family):
            lose(node)
            return
    raise AssertionError("no worker on the nodes beside the head")


def lose(node: Any) -> None:
    for process in [*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)]:
        process.kill()
