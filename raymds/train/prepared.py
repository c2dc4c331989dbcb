"""What is known of a cycle before its first step: its config, data, tasks and their examples, what test can show."""

from dataclasses import dataclass
from typing import Any

from raymds.config import Config, to_yaml
from raymds.data.shards import DataSet
from raymds.errors import UsageError
from raymds.method import power
from raymds.method.verdict import of_task
from raymds.run import RunDirectory
from raymds.tasks import Tasks

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Prepared:
    """A cycle, or a search of cycles, that can begin."""

    config: Config  # with numbers where it left the choice to the cluster
    run: RunDirectory
    data: DataSet
    tasks: Tasks

    @property
    def outlook(self) -> str:
        """What the test split can show at all, and what chance does to the choice on val, in sentences."""
        select = self.config.select
        val, test = (
            {task.name: self._count(split, task.name) for task in self.tasks.protected} for split in SPLITS[1:]
        )
        said = power.outlook(test, select.tolerance, select.confidence, select.require)
        return " ".join(filter(None, (said, power.choice(val, select.tolerance))))

    def summary(self) -> dict[str, Any]:
        """What a dry run says, JSON-ready."""
        tolerance, finished = self.config.select.tolerance, self.run.read("outcome.json") is not None
        begun = finished or self.run.read("config.yaml") is not None
        return {
            "config": to_yaml(self.config),
            "tasks": [
                {"task": task.name, **{split: self._count(split, task.name) for split in SPLITS}}
                | ({} if task == self.tasks.target else {"tolerance": of_task(tolerance, task.name)})
                for task in self.tasks.all
            ],
            "run": {"uri": self.run.uri, "state": "finished" if finished else "begun" if begun else "new"},
            "outlook": self.outlook,
        }

    def _count(self, split: str, task: str) -> int:
        attribute, _, label = task.partition(":")
        return self.data.count(split, attribute, label)


def check_examples(config: Config, data: DataSet, tasks: Tasks) -> None:
    """That every pool holds what a step draws from it, and val and test every class; UsageError naming the task."""
    absent = [split for split in SPLITS if not data.splits.get(split)]
    if absent:
        raise UsageError(f"data.uri={data.uri}: has no split {absent[0]!r}; a cycle needs train, val and test")
    for task in tasks.all:
        label = task.name.partition(":")[2]
        for split in SPLITS:
            if data.count(split, task.attribute, label) == 0:
                key = "task.target" if task == tasks.target else "task.protect"
                raise UsageError(
                    f"{key}: {task.name} has no examples in the {split} split of {data.uri}; leave it out, for "
                    f"example by listing the classes of {task.attribute} one by one"
                )
    drawn = config.constraints.images_per_task
    for task in tasks.protected:
        found = min(config.task.retained, data.count("train", task.attribute, task.name.partition(":")[2]))
        if found < drawn:
            raise UsageError(
                f"constraints.images_per_task={drawn}: {task.name} has {found} retained examples; lower it to {found}"
            )
    if config.constraints.tasks_per_step != "all" and config.constraints.tasks_per_step > len(tasks.protected):
        raise UsageError(
            f"constraints.tasks_per_step={config.constraints.tasks_per_step}: has to be {len(tasks.protected)}, the "
            "number of protected tasks, or less"
        )
    positives = round(config.objective.batch * config.objective.positive_share)
    attribute, _, label = tasks.target.name.partition(":")
    showing = data.count("train", attribute, label)
    others = sum(data.count("train", attribute, other) for other in data.attributes[attribute]) - showing
    for name, needed, found in (
        (f"pairs that show {tasks.target.name}", positives, showing),
        (f"pairs of another {attribute}", config.objective.batch - positives, others),
    ):
        if found < needed:
            raise UsageError(
                f"objective.batch={config.objective.batch}: a step draws {needed} {name}, the train split has {found}; "
                "lower objective.batch or change objective.positive_share"
            )
