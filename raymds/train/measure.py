"""Accuracies of a model, and a certificate of any two, on a data set, in this process alone."""

from collections.abc import Callable
from typing import Any

import torch

from raymds.config import Config, to_yaml
from raymds.data.shards import DataSet
from raymds.errors import UsageError
from raymds.method.certificate import certify
from raymds.method.wear import said
from raymds.model.files import tensors_digest
from raymds.run import digests
from raymds.store import objects
from raymds.store import uri as storage
from raymds.tasks import check_per_task, resolve
from raymds.train import recorded
from raymds.train.evaluate import Evaluation, evaluate, evidence, label_sets, not_certifiable, paired
from raymds.train.net import open_net

Show = Callable[[dict[str, Any]], None]


class _Measure:
    """A split of the config's data set, and what models make of it."""

    def __init__(self, config: Config, split: str, show: Show) -> None:
        objects.configure(config.storage)
        self._config, self._show = config, show
        self.data = DataSet.open(config.data.uri, config.data)
        self.tasks = resolve(config.task, self.data.attributes)
        check_per_task(config, self.tasks)
        self.rows = self.data.load(split, self.tasks.vocabularies)
        self.digests: dict[str, str] = {}  # of the tensors of each model as it was loaded
        for task in self.tasks.all:
            if not len(self.rows.rows_of(task.attribute, task.label, task.where)):
                raise UsageError(f"task.protect: {task.name} has no examples in the {split} split of {self.data.uri}")

    def __call__(self, weights: str, name: str) -> Evaluation:
        """Every task's results of the model with these weights, called `name` in progress records."""
        config = self._config
        net = open_net(config, self.tasks.heads, weights)
        net.check_prompts(self.tasks.label_sets)
        if net.note:
            self._show({"event": "note", "note": net.note})
        self.digests[name] = tensors_digest(net.weights())
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

        def progress(done: int) -> None:
            what = f"images through the {name} model"
            self._show({"event": "progress", "what": what, "done": done, "total": len(self.rows)})

        return evaluate(net.to(device), self.rows, self.tasks, config.constraints.temperature, progress=progress)


def evaluate_model(config: Config, split: str, show: Show) -> dict[str, Any]:
    """Accuracy and loss per task of `config.model.weights` on a split; the target comes first.

    `show` gets progress records. UsageError where a task has no examples in the split.
    """
    measure, weights = _Measure(config, split, show), str(config.model.weights)
    found = measure(weights, "given")
    counts = [paired(found, found, task, "cross_entropy") for task in measure.tasks.all]
    return {
        "split": split,
        "tasks": [{"task": c.task, "n": c.n, "accuracy": c.old, "loss": c.loss_old} for c in counts],
        **not_certifiable(measure.tasks),
        "label_sets": label_sets(measure.tasks),
        "digests": {
            "data": measure.data.digest,
            "weights": storage.sha256(storage.read(weights)),
            "tensors": measure.digests["given"],
        },
    }


def certify_models(config: Config, new: str, split: str, show: Show) -> dict[str, Any]:
    """Measure `config.model.weights` and `new` on a split and certify the one against the other.

    `show` gets progress records. UsageError where a task has no examples in the split.
    """
    measure, parent = _Measure(config, split, show), str(config.model.weights)
    digest = digests(
        storage.sha256(to_yaml(config).encode()),
        measure.data.digest,
        storage.sha256(storage.read(parent)),
        storage.sha256(storage.read(new)),
    )
    name = " ".join(("certify", split, *digest.values()))  # the same again tells nobody anything new
    use = recorded.reserve(config, measure.data, split, name, digest["config"])
    if use:
        words = said(use["confidence"], len(measure.tasks.protected), use["number"], use.get("declared"))
        show({"event": "note", "note": words})
    before, after = measure(parent, "old"), measure(new, "new")
    tasks = measure.tasks
    certificate = certify(
        paired(before, after, tasks.target, config.constraints.loss),
        [paired(before, after, task, config.constraints.loss) for task in tasks.protected],
        tolerance=config.select.tolerance,
        confidence=recorded.spending(config, use).select.confidence,
        digests=digest,
    )
    both = measure.digests["old"], measure.digests["new"]
    found = evidence(measure.data, split, tasks, config.constraints, *both)
    return certificate | found | ({"use": use} if use else {})
