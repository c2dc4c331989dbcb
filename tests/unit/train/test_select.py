"""Choice and rescue on hand-made records."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from raymds.tasks import Task, Tasks
from raymds.train.evaluate import Evaluation
from raymds.train.select import choose, compare, interpolate, score


def record(target: float, worst: float) -> dict[str, Any]:
    return {
        "target": {"task": "w:t", "old": 0.4, "new": target, "delta": target - 0.4},
        "tasks": [{"task": "w:a", "delta": worst}],
        "devsafety": worst,
        "margin": worst,
        "feasible": worst >= 0,
    }


def test_feasible_beats_a_better_target() -> None:
    chosen = choose([("a", record(0.6, 0.0)), ("b", record(0.9, -0.01)), ("c", record(0.5, 0.02))], None)
    assert chosen is not None
    assert (chosen.candidate, chosen.alpha) == ("a", 1.0)


def test_scores_put_what_may_be_chosen_first_then_what_a_rescue_may_save_then_what_gained_nothing() -> None:
    ordered = [
        record(0.1, -0.9), record(0.4, -0.01), record(0.3, 0.4),  # no gain
        record(0.9, -1.0), record(0.9, -0.5), record(0.41, -0.01),  # a gain, and a loss
        record(0.41, 0.4), record(0.8, 0.0),
    ]  # fmt: skip
    scores = [score(r) for r in ordered]
    assert scores == sorted(scores)
    assert len(set(scores)) == len(scores)


def evaluation(right: dict[str, int]) -> Evaluation:
    """Ten rows of each of three classes, of which so many are right."""
    labels = np.repeat(np.arange(3), 10)
    predicted = np.concatenate([np.where(np.arange(10) < right[name], k, (k + 1) % 3) for k, name in enumerate("abt")])
    return Evaluation({"w": labels}, {"w": predicted}, {"w": np.zeros(30)})


@pytest.mark.parametrize(
    ("tolerance", "margin", "feasible"),
    [
        (0.0, -0.2, False),
        (0.2, 0.0, True),
        ({"w:b": 0.2}, -0.1, False),
        ({"w:b": 0.2, "w:a": 0.1}, 0.0, True),
        ({"w": 0.3}, 0.1, True),
    ],
)
def test_feasible_is_what_keeps_each_task_within_its_own_tolerance(
    tolerance: Any, margin: float, feasible: bool
) -> None:
    task = {name: Task("w", k, f"w:{name}") for k, name in enumerate("abt")}
    classes = {"w": ("a", "b", "t")}
    tasks = Tasks(task["t"], (task["a"], task["b"]), classes, {"w": (("",), ("",), ("",))}, classes)
    old, new = evaluation({"a": 8, "b": 8, "t": 2}), evaluation({"a": 7, "b": 6, "t": 5})
    made = compare(old, new, tasks, tolerance, "cross_entropy")
    assert made["devsafety"] == -0.2  # METHOD (3), whatever is tolerated
    assert (made["margin"], made["feasible"]) == (pytest.approx(margin), feasible)
    assert made["target"]["delta"] == 0.3
    assert made["tasks"][1]["h"] == pytest.approx({"cross_entropy": 0.0, "error": 0.2, "flips": 0.2})
    assert made["target"]["h"] == pytest.approx({"cross_entropy": 0.0, "error": -0.3, "flips": 0.0})


class Curve:
    """A candidate whose target and worst task are functions of α; notes where it was measured."""

    def __init__(self, worst: Callable[[float], float], target: Callable[[float], float] = lambda a: 0.4 + a / 2):
        self.worst, self.target, self.tried = worst, target, list[float]()

    def __call__(self, alpha: float) -> dict[str, Any]:
        self.tried.append(alpha)
        return record(self.target(alpha), self.worst(alpha))

    def chosen(self, *others: tuple[Any, dict[str, Any]]) -> Any:
        return choose([*others, (self, record(self.target(1.0), self.worst(1.0)))], lambda curve: curve)


@pytest.mark.parametrize("edge", [k / 32 for k in range(1, 32)])
def test_rescue_takes_the_largest_feasible_alpha_in_five_measurements(edge: float) -> None:
    """As trying every multiple of 1/32 would; between them the edge is rounded down."""
    for exact in (edge, edge + 0.01):
        curve = Curve(lambda alpha, exact=exact: exact - alpha)  # type: ignore[misc]
        chosen = curve.chosen()
        every = max(k / 32 for k in range(1, 32) if curve.worst(k / 32) >= 0)
        assert (chosen.candidate, chosen.alpha) == (curve, every) == (curve, edge)
        assert chosen.record == record(0.4 + edge / 2, exact - edge)
        assert len(curve.tried) == len(set(curve.tried)) == 5


def test_what_is_feasible_for_a_tiny_alpha_alone_is_saved_down_to_one_in_32() -> None:
    assert Curve(lambda alpha: 0.04 - alpha).chosen().alpha == 1 / 32
    curve = Curve(lambda alpha: 0.03 - alpha)
    assert curve.chosen() is None
    assert curve.tried == [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32]


@pytest.mark.parametrize("seed", range(20))
def test_where_neither_feasibility_nor_the_target_is_monotone_what_is_chosen_is_still_good(seed: int) -> None:
    """Any curves at all: feasible and a gain where it was measured, or nothing was among all that was measured."""
    draws = np.random.default_rng(seed).uniform(-0.3, 0.3, (2, 33))
    curve = Curve(lambda alpha: draws[0, round(32 * alpha)], lambda alpha: 0.4 + draws[1, round(32 * alpha)])
    draws[0, 32] = -0.1  # the candidate itself violates
    chosen = curve.chosen()
    good = [alpha for alpha in curve.tried if curve.worst(alpha) >= 0 and curve.target(alpha) > 0.4]
    assert (chosen.alpha if chosen else None) == max(good, default=None)
    assert len(curve.tried) == 5


def test_a_feasible_island_below_another_is_passed_over_for_the_larger_one() -> None:
    curve = Curve(lambda alpha: -0.1 if 0.1 < alpha < 0.4 or alpha > 0.8 else 0.0)
    assert curve.chosen().alpha == 25 / 32


def test_feasible_without_a_gain_looks_further_from_the_old_model() -> None:
    """The target falls first and rises then; and one that rises first and falls then keeps where it had a gain."""
    assert Curve(lambda alpha: 0.9 - alpha, lambda alpha: 0.3 if alpha < 0.7 else 0.6).chosen().alpha == 28 / 32
    assert Curve(lambda alpha: 0.9 - alpha, lambda alpha: 0.3 if alpha > 0.7 else 0.6).chosen().alpha == 1 / 2


def test_what_is_nearest_to_feasible_is_rescued_first_and_ends_it() -> None:
    loaded = []

    def towards(name: str) -> Callable[[float], dict[str, Any]]:
        loaded.append(name)
        return lambda alpha: record(0.4 + 0.1 * alpha, 0.0 if name != "far" and alpha < 0.85 else -0.1)

    chosen = choose([("far", record(0.9, -0.4)), ("useless", record(0.4, 0.1)), ("near", record(0.6, -0.1))], towards)
    assert chosen is not None
    assert (chosen.candidate, chosen.alpha) == ("near", 27 / 32)
    assert loaded == ["near"]  # once for all its measurements


def test_rescues_that_save_nothing_end_after_two_candidates() -> None:
    curves = [Curve(lambda alpha: -0.1, lambda alpha: 0.9) for _ in range(3)]
    candidates = [(curve, record(0.9, -worst)) for curve, worst in zip(curves, (0.3, 0.2, 0.1), strict=True)]
    assert choose(candidates, lambda curve: curve) is None
    assert [len(curve.tried) for curve in curves] == [0, 5, 5]


def test_a_rescued_candidate_has_to_beat_the_feasible_one() -> None:
    """It is at 0.5 at the most, and one try is made of it."""
    curve = Curve(lambda alpha: 0.5 - alpha, lambda alpha: 0.4 + 0.2 * alpha)
    assert curve.chosen(("good", record(0.55, 0.01))).candidate == "good"
    assert curve.chosen(("good", record(0.5, 0.01))).candidate == "good"
    assert curve.chosen(("good", record(0.49, 0.01))).candidate is curve
    last = Curve(lambda alpha: 0.5 - alpha)
    assert curve.chosen(("good", record(0.55, 0.01)), (last, record(0.9, -0.6))).candidate == "good"
    assert last.tried == []


def test_nothing_feasible_is_said() -> None:
    assert choose([("a", record(0.9, -0.2))], lambda name: lambda alpha: record(0.8, -0.1)) is None
    assert choose([("a", record(0.9, -0.2))], None) is None


def test_a_feasible_candidate_that_gained_nothing_is_not_chosen() -> None:
    assert choose([("a", record(0.4, 0.1)), ("b", record(0.3, 0.2))], None) is None


def test_interpolation_is_linear_and_exact_at_the_end() -> None:
    old, new = {"w": torch.tensor([0.0, 1.0])}, {"w": torch.tensor([1.0, 0.1])}
    assert interpolate(old, new, 0.25)["w"].tolist() == pytest.approx([0.25, 0.775])
    assert torch.equal(interpolate(old, new, 1.0)["w"], new["w"])
