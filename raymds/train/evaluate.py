"""Zero-shot accuracy and loss of every task on a split, row by row, on all ranks together.

Legend of shapes: B images, C classes of a label set, D embedding width, n rows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raymds.config import Config, ConstraintsConfig
from raymds.data.loader import clean_batches
from raymds.data.sampler import Rows, shares
from raymds.data.shards import DataSet
from raymds.data.split import Split
from raymds.errors import StoppedError
from raymds.method import dist
from raymds.method.certificate import PairedCounts
from raymds.method.constraints import LOSSES, zero_shot_losses
from raymds.method.grouped import Groups
from raymds.model import STEP_CHUNK, ClipWithHeads
from raymds.tasks import Task, Tasks

_STOPPED = "stopped while measuring; the same command goes on from the last checkpoint"
_NOT_MEASURED = -2.0  # in place of a class; −1 is an image that can't be decoded


@dataclass(frozen=True)
class Evaluation:
    """What the model said of each row; arrays (n,), −1 and NaN where a row's class is not of the label set."""

    labels: dict[str, NDArray[np.int64]]  # by attribute that a task asks for
    predicted: dict[str, NDArray[np.int64]]  # by label set
    loss: dict[str, NDArray[np.float64]]  # by label set
    first: Rows | None = None  # of each row the first one of the same image
    group: Rows | None = None  # of each row, below 0 where it has none

    def correct(self, task: Task) -> NDArray[np.bool_]:
        """Whether each of the task's rows is classified right."""
        return np.equal(self.predicted[task.attribute][self.rows(task)], task.label)

    def rows(self, task: Task) -> Rows:
        """Rows of the split that belong to the task."""
        same = self.labels[task.attribute] == task.label
        for attribute, label in task.where:
            same &= self.labels[attribute] == label
        rows = np.flatnonzero(same)
        if self.first is None:
            return rows
        # An image under several rows is one example.
        return np.sort(rows[np.unique(self.first[rows], return_index=True)[1]])

    def groups(self, task: Task) -> Rows | None:
        """Group of each of the task's rows, a number of its own where it has none; None where no two share one."""
        if self.group is None:
            return None
        rows = self.rows(task)
        group = np.where(self.group[rows] < 0, -1 - np.arange(len(rows)), self.group[rows])
        return group if len(np.unique(group)) < len(group) else None

    def accuracy(self, task: Task) -> float:
        """Share of the task's rows classified right."""
        return float(self.correct(task).mean())

    def values(self, task: Task, loss: str, rows: Rows | None = None) -> Tensor:
        """What `constraints.LOSSES[loss]` compares of each of the task's rows (or of `rows`), fp64: (n_k,)."""
        rows = self.rows(task) if rows is None else rows
        if LOSSES[loss].answers:
            return torch.from_numpy(self.predicted[task.attribute][rows] != task.label).double()
        return torch.from_numpy(self.loss[task.attribute][rows])


def constraint_values(
    model: ClipWithHeads,
    split: Split,
    tasks: Tasks,
    seen: Sequence[Rows],
    limits: ConstraintsConfig,
    stop: Callable[[], bool] = lambda: False,
) -> list[Tensor]:
    """What the constraints compare of each row that λ is measured on, per constrained task: (n_k,) in fp64.

    Values of `constraints.loss`, and −log p(k|x) of a task without data. StoppedError where `stop()`.
    """
    rows = np.unique(np.concatenate(seen[: len(tasks.protected)]))
    found = evaluate(model, split, tasks, limits.temperature, rows, substitutes=True, stop=stop)
    own = zip(tasks.protected, seen, strict=False)
    values = [found.values(task, limits.loss, np.searchsorted(rows, some)) for task, some in own]
    for task, some in zip(tasks.without_data, seen[len(values) :], strict=True):
        asked = evaluate(model, split, tasks, limits.temperature, some, substitutes=True, as_class=task, stop=stop)
        values.append(torch.from_numpy(asked.loss[task.attribute]))
    return values


def paired(old: Evaluation, new: Evaluation, task: Task, loss: str) -> PairedCounts:
    """How a task's rows moved from the old model to the new one; `loss` names what its loss columns hold."""
    before, after = old.correct(task), new.correct(task)
    group = old.groups(task)
    loss_old, loss_new = LOSSES[loss].levels(new.values(task, loss), old.values(task, loss))
    return PairedCounts(
        task=task.name,
        n=len(before),
        old_right=int(before.sum()),
        negative_flips=int((before & ~after).sum()),
        positive_flips=int((~before & after).sum()),
        loss_old=float(loss_old.mean()),
        loss_new=float(loss_new.mean()),
        groups=None if group is None else Groups.of(group, before, after),
    )


def changes(old: Evaluation, new: Evaluation, task: Task) -> dict[str, float]:
    """By loss its mean change over a task's rows: h of METHOD (1) without ε."""
    values = {name: (new.values(task, name), old.values(task, name)) for name in LOSSES}
    return {name: float(LOSSES[name].change(*both).mean()) for name, both in values.items()}


def evidence(data: DataSet, split: str, tasks: Tasks, config: Config, old: str, new: str) -> dict[str, Any]:
    """What a certificate's numbers were measured with: data, split, label sets, sentences, τ₀, loss, both models.

    Also the precision, where it was another than fp32.

    `old` and `new` are `tensors_digest` of the models as they were loaded, whatever files they came from.
    """
    models, limits = {"parent": old, "weights": new}, config.constraints
    loss = {"name": limits.loss, "unit": LOSSES[limits.loss].unit}
    measured = {"split": split, "label_sets": label_sets(tasks), "temperature": limits.temperature, "loss": loss}
    measured |= {"tensors": models} | (
        {"precision": config.select.precision} if config.select.precision != "fp32" else {}
    )
    parts = [{key: part[key] for key in ("uri", "digest", "rows")} for part in data.parts]
    found = {"measured": measured, "data": {"uri": data.uri, "created": data.created, "parts": parts}}
    return found | not_certifiable(tasks)


def not_certifiable(tasks: Tasks) -> dict[str, list[str]]:
    """The tasks that no certificate can say anything of, under that name; empty where there is none."""
    return {"not_certifiable": [task.name for task in tasks.without_data]} if tasks.without_data else {}


def label_sets(tasks: Tasks) -> dict[str, dict[str, list[str]]]:
    """attribute -> class -> its sentences, JSON-ready."""
    return {a: {label: list(texts) for label, texts in labels.items()} for a, labels in tasks.label_sets.items()}


@torch.no_grad()
def evaluate(
    model: ClipWithHeads,
    split: Split,
    tasks: Tasks,
    temperature: float,
    rows: Rows | None = None,
    *,
    substitutes: bool = False,
    as_class: Task | None = None,
    classifiers: Mapping[str, Tensor] | None = None,
    diverging: bool = False,
    progress: Callable[[int], None] = lambda done: None,
    stop: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Evaluate rows (all, unless given) of a split; ranks share the work, every rank gets the whole result.

    `temperature` is τ₀ of METHOD (1). A row that can't be decoded, where the split skips those, has no label in the
    result. With `substitutes` it has the result of its substitute, and all have the bits that steps of training find.
    With `as_class` the losses are those of this task's class whatever a row shows: −log p(k|x) of METHOD 3's softmax.
    `classifiers` are those of the tasks' label sets, where they are at hand. A row of which no number comes out is a
    UsageError, or with `diverging`, of a model in training, wrong. `progress(done)` is told how many rows this rank has
    finished. StoppedError on all ranks where `stop()` is true of any.
    """
    rows = np.arange(len(split)) if rows is None else rows
    sizes = shares(len(rows), dist.world_size())
    start = sum(sizes[: dist.rank()])
    own = rows[start : start + sizes[dist.rank()]]
    classifiers = classifiers or model.classifiers(tasks.label_sets)
    results = torch.empty(len(own), 2, len(tasks.classes), dtype=torch.float64)
    done = 0
    for block, pixels in clean_batches(split, own, model.preprocess, substitutes=substitutes):
        if stop():
            results[done:] = _NOT_MEASURED
            break
        cosine_BC = model.cosines(classifiers, pixels, STEP_CHUNK if substitutes else None)
        here = results[done : done + len(block)]
        for column, attribute in enumerate(tasks.classes):
            cosine = cosine_BC[attribute]
            label = model.here(torch.from_numpy(split.labels[attribute][block]).long())
            if as_class and as_class.attribute == attribute:
                label = torch.full_like(label, as_class.label)
            known = (label >= 0) & (label < cosine.shape[1])
            if not diverging:
                model.require_finite(cosine)
            answer = cosine.argmax(dim=1).where(cosine.isfinite().all(dim=1), cosine.shape[1])  # which no class has
            loss = zero_shot_losses(cosine, label.where(known, 0), temperature)
            here[:, 0, column] = answer.double()
            here[:, 1, column] = loss.where(known, torch.nan).double()
        if not substitutes:
            here[:, 0][np.isin(block, list(split.corrupt))] = -1
        done += len(block)
        progress(done)
    gathered = dist.all_gather(results.to(model.mean.device), sizes).cpu().numpy()
    if (gathered[:, 0] == _NOT_MEASURED).any():
        raise StoppedError(_STOPPED)
    predicted = {a: gathered[:, 0, column].astype(np.int64) for column, a in enumerate(tasks.classes)}
    return Evaluation(
        labels={a: np.where(gathered[:, 0, 0] < 0, -1, split.labels[a][rows]) for a in tasks.attributes},
        predicted=predicted,
        loss={a: gathered[:, 1, column] for column, a in enumerate(tasks.classes)},
        first=None if split.prints is None else split.prints.first[rows],
        group=None if split.group is None else split.group[rows],
    )


def heed(stop: Callable[[], bool], device: torch.device) -> None:
    """StoppedError on all ranks where `stop()` is true of any; they all ask."""
    if dist.all_reduce_sum(torch.tensor(float(stop()), device=device)) > 0:
        raise StoppedError(_STOPPED)
