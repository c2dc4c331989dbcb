"""Certificates: exact joint bounds on what each protected task gained or lost, METHOD 6.

Of a task's n test examples, b were right before and are wrong now (negative flips), c the reverse. (b, c) is
multinomial; Δ = (c − b)/n estimates p_c − p_b = π·(2θ − 1), where π is the share of discordant examples and θ the
share of improvements among them.

A bound inverts a test of each pair (π, θ). Its p-values, p₁ of b + c given π and p₂ of c given b + c and θ, are at
least as large as two independent uniform numbers, because p₂ is exact given b + c. So with steps x₀ = 1 > x₁ > … and
y₀ < y₁ < … = 1 under which an area of `error` lies, a true pair is excluded (p₁ ≤ xᵢ and p₂ ≤ yᵢ for some i) with
probability `error` at most, and the worst of what is not excluded is a corner of the steps: a Clopper-Pearson bound of
π at xᵢ₊₁ with one of θ at yᵢ. y₀ takes most of the error: it is what θ is tested at alone, and
θ alone decides the sign, so that with a tolerance of 0 the verdict is an exact sign test of the flips.

Where examples come in groups, `grouped` bounds the mean change of a group instead.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainccinv, betaincinv

from raymds.method.grouped import Groups, lower_mean
from raymds.method.verdict import PerTask, Verdict, of_task, verdict_of, worst

SCHEMA = 2
_SIGN_SHARE = 0.9  # y₀, part of a bound's error
_STEPS = 4  # more gain little
_MOST_EXAMPLES = 10**9

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class PairedCounts:
    """One task's examples, classified by the old and the new model."""

    task: str
    n: int
    old_right: int
    negative_flips: int  # b: old right, new wrong
    positive_flips: int  # c: old wrong, new right
    loss_old: float
    loss_new: float
    groups: Groups | None = None  # where two examples or more are of one group

    @property
    def old(self) -> float:
        """The old model's accuracy, a fraction; of examples in groups the mean over the groups."""
        return self.old_right / self.n if self.groups is None else float(self.groups.old.mean())

    @property
    def new(self) -> float:
        """The new model's."""
        right = self.old_right - self.negative_flips + self.positive_flips
        return right / self.n if self.groups is None else float(self.groups.new.mean())

    @property
    def delta(self) -> float:
        """Δacc of METHOD (2), a fraction."""
        if self.groups is not None:
            # Thirds and sixths don't add up in floating point: no change at all would be a loss of 1e-17.
            return round(float(self.groups.change.mean()), 12)
        return (self.positive_flips - self.negative_flips) / self.n

    def lower(self, error: float, repeats: float = 1.0) -> float:
        """Lower bound for the true Δacc, of `repeats` times as many examples that flip at the same rates."""
        if self.groups is not None:
            return lower_mean(self.groups.change, error, repeats)
        b, c, n = (repeats * number for number in (self.negative_flips, self.positive_flips, self.n))
        return float(lower_bound(b, c, n, error))

    def upper(self, error: float, repeats: float = 1.0) -> float:
        """Upper bound for it."""
        if self.groups is not None:
            return -lower_mean(-self.groups.change, error, repeats)
        b, c, n = (repeats * number for number in (self.negative_flips, self.positive_flips, self.n))
        return float(upper_bound(b, c, n, error))


def at_least(k: ArrayLike, n: ArrayLike, error: ArrayLike) -> Numbers:
    """Exact lower bound for a proportion from k of n, too high with probability at most `error`; elementwise.

    `k` and `n` may be fractional (used to extrapolate); at k = 0 it is 0.
    """
    k, n = np.asarray(k, float), np.asarray(n, float)
    return np.where(k > 0, betaincinv(np.maximum(k, 1e-300), n - k + 1, error), 0.0)


def at_most(k: ArrayLike, n: ArrayLike, error: ArrayLike) -> Numbers:
    """Exact upper bound for a proportion from k of n, too low with probability at most `error`; elementwise."""
    k, n = np.asarray(k, float), np.asarray(n, float)
    return np.where(k < n, betainccinv(k + 1, np.maximum(n - k, 1e-300), error), 1.0)


def steps(error: float) -> tuple[Numbers, Numbers]:
    """x₁ … x_K and y₀ … y_(K−1) of the steps under which an area of `error` lies: each step beyond y₀ adds the same."""
    y = (error * _SIGN_SHARE) ** (1 - np.arange(_STEPS + 1) / _STEPS)
    return np.minimum(error * (1 - _SIGN_SHARE) / _STEPS / np.diff(y), 1.0), y[:-1]


def lower_bound(b: ArrayLike, c: ArrayLike, n: ArrayLike, error: float) -> Numbers:
    """Lower bound for p_c − p_b from paired counts, too high with probability at most `error`; elementwise."""
    b, c, n = (np.asarray(number, float)[..., None] for number in (b, c, n))
    x, y = steps(error)
    direction = 2 * at_least(c, b + c, y) - 1
    # A loss is the larger the more examples flip, a gain the smaller the fewer do.
    share = np.where(direction < 0, at_most(b + c, n, x), at_least(b + c, n, x))
    worst_corner: Numbers = (direction * share).min(axis=-1)
    return worst_corner


def upper_bound(b: ArrayLike, c: ArrayLike, n: ArrayLike, error: float) -> Numbers:
    """Upper bound for p_c − p_b from paired counts, too low with probability at most `error`; elementwise."""
    return -lower_bound(c, b, n, error)


def more_examples(counts: PairedCounts, error: float, tolerance: float) -> int | None:
    """How many more examples, flipping at the same rates, would decide: 0 where they do, None where no number would.

    Decided is what lifts the lower bound to −tolerance, or for Δ below −tolerance the upper bound below it.
    """
    loss = counts.delta < -tolerance

    def decided(n: int) -> bool:
        repeats = n / counts.n
        return counts.upper(error, repeats) < -tolerance if loss else counts.lower(error, repeats) >= -tolerance

    if decided(counts.n):
        return 0
    if not decided(_MOST_EXAMPLES):
        return None
    return _smallest(decided, counts.n, _MOST_EXAMPLES) - counts.n


def certify(
    target: PairedCounts,
    protected: Sequence[PairedCounts],
    *,
    tolerance: PerTask,
    confidence: float,
    digests: dict[str, str],
) -> dict[str, Any]:
    """The certificate as JSON-ready data.

    `lower` and `upper` are one-sided bounds. With probability at least `confidence` all protected tasks' lower bounds
    hold together, whatever the dependence between tasks (Bonferroni), and with the same probability all their upper
    bounds. The question is one-sided, has it lost or not, and so spends its error on one side. The target's bounds hold
    at `confidence` each by itself.
    """
    error = (1 - confidence) / max(len(protected), 1)
    tasks = [_task(counts, error, of_task(tolerance, counts.task)) for counts in protected]
    verdicts: list[Verdict] = [task["verdict"] for task in tasks]
    return {
        "schema": SCHEMA,
        "verdict": worst(verdicts),
        "tolerance": tolerance if isinstance(tolerance, int | float) else dict(tolerance),
        "confidence": confidence,
        "devsafety": min((counts.delta for counts in protected), default=0.0),
        "target": _measured(target, 1 - confidence),
        "tasks": tasks,
        "digests": digests,
    }


def unchanged(certificate: Mapping[str, Any]) -> str | None:
    """Where no example flipped, what that shows and what it can't, in a sentence; None where one did."""
    entries = [certificate["target"], *certificate["tasks"]]
    if any(entry["negative_flips"] or entry["positive_flips"] for entry in entries):
        return None
    open_ = min(certificate["tasks"], key=lambda entry: entry["lower"])
    limit = (
        f"at {100 * certificate['confidence']:g} % joint confidence the test images alone exclude only losses of more "
        f"than {-100 * open_['lower']:.2g} points (in {open_['task']}, with its {open_['n']} images)"
    )
    if certificate["digests"]["parent"] == certificate["digests"]["weights"]:
        return (
            f"The old and the new model are the same file, so nothing can be lost, whatever the verdict says: {limit}."
        )
    return f"Both models answer alike on every test image. They need not be equal: {limit}."


def _measured(counts: PairedCounts, error: float) -> dict[str, Any]:
    return {
        "task": counts.task,
        "n": counts.n,
        **({} if counts.groups is None else {"groups": len(counts.groups.change)}),
        "old": counts.old,
        "new": counts.new,
        "delta": counts.delta,
        "lower": counts.lower(error),
        "upper": counts.upper(error),
        "negative_flips": counts.negative_flips,
        "positive_flips": counts.positive_flips,
        "loss_old": counts.loss_old,
        "loss_new": counts.loss_new,
    }


def _task(counts: PairedCounts, error: float, tolerance: float) -> dict[str, Any]:
    measured = _measured(counts, error)
    verdict = verdict_of(measured["delta"], measured["lower"], measured["upper"], tolerance)
    needed = more_examples(counts, error, tolerance) if verdict in {"retained", "undecided"} else None
    return {**measured, "tolerance": tolerance, "verdict": verdict, "more_examples": needed}


def _smallest(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The smallest integer in (low, high] where a monotone predicate holds; it fails at low and holds at high."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
