"""What the values of a config have to be, key by key; `config.check` applies it."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

from raymds.method.constraints import LOSSES
from raymds.method.solvers import BASELINES, SOLVERS
from raymds.method.verdict import VERDICTS

METHODS = (*SOLVERS, *BASELINES)
READ_BY = {  # a solver's numbers -> their names in `solvers.Settings`
    "constraints.beta": "beta",
    "constraints.start": "start",
    "constraints.eta": "eta",
    "constraints.rho": "rho",
    "constraints.lambda_min": "lowest",
    "constraints.lambda_max": "highest",
}


def reads(solver: str) -> frozenset[str]:
    """Which of the keys of `READ_BY` a solver, or a baseline, reads."""
    if solver in SOLVERS:
        return frozenset(key for key, name in READ_BY.items() if name in SOLVERS[solver].reads)
    return frozenset() if solver == "gem" else frozenset({"constraints.beta"})


SMALLEST = 0.0001  # of a core or a GPU
_WIDEST = 8192  # a tower is narrower, and a rank above its width adds nothing

Rule = tuple[str, Callable[[Any], bool], str]


def _names_classes(heads: Any) -> bool:
    listed = (
        isinstance(heads, list) and heads and all(isinstance(h, str) and (":" in h or h == "shared") for h in heads)
    )
    return heads in (None, "drop") or bool(listed)


def _per_task(holds: Callable[[Any], bool], *, default: bool = False) -> Callable[[Any], bool]:
    """That a number, or each of those by task, holds; `default`: there has to be one for the tasks not named."""

    def every(value: Any) -> bool:
        values = list(value.values()) if isinstance(value, dict) else [value]
        complete = not (default and isinstance(value, dict)) or "default" in value
        return complete and all(type(v) in {int, float} and holds(v) for v in values)

    return every


def too_large(config: Any, section: str = "") -> Iterator[tuple[str, int]]:
    """The keys of whole numbers that tensors, or the JSON of an outcome, can't hold, and what they can."""
    for field in dataclasses.fields(config):
        key, value = f"{section}{field.name}", getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from too_large(value, f"{key}.")
        elif isinstance(value, int) and value > (most := _SEED if field.name == "seed" else _WHOLE):
            yield key, most


_WHOLE, _SEED = 2**31 - 1, 2**53
_POSITIVE = (lambda v: v > 0, "has to be above 0")
_ABOVE = (lambda v: 0 < v < math.inf, "has to be above 0, and finite")
_SECONDS = (lambda v: 0 < v <= 1e9, "has to be above 0, and at most 1e9 seconds")
_NOT_NEGATIVE = (lambda v: v >= 0, "has to be 0 or more")
_FINITE = (lambda v: 0 <= v < math.inf, "has to be 0 or more, and finite")
_SHARE = (lambda v: 0 < v < 1, "has to lie between 0 and 1, both excluded")
_BLOCKS = (lambda v: v == "all" or (type(v) is int and v >= 0), "has to be all, or a number of blocks")
_FILLED = (lambda v: v is None or bool(v.strip()), "is empty; give a value, or leave it out")
_GAMMA = (lambda v: 0 < v <= 1, "has to lie in (0, 1]")
RULES: list[Rule] = [
    ("model.activation", lambda v: v in {None, "gelu", "quickgelu"}, "has to be gelu or quickgelu"),
    ("model.heads", _names_classes, "has to be a list of attribute:class (the last one may be shared), or drop"),
    ("model.head_rank", lambda v: v is None or 0 < v <= _WIDEST, f"has to be above 0, and at most {_WIDEST}"),
    ("model.freeze.image", *_BLOCKS),
    ("model.freeze.text", *_BLOCKS),
    ("data.image_size", lambda v: v == 0 or v >= 16, "has to be 16 pixels or more, or 0"),
    ("data.on_corrupt", lambda v: v in {"error", "skip"}, "has to be error or skip"),
    ("data.memory", *_POSITIVE),
    ("data.cache", lambda v: "://" not in v or v.startswith("file://"), "has to be a directory of the machines"),
    ("data.cache_size", *_ABOVE),
    ("data.augment.shift", lambda v: 0 <= v < 1, "is a share of the side: 0 or more and below 1"),
    ("data.augment.crop", lambda v: 0 <= v < 1, "is a share of the side: 0 or more and below 1"),
    ("task.retained", *_POSITIVE),
    ("objective.batch", lambda v: v >= 2, "has to be 2 or more"),
    ("objective.positive_share", *_SHARE),
    ("objective.temperature", *_ABOVE),
    ("objective.gamma", *_GAMMA),
    ("objective.head", lambda v: v in {"own", "shared"}, "has to be own or shared"),
    ("constraints.solver", lambda v: v in METHODS, f"has to be one of {', '.join(METHODS)}"),
    ("constraints.loss", lambda v: v in LOSSES, f"has to be one of {', '.join(LOSSES)}"),
    ("constraints.units", lambda v: v in {"objective", "absolute"}, "has to be objective or absolute"),
    (
        "constraints.beta",
        _per_task(lambda v: 0 <= v < math.inf, default=True),
        "has to be 0 or more, or one by task, attribute, default (which has to be there)",
    ),
    ("constraints.schedule", lambda v: v in {"constant", "cosine"}, "has to be constant or cosine"),
    ("constraints.growth", lambda v: 1 <= v < math.inf, "has to be 1 or more"),
    ("constraints.start", *_FINITE),
    ("constraints.eta", *_FINITE),
    ("constraints.rho", *_ABOVE),
    ("constraints.lambda_min", *_ABOVE),
    ("constraints.lambda_max", *_POSITIVE),
    ("constraints.temperature", *_ABOVE),
    ("constraints.gamma", *_GAMMA),
    ("constraints.slack", _per_task(math.isfinite), "has to be a finite number, or one by task, attribute, default"),
    ("constraints.margin", *_FINITE),
    ("constraints.held_out", lambda v: 0 <= v < 1, "is a share: 0 or more and below 1"),
    ("constraints.tasks_per_step", lambda v: v == "all" or (type(v) is int and v > 0), "has to be all or above 0"),
    ("constraints.images_per_task", *_POSITIVE),
    ("optim.lr", *_ABOVE),
    ("optim.weight_decay", *_FINITE),
    ("optim.warmup", *_NOT_NEGATIVE),
    ("optim.steps", *_POSITIVE),
    ("optim.clip", *_POSITIVE),
    ("select.every", *_POSITIVE),
    ("select.average", lambda v: 0 <= v < 1, "is the decay of a mean: 0 or more and below 1"),
    ("select.precision", lambda v: v in {"fp32", "tf32", "bf16"}, "has to be fp32, tf32 or bf16"),
    (
        "select.tolerance",
        _per_task(lambda v: 0 <= v < 1),
        "has to be a fraction (0 or more, below 1), or one by task, attribute, default",
    ),
    ("select.confidence", *_SHARE),
    ("select.require", lambda v: v in VERDICTS[1:], f"has to be one of {', '.join(VERDICTS[:0:-1])}"),
    ("select.require_target", lambda v: v in {"gain", "proven"}, "has to be gain or proven"),
    ("storage.timeout", *_SECONDS),
    ("storage.retries", *_POSITIVE),
    ("storage.patience", *_NOT_NEGATIVE),
    ("run.workers", *_NOT_NEGATIVE),
    ("run.min_workers", *_NOT_NEGATIVE),
    (
        "run.cpus_per_worker",
        lambda v: v is None or SMALLEST <= v < math.inf,
        f"has to be {SMALLEST} or more, the smallest share that Ray gives, and finite, or null",
    ),
    (
        "run.gpus_per_worker",
        lambda v: not v or SMALLEST <= v < math.inf,
        f"has to be 0, or {SMALLEST} or more and finite, or null",
    ),
    ("run.micro_batch", *_NOT_NEGATIVE),
    ("run.precision", lambda v: v in {None, "fp32", "tf32", "bf16"}, "has to be fp32, tf32 or bf16, or null"),
    ("run.placement", lambda v: v in {"pack", "spread"}, "has to be pack or spread"),
    ("run.timeout", *_SECONDS),
    ("run.max_failures", *_NOT_NEGATIVE),
    ("run.log_every", lambda v: v == "auto" or (type(v) is int and v > 0), "has to be auto, or a number of steps"),
    ("run.seed", *_NOT_NEGATIVE),
    ("ledger.uri", *_FILLED),
    ("ledger.author", *_FILLED),
    ("ledger.key", *_FILLED),
    ("ledger.uses", lambda v: v is None or v > 0, "has to be a number of uses above 0, or null"),
    ("search.trials", *_POSITIVE),
    ("search.concurrency", *_NOT_NEGATIVE),
    ("search.steps", *_NOT_NEGATIVE),
    ("search.algorithm", lambda v: v in {"tpe", "gp", "random", "grid"}, "has to be tpe, gp, random or grid"),
    ("search.scheduler", lambda v: v in {"feasible_halving", "none"}, "has to be feasible_halving or none"),
    ("search.seed", *_NOT_NEGATIVE),
]
