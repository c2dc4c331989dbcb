"""A run logged to MLflow, in a store of files."""

import json
from collections.abc import Iterator
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
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A store of files, in which alone something is written."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield (tmp_path / "mlflow").as_uri()
    assert list((tmp_path / "here").iterdir()) == []


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


def logged_as(verdict: str, where: Path, store: str, begin: float) -> str:
    """The id of a made-up run that began at `begin`, with this verdict, logged."""
    for name, content in report_run.run(verdict).items():
        where.mkdir(exist_ok=True)
        (where / name).write_bytes(content.replace(b"1790000000.0", str(begin).encode()))
    return tracking.log(RunDirectory(str(where)), "", store)


def aliases(store: str) -> dict[str, str]:
    """Alias -> run of the version that has it."""
    client = MlflowClient(store)
    found = client.get_registered_model(tracking.MODEL).aliases
    return {alias: str(client.get_model_version(tracking.MODEL, version).run_id) for alias, version in found.items()}


def test_a_new_model_is_a_version_with_its_verdict_and_the_old_one_is_none(store: str, tmp_path: Path) -> None:
    client = MlflowClient(store)
    logged_as("old", tmp_path / "a", store, 1.0)
    assert client.search_registered_models() == []
    good = logged_as("certified", tmp_path / "b", store, 2.0)
    assert aliases(store) == {"champion": good}
    (version,) = client.search_model_versions()
    assert version.tags == {
        "raymds.verdict": "certified", "raymds.weights": "s3://fleet/runs/foggy/checkpoints/225",
    }  # fmt: skip
    assert (version.source, version.run_id) == ("s3://fleet/runs/foggy/checkpoints/225", good)
    open_ = logged_as("undecided", tmp_path / "c", store, 3.0)
    assert aliases(store) == {"champion": good, "challenger": open_}
    better = logged_as("retained", tmp_path / "d", store, 4.0)
    assert aliases(store) == {"champion": better, "challenger": open_}


def test_a_run_logged_again_has_one_version_and_takes_no_later_one_s_place(store: str, tmp_path: Path) -> None:
    logged_as("certified", tmp_path / "a", store, 1.0)
    later = logged_as("certified", tmp_path / "b", store, 2.0)
    again = logged_as("certified", tmp_path / "a", store, 1.0)
    assert aliases(store) == {"champion": later}
    later = logged_as("certified", tmp_path / "b", store, 2.0)
    assert aliases(store) == {"champion": later}
    assert {version.run_id for version in MlflowClient(store).search_model_versions()} == {again, later}


def test_the_data_set_is_an_input(run: RunDirectory, store: str) -> None:
    certificate = run.read_json("certificate.json") or {}
    certificate["data"], certificate["digests"]["data"] = {"uri": "s3://fleet/bdd100k"}, "0123456789abcdef" * 4
    run.write_json("certificate.json", certificate)
    (found,) = MlflowClient(store).get_run(tracking.log(run, "", store)).inputs.dataset_inputs
    assert (found.dataset.name, found.dataset.digest) == ("s3://fleet/bdd100k", ("0123456789abcdef" * 4)[:36])
    assert json.loads(found.dataset.source) == {"uri": "s3://fleet/bdd100k", "digest": "0123456789abcdef" * 4}


def test_a_model_on_this_machine_is_a_version_of_the_run_s_artifacts(run: RunDirectory, store: str) -> None:
    outcome = run.read_json("outcome.json") or {}
    run.write_json("outcome.json", outcome | {"weights": "/runs/foggy/weights.safetensors"})
    logged = MlflowClient(store).get_run(tracking.log(run, "", store))
    (version,) = MlflowClient(store).search_model_versions()
    assert version.source == logged.info.artifact_uri
    assert version.tags["raymds.weights"] == "/runs/foggy/weights.safetensors"
    Path(run.uri, "weights.safetensors").touch()  # of a run that was copied as a whole
    tracking.log(run, "", store)
    (version,) = MlflowClient(store).search_model_versions()
    assert version.tags["raymds.weights"] == f"{run.uri}/weights.safetensors"
