"""Which trials end early, on recorded histories (four runs of the demo) and on made ones."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from raymds.search.halving import verdict
from raymds.search.trials import Measurement

RECORDED = json.loads((Path(__file__).parent / "search_histories.json").read_text())
History = list[Measurement]
STEPS = 100


def recorded(name: str) -> tuple[History, int]:
    run = RECORDED[name]
    return [Measurement(e[0], e[1], dict(zip(run["tasks"], e[2:], strict=True))) for e in run["evals"]], run["steps"]


def made(worst: Callable[[float], float], target: Callable[[float], float] = lambda share: share / 5) -> History:
    """Measured every twentieth of the budget; beside the worst task one that is kept all along."""
    shares = [step / STEPS for step in range(0, STEPS + 1, 5)]
    return [Measurement(round(s * STEPS), target(s), {"worst": worst(s), "kept": 0.01}) for s in shares]


def ended(history: History, others: list[History], steps: int = STEPS) -> tuple[int, str] | None:
    """The step at which a trial ends and why, None where it goes to the end; the others are already through."""
    for upto in range(1, len(history) + 1):
        reason = verdict(history[:upto], others, steps)
        if reason is not None:
            return history[upto - 1].step, reason
    return None


@pytest.mark.parametrize("name", [name for name in RECORDED if name.startswith("constrained")])
def test_recorded_constrained_runs_go_to_the_end(name: str) -> None:
    history, steps = recorded(name)
    assert ended(history, [], steps) is None
    assert min(m.devsafety for m in history) < -0.015  # all of them were infeasible on the way


def test_the_recorded_unconstrained_run_ends_at_a_quarter_whatever_its_target() -> None:
    history, steps = recorded("unconstrained")
    ends = ended(history, [], steps)
    assert ends is not None
    assert ends[0] == 180
    assert ends[1].startswith("weather:")
    assert max(m.target for m in history if m.step <= 180) > 0.7


def test_a_recorded_run_is_not_put_behind_by_those_that_keep_nothing() -> None:
    history, steps = recorded("constrained, feasible at once, target late")
    hopeless = recorded("unconstrained")[0]
    assert ended(history, [hopeless] * 9, steps) is None


def recovering(share: float) -> float:
    """−5 points at a fifth of the budget, back at 0 at the end."""
    return -0.25 * share if share <= 0.2 else -0.05 * (1 - share) / 0.8


@pytest.mark.parametrize(
    "worst",
    [
        recovering,
        lambda s: recovering(s) + 0.004 * (-1) ** round(20 * s),  # noise
        lambda s: -0.045 if 0.1 < s < 0.6 else 0.0,  # a plateau, then all at once
        lambda s: -0.20 * 0.02 ** max(0, s - 0.1) if s < 0.9 else 0.0,  # deep, and back ever more slowly
    ],
)
def test_violations_that_fall_again_end_no_trial(worst: Callable[[float], float]) -> None:
    good = made(lambda s: 0.0, lambda s: 0.01 * s)
    assert ended(made(worst), [good] * 5) is None


@pytest.mark.parametrize(("depth", "step"), [(-0.6, 25), (-0.1, 50), (-0.04, 75), (-0.01, None)])
def test_a_violation_that_does_not_fall_ends_a_trial_the_sooner_the_deeper(depth: float, step: int | None) -> None:
    def stuck(share: float) -> float:
        return max(depth, 20 * depth * share) + 0.002 * (-1) ** round(20 * share)

    ends = ended(made(stuck, lambda s: 0.9), [])
    assert (ends and ends[0]) == step
    assert ends is None or "worst" in ends[1]


def test_a_loss_within_its_tolerance_ends_no_trial() -> None:
    """A tenth is lost for good: too much at half the budget, unless it may be."""
    lost = made(lambda s: max(-0.1, -2 * s) + 0.002 * (-1) ** round(20 * s))
    allowed = [replace(m, tolerances={"worst": 0.11}) for m in lost]
    assert (ended(lost, []) or (None,))[0] == 50
    assert ended(allowed, []) is None


def test_one_bad_measurement_ends_no_trial() -> None:
    for rung in (0.25, 0.5, 0.75):
        assert ended(made(lambda s, bad=rung: -0.5 if s == bad else 0.0), []) is None  # type: ignore[misc]


def test_each_task_has_to_come_back() -> None:
    """The worst delta rises as the tasks take turns; one of them never does."""
    history = [
        Measurement(step, 0.1, {"falling": -0.08 if step > 5 else 0.0, "rising": -0.3 + 0.3 * step / STEPS})
        for step in range(0, 100, 5)
    ]
    ends = ended(history, [])
    assert ends is not None
    assert ends[1].startswith("falling is at -8.0 points")


def test_a_feasible_trial_with_a_low_target_ends_at_half_the_budget() -> None:
    better = [made(lambda s: 0.0, lambda s, t=t: t * s) for t in (0.2, 0.3, 0.4)]  # type: ignore[misc]
    low = made(lambda s: 0.0, lambda s: 0.05 * s)
    ends = ended(low, better)
    assert ends == (50, "3 of 4 trials keep everything with a higher target than this one can reach")
    assert ended(low, better[:2]) is None  # too few to compare
    assert [ended(history, [*better, low]) for history in better[1:]] == [None, None]


def test_feasibility_comes_before_the_target() -> None:
    infeasible = made(lambda s: -0.02, lambda s: 0.9)
    low = made(lambda s: 0.0, lambda s: 0.05 * s)
    assert ended(low, [infeasible] * 9) is None


def test_a_target_that_comes_late_is_waited_for() -> None:
    late = made(lambda s: 0.0, lambda s: max(-0.3, s - 0.6))
    good = [made(lambda s: 0.0, lambda s: 0.3 * s)] * 3
    assert late[10].target < 0 < good[0][10].target
    assert ended(late, good) is None
    never = made(lambda s: 0.0, lambda s: -0.3)
    ends = ended(never, good)
    assert ends is not None
    assert ends[0] == 50


def test_a_trial_is_judged_once_at_a_rung() -> None:
    history = made(lambda s: -0.9 if s else 0.0)
    judged = [m.step for m in history[1:] if verdict(history[: history.index(m) + 1], [], STEPS) is not None]
    assert judged == [25, 50, 75]
    sparse = [m for m in history if m.step in {0, 40, 80, 100}]
    assert [m.step for m in sparse if verdict(sparse[: sparse.index(m) + 1], [], STEPS) is not None] == [40, 80]


def test_halving_saves_budget_and_keeps_the_winner() -> None:
    """Sixteen trials at once, of which a quarter keep everything."""
    depths = [0.0 if n % 4 == 0 else -0.03 * n for n in range(16)]
    histories = [
        made(lambda s, d=d: d if s > 0.1 else 0.0, lambda s, n=n: 0.02 * (n + 1) * s) for n, d in enumerate(depths)  # type: ignore[misc]
    ]  # fmt: skip
    alive, taken = set(range(16)), 0
    for upto in range(1, len(histories[0]) + 1):
        for number in sorted(alive):
            taken += 5 if upto > 1 else 0
            others = [other[: upto if n in alive else 6] for n, other in enumerate(histories) if n != number]
            if verdict(histories[number][:upto], others, STEPS) is not None:
                alive.discard(number)
    assert 12 in alive  # feasible, and the highest target of those
    assert taken < 0.7 * 16 * STEPS
