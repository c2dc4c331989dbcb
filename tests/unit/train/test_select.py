"""Choice and rescue on hand-made records."""

from typing import Any

import pytest
import torch

from raymds.train.select import choose, interpolate, score


def record(target: float, worst: float) -> dict[str, Any]:
    return {
        "target": {"task": "w:t", "old": 0.4, "new": target, "delta": target - 0.4},
        "tasks": [{"task": "w:a", "delta": worst}],
        "devsafety": worst,
        "feasible": worst >= 0,
    }


def never(name: str, alpha: float) -> dict[str, Any]:
    raise AssertionError("a feasible best candidate needs no rescue")


def test_feasible_beats_a_better_target() -> None:
    chosen = choose([("a", record(0.6, 0.0)), ("b", record(0.9, -0.01)), ("c", record(0.5, 0.02))], None)
    assert chosen is not None
    assert (chosen.candidate, chosen.alpha) == ("a", 1.0)


def test_scores_put_every_feasible_candidate_above_every_other() -> None:
    ordered = [record(0.9, -0.5), record(0.9, -0.01), record(0.0, 0.0), record(0.3, 0.4), record(0.8, 0.0)]
    scores = [score(r) for r in ordered]
    assert scores == sorted(scores)


def test_scores_put_a_candidate_without_gain_and_with_losses_below_one_that_a_rescue_may_help() -> None:
    assert score(record(0.4, -0.01)) < score(record(0.41, -0.3)) < score(record(0.41, -0.2)) < score(record(0.1, 0.0))


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
