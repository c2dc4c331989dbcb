"""A run as a run of MLflow (pip install mlflow-skinny): params, metrics, data set, certificate, outcome and page.

Its new model is a version of the registered model `raymds`, with the verdict as a tag: the `champion` where nothing was
lost, else the `challenger`.
"""

import itertools
import json
import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from raymds.errors import UsageError
from raymds.ledger.facts import weights_of
from raymds.log import Summary, records
from raymds.run import RunDirectory

EXPERIMENT = MODEL = "raymds"
_PARAMS, _METRICS = 100, 1000  # that MLflow takes in one request
_DIGEST = 36  # characters that it takes of a digest


def log(run: RunDirectory, page: str, tracking_uri: str) -> str:
    """Log a finished run and return its id in MLflow; a run that is logged again replaces what was there.

    `tracking_uri` is MLflow's: http://host:5000, sqlite:///file.db. UsageError where MLflow is missing or refuses.
    """
    try:
        import mlflow  # noqa: PLC0415 (optional)
        from mlflow.entities import Metric, Param  # noqa: PLC0415
    except ImportError:
        raise UsageError("--mlflow: MLflow is not installed: pip install mlflow-skinny, or mlflow") from None
    begin = next((record["time"] for record in records(run.uri) if record["event"] == "start"), 0.0)
    try:
        mlflow.set_tracking_uri(tracking_uri)  # a store of files looks there, too: by default a new mlflow.db
        client = mlflow.MlflowClient(tracking_uri)
        found = client.get_experiment_by_name(EXPERIMENT)
        experiment = found.experiment_id if found else client.create_experiment(EXPERIMENT)
        mark = f"tags.`raymds.run` = '{run.uri}'"
        for earlier in client.search_runs([experiment], mark):
            for version in client.search_model_versions(f"run_id = '{earlier.info.run_id}'"):
                client.delete_model_version(version.name, version.version)
            client.delete_run(earlier.info.run_id)
        tags = {"raymds.run": run.uri, "mlflow.runName": run.uri}
        created: str = client.create_run(experiment, round(1000 * begin), tags).info.run_id
        config = yaml.safe_load(run.read("config.yaml") or b"")
        params = [Param(accepted(name), str(value)) for name, value in _flat(config)]
        for first in range(0, len(params), _PARAMS):
            client.log_batch(created, params=params[first : first + _PARAMS])
        summary = Summary()
        metrics = (
            Metric(accepted(name), value, round(1000 * begin) + record["step"], record["step"])
            for record in records(run.uri)
            for name, value in summary(record).items()
        )
        while batch := list(itertools.islice(metrics, _METRICS)):
            client.log_batch(created, metrics=batch)
        for name in ("certificate.json", "outcome.json"):
            if (content := run.read(name)) is not None:
                client.log_text(created, content.decode(), name)
        client.log_text(created, page, "report.html")
        certificate, outcome = run.read_json("certificate.json"), run.read_json("outcome.json")
        if certificate is not None:
            _log_data(client, created, certificate)
        if outcome is not None and outcome.get("outcome") == "new":  # a pretraining has none
            _register(client, created, weights_of(run.uri, outcome), certificate)
        client.set_terminated(created)
    except mlflow.MlflowException as error:
        raise UsageError(f"--mlflow {tracking_uri}: MLflow says: {str(error).splitlines()[0]}") from error
    return created


def _log_data(client: Any, run_id: str, certificate: Mapping[str, Any]) -> None:
    """The data set that a certificate was measured on, as an input of the run."""
    from mlflow.entities import Dataset, DatasetInput, InputTag  # noqa: PLC0415 (optional)

    digest, uri = certificate["digests"]["data"], (certificate.get("data") or {}).get("uri", "")
    data = Dataset(uri or digest, digest[:_DIGEST], "raymds", json.dumps({"uri": uri, "digest": digest}))
    client.log_inputs(run_id, [DatasetInput(data, [InputTag("mlflow.data.context", "certificate")])])


def _register(client: Any, run_id: str, weights: str, certificate: Mapping[str, Any] | None) -> None:
    """The run's new model as a version of the registered model; its alias never goes back to an earlier run's."""
    verdict = certificate["verdict"] if certificate else "uncertified"
    info = client.get_run(run_id).info
    # Servers take no path of a machine, which may not be theirs: then the version is of the run's artifacts.
    source = weights if "://" in weights else info.artifact_uri
    if not client.search_registered_models(f"name = '{MODEL}'"):
        client.create_registered_model(MODEL)
    tags = {"raymds.verdict": verdict, "raymds.weights": weights}
    version = client.create_model_version(MODEL, source, run_id, tags).version
    alias = "champion" if verdict in {"certified", "retained"} else "challenger"
    holder = client.get_registered_model(MODEL).aliases.get(alias)
    if holder is not None:
        holding = client.get_run(client.get_model_version(MODEL, holder).run_id)
        if holding.info.start_time > info.start_time:
            return
    client.set_registered_model_alias(MODEL, alias, version)


def accepted(name: str) -> str:
    """A name as MLflow takes it: what it refuses, such as [brackets] in the name of a class, as `-5b-`.

    MLflow takes names for paths too: a/../b and a//b are refused.
    """
    name = re.sub(r"[^\w\-. :/]", _code, name)
    return name if posixpath.normpath(name) == name else re.sub("/", _code, name)


def _code(found: re.Match[str]) -> str:
    return f"-{ord(found[0]):x}-"


def _flat(config: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values, as they are given on the command line."""
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{above}{key}.")
        else:
            yield above + key, value
