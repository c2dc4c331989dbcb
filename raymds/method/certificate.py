"""Certificates: exact joint bounds on what each protected task gained or lost, METHOD 6.

Of a task's n test examples, b were right before and are wrong now (negative flips), c the reverse. (b, c) is
multinomial; Δ = (c − b)/n estimates p_c − p_b = π·(2θ − 1), where π is the share of discordant examples and θ the
share of improvements among them. Clopper-Pearson intervals for π (b + c of n) and for θ (c of b + c, exact given
b + c, hence exact) make a finite-sample interval for the product. It is nearly as narrow as a normal one, because
close to no change the width comes from θ, which gets most of the error probability.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scipy.special import betainccinv, betaincinv

Verdict = Literal["certified", "retained", "violated"]
SCHEMA = 1
_SIGN_SHARE = 0.9  # part of a task's error probability spent on θ, the rest on π
_MOST_EXAMPLES = 10**9


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

    @property
    def delta(self) -> float:
        """Δacc of METHOD (2), a fraction."""
        return (self.positive_flips - self.negative_flips) / self.n


def clopper_pearson(k: float, n: float, error: float) -> tuple[float, float]:
    """Exact two-sided interval for a proportion from k of n, missing it with probability at most `error`.

    `k` and `n` may be fractional (used to extrapolate); at n = 0 the interval is (0, 1).
    """
    lower = float(betaincinv(k, n - k + 1, error / 2)) if k > 0 else 0.0
    upper = float(betainccinv(k + 1, n - k, error / 2)) if k < n else 1.0
    return lower, upper


def difference_interval(b: float, c: float, n: float, error: float) -> tuple[float, float]:
    """Interval for p_c − p_b from paired counts, missing it with probability at most `error`."""
    share_lower, share_upper = clopper_pearson(b + c, n, error * (1 - _SIGN_SHARE))
    theta_lower, theta_upper = clopper_pearson(c, b + c, error * _SIGN_SHARE)
    lower, upper = 2 * theta_lower - 1, 2 * theta_upper - 1
    return (
        (share_upper if lower < 0 else share_lower) * lower,
        (share_lower if upper < 0 else share_upper) * upper,
    )


def verdict_of(delta: float, lower: float, tolerance: float) -> Verdict:
    """The verdict of METHOD 6 from a point estimate and its lower bound."""
    if delta < -tolerance:
        return "violated"
    return "certified" if lower >= -tolerance else "retained"


def more_examples(counts: PairedCounts, error: float, tolerance: float) -> int | None:
    """How many more examples, flipping at the same rates, would lift the lower bound to −tolerance.

    0 where it is there already; None where no number would do (Δ at or below −tolerance, or no flips at the edge).
    """

    def decided(n: int) -> bool:
        scale = n / counts.n
        b, c = counts.negative_flips * scale, counts.positive_flips * scale
        return difference_interval(b, c, n, error)[0] >= -tolerance

    if decided(counts.n):
        return 0
    if not decided(_MOST_EXAMPLES):
        return None
    return _smallest(decided, counts.n, _MOST_EXAMPLES) - counts.n


def certify(
    target: PairedCounts,
    protected: Sequence[PairedCounts],
    *,
    tolerance: float,
    confidence: float,
    digests: dict[str, str],
) -> dict[str, Any]:
    """The certificate as JSON-ready data.

    All protected tasks' intervals hold together with probability at least `confidence`, whatever the dependence
    between tasks (Bonferroni); the target's interval holds at `confidence` by itself.
    """
    error = (1 - confidence) / max(len(protected), 1)
    tasks = [_task(counts, error, tolerance) for counts in protected]
    verdicts = {task["verdict"] for task in tasks}
    worst: Verdict = "violated" if "violated" in verdicts else "retained" if "retained" in verdicts else "certified"
    return {
        "schema": SCHEMA,
        "verdict": worst,
        "tolerance": tolerance,
        "confidence": confidence,
        "devsafety": min((counts.delta for counts in protected), default=0.0),
        "target": _measured(target, 1 - confidence),
        "tasks": tasks,
        "digests": digests,
    }


def _measured(counts: PairedCounts, error: float) -> dict[str, Any]:
    lower, upper = difference_interval(counts.negative_flips, counts.positive_flips, counts.n, error)
    return {
        "task": counts.task,
        "n": counts.n,
        "old": counts.old_right / counts.n,
        "new": (counts.old_right - counts.negative_flips + counts.positive_flips) / counts.n,
        "delta": counts.delta,
        "lower": lower,
        "upper": upper,
        "negative_flips": counts.negative_flips,
        "positive_flips": counts.positive_flips,
        "loss_old": counts.loss_old,
        "loss_new": counts.loss_new,
    }


def _task(counts: PairedCounts, error: float, tolerance: float) -> dict[str, Any]:
    measured = _measured(counts, error)
    verdict = verdict_of(measured["delta"], measured["lower"], tolerance)
    needed = more_examples(counts, error, tolerance) if verdict == "retained" else None
    return {**measured, "verdict": verdict, "more_examples": needed}


def _smallest(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The smallest integer in (low, high] where a monotone predicate holds; it fails at low and holds at high."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
