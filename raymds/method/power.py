"""What so many tasks with so many test examples can show at all, METHOD 6: exact sums over binomials, no simulation.

Assumed beside the change that is asked about: of each task's examples `FLIPS` turn wrong and as many turn right, as in
cycles on real images, so that nothing is lost by them. Given the flips t ~ Bin(n, p_b + p_c), c ~ Bin(t, θ).
"""

import math
import statistics
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from raymds.method.certificate import Numbers, lower_bound, upper_bound
from raymds.method.verdict import PerTask, below, of_task

FLIPS = 0.02
_CHANGES = (*(digit * power for power in (0.001, 0.01, 0.1) for digit in (1, 1.5, 2, 3, 5, 7)), 0.95)
_NEARLY = 0.95  # "nearly always"
_MOST = 10**6  # examples
_NEGLIGIBLE = 1e-9  # probability of numbers of flips that are left out
_POINTS = 60  # numbers of flips that are looked at; up to so many all of them


def proven(n: int, change: float, error: float, tolerance: float, flips: float = FLIPS) -> float:
    """Probability that a task with n examples is `violated`, which truly changes by `change` (a fraction)."""
    return 1 - _chance(n, change, flips, lambda b, c: upper_bound(b, c, n, error) >= -tolerance)


def certified(n: int, change: float, error: float, tolerance: float, flips: float = FLIPS) -> float:
    """Probability that it is `certified`."""
    return _chance(n, change, flips, lambda b, c: lower_bound(b, c, n, error) >= -tolerance)


def kept(n: int, change: float, tolerance: float, flips: float = FLIPS) -> float:
    """Probability that it is measured to keep: Δacc ≥ −tolerance."""
    return _chance(n, change, flips, lambda b, c: (c - b) / n >= -tolerance)


def outlook(counts: Mapping[str, int], tolerance: PerTask, confidence: float, require: str) -> str:
    """What a test split can show, in sentences for people; `counts`: test examples of each protected task."""
    error = (1 - confidence) / len(counts)
    fewest = min(counts, key=lambda task: counts[task])
    n, allowed, most = counts[fewest], of_task(tolerance, fewest), max(counts.values())
    each = f"{n:,} test images each" if n == most else f"{n:,} ({fewest}) to {most:,} test images"
    where = "one of them" if n == most else "the one with the fewest"
    words = [
        f"{len(counts)} protected {'task' if len(counts) == 1 else 'tasks'} with {each}: "
        + _losses(n, error, allowed, where),
        _certifies(n, error, allowed),
    ]
    middle = round(statistics.median(counts.values()))
    if middle >= 2 * n:
        words.insert(1, f"With the median of {middle:,} images {_losses(middle, error, allowed, 'a task')}")
    if below("undecided", require):
        lost = 1 - kept_all(counts, tolerance)
        words.append(
            f"Where nothing is truly lost, chance alone measures a loss of some task {_often(lost)}: "
            f"select.require={require} refuses such a model, select.require=undecided does not"
        )
    return ". ".join(words) + f" (assumed: {100 * FLIPS:g} % of a task's images flip either way beside the change)."


def choice(counts: Mapping[str, int], tolerance: PerTask) -> str | None:
    """What chance does to the choice on val, in a sentence; None where it does little. `counts`: as of `outlook`."""
    refused = 1 - kept_all(counts, tolerance)
    if refused < 1 - _NEARLY:
        return None
    words = (
        "On val a candidate is feasible where no task is measured to lose more than select.tolerance; of those that "
        f"truly lose nothing chance alone refuses one {_often(refused)}"
    )
    enough = next((allowed for allowed in _CHANGES if kept_all(counts, allowed) >= _NEARLY), None)
    return f"{words}." if enough is None else f"{words}, with select.tolerance={enough:g} hardly ever."


def kept_all(counts: Mapping[str, int], tolerance: PerTask) -> float:
    """Probability that every task is measured to keep where none truly changes, each drawn by itself."""
    tasks = Counter((size, of_task(tolerance, task)) for task, size in counts.items())
    return math.prod(kept(size, 0.0, allowed) ** number for (size, allowed), number in tasks.items())


def _losses(n: int, error: float, tolerance: float, where: str) -> str:
    """How often a loss is proven: one that is in about half of all runs, one that nearly always is."""

    def chance(loss: float) -> float:
        return proven(n, -loss, error, tolerance)

    at = bisect_left(_CHANGES, 0.5, key=chance)
    about = min(_CHANGES[max(at - 1, 0) : at + 1], key=lambda loss: abs(chance(loss) - 0.5))
    sure = _first(chance)
    if sure is None:
        return f"a loss of {100 * about:g} points in {where} is proven {_often(chance(about))}, none nearly always"
    if about == sure:
        return f"a loss of {100 * sure:g} points in {where} is proven nearly always"
    words = f"a loss of {100 * about:g} points in {where} is proven {_often(chance(about))}"
    return words + f", one of {100 * sure:g} points nearly always"


def _certifies(n: int, error: float, tolerance: float) -> str:
    """What certifies a task: the true gain that nearly always does, or images enough for one that does not change."""
    if certified(n, 0.0, error, tolerance) >= _NEARLY:
        return "A task that does not change is certified nearly always"
    gain = _first(lambda gain: certified(n, gain, error, tolerance))
    words = "No gain certifies it" if gain is None else f"A gain of {100 * gain:g} points certifies it nearly always"
    if not tolerance:
        return words + ", no number of images does where nothing changes (select.tolerance is 0)"
    low, high = n, n
    while certified(high, 0.0, error, tolerance) < _NEARLY and high < _MOST:
        low, high = high, 2 * high
    while high - low > max(1, 0.02 * high):
        middle = (low + high) // 2
        low, high = (low, middle) if certified(middle, 0.0, error, tolerance) >= _NEARLY else (middle, high)
    return words + f"; where nothing changes, {float(f'{high:.2g}'):,.0f} images would"


def _first(chance: Callable[[float], float]) -> float | None:
    """The smallest change with which something happens nearly always."""
    at = bisect_left(_CHANGES, _NEARLY, key=chance)
    return _CHANGES[at] if at < len(_CHANGES) else None


def _often(chance: float) -> str:
    tenths = min(round(10 * chance), 9)
    if chance >= _NEARLY:
        return "nearly always"
    return f"in {tenths} {'run' if tenths == 1 else 'runs'} of 10" if tenths else "hardly ever"


def _chance(n: int, change: float, flips: float, holds: Callable[[Numbers, Numbers], NDArray[np.bool_]]) -> float:
    """Probability of (b, c) for which `holds`, true from some c on where b + c is given."""
    down, up = min(flips + max(-change, 0.0), 1.0), flips + max(change, 0.0)
    up = min(up, 1 - down) if change <= 0 else min(up, 1.0)
    down = min(down, 1 - up)
    fewest, most = binom.ppf((_NEGLIGIBLE, 1 - _NEGLIGIBLE), n, down + up)
    # Of many numbers of flips a few stand for their neighbours: what is asked for has two digits.
    edges = np.unique(np.linspace(fewest - 1, most, _POINTS + 1).round())
    weight = np.diff(binom.cdf(edges, n, down + up))
    t = np.ceil((edges[:-1] + edges[1:]) / 2)
    low, high = np.full_like(t, -1), t + 1  # fails at low, holds at high
    while (high - low > 1).any():
        middle = np.floor((low + high) / 2)
        enough = holds(t - middle, middle)
        settled = high - low <= 1
        low, high = np.where(enough | settled, low, middle), np.where(enough & ~settled, middle, high)
    return float((weight * binom.sf(high - 1, t, up / (down + up))).sum())
