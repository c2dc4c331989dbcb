"""Which candidate becomes the outcome of a cycle: feasible first, then the target, METHOD 6. Validation data alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor

from raymds.method.verdict import PerTask, of_task
from raymds.tasks import Task, Tasks
from raymds.train.evaluate import Evaluation, not_certifiable, paired

ALPHAS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)  # tried from the largest down
RESCUES = 2  # candidates tried at all alphas where none may be chosen as it is; one where the rescued has to beat one

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
    candidates: Sequence[tuple[C, Record]], evaluate_at: Callable[[C, float], Record] | None
) -> Choice[C] | None:
    """The feasible candidate with the best target accuracy of those that gained at the target, or None.

    `evaluate_at(candidate, α)` measures w_old + α(w − w_old); where it is given, the others are rescued: `_rescue`.
    """
    best: Choice[C] | None = None
    ordered = sorted(candidates, key=lambda pair: score(pair[1]), reverse=True)
    for candidate, record in ordered:
        if _good(record) and _beats(record, best):
            best = Choice(candidate, 1.0, record)
    if evaluate_at is None:
        return best
    return _rescue([candidate for candidate, record in ordered if not _good(record)], evaluate_at, best) or best


def _rescue(
    candidates: Sequence[C], evaluate_at: Callable[[C, float], Record], best: Choice[C] | None
) -> Choice[C] | None:
    """The first candidate with an α at which it is feasible and beats the best so far, at the largest such α, or None.

    Neither feasibility nor the target's accuracy is taken to be monotone in α, so every α is measured until one does.
    Each costs a pass over val: the candidates are tried from the nearest to feasible on (the others would end nearer to
    the old model), the first that is saved ends it, and `RESCUES` candidates are tried at most.
    """
    tried = candidates[: 1 if best else RESCUES]
    for candidate, alpha in ((candidate, alpha) for candidate in tried for alpha in ALPHAS):
        between = evaluate_at(candidate, alpha)
        if _good(between) and _beats(between, best):
            return Choice(candidate, alpha, between)
    return None


def _good(record: Record) -> bool:
    """Whether it may be chosen: feasible, and better at the target than the old model."""
    return bool(record["feasible"] and record["target"]["delta"] > 0)


def _beats(record: Record, best: Choice[Any] | None) -> bool:
    return best is None or bool(record["target"]["new"] > best.record["target"]["new"])


def interpolate(old: Mapping[str, Tensor], new: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """w_old + α(w − w_old), tensor by tensor; α = 1 gives `new` to the last bit."""
    if alpha == 1.0:
        return dict(new)
    return {name: old[name].lerp(value, alpha) if value.is_floating_point() else value for name, value in new.items()}
