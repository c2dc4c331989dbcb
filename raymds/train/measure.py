"""Accuracies of a model, and a certificate of any two, on a data set: in this process, or by a cluster's devices."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from raymds.config import Config, to_yaml
from raymds.data.shards import DataSet
from raymds.errors import UsageError
from raymds.method.certificate import certify
from raymds.method.wear import said
from raymds.model import ClipWithHeads, precision
from raymds.model.files import tensors_digest
from raymds.run import digests
from raymds.store import objects
from raymds.store import uri as storage
from raymds.tasks import check_per_task, resolve
from raymds.train import cluster, recorded
from raymds.train.evaluate import Evaluation, evaluate, evidence, label_sets, not_certifiable, paired
from raymds.train.net import open_net
from raymds.train.spread import evaluate_on_cluster

Show = Callable[[dict[str, Any]], None]


class _Measure:
    """A split of the config's data set, and what models make of it."""

    def __init__(self, config: Config, split: str, show: Show) -> None:
        objects.configure(config.storage)
        self._config, self._split, self._show = config, split, show
        self.data = DataSet.open(config.data.uri, config.data)
        self.tasks = resolve(config.task, self.data.attributes)
        check_per_task(config, self.tasks)
        self.rows = self.data.load(split, self.tasks.vocabularies)
        self.digests: dict[str, str] = {}  # of the tensors of each model as it was loaded
        for task in self.tasks.all:
            if not len(self.rows.rows_of(task.attribute, task.label, task.where)):
                raise UsageError(f"task.protect: {task.name} has no examples in the {split} split of {self.data.uri}")
        if cluster.named():
            cluster.start_ray(show)

    def __call__(self, models: Mapping[str, str]) -> list[Evaluation]:
        """Every task's results of models, from what they are called to their weights."""
        if cluster.named():
            for name, weights in models.items():
                self._open(name, weights)
            digests = [(weights, self.digests[name]) for name, weights in models.items()]
            given = self._config, self._split, self.data, self.rows, self.tasks, digests, self._show
            return evaluate_on_cluster(*given)
        return [self._here(name, self._open(name, weights)) for name, weights in models.items()]

    def _here(self, name: str, net: ClipWithHeads) -> Evaluation:
        told = self._progress(f"images through the {name} model", len(self.rows))
        net = net.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        precision.require({"select.precision": self._config.select.precision}, net.mean.device)
        return evaluate(net, self.rows, self.tasks, self._config.constraints.temperature, progress=told)

    def _open(self, name: str, weights: str) -> ClipWithHeads:
        net = open_net(self._config, self.tasks.heads, weights)
        net.check_prompts(self.tasks.label_sets)
        if net.note:
            self._show({"event": "note", "note": net.note})
        self.digests[name] = tensors_digest(net.weights())
        return net

    def _progress(self, what: str, total: int) -> Callable[[int], None]:
        return lambda done: self._show({"event": "progress", "what": what, "done": done, "total": total})


def evaluate_model(config: Config, split: str, show: Show) -> dict[str, Any]:
    """Accuracy and loss per task of `config.model.weights` on a split; the target comes first.

    `show` gets progress records. UsageError where a task has no examples in the split.
    """
    measure, weights = _Measure(config, split, show), str(config.model.weights)
    (found,) = measure({"given": weights})
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
    before, after = measure({"old": parent, "new": new})
    tasks = measure.tasks
    certificate = certify(
        paired(before, after, tasks.target, config.constraints.loss),
        [paired(before, after, task, config.constraints.loss) for task in tasks.protected],
        tolerance=config.select.tolerance,
        confidence=recorded.spending(config, use).select.confidence,
        digests=digest,
    )
    both = measure.digests["old"], measure.digests["new"]
    found = evidence(measure.data, split, tasks, config, *both)
    return certificate | found | ({"use": use} if use else {})
