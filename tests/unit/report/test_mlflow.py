"""A run logged to MLflow, in a store of files."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
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


def test_class_names_that_mlflow_refuses_are_logged_all_the_same(run: RunDirectory, store: str) -> None:
    odd = ["weather:[fog]", "weather:(fog)", "weather:a[b]c", "weather:[/red]", "weather:a/../$x$", "weather://"]
    lines = [json.loads(line) for line in (run.read("metrics.jsonl") or b"").splitlines()]
    last = next(record for record in reversed(lines) if record["event"] == "eval")
    last["tasks"] = [task | {"task": name} for task, name in zip(last["tasks"], odd, strict=False)]
    Path(run.path("metrics.jsonl")).write_text(json.dumps(last) + "\n")
    config = yaml.safe_load(run.read("config.yaml") or b"")
    config["select"]["tolerance"] = dict.fromkeys(odd, 0.01)
    Path(run.path("config.yaml")).write_text(yaml.safe_dump(config))
    client = MlflowClient(store)
    logged = client.get_run(tracking.log(run, "", store)).data
    assert logged.metrics["delta/weather:-5b-fog-5d-"] == last["tasks"][0]["delta"]
    assert len([name for name in logged.metrics if name.startswith("delta")]) == 1 + len(odd)  # the target's, too
    assert len([name for name in logged.params if name.startswith("select.tolerance")]) == len(odd)


def test_a_server_that_refuses_is_named(run: RunDirectory, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--mlflow nonsense://x: MLflow says: "):
        tracking.log(run, "", "nonsense://x")
