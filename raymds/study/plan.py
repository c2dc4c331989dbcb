"""What a study runs: methods × targets × seeds × data sets, and the settings that a method tries before it is compared.

DIR/cells/DATA/TARGET/METHOD[/RETAINED]/seed-N    the run directory of a cell, an ordinary cycle
DIR/trials/DATA/TARGET/METHOD/N                   of a setting that is tried, on the first seed, without test
DIR/old                                           what the old models do, measured by the first cell that needs it
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raymds.config import SECTIONS, Config, load
from raymds.errors import UsageError
from raymds.overrides import as_overrides, dotted
from raymds.store import uri as storage
from raymds.train import cluster

Setting = dict[str, Any]  # config key -> value, JSON-ready


@dataclass
class StudyConfig:
    """A study file. Overrides are config keys with dots (`optim.lr: 1e-5`), or nested sections."""

    uri: str = ""  # directory of the study
    base: Any = ""  # a preset's name or file, or a mapping of its sections: what all cells share
    set: dict[str, Any] = field(default_factory=dict)  # overrides on the base
    data: dict[str, Any] = field(default_factory=dict)  # data set -> overrides; empty: the base's own, named data
    targets: dict[str, Any] = field(default_factory=dict)  # name -> overrides, and `on`, the data sets it belongs to
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])  # run.seed of the cells; trials have the first
    methods: dict[str, Any] = field(default_factory=dict)  # name -> overrides, and `try`: {key: [value, …]}
    trials: int = 3  # settings that may be tried of each method, per data set and target
    retained: list[int] = field(default_factory=list)  # values of task.retained compared; empty: the base's
    main: str = ""  # the method that paired differences are to; empty: the first one


@dataclass(frozen=True)
class Cell:
    """One cycle of the comparison."""

    data: str
    target: str
    method: str
    seed: int
    retained: int | None = None  # None: the study does not vary it

    @property
    def path(self) -> str:
        """Its run directory within the study's."""
        retained = [] if self.retained is None else [str(self.retained)]
        return "/".join(["cells", self.data, self.target, self.method, *retained, f"seed-{self.seed}"])


@dataclass(frozen=True)
class Trial:
    """One setting of a method tried on the first seed and chosen or not on val; numbered from 0."""

    data: str
    target: str
    method: str
    number: int

    @property
    def path(self) -> str:
        """Its run directory within the study's."""
        return "/".join(["trials", self.data, self.target, self.method, f"{self.number:02d}"])


Job = Cell | Trial

_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")
_GIVEN = {"run.uri": "each cell has a directory of its own", "run.seed": "`seeds` has it"}
_QUESTION = ("task.", "data.uri", "model.name", "model.weights")  # begin the keys of what all methods are asked
_REQUIRED = ("model.weights", "data.uri", "task.target")


class Plan:
    """A study file, checked and expanded."""

    def __init__(self, study: StudyConfig) -> None:
        """UsageError naming the key that is wrong; configs themselves are checked by `config`."""
        self.study, self.uri = study, storage.absolute(study.uri)
        self.main = study.main or next(iter(study.methods))
        if self.main not in study.methods:
            raise UsageError(f"main={self.main}: is no method of the study; give one of {', '.join(study.methods)}")
        if study.trials < 0:
            raise UsageError(f"trials={study.trials}: has to be 0 or more, the settings that each method may try")
        self._shared = _overrides(study.set, "set")
        self._data = _sections(study.data or {"data": {}}, "data")
        targets, methods = _sections(study.targets, "targets"), _sections(study.methods, "methods")
        self._on = {name: _on(name, overrides, list(self._data)) for name, overrides in targets.items()}
        self.settings = {name: _settings(name, overrides, study.trials) for name, overrides in methods.items()}
        self._targets, self._methods = targets, methods
        _same_question(methods, self.settings)
        settings = [setting for tried in self.settings.values() for setting in tried]
        if study.retained and any("task.retained" in layer for layer in [*methods.values(), *settings]):
            raise UsageError(f"retained={study.retained}: a method gives task.retained too; leave one of the two out")
        for key, numbers, least in (("seeds", study.seeds, 0), ("retained", study.retained, 1)):
            if len(set(numbers)) < len(numbers) or any(number < least for number in numbers):
                raise UsageError(f"{key}={numbers}: has to be a list of different numbers, {least} or more")
        if not study.seeds:
            raise UsageError("seeds=[]: has to name a seed at least")

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Data sets with their targets."""
        return [(data, target) for data in self._data for target in self._targets if data in self._on[target]]

    @property
    def retained(self) -> list[int | None]:
        """Values of task.retained that are compared; [None] where it is not varied."""
        return list(self.study.retained) or [None]

    @property
    def cells(self) -> list[Cell]:
        """All cells, seed by seed: a study that is stopped early has compared all methods on its first seeds."""
        return [
            Cell(data, target, method, seed, retained)
            for seed in self.study.seeds
            for data, target in self.pairs
            for retained in self.retained
            for method in self._methods
        ]

    @property
    def trials(self) -> list[Trial]:
        """The trials of the methods that have several settings."""
        return [
            Trial(data, target, method, number)
            for data, target in self.pairs
            for method, settings in self.settings.items()
            for number in range(len(settings) if len(settings) > 1 else 0)
        ]

    @property
    def jobs(self) -> list[Job]:
        """Everything that runs, trials first."""
        return [*self.trials, *self.cells]

    def config(self, job: Job, setting: Setting) -> Config:
        """The checked config of a cell with a setting of its method, or of a trial; UsageError naming what it is of.

        Settings are tried with the largest of several numbers of retained examples.
        """
        most = max(self.study.retained, default=None)
        retained, seed = (job.retained, job.seed) if isinstance(job, Cell) else (most, self.study.seeds[0])
        layers = [self._shared, self._data[job.data], self._targets[job.target], self._methods[job.method], setting]
        layers += [{"run.seed": seed, "run.uri": storage.join(self.uri, job.path)}]
        layers += [] if retained is None else [{"task.retained": retained}]
        overrides = [override for layer in layers for override in as_overrides(layer)]
        try:
            config = cluster.located(load(Config, self.study.base, overrides, _REQUIRED))
        except UsageError as error:
            raise named(job, error) from None
        if config.ledger.uri:
            raise UsageError(
                f"ledger.uri={config.ledger.uri}: a study delivers no model, so a ledger has nothing to record; put "
                "ledger.uri: null into `set`"
            )
        return config


def load_plan(source: str | Mapping[str, Any], overrides: Sequence[str]) -> Plan:
    """The plan of a study file (path, URI) or its content, with `key=value` overrides; UsageError naming a key."""
    return Plan(load(StudyConfig, source, overrides, ("uri", "base", "targets", "methods")))


def named(job: Job, error: Exception) -> UsageError:
    """An error of a job's config, with the parts of the study file that made it."""
    return UsageError(f"methods.{job.method}, targets.{job.target}, data.{job.data}: {error}")


def _sections(given: Mapping[str, Any], where: str) -> dict[str, dict[str, Any]]:
    """Overrides by name; names are parts of paths."""
    for name in given:
        if not _NAME.fullmatch(name):
            raise UsageError(f"{where}.{name}: a name consists of letters, digits, and . _ + - after the first")
    return {name: _overrides(overrides, f"{where}.{name}") for name, overrides in given.items()}


def _overrides(given: Any, where: str) -> dict[str, Any]:
    """Overrides by key with dots, whether they were written so or as nested sections."""
    if not isinstance(given, Mapping | None):
        raise UsageError(f"{where}={given}: has to be a mapping of config keys to values, like {{optim.lr: 1e-5}}")
    flat = dict(dotted(given or {}, SECTIONS))
    for key, why in _GIVEN.items():
        if key in flat:
            raise UsageError(f"{where}.{key}: can't be given: {why}; leave it out")
    return flat


def _same_question(methods: Mapping[str, Setting], settings: Mapping[str, Sequence[Setting]]) -> None:
    """UsageError where a method changes what is to be done: a table's rows would answer different questions."""
    for name, overrides in methods.items():
        for key in (key for layer in (overrides, *settings[name]) for key in layer):
            if key.startswith(_QUESTION) and key != "task.retained":
                raise UsageError(
                    f"methods.{name}.{key}: can't be of a method, as methods are compared on the same tasks, data and "
                    "old model; put it into `set`, `targets` or `data`"
                )


def _on(name: str, overrides: dict[str, Any], data: list[str]) -> list[str]:
    """The data sets of a target, taken out of its overrides."""
    chosen = overrides.pop("on", data)
    chosen = [chosen] if isinstance(chosen, str) else chosen
    if not isinstance(chosen, list) or not chosen or any(item not in data for item in chosen):
        raise UsageError(f"targets.{name}.on={chosen}: has to list data sets of the study: {', '.join(data)}")
    return chosen


def _settings(name: str, overrides: dict[str, Any], most: int) -> list[Setting]:
    """The product of a method's `try`, taken out of its overrides; one empty setting where it has none."""
    where = f"methods.{name}.try"
    tried = _overrides(overrides.pop("try", None), where)
    for key, values in tried.items():
        if not isinstance(values, list) or not values or len(set(map(repr, values))) < len(values):
            raise UsageError(f"{where}.{key}={values}: has to be a list of different values")
    settings = [dict(zip(tried, values, strict=True)) for values in itertools.product(*tried.values())]
    if len(settings) > max(most, 1):
        raise UsageError(
            f"{where}: has {len(settings)} settings, and trials={most} of each method may be tried; list fewer, or "
            "raise trials for all methods"
        )
    return settings
