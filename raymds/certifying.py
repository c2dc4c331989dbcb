"""Certificate of any two models on a data set, in this process alone."""

from collections.abc import Callable
from typing import Any

import torch

from raymds import model, objects, storage
from raymds.certificate import certify
from raymds.config import Config
from raymds.data.shards import DataSet
from raymds.errors import UsageError
from raymds.evaluate import Evaluation, evaluate, paired
from raymds.run import digests
from raymds.tasks import resolve


def certify_models(config: Config, new: str, split: str, show: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Measure `config.model.weights` and `new` on a split and certify the one against the other.

    `show` gets progress records. UsageError where a task has no examples in the split.
    """
    objects.configure(config.storage)
    data = DataSet.open(config.data.uri, config.data)
    tasks = resolve(config.task, data.attributes)
    rows = data.load(split)
    for task in tasks.all:
        if not len(rows.rows_of(task.attribute, task.label)):
            raise UsageError(f"task.protect: {task.name} has no examples in the {split} split of {data.uri}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parent = str(config.model.weights)

    def measure(weights: str, name: str) -> Evaluation:
        net = model.load(config.model.name, weights, tasks.heads, config.model.head_rank, config.run.seed).to(device)

        def progress(done: int) -> None:
            show({"event": "progress", "what": f"images through the {name} model", "done": done, "total": len(rows)})

        return evaluate(net, rows, tasks, config.constraints.temperature, progress=progress)

    before, after = measure(parent, "old"), measure(new, "new")
    return certify(
        paired(before, after, tasks.target),
        [paired(before, after, task) for task in tasks.protected],
        tolerance=config.select.tolerance,
        confidence=config.select.confidence,
        digests=digests(config, data.digest, storage.sha256(storage.read(parent)), storage.sha256(storage.read(new))),
    )
