"""A run as a run of MLflow (pip install mlflow-skinny): params, metrics, certificate, outcome and page."""

import posixpath
import re
from collections.abc import Iterator
from typing import Any

import yaml

from raymds.errors import UsageError
from raymds.run import MetricsLog, RunDirectory, scalars

EXPERIMENT = "raymds"
_PARAMS, _METRICS = 100, 1000  # that MLflow takes in one request


def log(run: RunDirectory, page: str, tracking_uri: str) -> str:
    """Log a finished run and return its id in MLflow; a run that is logged again replaces what was there.

    `tracking_uri` is MLflow's: http://host:5000, sqlite:///file.db. UsageError where MLflow is missing or refuses.
    """
    try:
        import mlflow  # noqa: PLC0415 (optional)
        from mlflow.entities import Metric, Param  # noqa: PLC0415
    except ImportError:
        raise UsageError("--mlflow: MLflow is not installed: pip install mlflow-skinny, or mlflow") from None
    records = MetricsLog(run).records
    begin = next((record["time"] for record in records if record["event"] == "start"), 0.0)
    try:
        client = mlflow.MlflowClient(tracking_uri)
        found = client.get_experiment_by_name(EXPERIMENT)
        experiment = found.experiment_id if found else client.create_experiment(EXPERIMENT)
        mark = f"tags.`raymds.run` = '{run.uri}'"
        for earlier in client.search_runs([experiment], mark):
            client.delete_run(earlier.info.run_id)
        tags = {"raymds.run": run.uri, "mlflow.runName": run.uri}
        created: str = client.create_run(experiment, round(1000 * begin), tags).info.run_id
        config = yaml.safe_load(run.read("config.yaml") or b"")
        params = [Param(accepted(name), str(value)) for name, value in _flat(config)]
        for first in range(0, len(params), _PARAMS):
            client.log_batch(created, params=params[first : first + _PARAMS])
        metrics = [
            Metric(accepted(name), value, round(1000 * begin) + record["step"], record["step"])
            for record in records
            for name, value in scalars(record).items()
        ]
        for first in range(0, len(metrics), _METRICS):
            client.log_batch(created, metrics=metrics[first : first + _METRICS])
        for name in ("certificate.json", "outcome.json"):
            if (content := run.read(name)) is not None:
                client.log_text(created, content.decode(), name)
        client.log_text(created, page, "report.html")
        client.set_terminated(created)
    except mlflow.MlflowException as error:
        raise UsageError(f"--mlflow {tracking_uri}: MLflow says: {str(error).splitlines()[0]}") from error
    return created


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
