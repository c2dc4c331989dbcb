"""From `target: weather:foggy`, `protect: [weather, scene]` and a vocabulary to the tasks of a cycle.

A task is one class of an attribute, told apart from the other classes of the attribute's label set. A slice,
`weather:rainy@timeofday:night`, is that among the rows of another class alone: rainy, among night's rows.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Any

from raymds.config import Config, TaskConfig
from raymds.errors import UsageError

OTHER = "other"  # class of pairs that show none of an attribute's classes: a negative, and no capability

Vocabularies = Mapping[str, Sequence[str]]  # attribute -> classes


@dataclass(frozen=True)
class Task:
    """One capability: recognising one class of an attribute, in all rows or in those of a slice."""

    attribute: str
    label: int  # index into the attribute's classes
    name: str  # attribute:class, of a slice attribute:class@attribute:class,…
    where: tuple[tuple[str, int], ...] = ()  # what the rows of a slice have too: attribute, index into its classes


@dataclass(frozen=True)
class Tasks:
    """The target, the protected tasks and the label sets they need."""

    target: Task
    protected: tuple[Task, ...]
    classes: dict[str, tuple[str, ...]]  # label sets: attribute -> classes, in the order of the heads
    prompts: dict[str, tuple[tuple[str, ...], ...]]  # attribute -> the sentences of each class, as many of every one
    vocabularies: dict[str, tuple[str, ...]]  # of all attributes of the data set, an attribute's label set first
    without_data: tuple[Task, ...] = ()  # held by what the old model says of new images; not certifiable

    @property
    def all(self) -> tuple[Task, ...]:
        """The target, then the protected tasks: what is measured."""
        return (self.target, *self.protected)

    @property
    def constrained(self) -> tuple[Task, ...]:
        """What has a constraint: the protected tasks, then those without data."""
        return (*self.protected, *self.without_data)

    @property
    def attributes(self) -> list[str]:
        """Attributes that say which rows belong to a task: those with a label set, then those of slices."""
        filters = (attribute for task in self.all for attribute, _ in task.where)
        return list(dict.fromkeys([*self.classes, *filters]))

    @property
    def heads(self) -> list[str]:
        """Names of all classes of all label sets, in the order of the model's heads."""
        return [f"{attribute}:{label}" for attribute, labels in self.classes.items() for label in labels]

    @cached_property
    def label_sets(self) -> dict[str, dict[str, tuple[str, ...]]]:
        """attribute -> class -> its sentences, in the order of the classes."""
        return {a: dict(zip(labels, self.prompts[a], strict=True)) for a, labels in self.classes.items()}

    def columns(self, attribute: str) -> slice:
        """Heads, equally columns of a classifier over all heads, that belong to an attribute's classes."""
        before = list(self.classes)[: list(self.classes).index(attribute)]
        first = sum(len(self.classes[name]) for name in before)
        return slice(first, first + len(self.classes[attribute]))

    def sentences(self, *attributes: str) -> tuple[list[str], list[int]]:
        """All sentences of some attributes' classes (of all, where none is named), and the head of each."""
        texts, heads = list[str](), list[int]()
        for attribute in attributes or self.classes:
            for head, sentences in enumerate(self.prompts[attribute], self.columns(attribute).start):
                texts += sentences
                heads += [head] * len(sentences)
        return texts, heads


def resolve(config: TaskConfig, vocabularies: Vocabularies) -> Tasks:
    """The tasks a config asks for; UsageError naming the key and the nearest valid name where one is not there."""
    ordered = _label_sets_first(config, vocabularies)
    sizes = {attribute: len(_label_set(config, attribute, vocabularies)) for attribute in vocabularies}
    label_sets = {attribute: classes[: sizes[attribute]] for attribute, classes in ordered.items()}
    if ":" not in config.target.partition("@")[0]:
        raise UsageError(f"task.target={config.target!r}: has to be attribute:class, like weather:foggy")
    (target,), protected = _tasks(config.target, label_sets, ordered, "task.target"), dict[str, Task]()
    for item in config.protect:
        found = _tasks(item, label_sets, ordered, "task.protect")
        if found == [target]:
            raise UsageError(f"task.protect: {item} is the target; a target can't be protected in the same cycle")
        protected.update({task.name: task for task in found if task != target})
    without = _without_data(config, label_sets, target)
    protected = {name: task for name, task in protected.items() if name not in without}
    if not protected:
        raise UsageError(
            "task.protect: names no task"
            + (" beside those of task.without_data, and without any nothing can be certified" if without else "")
            + "; list attributes (weather) or classes (weather:rainy)"
        )
    attributes = list(dict.fromkeys(task.attribute for task in (target, *protected.values(), *without.values())))
    classes = {attribute: label_sets[attribute] for attribute in attributes}
    for attribute, labels in classes.items():
        if len(labels) < 2:
            raise UsageError(
                f"task.classes.{attribute}: the label set is {', '.join(labels)} alone, so there is nothing to tell it "
                f"from; mix in data with other classes, or list those of the data set: {', '.join(ordered[attribute])}"
            )
    prompts = {attribute: _sentences(config, attribute, classes[attribute]) for attribute in attributes}
    return Tasks(target, tuple(protected.values()), classes, prompts, ordered, tuple(without.values()))


PER_TASK = ("select.tolerance", "constraints.slack", "constraints.beta")


def check_per_task(config: Config, tasks: Tasks) -> None:
    """UsageError where a value by task has a key that is no protected task, none of their attributes, not default.

    A task without data has a constraint, so slack and beta may name it; it is not measured, so tolerance may not.
    """
    for key in PER_TASK:
        of = tasks.protected if key == "select.tolerance" else tasks.constrained
        valid = ["default", *dict.fromkeys(task.attribute for task in of), *(task.name for task in of)]
        value = attrgetter(key)(config)
        for name in value if isinstance(value, Mapping) else ():
            _known(str(name), valid, key, "protected task")


def _without_data(config: TaskConfig, label_sets: Vocabularies, target: Task) -> dict[str, Task]:
    """The tasks of `task.without_data`; an attribute means all its classes but the target, as in `task.protect`."""
    key, without = "task.without_data", dict[str, Task]()
    for item in config.without_data:
        attribute, _, label = item.partition("@")[0].partition(":")
        if label and attribute in label_sets and label not in label_sets[attribute]:
            labels = label_sets[attribute]
            near = difflib.get_close_matches(label, labels, n=1)
            raise UsageError(
                f"{key}: {label!r} is no class of {attribute}, which has {', '.join(labels)}; "
                + (f"did you mean {near[0]!r}? " if near else "")
                + f"One that the data set no longer has is to be listed in task.classes.{attribute}, too"
            )
        found = _tasks(item, label_sets, label_sets, key)
        if found == [target]:
            raise UsageError(f"{key}: {item} is the target, which needs examples; leave it out")
        if found[0].where:
            raise UsageError(
                f"{key}: {item} is a slice, and without examples there are no rows of it; name the class, "
                f"{item.partition('@')[0]}"
            )
        without.update({task.name: task for task in found if task != target})
    return without


def _label_sets_first(config: TaskConfig, vocabularies: Vocabularies) -> dict[str, tuple[str, ...]]:
    """The vocabularies, each with its label set in front: an index below the label set's length is a head's."""
    for key, given in (("classes", config.classes), ("phrases", config.phrases)):
        for attribute in given:
            _known(attribute, list(vocabularies), f"task.{key}", "attribute")
    for attribute in config.prompts:  # a preset may have those of several data sets, but a slip would be ignored
        if difflib.get_close_matches(attribute, vocabularies, n=1, cutoff=0.8):
            _known(attribute, list(vocabularies), "task.prompts", "attribute")
    ordered = {}
    for attribute, vocabulary in vocabularies.items():
        labels = _label_set(config, attribute, vocabularies)
        ordered[attribute] = (*labels, *(label for label in vocabulary if label not in labels))
    return ordered


def _label_set(config: TaskConfig, attribute: str, vocabularies: Vocabularies) -> tuple[str, ...]:
    """The classes that an attribute's tasks are told apart from."""
    vocabulary = vocabularies[attribute]
    if attribute not in config.classes:
        return tuple(label for label in vocabulary if label != OTHER)
    given, key = config.classes[attribute], f"task.classes.{attribute}"
    for label in given:
        if f"{attribute}:{label}" not in config.without_data:  # one that the data set no longer has is said twice
            _known(label, vocabulary, key, f"class of {attribute}")
        if given.count(label) > 1:
            raise UsageError(f"{key}: names {label!r} twice; leave one of the two out")
    if len(given) < 2:
        raise UsageError(f"{key}={given}: has to list two classes or more, to tell one from another")
    return tuple(given)


def _sentences(config: TaskConfig, attribute: str, labels: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The sentences of an attribute's classes: its prompts, with the words that the classes are called by."""
    given: Any = config.prompts.get(attribute, "")
    prompts, phrases, key = [given] if isinstance(given, str) else given, config.phrases.get(attribute, {}), attribute
    if not isinstance(prompts, list) or not prompts or not all(isinstance(p, str) and "{}" in p for p in prompts):
        raise UsageError(
            f"task.prompts.{key}: has to be a sentence with {{}} for the class, like 'the {key} is {{}}.', or a list "
            "of such sentences"
        )
    for label, phrase in phrases.items():
        _known(label, labels, f"task.phrases.{key}", f"class of {key}'s label set", "label set")
        if not phrase.strip():
            raise UsageError(f"task.phrases.{key}.{label}: is empty; give the words for it, or leave it out")
    return tuple(tuple(prompt.replace("{}", phrases.get(label, label)) for prompt in prompts) for label in labels)


def _tasks(name: str, label_sets: Vocabularies, vocabularies: Vocabularies, key: str) -> list[Task]:
    """The task that a name says, or those of all classes where it names an attribute alone; with its slice."""
    attribute, _, label = name.partition(":")
    whole = label in vocabularies.get(attribute, ())  # a class's name may have a comma, or an @
    what, at, filters = (name, "", "") if whole else name.partition("@")
    beginnings = "|".join(re.escape(attribute) for attribute in vocabularies)
    parts = re.split(rf",\s*(?=(?:{beginnings}):)", filters) if at else []
    where = [_class(part.strip(), vocabularies, key) for part in parts]
    attributes = [what.partition(":")[0], *(attribute for attribute, _ in where)]
    again = next((attribute for attribute in attributes if attributes.count(attribute) > 1), None)
    if again:
        raise UsageError(f"{key}={name!r}: names {again} twice; a slice is of other attributes, one class of each")
    if ":" in what:
        pairs = [_class(what, label_sets, key)]
    else:
        _known(what, list(label_sets), key, "attribute")
        pairs = [(what, label) for label in label_sets[what]]
    index = tuple((attribute, list(vocabularies[attribute]).index(label)) for attribute, label in where)
    suffix = "@" + ",".join(f"{attribute}:{label}" for attribute, label in where) if where else ""
    return [
        Task(attribute, list(label_sets[attribute]).index(label), f"{attribute}:{label}{suffix}", index)
        for attribute, label in pairs
    ]


def _class(name: str, vocabularies: Vocabularies, key: str) -> tuple[str, str]:
    attribute, colon, label = name.partition(":")
    if not colon:
        raise UsageError(f"{key}={name!r}: has to be attribute:class, like weather:foggy")
    _known(attribute, list(vocabularies), key, "attribute")
    _known(label, list(vocabularies[attribute]), key, f"class of {attribute}")
    return attribute, label


def _known(name: str, valid: Sequence[str], key: str, kind: str, whose: str = "data set") -> None:
    if name in valid:
        return
    near = difflib.get_close_matches(name, valid, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise UsageError(f"{key}: {name!r} is no {kind} of the {whose}, which has {', '.join(valid)}{hint}")
