"""Which candidate becomes the outcome of a cycle: feasible first, then the target, METHOD 6. Validation data alone."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor

from raymds.method.verdict import PerTask, of_task
from raymds.tasks import Task, Tasks
from raymds.train.evaluate import Evaluation, changes, not_certifiable, paired

HALVINGS = 5  # measurements of a rescue: α to 1/32
RESCUES = 2  # candidates tried where none may be chosen as it is; one where the rescued has to beat one

Record = dict[str, Any]  # what METHOD (2), (3), (5) say of a model against the old one, JSON-ready
C = TypeVar("C")


@dataclass(frozen=True)
class Choice(Generic[C]):
    """A candidate, how far towards it from the old model, and its validation record."""

    candidate: C
    alpha: float
    record: Record


def compare(old: Evaluation, new: Evaluation, tasks: Tasks, tolerance: PerTask, loss: str) -> Record:
    """Target, protected tasks and DevSafety of a model on a split: METHOD (2), (3), (5).

    `margin` is min_k(Δacc_k + tolerance_k), a fraction; `feasible` where it is not below 0.
    """

    def entry(task: Task) -> Record:
        counts = paired(old, new, task, loss)
        return {
            "task": task.name,
            "n": counts.n,
            "old": counts.old,
            "new": counts.new,
            "delta": counts.delta,
            "loss_old": counts.loss_old,
            "loss_new": counts.loss_new,
            # Of every loss, so that runs that hold by different ones can be compared; JSON has no NaN.
            "h": {name: h for name, h in changes(old, new, task).items() if math.isfinite(h)},
        }

    protected = [entry(task) | {"tolerance": of_task(tolerance, task.name)} for task in tasks.protected]
    margin = min(task["delta"] + task["tolerance"] for task in protected)
    devsafety = min(task["delta"] for task in protected)
    target = entry(tasks.target)
    record = {"target": target, "tasks": protected, "devsafety": devsafety, "margin": margin, "feasible": margin >= 0}
    return record | not_certifiable(tasks)


def score(record: Record) -> float:
    """A number that orders candidates: those that may be chosen by target accuracy, then those that a rescue may save.

    What gained and violates is ordered by how much it violates. What gained nothing comes last, also where it keeps
    everything: there is nothing to save in it, and Ray keeps only the few candidates with the highest scores.
    """
    if record["target"]["delta"] <= 0:
        return -2 + min(float(record["margin"]), 0.0)
    return 1 + float(record["target"]["new"]) if record["feasible"] else float(record["margin"])


def choose(
    candidates: Sequence[tuple[C, Record]], towards: Callable[[C], Callable[[float], Record]] | None
) -> Choice[C] | None:
    """The feasible candidate with the best target accuracy of those that gained at the target, or None.

    `towards(candidate)` loads it and returns what measures w_old + α(w − w_old); where it is given, the others are
    rescued: the first that can be, from the nearest to feasible on (the others would end nearer to the old model), and
    `RESCUES` of them are tried at most.
    """
    best: Choice[C] | None = None
    ordered = sorted(candidates, key=lambda pair: score(pair[1]), reverse=True)
    for candidate, record in ordered:
        if good(record) and _beats(record, best):
            best = Choice(candidate, 1.0, record)
    if towards is None:
        return best
    others = [candidate for candidate, record in ordered if not good(record)]
    for candidate in others[: 1 if best else RESCUES]:
        rescued = _rescue(candidate, towards(candidate), best)
        if rescued:
            return rescued
    return best


def _rescue(candidate: C, measure: Callable[[float], Record], best: Choice[C] | None) -> Choice[C] | None:
    """A candidate at the largest feasible α in (0, 1), by bisection, where it gains and beats the best so far; or None.

    `measure(α)` is a pass over val; there are `HALVINGS`. The old model is feasible, and feasibility is taken to end at
    one α between it and the candidate, which gives that α rounded down to 1/32. Where it ends at several, one of them
    is found. Whatever is returned was itself measured: it is feasible at its α, and gains there.
    """
    low, high, rescued = 0.0, 1.0, None
    for _ in range(HALVINGS):
        alpha = (low + high) / 2
        between = measure(alpha)
        if not between["feasible"]:
            high = alpha
            continue
        low = alpha
        if good(between) and _beats(between, best):
            rescued = Choice(candidate, alpha, between)
    return rescued


def good(record: Record) -> bool:
    """Whether it may be chosen: feasible, and better at the target than the old model."""
    return bool(record["feasible"] and record["target"]["delta"] > 0)


def _beats(record: Record, best: Choice[Any] | None) -> bool:
    return best is None or bool(record["target"]["new"] > best.record["target"]["new"])


def interpolate(old: Mapping[str, Tensor], new: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """w_old + α(w − w_old), tensor by tensor; α = 1 gives `new` to the last bit."""
    if alpha == 1.0:
        return dict(new)
    return {name: old[name].lerp(value, alpha) if value.is_floating_point() else value for name, value in new.items()}
