"""From `target: weather:foggy`, `protect: [weather, scene]` and a vocabulary to the tasks of a cycle.

A task is one class of an attribute, told apart from the other classes of that attribute (its label set).
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

from raymds.config import Config, TaskConfig
from raymds.errors import UsageError


@dataclass(frozen=True)
class Task:
    """One capability: recognising one class of an attribute."""

    attribute: str
    label: int  # index into the attribute's classes
    name: str  # attribute:class


@dataclass(frozen=True)
class Tasks:
    """The target, the protected tasks and the label sets they need."""

    target: Task
    protected: tuple[Task, ...]
    classes: dict[str, tuple[str, ...]]  # label sets: attribute -> classes, in the order of the heads
    prompts: dict[str, tuple[str, ...]]  # attribute -> one sentence per class

    @property
    def all(self) -> tuple[Task, ...]:
        """The target, then the protected tasks."""
        return (self.target, *self.protected)

    @property
    def heads(self) -> list[str]:
        """Names of all classes of all label sets, in the order of the model's heads."""
        return [f"{attribute}:{label}" for attribute, labels in self.classes.items() for label in labels]

    @property
    def label_sets(self) -> dict[str, dict[str, str]]:
        """attribute -> class -> its sentence, in the order of the classes."""
        return {a: dict(zip(labels, self.prompts[a], strict=True)) for a, labels in self.classes.items()}

    def columns(self, attribute: str) -> slice:
        """Heads, equally columns of a classifier over all heads, that belong to an attribute's classes."""
        before = list(self.classes)[: list(self.classes).index(attribute)]
        first = sum(len(self.classes[name]) for name in before)
        return slice(first, first + len(self.classes[attribute]))


def resolve(config: TaskConfig, vocabularies: Mapping[str, Sequence[str]]) -> Tasks:
    """The tasks a config asks for; UsageError naming the key and the nearest valid name where one is not there."""
    target = _task(config.target, vocabularies, "task.target")
    protected: dict[str, Task] = {}
    for item in config.protect:
        if ":" in item:
            found = [_task(item, vocabularies, "task.protect")]
            if found[0] == target:
                raise UsageError(f"task.protect: {item} is the target; a target can't be protected in the same cycle")
        else:
            _known(item, list(vocabularies), "task.protect", "attribute")
            found = [_task(f"{item}:{label}", vocabularies, "task.protect") for label in vocabularies[item]]
        protected.update({task.name: task for task in found if task != target})
    if not protected:
        raise UsageError("task.protect: names no task; list attributes (weather) or classes (weather:rainy)")
    attributes = list(dict.fromkeys(task.attribute for task in (target, *protected.values())))
    prompts = {}
    for attribute in attributes:
        sentence = config.prompts.get(attribute, "")
        if "{}" not in sentence:
            raise UsageError(
                f"task.prompts.{attribute}: has to be a sentence with {{}} for the class, like "
                f"'the {attribute} is {{}}.'"
            )
        prompts[attribute] = tuple(sentence.replace("{}", label) for label in vocabularies[attribute])
    classes = {attribute: tuple(vocabularies[attribute]) for attribute in attributes}
    return Tasks(target, tuple(protected.values()), classes, prompts)


PER_TASK = ("select.tolerance", "constraints.slack", "constraints.beta")


def check_per_task(config: Config, tasks: Tasks) -> None:
    """UsageError where a value by task has a key that is no protected task, none of their attributes, not default."""
    valid = ["default", *dict.fromkeys(task.attribute for task in tasks.protected), *(t.name for t in tasks.protected)]
    for key in PER_TASK:
        value = attrgetter(key)(config)
        for name in value if isinstance(value, Mapping) else ():
            _known(str(name), valid, key, "protected task")


def _task(name: str, vocabularies: Mapping[str, Sequence[str]], key: str) -> Task:
    attribute, colon, label = name.partition(":")
    if not colon:
        raise UsageError(f"{key}={name!r}: has to be attribute:class, like weather:foggy")
    _known(attribute, list(vocabularies), key, "attribute")
    _known(label, list(vocabularies[attribute]), key, f"class of {attribute}")
    return Task(attribute, list(vocabularies[attribute]).index(label), name)


def _known(name: str, valid: Sequence[str], key: str, kind: str) -> None:
    if name in valid:
        return
    near = difflib.get_close_matches(name, valid, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise UsageError(f"{key}: {name!r} is no {kind} of the data set, which has {', '.join(valid)}{hint}")
