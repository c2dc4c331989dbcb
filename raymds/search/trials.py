"""What a search remembers: one record per trial, with what was measured on val as it trained. JSON in and out."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from raymds.search.space import Params

RUNNING, FINISHED, STOPPED, FAILED = "running", "finished", "stopped", "failed"  # the statuses of a trial


@dataclass(frozen=True)
class Measurement:
    """A candidate of a trial against the old model, on val: METHOD (2), (3), (5). Deltas are fractions."""

    step: int
    target: float  # Δtarget
    tasks: dict[str, float]  # protected task -> Δacc
    alpha: float = 1.0  # below 1: of w_old + α(w − w_old), with which a trial that had ended was rescued
    tolerances: dict[str, float] = field(default_factory=dict)  # task -> the loss that it may have; none: 0

    @classmethod
    def of(cls, record: Mapping[str, Any], step: int, alpha: float = 1.0) -> "Measurement":
        """From what `select.compare` found: an `eval` record of metrics.jsonl, or the `val` of an outcome."""
        tasks = {task["task"]: task["delta"] for task in record["tasks"]}
        tolerances = {task["task"]: task["tolerance"] for task in record["tasks"] if task["tolerance"]}
        return cls(step, record["target"]["delta"], tasks, alpha, tolerances)

    @property
    def devsafety(self) -> float:
        """The worst protected task's delta."""
        return min(self.tasks.values())

    @property
    def margins(self) -> dict[str, float]:
        """Per task how far it is from what it may lose: Δacc + tolerance, below 0 where it lost more."""
        return {task: delta + self.tolerances.get(task, 0.0) for task, delta in self.tasks.items()}

    @property
    def margin(self) -> float:
        """The smallest of the tasks' margins."""
        return min(self.margins.values())

    @property
    def feasible(self) -> bool:
        """Whether no task lost more than it may."""
        return self.margin >= 0

    @property
    def good(self) -> bool:
        """Feasible, and better at the target than the old model: what a search looks for."""
        return self.feasible and self.target > 0

    @property
    def rank(self) -> tuple[float, float]:
        """Orders candidates: the good ones by target, then by the smallest margin those that gained, then all others.

        As `train.select.score` does.
        """
        if self.good:
            return 1 + self.target, self.margin
        return min(self.margin, 0.0) - 2 * (self.target <= 0), self.target


@dataclass(frozen=True)
class Trial:
    """One setting and what became of it."""

    number: int  # from 0, in the order of proposal
    params: Params
    status: str = RUNNING
    history: Sequence[Measurement] = field(default_factory=tuple)  # by step
    reason: str = ""  # why it was stopped, or how it failed

    @property
    def best(self) -> Measurement | None:
        """The candidate that counts: None before the first measurement. Step 0, the old model itself, is none."""
        return max((m for m in self.history if m.step > 0), key=lambda m: m.rank, default=None)

    def to_json(self) -> dict[str, Any]:
        """As `tune.json` stores it."""
        return asdict(self) | {
            "history": [asdict(m) | {"devsafety": m.devsafety, "margin": m.margin} for m in self.history]
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Trial":
        """From what `to_json` gave."""
        names = ("step", "target", "tasks", "alpha", "tolerances")
        history = tuple(Measurement(*(measured[name] for name in names)) for measured in record["history"])
        return cls(record["number"], record["params"], record["status"], history, record["reason"])
