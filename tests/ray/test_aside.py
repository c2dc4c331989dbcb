"""Two workers where there is room for more: candidates are measured beside the training, and all comes out the same."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray

from raymds.train import driver
from tests.conftest import finetune, last_checkpoint, records
from tests.ray.test_runs import one_worker

pytestmark = pytest.mark.usefixtures("cluster")

MORE = ["run.workers=2", "run.cpus_per_worker=0.5", "select.every=2", "objective.batch=64"]


@pytest.fixture(scope="module")
def without(settings: list[str], cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("without") / "run"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(driver, "spare", lambda config, room: False)
        finetune(settings, run, *MORE)
    assert not any("beside" in record for record in records(run))
    return run


def open_now(run: Path) -> list[str]:
    """The checkpoints whose candidates Ray has to measure yet, as it has written down."""
    [*found] = run.glob("checkpoints/train/checkpoint_manager_snapshot.json")
    snapshot = json.loads(found[0].read_text() or "{}") if found else {}
    return [entry["checkpoint_dir_name"] for entry in snapshot.get("pending_training_results", [])]


def same(run: Path, without: Path) -> None:
    """Weights, state, outcome, and the log record by record, but for what was measured when and where."""

    def told(run: Path) -> list[dict[str, Any]]:
        times = {"seconds", "beside", "time", "images_per_second"}
        logged = [record for record in records(run) if record["event"] in {"step", "eval"}]
        return [{name: value for name, value in record.items() if name not in times} for record in logged]

    def concluded(run: Path) -> dict[str, Any]:
        outcome = json.loads((run / "outcome.json").read_text())
        return {name: outcome[name] for name in outcome.keys() - {"weights", "seconds", "images_per_second"}}

    assert told(run) == told(without)
    assert concluded(run) == concluded(without)
    assert last_checkpoint(run) == last_checkpoint(without)
    kept = [sorted(path.name for path in at.glob("checkpoints/train/step-*")) for at in (run, without)]
    assert kept[0] == kept[1]


def test_what_is_measured_beside_the_training_is_what_the_workers_measure(
    without: Path, settings: list[str], tmp_path: Path
) -> None:
    """A worker is held up until the first candidate was measured; of the others some are left to both."""
    run, shown, held = tmp_path / "run", list[dict[str, Any]](), list[int]()

    def show(record: dict[str, Any]) -> None:
        shown.append(record)
        if not held and open_now(run):
            held.append(one_worker())
            os.kill(held[0], signal.SIGSTOP)
        if record.get("beside") and len(held) == 1:
            held.append(held[0])
            os.kill(held[0], signal.SIGCONT)

    finetune(settings, run, *MORE, show=show)
    assert any("room for one more worker" in record.get("note", "") for record in shown)
    found = {record["step"]: record.get("beside", False) for record in records(run) if record["event"] == "eval"}
    assert (found[2], found[8]) == (True, False)
    assert {record["step"] for record in shown if record["event"] == "eval"} == {0, 2, 4, 6, 8}
    same(run, without)


def test_a_command_that_is_killed_while_a_candidate_is_measured_goes_on_to_the_same_end(
    without: Path, settings: list[str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    joined = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    given = [str(without / "config.yaml"), f"run.uri={run}", "--json"]
    command = [sys.executable, "-m", "raymds.cli", "finetune", *given]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=joined) as killed:
        assert killed.stdout is not None
        for _ in killed.stdout:
            if open_now(run):
                break
        killed.kill()
    assert open_now(run)
    assert not (run / "outcome.json").exists()
    finetune(settings, run, *MORE)
    same(run, without)
