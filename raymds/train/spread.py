"""Models measured by all devices of a Ray cluster, each with some of the rows."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from raymds.config import Config
from raymds.data.shards import DataSet
from raymds.data.split import Split
from raymds.pool import Machines, on_cluster
from raymds.store import objects
from raymds.store import uri as storage
from raymds.tasks import Tasks, resolve
from raymds.train.cluster import Show, located, room, start_ray
from raymds.train.evaluate import Evaluation, evaluate
from raymds.train.net import open_net

_ROW, _MODEL = ":row", ":model"
_ARRAYS = "labels", "predicted", "loss"  # of an `Evaluation`, in columns with the attribute behind the name


class _Worker:
    """The models on one device."""

    def __init__(self, config: Config, split: str, models: Sequence[str], threads: int) -> None:
        objects.configure(config.storage, lambda record: None)  # a store that is gone is waited for
        torch.set_num_threads(threads)
        data = DataSet.open(config.data.uri, config.data)
        self._tasks, self._temperature = resolve(config.task, data.attributes), config.constraints.temperature
        self._split = data.load(split, self._tasks.vocabularies)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._nets = [open_net(config, self._tasks.heads, weights).to(device) for weights in models]

    def __call__(self, part: Any) -> Iterator[Any]:
        """A table of rows → a table of what each model says of them."""
        rows = part[_ROW].to_numpy()
        for number, net in enumerate(self._nets):
            found = evaluate(net, self._split, self._tasks, self._temperature, rows)
            arrays = {f"{name} {a}": values for name in _ARRAYS for a, values in getattr(found, name).items()}
            yield pa.table({_ROW: rows, _MODEL: np.full(len(rows), number)} | arrays)


def evaluate_on_cluster(
    config: Config, name: str, split: Split, tasks: Tasks, models: Sequence[str], show: Show
) -> list[Evaluation]:
    """`evaluate` of the models with these weights on all rows of the split of that name.

    A row goes through all models in one process, so two that are equal say the same of it to the last bit. `show` gets
    progress records.
    """
    start_ray(show)
    arguments = located(config), name, [storage.absolute(weights) for weights in models]
    tables, done = list[Any](), 0
    machines = _machines(config, show)

    def part(rows: range) -> Any:
        return pa.table({_ROW: np.array(rows)})

    for table in on_cluster(_Worker, arguments, len(split), part, show, machines):
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
    return [({"CPU": run.cpus_per_worker, "GPU": 1.0}, max(1, run.workers))]


def _evaluation(table: Any, split: Split, tasks: Tasks) -> Evaluation:
    labels, predicted, loss = (
        {a: table[f"{name} {a}"].to_numpy() for a in (tasks.attributes if name == "labels" else tasks.classes)}
        for name in _ARRAYS
    )
    first = None if split.prints is None else split.prints.first
    return Evaluation(labels, predicted, loss, first, split.group)
