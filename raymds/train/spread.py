"""Models measured by all devices of a Ray cluster, each with some of the rows."""

import socket
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from raymds.config import Config
from raymds.data.shards import DataSet
from raymds.data.split import Split
from raymds.errors import UsageError
from raymds.model import precision
from raymds.model.files import tensors_digest
from raymds.pool import Machines, on_cluster
from raymds.store import objects
from raymds.store import uri as storage
from raymds.tasks import Tasks, resolve
from raymds.train.cluster import Show, located, room
from raymds.train.evaluate import Evaluation, evaluate
from raymds.train.net import open_net

_ROW, _MODEL = ":row", ":model"
Models = Sequence[tuple[str, str]]  # weights, and `tensors_digest` of what is in them

_ARRAYS = "labels", "predicted", "loss"  # of an `Evaluation`, in columns with the attribute behind the name


class _Worker:
    """The models on one device."""

    def __init__(self, config: Config, split: str, data: str, models: Models, threads: int) -> None:
        """`data`: the digest of the data set that the certificate says was measured."""
        objects.configure(config.storage)
        torch.set_num_threads(threads)
        own = DataSet.open(config.data.uri, config.data)
        _require_same(config.data.uri, own.digest, data)
        self._tasks, self._temperature = resolve(config.task, own.attributes), config.constraints.temperature
        self._split = own.load(split, self._tasks.vocabularies)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        precision.require({"select.precision": config.select.precision}, device)
        self._nets = []
        for weights, digest in models:
            net = open_net(config, self._tasks.heads, weights)
            _require_same(weights, tensors_digest(net.weights()), digest)
            net.to(device)
            self._nets.append((net, net.classifiers(self._tasks.label_sets)))

    def __call__(self, part: Any) -> Iterator[Any]:
        """A table of rows → a table of what each model says of them."""
        rows = part[_ROW].to_numpy()
        for number, (net, classifiers) in enumerate(self._nets):
            found = evaluate(net, self._split, self._tasks, self._temperature, rows, classifiers=classifiers)
            arrays = {f"{name} {a}": values for name in _ARRAYS for a, values in getattr(found, name).items()}
            yield pa.table({_ROW: rows, _MODEL: np.full(len(rows), number)} | arrays)


def _require_same(uri: str, found: str, wanted: str) -> None:
    """UsageError where this machine sees something else under a path than the command does."""
    if found != wanted:
        raise UsageError(
            f"{uri}: is something else on {socket.gethostname()}, where a worker runs, than where the command runs; "
            "give a URI of a bucket, or a path that all machines mount"
        )


def evaluate_on_cluster(
    config: Config, name: str, data: DataSet, split: Split, tasks: Tasks, models: Models, show: Show
) -> list[Evaluation]:
    """`evaluate` of models on all rows of the split of that name.

    The cluster is the one that was joined. A row goes through all models in one process, so two that are equal say the
    same of it to the last bit. `show` gets progress records.
    """
    arguments = located(config), name, data.digest, [(storage.absolute(weights), found) for weights, found in models]
    tables, done = list[Any](), 0

    def part(rows: range) -> Any:
        return pa.table({_ROW: np.array(rows)})

    for table in on_cluster(_Worker, arguments, len(split), part, show, _machines(config, show)):
        tables.append(table)
        done += len(table)
        what = "images through a model" if len(models) == 1 else f"images through {len(models)} models"
        show({"event": "progress", "what": what, "done": done // len(models), "total": len(split)})
    whole = pa.concat_tables(tables).sort_by([(_MODEL, "ascending"), (_ROW, "ascending")])
    return [_evaluation(whole.slice(k * len(split), len(split)), split, tasks) for k in range(len(models))]


def _machines(config: Config, show: Show) -> Machines:
    """Those of the cluster; with `run.autoscaling` those that it may start, if it says so, or the config's."""
    run, there = config.run, room(show, growing=config.run.autoscaling)
    if there.known or there.total("GPU") or not run.gpus_per_worker:
        return there.machines
    return [({"CPU": run.cpus_per_worker or 1.0, "GPU": 1.0}, max(1, run.workers))]


def _evaluation(table: Any, split: Split, tasks: Tasks) -> Evaluation:
    labels, predicted, loss = (
        {a: table[f"{name} {a}"].to_numpy() for a in (tasks.attributes if name == "labels" else tasks.classes)}
        for name in _ARRAYS
    )
    first = None if split.prints is None else split.prints.first
    return Evaluation(labels, predicted, loss, first, split.group)
