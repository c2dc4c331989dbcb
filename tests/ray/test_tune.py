"""Searches on one machine: trials, winner, book; what is left of a search that is killed."""

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

from raymds import tune
from raymds.cli import main
from raymds.config import Config, load, to_yaml
from raymds.errors import UsageError
from raymds.search.outcome import restored
from raymds.search.sampler import propose
from raymds.search.space import own_setting, parse
from raymds.search.trials import FAILED, FINISHED, RUNNING, STOPPED
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
    space, trials = parse(made), restored(after)
    for number, trial in enumerate(trials):
        assert trial.params == propose(space, own_setting(made, space), "tpe", 0, 3, trials[:number])
    # And the trial that was cut off ends with the bits of an ordinary cycle of its config.
    cycle = load(Config, str(searched / "trials" / "001" / "config.yaml"), [f"run.uri={tmp_path / 'cycle'}"])
    driver.finetune(cycle, silent)
    assert last_checkpoint(searched / "trials" / "001", STEPS) == last_checkpoint(tmp_path / "cycle", STEPS)


def test_the_winner_keeps_everything_and_is_certified_once(searched: Path) -> None:
    outcome, content = json.loads((searched / "outcome.json").read_text()), book(searched)
    assert content["counts"] == {**content["counts"], "finished": 3, "stopped": 0, "failed": 0, "running": 0}
    winner = content["winner"]
    assert winner is not None
    assert winner["devsafety"] >= 0
    assert winner["target"] == max(t["best"]["target"] for t in content["trials"] if t["best"]["feasible"])
    assert (outcome["trial"], outcome["params"]) == (winner["number"], winner["params"])
    assert outcome["val"]["devsafety"] == winner["devsafety"]
    certificate = json.loads((searched / "certificate.json").read_text())
    assert outcome["outcome"] == ("old" if certificate["verdict"] == "violated" else "new")
    assert not list(searched.glob("trials/*/certificate.json"))  # no trial has seen the test split
    assert (searched / "weights.safetensors").exists() or (searched / "rejected.safetensors").exists()


def test_trials_share_the_old_model(searched: Path) -> None:
    runs = sorted(searched.glob("trials/*"))
    assert [run.name for run in runs] == ["000", "001", "002"]
    assert len(list((searched / "old").glob("*.json"))) == 1
    first = [next(r for r in records(run) if r["event"] == "step")["h"] for run in runs]
    assert all(value == 0.0 for h in first for value in h.values())  # invariant 1, with shared old losses
    written = (searched / "old").stat().st_mtime_ns
    assert written < (runs[1] / "config.yaml").stat().st_mtime_ns


def test_the_page_of_a_search_links_its_trials(searched: Path) -> None:
    assert main(["report", str(searched)]) == 0
    page = (searched / "report.html").read_text()
    for number in range(3):
        assert f'href="trials/{number:03d}/report.html"' in page
        assert (searched / f"trials/{number:03d}/report.html").exists()


def test_a_finished_search_is_not_run_again_and_another_is_refused(settings: list[str], searched: Path) -> None:
    before = (searched / "tune.json").stat().st_mtime_ns
    tune.search(config(settings, searched, SPACE, "search.concurrency=2"), silent)
    assert (searched / "tune.json").stat().st_mtime_ns == before
    with pytest.raises(UsageError, match=r"holds a run with another config .*trials: 3; .*trials: 5"):
        tune.search(config(settings, searched, SPACE, "search.trials=5"), silent)


def preset(made: Config, folder: Path) -> str:
    """A file that makes the same config."""
    path = folder / "search.yaml"
    path.write_text(to_yaml(made))
    return str(path)


def test_where_nothing_can_be_kept_status_3_names_the_task_and_a_failed_trial_is_no_end(
    settings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And four trials at once are as many as there is room for."""
    grid = ["search.algorithm=grid", "search.trials=2", "search.concurrency=4", "select.interpolate=false"]
    grid += ["task.protect=[weather, scene, timeofday]", "optim.lr=0.06", "optim.clip=1e9"]
    space = "search.space={optim.lr: {choice: [0.06, 1e30]}}"
    made = config(settings, tmp_path, *grid, space, "search.scheduler=feasible_halving")
    assert main(["tune", preset(made, tmp_path), "--json"]) == 3
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    cpus = int(ray.cluster_resources()["CPU"])
    said = [record["phase"] for record in printed if record["event"] == "phase"]
    assert cpus >= 4 or f"search.concurrency=4: there is room for {cpus}" in said
    hopeless, failed = book(tmp_path)["trials"]
    assert hopeless["status"] in {FINISHED, STOPPED}
    assert failed["status"] == FAILED
    assert "the loss of " in failed["reason"]
    outcome = printed[-1]["outcome"]
    assert (outcome["outcome"], outcome["weights"]) == ("old", made.model.weights)
    assert f"with {book(tmp_path)['nearest']['lost'][0]} -" in outcome["reason"]
