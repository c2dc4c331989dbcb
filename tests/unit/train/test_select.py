"""Choice and rescue on hand-made records."""

from typing import Any

import numpy as np
import pytest
import torch

from raymds.tasks import Task, Tasks
from raymds.train.evaluate import Evaluation
from raymds.train.select import ALPHAS, choose, compare, interpolate, score


def record(target: float, worst: float) -> dict[str, Any]:
    return {
        "target": {"task": "w:t", "old": 0.4, "new": target, "delta": target - 0.4},
        "tasks": [{"task": "w:a", "delta": worst}],
        "devsafety": worst,
        "margin": worst,
        "feasible": worst >= 0,
    }


def never(name: str, alpha: float) -> dict[str, Any]:
    raise AssertionError("a feasible best candidate needs no rescue")


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


def test_rescue_takes_the_largest_feasible_alpha() -> None:
    tried = []

    def at(name: str, alpha: float) -> dict[str, Any]:
        tried.append((name, alpha))
        return record(0.4 + 0.5 * alpha, 0.0 if alpha <= 0.6 else -0.1)

    chosen = choose([("a", record(0.9, -0.2))], at)
    assert chosen is not None
    assert (chosen.candidate, chosen.alpha) == ("a", 0.6)
    assert chosen.record["target"]["new"] == pytest.approx(0.7)
    assert tried == [("a", 0.9), ("a", 0.8), ("a", 0.7), ("a", 0.6)]


def test_a_rescue_does_not_take_feasibility_or_the_target_to_be_monotone() -> None:
    """At 0.9 and 0.8 the target is below the old model's, 0.6 violates, and so does all below 0.5."""
    found = {0.9: record(0.3, 0.1), 0.8: record(0.3, -0.1), 0.7: record(0.5, -0.1), 0.6: record(0.7, -0.1)}
    found |= {0.5: record(0.6, 0.0)}
    chosen = choose([("a", record(0.2, -0.2))], lambda name, alpha: found.get(alpha, record(0.5, -0.1)))
    assert chosen is not None
    assert (chosen.candidate, chosen.alpha) == ("a", 0.5)


def test_what_is_nearest_to_feasible_is_rescued_first_and_ends_it() -> None:
    tried = []

    def at(name: str, alpha: float) -> dict[str, Any]:
        tried.append(name)
        return record(0.4 + 0.1 * alpha, 0.0 if name != "far" and alpha < 0.85 else -0.1)

    chosen = choose([("far", record(0.9, -0.4)), ("useless", record(0.4, 0.1)), ("near", record(0.6, -0.1))], at)
    assert chosen is not None
    assert (chosen.candidate, chosen.alpha) == ("near", 0.8)
    assert tried == ["near", "near"]


def test_rescues_that_save_nothing_end_after_two_candidates() -> None:
    tried = []

    def at(name: str, alpha: float) -> dict[str, Any]:
        tried.append((name, alpha))
        return record(0.9, -0.1)

    assert choose([(name, record(0.9, -worst)) for name, worst in (("a", 0.3), ("b", 0.2), ("c", 0.1))], at) is None
    assert tried == [(name, alpha) for name in "cb" for alpha in ALPHAS]


def test_a_rescued_candidate_has_to_beat_the_feasible_one() -> None:
    def at(name: str, alpha: float) -> dict[str, Any]:
        return record(0.4 + 0.2 * alpha, 0.0 if alpha <= 0.5 else -0.1)

    chosen = choose([("good", record(0.55, 0.01)), ("bad", record(0.6, -0.2))], at)
    assert chosen is not None
    assert chosen.candidate == "good"


def test_nothing_feasible_is_said() -> None:
    assert choose([("a", record(0.9, -0.2))], lambda name, alpha: record(0.8, -0.1)) is None
    assert choose([("a", record(0.9, -0.2))], None) is None


def test_a_feasible_candidate_that_gained_nothing_is_not_chosen() -> None:
    assert choose([("a", record(0.4, 0.1)), ("b", record(0.3, 0.2))], None) is None


def test_interpolation_is_linear_and_exact_at_the_end() -> None:
    old, new = {"w": torch.tensor([0.0, 1.0])}, {"w": torch.tensor([1.0, 0.1])}
    assert interpolate(old, new, 0.25)["w"].tolist() == pytest.approx([0.25, 0.775])
    assert torch.equal(interpolate(old, new, 1.0)["w"], new["w"])
