"""What is known of a cycle before its first step: its config, data, tasks and their examples, what test can show."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from raymds.config import Config, to_yaml
from raymds.data.sampler import Rows
from raymds.data.shards import DataSet
from raymds.errors import UsageError
from raymds.method import power
from raymds.method.verdict import of_task
from raymds.run import RunDirectory
from raymds.tasks import Task, Tasks
from raymds.train.evaluate import not_certifiable
from raymds.train.limits import build_sampler

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Prepared:
    """A cycle, or a search of cycles, that can begin."""

    config: Config  # with numbers where it left the choice to the cluster
    run: RunDirectory
    data: DataSet
    tasks: Tasks
    confidence: float  # of the certificate, after what earlier uses of the test split have spent

    @property
    def outlook(self) -> str:
        """What the test split can show at all, and what chance does to the choice on val, in sentences."""
        select = self.config.select
        val, test = (_examples(self.data, self.tasks, split) for split in SPLITS[1:])
        said = power.outlook(test, select.tolerance, self.confidence, select.require)
        positives = counts(self.data, self.tasks)["train"][self.tasks.target.name]
        draws = _draws(self.config, self.data, self.tasks, positives)
        again = [
            f"A step draws {drawn} {name}, the train split has {there}: they come again within a step."
            for name, drawn, there in draws
            if there < drawn
        ]
        without = [
            f"No examples of {task.name} are used: it is held by what the old model says of {len(rows)} new images, "
            "which no certificate can show."
            for task, rows in _without_data(self.config, self.data, self.tasks)
        ]
        return " ".join(filter(None, (*again, *without, said, power.choice(val, select.tolerance))))

    def summary(self) -> dict[str, Any]:
        """What a dry run says, JSON-ready."""
        found, tolerance = counts(self.data, self.tasks), self.config.select.tolerance
        finished = self.run.read("outcome.json") is not None
        begun = finished or self.run.read("config.yaml") is not None
        return {
            "config": to_yaml(self.config),
            "tasks": [
                {"task": task.name, **{split: found[split][task.name] for split in SPLITS}}
                | ({} if task == self.tasks.target else {"tolerance": of_task(tolerance, task.name)})
                for task in self.tasks.all
            ],
            **not_certifiable(self.tasks),
            "run": {"uri": self.run.uri, "state": "finished" if finished else "begun" if begun else "new"},
            "outlook": self.outlook,
        }


def counts(data: DataSet, tasks: Tasks) -> dict[str, dict[str, int]]:
    """Split -> task -> its rows."""
    found = {}
    for split in SPLITS:
        # The manifest counts classes, not slices.
        loaded = data.load(split, tasks.vocabularies) if any(task.where for task in tasks.all) else None
        found[split] = {
            task.name: len(loaded.rows_of(task.attribute, task.label, task.where))
            if task.where and loaded
            else data.count(split, task.attribute, tasks.classes[task.attribute][task.label])
            for task in tasks.all
        }
    return found


def _examples(data: DataSet, tasks: Tasks, split: str) -> dict[str, int]:
    """Examples of each protected task as a certificate counts them: rows of one image or one group are one."""
    loaded = data.load(split, tasks.vocabularies)
    rows = {task.name: loaded.rows_of(task.attribute, task.label, task.where) for task in tasks.protected}
    return {name: len(np.unique(loaded.unit[found])) for name, found in rows.items()}


def check_examples(config: Config, data: DataSet, tasks: Tasks) -> None:
    """That every pool holds what a step draws from it, and val and test every class; UsageError naming the task."""
    absent = [split for split in SPLITS if not data.splits.get(split)]
    if absent:
        raise UsageError(f"data.uri={data.uri}: has no split {absent[0]!r}; a cycle needs train, val and test")
    rows = counts(data, tasks)
    for task in tasks.all:
        for split in SPLITS:
            if rows[split][task.name] == 0:
                key = "task.target" if task == tasks.target else "task.protect"
                raise UsageError(
                    f"{key}: {task.name} has no examples in the {split} split of {data.uri}; leave it out, for "
                    f"example by listing the classes of {task.attribute} one by one"
                    + ("" if task == tasks.target else "; or name it in task.without_data, where nothing is certified")
                )
    drawn = config.constraints.images_per_task
    for task in tasks.protected:
        found = min(config.task.retained, rows["train"][task.name])
        if found < drawn:
            raise UsageError(
                f"constraints.images_per_task={drawn}: {task.name} has {found} retained examples; lower it to {found}"
            )
    for task, pool in _without_data(config, data, tasks):
        if len(pool) < drawn:
            raise UsageError(
                f"task.without_data: {task.name} is held on train images of other classes, and the train split of "
                f"{data.uri} has {len(pool)} of those; add some, or lower constraints.images_per_task={drawn}"
            )
    if config.constraints.tasks_per_step != "all" and config.constraints.tasks_per_step > len(tasks.constrained):
        raise UsageError(
            f"constraints.tasks_per_step={config.constraints.tasks_per_step}: has to be {len(tasks.constrained)}, the "
            "number of protected tasks, or less"
        )
    for name, _, found in _draws(config, data, tasks, rows["train"][tasks.target.name]):
        if found == 0:
            raise UsageError(
                f"task.target={tasks.target.name}: the train split of {data.uri} has no {name}; mix some in"
            )


def _without_data(config: Config, data: DataSet, tasks: Tasks) -> list[tuple[Task, Rows]]:
    """Each task without data, and the train rows that it is held on."""
    if not tasks.without_data:
        return []
    sampler = build_sampler(data.load("train", tasks.vocabularies), tasks, config)
    return list(zip(tasks.without_data, sampler.retained[len(tasks.protected) :], strict=True))


def _draws(config: Config, data: DataSet, tasks: Tasks, positives: int) -> list[tuple[str, int, int]]:
    """What a step draws for the objective: the pool in words, how many of it, and how many it has."""
    attribute, drawn = tasks.target.attribute, round(config.objective.batch * config.objective.positive_share)
    label = tasks.classes[attribute][tasks.target.label]
    others = sum(data.count("train", attribute, other) for other in data.attributes[attribute] if other != label)
    return [
        (f"pairs that show {tasks.target.name}", drawn, positives),
        (f"pairs of another {attribute}", config.objective.batch - drawn, others),
    ]
