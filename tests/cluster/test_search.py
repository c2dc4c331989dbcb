"""A search whose driver is killed goes on with the trials that it would have made."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import ray

from raymds.cli.main import main
from raymds.config import Config, load, to_yaml
from raymds.search.outcome import restored
from raymds.search.sampler import propose
from raymds.search.space import own_setting, parse
from raymds.search.trials import FINISHED, RUNNING
from raymds.train import driver
from tests.conftest import last_checkpoint, records, silent

pytestmark = pytest.mark.usefixtures("cluster")

STEPS = 24
SEARCH = [
    "run.workers=1",
    "task.protect=['weather:clear', 'scene:tunnel']",
    f"search.steps={STEPS}",
    "search.trials=3",
    "search.concurrency=1",
    "search.scheduler=none",
]
SPACE = "search.space={optim.lr: {loguniform: [1e-5, 1e-3]}, constraints.beta: {loguniform: [1, 1e4]}}"


def config(settings: list[str], run: Path, *more: str) -> Config:
    return load(Config, None, [*settings, *SEARCH, f"run.uri={run}", *more])


def book(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "tune.json").read_text())
    return content


@pytest.fixture(scope="module")
def killed(settings: list[str], cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search whose driver is killed in its second trial; its book as it was then is beside it."""
    folder = tmp_path_factory.mktemp("search")
    run = folder / "run"
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    command = [sys.executable, "-m", "raymds.cli", "tune", preset(config(settings, run, SPACE), folder)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    committed = run / "trials" / "001" / "checkpoints" / "train" / "checkpoint_manager_snapshot.json"
    end = time.monotonic() + 300
    while not (committed.exists() and "step-0000004" in committed.read_text()):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (folder / "tune.json").write_bytes((run / "tune.json").read_bytes())
    return run


@pytest.fixture(scope="module")
def searched(killed: Path) -> Path:
    """The same search, gone on with to its end."""
    assert main(["tune", "--resume", str(killed)]) in {0, 3}
    return killed


def test_a_search_that_was_killed_makes_the_trials_that_it_would_have_made(
    settings: list[str], searched: Path, tmp_path: Path
) -> None:
    before, after = book(searched.parent), book(searched)
    assert [t["status"] for t in before["trials"]] == [FINISHED, RUNNING]
    assert after["trials"][0] == before["trials"][0]
    assert after["counts"]["finished"] == 3
    starts = [[r["step"] for r in records(at) if r["event"] == "start"] for at in sorted(searched.glob("trials/*"))]
    assert starts[0] == starts[2] == [0]  # once each
    assert starts[1][0] == 0
    assert 4 <= starts[1][1] < STEPS  # from its checkpoint
    # Each proposal is that of a search without a break, from what had ended before it.
    made = config(settings, searched, SPACE)
    space, trials = parse(made), restored(after, "tune.json")
    for number, trial in enumerate(trials):
        assert trial.params == propose(space, own_setting(made, space), "tpe", 0, 3, trials[:number])
    # And the trial that was cut off ends with the bits of an ordinary cycle of its config.
    cycle = load(Config, str(searched / "trials" / "001" / "config.yaml"), [f"run.uri={tmp_path / 'cycle'}"])
    driver.finetune(cycle, silent)
    assert last_checkpoint(searched / "trials" / "001", STEPS) == last_checkpoint(tmp_path / "cycle", STEPS)


def preset(made: Config, folder: Path) -> str:
    """A file that makes the same config."""
    path = folder / "search.yaml"
    path.write_text(to_yaml(made))
    return str(path)
