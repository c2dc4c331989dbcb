"""The search space of `search.space`: config keys and where their values may lie, checked before anything starts.

    search: {space: {constraints.beta: {loguniform: [10, 1000]}, constraints.solver: {choice: [squared_hinge, hinge]}}}

Nested sections mean the same (`constraints: {beta: …}`), so `search.space.constraints.beta={…}` overrides a preset.
"""

import copy
import dataclasses
import difflib
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, get_type_hints

import numpy as np
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from raymds.config import Config, check
from raymds.errors import UsageError
from raymds.ranges import READ_BY, reads

Params = dict[str, Any]  # config key -> value, JSON-ready


@dataclass(frozen=True)
class Uniform:
    """Any number of [low, high]."""

    low: float
    high: float

    def contains(self, value: Any) -> bool:
        """Whether it may be proposed."""
        return type(value) in {int, float} and bool(self.low <= value <= self.high)

    def grid(self, points: int) -> list[Any]:
        """So many values evenly spread from end to end; one: the middle."""
        return [float(v) for v in _spread(self.low, self.high, points)]

    def described(self) -> dict[str, list[Any]]:
        """As in a preset."""
        return {type(self).__name__.lower(): [self.low, self.high]}


@dataclass(frozen=True)
class LogUniform(Uniform):
    """Any number of [low, high], each factor as likely as any other; low is above 0."""

    def grid(self, points: int) -> list[Any]:
        """So many values, evenly spread in the logarithm."""
        if points == 1:
            return [math.sqrt(self.low * self.high)]
        return [float(v) for v in np.geomspace(self.low, self.high, points)]


@dataclass(frozen=True)
class Int(Uniform):
    """A whole number of low, low + 1, …, high."""

    low: int
    high: int

    def grid(self, points: int) -> list[Any]:
        """So many values, or all where there are fewer."""
        return list(dict.fromkeys(round(v) for v in _spread(self.low, self.high, points)))


@dataclass(frozen=True)
class Choice:
    """One of some options."""

    options: tuple[Any, ...]

    def contains(self, value: Any) -> bool:
        """Whether it is an option."""
        return value in self.options

    def grid(self, points: int) -> list[Any]:
        """All options: they have no order to leave some out by."""
        return list(self.options)

    def described(self) -> dict[str, list[Any]]:
        """As in a preset."""
        return {"choice": list(self.options)}


Dimension = Uniform | Choice
Space = dict[str, Dimension]

_KINDS = ("uniform", "loguniform", "int", "choice")
_FITTING = {float: ("uniform", "loguniform", "choice"), int: ("int", "choice"), Any: ("int", "choice")}
_FIXED = {
    "model.name": "every trial develops the same old model",
    "model.weights": "every trial develops the same old model",
    "model.pretrained": "every trial develops the same old model",
    "model.activation": "every trial develops the same old model",
    "model.heads": "every trial develops the same old model",
    "data": "every trial sees the same data",
    "task.target": "trials are compared by how they do on the same tasks",
    "task.protect": "trials are compared by how they do on the same tasks",
    "task.prompts": "trials are compared by how they do on the same tasks",
    "optim.steps": "every trial has the same budget, search.steps",
    "select": "every trial is judged by the same rule",
    "run.seed": "the best of several seeds is luck, not a setting",
    "run": "it changes where a trial runs, not what it computes",
    "storage": "it changes where a trial runs, not what it computes",
    "ledger": "it says where a search is recorded, not what a trial computes",
    "search": "a search does not search itself",
}
_SOLVER = "constraints.solver"
_LARGEST = 2**53  # of a whole number; larger ones have no neighbours in floating point
_TRAINING = {"select.average"}  # in a section that is fixed, and yet part of how a model is trained
_NUMBERS = {"constraints.beta", "constraints.slack"}  # may be a number or one by task; a search takes numbers


def parse(config: Config) -> Space:
    """The space of `search.space`, or the default one where that is empty; UsageError naming `search.space.KEY`.

    Every key exists and may differ between trials, its kind fits its type, every end of every range passes the config's
    own checks, alone and with each end of every other, and the preset's own setting, with which a search begins, lies
    inside.
    """
    begin = trial_config(config, {})
    fields = _fields()
    space = {key: _dimension(key, node, fields[key]) for key, node in _flat(config.search.space, "", fields)}
    space = space or default_space(config)
    _check_read(config, space)
    ends = {key: _ends(key, dimension, config) for key, dimension in space.items()}
    for key, dimension in space.items():
        own = _value(begin, key)
        if not dimension.contains(own):
            raise UsageError(
                f"search.space.{key}: leaves out {own}, the preset's own value, with which the search begins; widen it "
                f"or set {key}"
            )
    for (first, lows), (second, highs) in itertools.combinations(ends.items(), 2):
        for one, other in itertools.product(lows, highs):
            try:
                trial_config(config, {first: one, second: other})
            except UsageError as error:
                raise UsageError(f"search.space.{first} with search.space.{second}: {error}") from None
    return space


def default_space(config: Config) -> Space:
    """What decides between target and constraints, around the preset's own values.

    Learning rate, the numbers that the preset's solver reads, γ₂, slack, images per task.
    """
    constraints, lr = config.constraints, config.optim.lr
    images, gamma, slack = constraints.images_per_task, constraints.gamma, constraints.slack
    space: Space = {"optim.lr": LogUniform(lr / 5, 5 * lr)}
    for key in ("constraints.beta", "constraints.start", "constraints.eta", "constraints.rho"):
        value = _value(config, key)
        if key in reads(constraints.solver) and type(value) in {int, float} and value > 0:
            space[key] = LogUniform(value / 10, 10 * value)
    space["constraints.gamma"] = Uniform(min(0.1, gamma), 1.0)
    if type(slack) in {int, float}:
        least = -0.5 if constraints.loss == "cross_entropy" else -0.05
        space["constraints.slack"] = Uniform(min(least, slack), max(0.0, slack))
    most = max(images, min(2 * images, config.task.retained))
    if most > 1:
        space["constraints.images_per_task"] = Int(min(max(1, images // 2), most - 1), most)
    return space


def live(config: Config, params: Params) -> Params:
    """`params` without the numbers that its solver, or else the preset's, does not read: they change nothing."""
    wanted = reads(params.get(_SOLVER, config.constraints.solver))
    return {key: value for key, value in params.items() if key not in READ_BY or key in wanted}


def _check_read(config: Config, space: Space) -> None:
    """That some solver of the space reads every number that is searched; UsageError naming the key."""
    dimension = space.get(_SOLVER)
    solvers = dimension.options if isinstance(dimension, Choice) else (config.constraints.solver,)
    wanted = frozenset().union(*(reads(name) for name in solvers))
    for key in space:
        if key in READ_BY and key not in wanted:
            raise UsageError(f"search.space.{key}: {' and '.join(solvers)} does not read it; leave it out")


def trial_config(config: Config, params: Params) -> Config:
    """The checked config of a trial: `params` over the preset, and the search's budget; UsageError naming a key."""
    made = copy.deepcopy(config)
    made.optim.steps = config.search.steps or config.optim.steps
    for key, value in params.items():
        section, _, name = key.partition(".")
        node = OmegaConf.structured(getattr(made, section))
        try:
            OmegaConf.update(node, name, value)
        except OmegaConfBaseException as error:
            raise UsageError(f"{key}: {str(error).strip().splitlines()[0]}") from None
        setattr(made, section, OmegaConf.to_object(node))
    try:
        check(made)
    except UsageError as error:
        budget = f" (search.steps={config.search.steps} is optim.steps of a trial)" if config.search.steps else ""
        raise UsageError(f"{error}{budget}") from None
    return made


def own_setting(config: Config, space: Space) -> Params:
    """The preset's own values of the space's keys, the first trial of a search."""
    return {key: _value(config, key) for key in space}


def _fields() -> dict[str, Any]:
    """Every key of a preset that holds a value -> its type."""

    def of(part: Any, prefix: str) -> dict[str, Any]:
        hints = [(f"{prefix}{key}", kind) for key, kind in get_type_hints(part).items()]
        nested = [of(kind, f"{key}.") if dataclasses.is_dataclass(kind) else {key: kind} for key, kind in hints]
        return {key: kind for found in nested for key, kind in found.items()}

    return of(Config, "") | dict.fromkeys(_NUMBERS, float)


def _flat(node: Mapping[Any, Any], prefix: str, fields: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Keys of a preset and what the space says of each; what comes later, an override, replaces what came before."""
    for name, value in node.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and any(field.startswith(f"{key}.") for field in fields):
            yield from _flat(value, f"{key}.", fields)
            continue
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1, cutoff=0.4)
            hint = f"did you mean search.space.{near[0]}?" if near else "keys are those of a preset, like optim.lr"
            raise UsageError(f"search.space.{key}: unknown key; {hint}")
        for fixed, why in _FIXED.items():
            if key not in _TRAINING and (key == fixed or key.startswith(f"{fixed}.")):
                raise UsageError(f"search.space.{key}: can't be searched: {why}; leave it out")
        yield key, value


def _dimension(key: str, node: Any, kind_of_field: Any) -> Dimension:
    """One parsed entry of the space."""
    name = f"search.space.{key}"
    if not isinstance(node, Mapping) or len(node) != 1 or next(iter(node)) not in _KINDS:
        raise UsageError(f"{name}={node}: has to be one kind of {', '.join(_KINDS)}, like {{choice: [1, 2]}}")
    kind, values = next(iter(node.items()))
    fitting = _FITTING.get(kind_of_field, ("choice",))
    if kind not in fitting:
        raise UsageError(f"{name}: {kind} does not fit {key}; it takes {' or '.join(fitting)}")
    if not isinstance(values, list) or not values:
        raise UsageError(f"{name}.{kind}={values}: has to be a list")
    if kind == "choice":
        if any(isinstance(option, list | Mapping) for option in values) or len(set(map(repr, values))) < len(values):
            raise UsageError(f"{name}.choice={values}: has to be a list of different single values")
        return Choice(tuple(values))
    right = (int,) if kind == "int" else (int, float)
    if len(values) != 2 or any(type(v) not in right or not math.isfinite(v) for v in values):
        raise UsageError(
            f"{name}.{kind}={values}: has to be [low, high], {'whole' if kind == 'int' else 'two'} numbers"
        )
    low, high = values
    if kind == "int" and max(map(abs, values)) > _LARGEST:
        raise UsageError(f"{name}.int={values}: has to lie within ±{_LARGEST:,}")
    if low >= high:
        raise UsageError(f"{name}.{kind}={values}: low has to be below high")
    if kind == "int":
        return Int(low, high)
    if kind == "loguniform" and low <= 0:
        raise UsageError(f"{name}.loguniform={values}: low has to be above 0; a range with 0 is uniform")
    return LogUniform(float(low), float(high)) if kind == "loguniform" else Uniform(float(low), float(high))


def _ends(key: str, dimension: Dimension, config: Config) -> list[Any]:
    """The ends of a range or all options, each of which the config accepts, else UsageError."""
    ends = dimension.grid(2)
    for value in ends:
        try:
            trial_config(config, {key: value})
        except UsageError as error:
            raise UsageError(f"search.space.{key}: {value} can't be tried: {error}") from None
    return ends


def _value(config: Config, key: str) -> Any:
    return attrgetter(key)(config)


def _spread(low: float, high: float, points: int) -> list[float]:
    if points == 1:
        return [(low + high) / 2]
    return [float(v) for v in np.linspace(low, high, points)]
