"""Stands in for Ray Train on one process."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raymds.config import Config
from raymds.data.shards import DataSet
from raymds.data.split import Split
from raymds.tasks import Vocabularies
from raymds.train import loop, worker


class Recorder:
    """Stands in for Ray Train on one process, and writes down what happens in order."""

    def __init__(self, directory: Path) -> None:
        self.events: list[str] = []
        self.stop_at = 1000
        self.reports: list[Any] = []
        self.push = SimpleNamespace(remote=self._push)
        self.beat = SimpleNamespace(remote=lambda rank, step: step)
        self.beside = SimpleNamespace(remote=lambda: -1 if self.ended else self.stop_at)
        self.end_beside = SimpleNamespace(remote=self._end_beside)
        self.ended = False
        self.notes: list[str] = []
        self.validate: Callable[[str, dict[str, Any]], dict[str, Any]] = lambda uri, given: {}
        self._directory = directory

    def _push(self, record: dict[str, Any]) -> None:
        if record["event"] == "phase":
            self.events.append(record["phase"])
        if record["event"] == "note":
            self.notes.append(record["note"])

    def _end_beside(self) -> None:
        self.ended = True

    def report(
        self, metrics: dict[str, Any], checkpoint: Any, *, checkpoint_upload_fn: Any, validation: Any, **_: Any
    ) -> None:
        checkpoint_upload_fn(checkpoint, "")
        self.reports.append(SimpleNamespace(metrics=metrics, checkpoint=checkpoint))
        if validation:
            metrics |= self.validate(checkpoint, validation.fn_kwargs)


def payload_of(config: Config, recorder: Recorder, **given: Any) -> dict[str, Any]:
    """What a driver gives `worker.run_cycle`; `given` instead of what a single cycle has."""
    own = {"old": f"{config.run.uri}/old", "trial": False, "nearest": False, "beside": False}
    return {"config": config, "monitor": recorder} | own | given


def candidates(recorder: Recorder) -> list[int]:
    """Steps whose candidates were measured, as Ray was told."""
    return [report.metrics["step"] for report in recorder.reports if "record" in report.metrics]


@pytest.fixture
def recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    made = Recorder(tmp_path / "checkpoints")
    read = DataSet.load

    def noted(data: DataSet, name: str, vocabularies: Vocabularies | None = None) -> Split:
        made.events.append(f"read {name}")
        return read(data, name, vocabularies)

    monkeypatch.setattr(DataSet, "load", noted)
    monkeypatch.setattr(worker.ray.train, "get_checkpoint", lambda: None)
    monkeypatch.setattr(worker.ray.train, "report", made.report)
    monkeypatch.setattr(worker.ray.train, "get_all_reported_checkpoints", lambda **_: made.reports)
    monkeypatch.setattr(loop, "_leaving", lambda: 0)
    monkeypatch.setattr(worker.ray.train.torch, "get_device", lambda: "cpu")
    monkeypatch.setattr(worker.ray, "wait", lambda answers, timeout: (answers, []))
    monkeypatch.setattr(worker.ray, "get", lambda step: step >= made.stop_at)
    return made
