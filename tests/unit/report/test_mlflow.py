"""A run logged to MLflow, in a store of files."""

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from raymds.errors import UsageError
from raymds.report import mlflow as tracking
from raymds.run import RunDirectory
from tests.unit.report import report_run


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    directory = RunDirectory(str(tmp_path / "run"))
    for name, content in report_run.run().items():
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / name).write_bytes(content)
    return directory


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return (tmp_path / "mlflow").as_uri()


def test_a_run_is_logged_once_however_often(run: RunDirectory, store: str, tmp_path: Path) -> None:
    first = tracking.log(run, "<html>", store)
    second = tracking.log(run, "<html>", store)
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
    assert experiment is not None
    assert [found.info.run_id for found in client.search_runs([experiment.experiment_id])] == [second] != [first]
    logged = client.get_run(second)
    assert logged.info.status == "FINISHED"
    assert logged.data.params["task.target"] == "weather:foggy"
    records = [json.loads(line) for line in (run.read("metrics.jsonl") or b"").splitlines()]
    losses = [r["loss"] for r in records if r["event"] == "step"]
    assert [point.value for point in client.get_metric_history(second, "loss")] == losses
    evaluations: list[dict[str, Any]] = [r for r in records if r["event"] == "eval"]
    points = client.get_metric_history(second, "devsafety")
    assert [(point.step, point.value) for point in points] == [(r["step"], r["devsafety"]) for r in evaluations]
    assert {artifact.path for artifact in client.list_artifacts(second)} >= {
        "certificate.json", "outcome.json", "report.html",
    }  # fmt: skip
    assert Path(client.download_artifacts(second, "report.html", str(tmp_path))).read_text() == "<html>"


def test_a_server_that_refuses_is_named(run: RunDirectory, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--mlflow nonsense://x: MLflow says: "):
        tracking.log(run, "", "nonsense://x")
