"""The diagnosis of a run that was made before: what it measures, and how it is stopped."""

import contextlib
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raymds.cli.main import main
from raymds.config import Config
from raymds.errors import UsageError
from raymds.run import RunDirectory
from raymds.train import revisit, worker
from raymds.train.revisit import diagnose_run
from tests.unit.train.conftest import Recorder, payload_of


@pytest.fixture
def run(recorder: Recorder, config: Config) -> Path:
    """A cycle with checkpoints, whose eight steps sample eight of thirteen tasks."""
    config.select.interpolate, config.constraints.tasks_per_step = False, 1
    RunDirectory(config.run.uri).claim(config)
    worker.run_cycle(payload_of(config, recorder))
    return Path(config.run.uri)


def noted(monkeypatch: pytest.MonkeyPatch, note: Callable[[], object]) -> None:
    """Have `note` called before each measurement on val, where whatever it raises is taken for a fault of an image."""
    evaluate = revisit.evaluate

    def noting(*given: Any, **more: Any) -> Any:
        with contextlib.suppress(Exception):
            note()
        return evaluate(*given, **more)

    monkeypatch.setattr(revisit, "evaluate", noting)


def test_a_directory_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run"):
        diagnose_run(str(tmp_path))


def test_a_pretraining_is_refused(config: Config, tmp_path: Path) -> None:
    config.run.uri, config.task.target = str(tmp_path / "old"), ""
    RunDirectory(config.run.uri).claim(config)
    with pytest.raises(UsageError, match=r"^.*/old: holds no cycle: a pretraining has no constraints"):
        diagnose_run(config.run.uri)


def test_the_old_model_is_measured_where_the_run_did_not_leave_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []
    noted(monkeypatch, lambda: measured.append(1))
    kept = {"feasible": True, "target": {"delta": 0.1}}
    open_ = {"task": "weather:clear", "n": 9, "delta": -0.1, "verdict": "undecided", "more_examples": None}
    RunDirectory(str(run)).write_json("outcome.json", {"outcome": "old", "tested": True, "val": kept})
    RunDirectory(str(run)).write_json("certificate.json", {"target": {"delta": 0.1, "n": 9}, "tasks": [open_]})
    known = diagnose_run(str(run))
    assert known["advice"][-1].startswith("no loss is proven on test")
    assert len(measured) == 1
    shutil.rmtree(run / "old")
    assert diagnose_run(str(run)) == known
    assert len(measured) == 3
    assert not (run / "old").exists()  # a diagnosis writes nothing


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stop_is_heard_while_it_measures(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: signal.Signals, status: int
) -> None:
    before = signal.getsignal(number)
    noted(monkeypatch, lambda: os.kill(os.getpid(), number))
    assert main(["diagnose", str(run)]) == status
    assert capsys.readouterr().err == "raymds: stopped; the same command goes on from what it has written\n"
    assert signal.getsignal(number) == before
