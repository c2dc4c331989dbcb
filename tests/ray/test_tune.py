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
from raymds.errors import RaymdsError, UsageError
from raymds.search.trials import FAILED, FINISHED, STOPPED
from tests.conftest import records, silent

pytestmark = pytest.mark.usefixtures("cluster")

# The model of the tests is random: it gains and loses much in any direction. So that some trials keep everything and
# some don't, only what is hard to lose is protected.
SEARCH = [
    "run.workers=1",
    "task.protect=['weather:clear', 'scene:tunnel']",
    "search.trials=4",
    "search.concurrency=1",
    "search.scheduler=none",
    "search.space={optim.lr: {loguniform: [1e-5, 1e-3]}, constraints.beta: {loguniform: [1, 1e4]}}",
]


def config(settings: list[str], run: Path, *more: str) -> Config:
    return load(Config, None, [*settings, *SEARCH, f"run.uri={run}", *more])


def book(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "tune.json").read_text())
    return content


@pytest.fixture(scope="module")
def searched(settings: list[str], cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("search") / "run"
    tune.search(config(settings, run), silent)
    return run


def test_the_winner_keeps_everything_and_is_certified_once(searched: Path) -> None:
    outcome, content = json.loads((searched / "outcome.json").read_text()), book(searched)
    assert content["counts"] == {**content["counts"], "finished": 4, "stopped": 0, "failed": 0, "running": 0}
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


def test_trials_are_ordinary_cycles_that_share_the_old_model(searched: Path) -> None:
    runs = sorted(searched.glob("trials/*"))
    assert [run.name for run in runs] == ["000", "001", "002", "003"]
    starts = [[r["step"] for r in records(run) if r["event"] == "start"] for run in runs]
    assert starts == [[0]] * 4
    assert len(list((searched / "old").glob("*.json"))) == 1
    first = [next(r for r in records(run) if r["event"] == "step")["h"] for run in runs]
    assert all(value == 0.0 for h in first for value in h.values())  # invariant 1, with shared old losses
    written = (searched / "old").stat().st_mtime_ns
    assert written < (runs[1] / "config.yaml").stat().st_mtime_ns


def test_the_page_of_a_search_links_its_trials(searched: Path) -> None:
    assert main(["report", str(searched)]) == 0
    page = (searched / "report.html").read_text()
    for number in range(4):
        assert f'href="trials/{number:03d}/report.html"' in page
        assert (searched / f"trials/{number:03d}/report.html").exists()


def test_a_finished_search_is_not_run_again_and_another_is_refused(settings: list[str], searched: Path) -> None:
    before = (searched / "tune.json").stat().st_mtime_ns
    tune.search(config(settings, searched, "search.concurrency=2"), silent)
    assert (searched / "tune.json").stat().st_mtime_ns == before
    with pytest.raises(UsageError, match=r"holds a run with another config .*trials: 4; .*trials: 5"):
        tune.search(config(settings, searched, "search.trials=5"), silent)


def test_killed_and_resumed_makes_the_trials_that_it_would_have_made(
    settings: list[str], searched: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "raymds.cli", "tune", *given(config(settings, run), tmp_path)]
    driver = subprocess.Popen(command, env={**os.environ, "RAY_ADDRESS": address}, stdout=subprocess.DEVNULL)
    steps = run / "trials" / "002" / "checkpoints" / "train" / "step-0000004" / "checkpoint.json"
    end = time.monotonic() + 300
    while not steps.exists():
        assert driver.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    ended = [t for t in book(run)["trials"] if t["status"] == FINISHED]
    assert main(["tune", "--resume", str(run)]) in {0, 3}
    resumed, whole = book(run), book(searched)
    assert resumed["trials"][: len(ended)] == ended
    assert resumed["trials"] == whole["trials"]
    assert resumed["winner"] == whole["winner"]
    starts = [[r["step"] for r in records(at) if r["event"] == "start"] for at in sorted(run.glob("trials/*"))]
    assert starts[:2] == [[0], [0]]  # not run again
    assert starts[2] == [0, 4]  # from its checkpoint
    assert starts[3] == [0]


def given(made: Config, folder: Path) -> list[str]:
    """The arguments that make the same config."""
    preset = folder / "search.yaml"
    preset.write_text(to_yaml(made))
    return [str(preset)]


def test_four_at_once_on_two_cpus_are_two_and_a_failed_one_is_no_end(settings: list[str], tmp_path: Path) -> None:
    said: list[str] = []

    def show(record: dict[str, Any]) -> None:
        if record["event"] == "phase":
            said.append(record["phase"])

    space = "search.space={optim.lr: {choice: [1e-4, 1e30]}}"
    grid = ["search.algorithm=grid", "search.trials=2", "search.concurrency=4", space]
    tune.search(config(settings, tmp_path, *grid), show)
    cpus = int(ray.cluster_resources()["CPU"])
    assert cpus >= 4 or f"search.concurrency=4: there is room for {cpus}" in said
    failed, fine = sorted(book(tmp_path)["trials"], key=lambda trial: trial["params"]["optim.lr"], reverse=True)
    assert failed["status"] == FAILED
    assert "the loss of " in failed["reason"]
    assert "lower optim.lr" in failed["reason"]
    assert fine["status"] == FINISHED


def test_where_nothing_can_be_kept_status_3_names_the_task(
    settings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A task whose every image the old model has right and a step that moves everything."""
    hopeless = ["search.trials=2", "select.interpolate=false", "search.space={optim.lr: {uniform: [0.05, 0.1]}}"]
    made = config(settings, tmp_path, *hopeless, "optim.lr=0.06", "search.scheduler=feasible_halving",
                  "task.protect=[weather, scene, timeofday]")  # fmt: skip
    assert main(["tune", *given(made, tmp_path), "--json"]) == 3
    outcome = json.loads(capsys.readouterr().out.splitlines()[-1])["outcome"]
    content = book(tmp_path)
    assert (outcome["outcome"], outcome["weights"]) == ("old", made.model.weights)
    assert content["nearest"]["lost"][0] in outcome["reason"]
    assert {trial["status"] for trial in content["trials"]} <= {FINISHED, STOPPED}


def test_a_search_whose_every_trial_fails_says_why(settings: list[str], tmp_path: Path) -> None:
    made = config(settings, tmp_path, "search.trials=1", "optim.lr=1e30", "search.space={optim.clip: {choice: [1.0]}}")
    with pytest.raises(RaymdsError, match=r"no trial of the search measured anything; the first failed: .*lower optim.lr"):
        tune.search(made, silent)
