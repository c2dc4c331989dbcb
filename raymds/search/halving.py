"""Which trials of a search end early: successive halving that looks at feasibility first and then at the target.

A pure function of the trials' histories. In a constrained cycle the violation first rises and then falls, and the
target often falls first and rises late: what a trial is at a rung says little, so what it can still reach decides.
"""

import math
from collections.abc import Sequence

from raymds.search.trials import Measurement

History = Sequence[Measurement]  # by step

_RUNGS = (0.25, 0.5, 0.75)  # shares of the budget after which a trial is judged
_HALVED = 0.5  # from this share on targets are compared: before, hardly a trial is feasible or above the old model
_FEWEST = 4  # trials that have to have come to a rung before their targets are compared there
_HOPE = 0.2  # accuracy that a task may regain without a sign of it; recorded constrained cycles needed 0.05 at most


def verdict(history: History, others: Sequence[History], steps: int) -> str | None:
    """Why the trial that has just reported the last of `history` ends here, or None where it goes on.

    `others` are the other trials' histories as far as they are known, `steps` the budget of each. Called after every
    measurement; only the first at or past a quarter, a half and three quarters of the budget can end a trial.

    First feasibility. A trial ends when one of its protected tasks can't be back within its tolerance by the end: when

        now + gain·(steps left)/(steps of a quarter) + 0.2·(share left)²  <  0

    where `now` is the task's best margin (delta + tolerance) in the last quarter of the budget and `gain` what that is
    above its worst in the quarter before, if it is. So a recovery is taken to go on as steeply as it was at its best,
    and a task that shows none is allowed 11 points at the first rung, 5 at the second, 1.2 at the last: as the learning
    rate decays by a cosine, the path that is left shrinks with the square of the steps left. Early infeasibility alone
    ends no trial.

    Then the target, from a half on. The trial ends when half of those that came to this rung have a good candidate by
    then (feasible and above the old model) with a higher target than this one can reach, extrapolated alike. So an
    infeasible trial, however high its target, ends no other.
    """
    step = history[-1].step
    before = history[-2].step if len(history) > 1 else 0
    passed = [rung for rung in _RUNGS if before < rung * steps <= step]
    if not passed or step >= steps:
        return None
    rung, left = passed[-1], 1 - step / steps
    margins = [(m.step, m.margins) for m in history]
    reached = {
        task: _reach([(at, each[task]) for at, each in margins], steps) + _HOPE * left**2 for task in history[-1].tasks
    }
    worst = min(reached, key=lambda task: reached[task])
    if reached[worst] < 0:
        lost = 100 * history[-1].tasks[worst]
        return f"{worst} is at {lost:+.1f} points with {100 * left:.0f} % of the budget left: too far to come back"
    here = [upto for other in others if (upto := _upto(other, rung * steps))]
    compared = len(here) + 1
    if rung < _HALVED or compared < _FEWEST:
        return None
    own = max(_good(history), _reach([(m.step, m.target) for m in history], steps))
    ahead = sum(_good(upto) > own for upto in here)
    if ahead >= math.ceil(compared / 2):
        return f"{ahead} of {compared} trials keep everything with a higher target than this one can reach"
    return None


def _reach(values: Sequence[tuple[int, float]], steps: int) -> float:
    """Where the last quarter's best gets to by the end, if its gain on the quarter before goes on; (step, value)s."""
    last, quarter = values[-1][0], steps / 4
    now = max(value for step, value in values if step > last - quarter)
    earlier = [value for step, value in values if last - 2 * quarter < step <= last - quarter]
    gain = max(0.0, now - min(earlier)) if earlier else 0.0
    return now + gain * (steps - last) / quarter


def _upto(history: History, step: float) -> History:
    """A history as it was when it came to a step; empty where it has not yet."""
    for position, measurement in enumerate(history):
        if measurement.step >= step:
            return history[: position + 1]
    return ()


def _good(history: History) -> float:
    """Target of the best good candidate, −1 without one."""
    return max((m.target for m in history if m.good), default=-1.0)
