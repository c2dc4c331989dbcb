"""Which candidate becomes the outcome of a cycle: feasible first, then the target, METHOD 6. Validation data alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor

from raymds.tasks import Task, Tasks
from raymds.train.evaluate import Evaluation, paired

ALPHAS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)  # tried from the largest down

Record = dict[str, Any]  # what METHOD (2), (3), (5) say of a model against the old one, JSON-ready
C = TypeVar("C")


@dataclass(frozen=True)
class Choice(Generic[C]):
    """A candidate, how far towards it from the old model, and its validation record."""

    candidate: C
    alpha: float
    record: Record


def compare(old: Evaluation, new: Evaluation, tasks: Tasks) -> Record:
    """Target, protected tasks and DevSafety of a model on a split: METHOD (2), (3), (5)."""

    def entry(task: Task) -> Record:
        counts = paired(old, new, task)
        right = counts.old_right - counts.negative_flips + counts.positive_flips
        return {
            "task": task.name,
            "n": counts.n,
            "old": counts.old_right / counts.n,
            "new": right / counts.n,
            "delta": counts.delta,
            "loss_old": counts.loss_old,
            "loss_new": counts.loss_new,
        }

    protected = [entry(task) for task in tasks.protected]
    devsafety = min(task["delta"] for task in protected)
    return {"target": entry(tasks.target), "tasks": protected, "devsafety": devsafety, "feasible": devsafety >= 0}


def score(record: Record) -> float:
    """A number that orders candidates: the feasible by target accuracy, then those a rescue may help, then the others.

    A candidate that violates is ordered by how much; one that is not better at the target either has nothing to rescue.
    """
    if record["feasible"]:
        return 1 + float(record["target"]["new"])
    nothing_gained = bool(record["target"]["delta"] <= 0)
    return float(record["devsafety"]) - nothing_gained


def choose(
    candidates: Sequence[tuple[C, Record]], evaluate_at: Callable[[C, float], Record] | None
) -> Choice[C] | None:
    """The feasible candidate with the best target accuracy, or None.

    `evaluate_at(candidate, α)` measures w_old + α(w − w_old); where it is given, a candidate that violates takes part
    with its largest feasible α, as long as it could still beat the best so far.
    """
    best: Choice[C] | None = None

    def improves(record: Record) -> bool:
        target = record["target"]
        return bool(target["new"] > (best.record["target"]["new"] if best else target["old"]))

    ordered = sorted(candidates, key=lambda pair: score(pair[1]), reverse=True)
    for candidate, record in ordered:
        if record["feasible"] and improves(record):
            best = Choice(candidate, 1.0, record)
    for candidate, record in ordered:
        if record["feasible"] or evaluate_at is None:
            continue
        for alpha in ALPHAS:
            between = evaluate_at(candidate, alpha)
            if between["feasible"] or not improves(between):
                break
        if between["feasible"] and improves(between):
            best = Choice(candidate, alpha, between)
    return best


def interpolate(old: Mapping[str, Tensor], new: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """w_old + α(w − w_old), tensor by tensor; α = 1 gives `new` to the last bit."""
    if alpha == 1.0:
        return dict(new)
    return {name: old[name].lerp(value, alpha) if value.is_floating_point() else value for name, value in new.items()}
