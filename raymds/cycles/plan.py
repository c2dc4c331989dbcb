"""What `raymds cycle` runs: a file with a list of targets, each an ordinary cycle or a search of cycles.

DIR/cycles/NN-NAME    the run directory of the NN-th cycle
DIR/ledger            the record of all, unless `ledger` names another
DIR/history.html      the page of the ledger
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raymds.config import SECTIONS, Config, load
from raymds.errors import UsageError
from raymds.overrides import as_overrides, dotted
from raymds.store import uri as storage
from raymds.train import cluster

VERBS = ("finetune", "tune")
ON_OLD = ("stop", "next")
_GIVEN = {
    "run.uri": "each cycle has a directory of its own",
    "model.weights": "each cycle develops what the one before delivered, the first one `model`",
    "ledger.uri": "`ledger` has it",
}


@dataclass
class PlanConfig:
    """A plan file. Overrides are config keys with dots (`optim.lr: 1e-5`), or nested sections."""

    uri: str = ""  # directory of the plan
    model: str = ""  # weights of the model that is deployed now
    base: Any = ""  # a preset's name or file, or a mapping of its sections: what all cycles share
    set: dict[str, Any] = field(default_factory=dict)  # overrides on the base
    cycles: list[Any] = field(default_factory=list)  # overrides of each; also `name`, `verb`: finetune, tune
    on_old: str = "stop"  # after a cycle that ends with the old model: stop, or go on with the next one
    ledger: str = ""  # where the cycles are recorded; empty: DIR/ledger


@dataclass(frozen=True)
class Cycle:
    """One entry of the list; numbered from 1."""

    number: int
    name: str
    verb: str
    settings: Mapping[str, Any]  # config key -> value

    @property
    def path(self) -> str:
        """Its run directory within the plan's."""
        return f"cycles/{self.number:02d}-{self.name}"


class Plan:
    """A plan file, checked."""

    def __init__(self, given: PlanConfig) -> None:
        """UsageError naming the key that is wrong; configs themselves are checked by `config`."""
        self.uri, self.model = storage.absolute(given.uri), storage.absolute(given.model)
        self.ledger = storage.absolute(given.ledger or storage.join(self.uri, "ledger"))
        if given.on_old not in ON_OLD:
            raise UsageError(f"on_old={given.on_old}: has to be one of {', '.join(ON_OLD)}")
        self.goes_on = given.on_old == "next"
        if not isinstance(given.base, str | Mapping):
            raise UsageError(f"base={given.base}: has to be a preset's name or file, or a mapping of its sections")
        self._base, self._shared = given.base, _settings(given.set, "set")
        self.cycles = [_cycle(number, entry) for number, entry in enumerate(given.cycles, 1)]

    def config(self, cycle: Cycle, weights: str, protect: Sequence[str] | None = None) -> Config:
        """The checked config of a cycle that develops these weights, with `task.protect` where it is given."""
        own: dict[str, Any] = {"run.uri": storage.join(self.uri, cycle.path), "model.weights": weights}
        own |= {"ledger.uri": self.ledger} | ({} if protect is None else {"task.protect": list(protect)})
        overrides = [item for layer in (self._shared, cycle.settings, own) for item in as_overrides(layer)]
        try:
            config = cluster.located(load(Config, self._base, overrides, ("data.uri", "task.target", "task.protect")))
        except UsageError as error:
            raise named(cycle, error) from None
        # What all cycles protect may be what one of them develops.
        config.task.protect = [name for name in config.task.protect if name != config.task.target]
        config.task.without_data = [name for name in config.task.without_data if name != config.task.target]
        return config


def load_plan(source: str | Mapping[str, Any], overrides: Sequence[str]) -> Plan:
    """The plan of a file (path, URI) or its content, with `key=value` overrides; UsageError naming a key."""
    for item in overrides:
        key = item.partition("=")[0]
        if key != "model" and key.partition(".")[0] in {*SECTIONS} - {"ledger"}:
            raise UsageError(f"{item}: is of a cycle's preset; give set.{item} for all cycles")
    return Plan(load(PlanConfig, source, overrides, ("uri", "model", "base", "cycles")))


def named(cycle: Cycle, error: Exception | str) -> UsageError:
    """An error of a cycle's config, with its place in the file."""
    return UsageError(f"cycles[{cycle.number - 1}] ({cycle.name}): {error}")


def _cycle(number: int, entry: Any) -> Cycle:
    where = f"cycles[{number - 1}]"
    if not isinstance(entry, Mapping):
        raise UsageError(f'{where}={entry}: has to be a mapping, like {{task.target: "weather:foggy"}}')
    settings = _settings(entry, where)
    target, verb = settings.get("task.target"), settings.pop("verb", "finetune")
    if not isinstance(target, str) or not target:
        raise UsageError(f"{where}.task.target: has no value; say what this cycle develops, like weather:foggy")
    if verb not in VERBS:
        raise UsageError(f"{where}.verb={verb}: has to be one of {', '.join(VERBS)}")
    name = settings.pop("name", re.sub(r"[^\w.+-]+", "-", target))
    if not isinstance(name, str) or not re.fullmatch(r"[\w.+-]+", name):
        raise UsageError(f"{where}.name={name}: has to be a text of letters, digits, and . _ + -; put it in quotes")
    return Cycle(number, name, verb, settings)


def _settings(given: Any, where: str) -> dict[str, Any]:
    """Settings by key with dots."""
    flat = dict(dotted(given, SECTIONS))
    for key, why in _GIVEN.items():
        if key in flat:
            raise UsageError(f"{where}.{key}: can't be given: {why}; leave it out")
    return flat
