"""What a diagnosis says, on cases made so that one thing alone is the matter."""

from typing import Any

import pytest

from raymds.method.certificate import PairedCounts, certify
from raymds.train.advice import advise, conflicts, overfitted


def diagnosis(**changed: Any) -> dict[str, Any]:
    """A run that is far from rest, pulls nowhere and learned nothing by heart."""
    quiet = {"weather:rainy": 0.0, "weather:snowy": 0.0}
    F = {"train": {"old": 0.2, "new": -0.2}, "val": {"old": 0.2, "new": -0.15}}
    made = {
        "part": "retained", "h": {"train": quiet, "val": quiet}, "violation": {"train": 0.0, "val": 0.0},
        "kkt_residual": 0.9, "least_residual": 0.8, "cosines": [], "objective": F,
    }  # fmt: skip
    return made | changed


def candidate(
    step: int, target: float, rainy: float, snowy: float = 0.05, n: int = 1000, flips: float = 0.0
) -> dict[str, Any]:
    """A record on val: Δtarget and Δacc of two protected tasks, without tolerance; `flips` are made up for by gains."""
    tasks = [
        {
            "task": f"weather:{name}",
            "n": n,
            "old": 0.8,
            "delta": delta,
            "tolerance": 0.0,
            "h": {"flips": flips + max(-delta, 0.0)},
        }
        for name, delta in (("rainy", rainy), ("snowy", snowy))
    ]
    margin = min(rainy, snowy)
    moved = {"delta": target, "new": 0.2 + target}
    return {"step": step, "target": moved, "tasks": tasks, "margin": margin, "feasible": margin >= 0}


STUCK = [candidate(step, 0.3, -0.08) for step in (100, 200, 300)]


def test_who_pulls_against_whom_is_said_with_the_cosine() -> None:
    pairs = [
        {"of": ["weather:rainy", "weather:foggy"], "cosine": -0.8},
        {"of": ["objective", "weather:snowy"], "cosine": -0.5},
        {"of": ["objective", "weather:clear"], "cosine": -0.1},
    ]
    assert conflicts(diagnosis(cosines=pairs)) == [
        "weather:snowy pulls against the target: their gradients' cosine is -0.5",
        "weather:rainy and weather:foggy pull against each other: their gradients' cosine is -0.8",
    ]
    assert conflicts(diagnosis()) == []


def test_pairs_learned_by_heart_are_said_where_the_objective_fell_on_train_alone() -> None:
    F = {"train": {"old": 0.2, "new": -0.6}, "val": {"old": 0.2, "new": 0.15}}
    assert "learned by heart" in str(overfitted(diagnosis(objective=F)))
    assert overfitted(diagnosis()) is None


def only(said: list[str], word: str) -> bool:
    return [word in sentence for sentence in said].count(True) == 1


def test_more_steps_where_the_worst_task_was_coming_back() -> None:
    coming = [candidate(100, 0.3, -0.20), candidate(200, 0.3, -0.12), candidate(300, 0.3, -0.06)]
    assert only(advise(diagnosis(), coming), "more steps (optim.steps) would help")
    assert not only(advise(diagnosis(), STUCK), "more steps (optim.steps) would help")


def test_a_larger_model_where_the_run_is_at_rest() -> None:
    assert only(advise(diagnosis(kkt_residual=0.1), STUCK), "a larger model")
    assert not only(advise(diagnosis(), STUCK), "a larger model")


def test_more_retained_examples_where_train_keeps_what_val_loses() -> None:
    h = {"train": {"weather:rainy": 0.0, "weather:snowy": 0.0}, "val": {"weather:rainy": 0.08, "weather:snowy": -0.05}}
    assert only(advise(diagnosis(h=h), STUCK), "more retained examples (task.retained) or constraints.held_out")
    assert not only(advise(diagnosis(h=h | {"train": h["val"]}), STUCK), "retained examples")


def test_the_tolerance_that_would_have_let_the_nearest_candidate_pass() -> None:
    said = advise(diagnosis(), [candidate(100, 0.4, -0.3), candidate(200, 0.3, -0.0321)])
    assert said[-1] == (
        "a tolerance of 3.3 points for weather:rainy and the like (select.tolerance=0.033) would have let "
        "step 200 pass, with the target +30.0"
    )


def test_a_tolerance_that_is_advised_holds_for_tasks_that_have_more_already() -> None:
    """snowy may lose 5 points, and loses 4: with the 1 point that rainy needs for all tasks it would violate."""
    nearest = candidate(100, 0.3, -0.01, -0.04)
    nearest["tasks"][1]["tolerance"] = 0.05
    assert "for weather:snowy and the like (select.tolerance=0.040)" in advise(diagnosis(), [nearest])[-1]


def test_a_miss_within_chance_is_called_so() -> None:
    """Of 100 images 10 were lost and 8 gained: √(0.18 − 0.02²)/10; where 2 were lost alone, √(0.02 − 0.02²)/10."""
    said = advise(diagnosis(), [candidate(100, 0.3, -0.02, n=100, flips=0.08)])
    assert only(said, "known to ±4.2 points: the miss is within what chance does")
    assert not only(advise(diagnosis(), [candidate(100, 0.3, -0.02, n=100)]), "within what chance does")
    assert not only(advise(diagnosis(), STUCK), "within what chance does")


@pytest.mark.parametrize(
    ("lost", "gained", "words"),
    [
        (2, 20, ["select.require=undecided would not have refused", "w:b has 100 images on test: 174 more"]),
        (30, 20, ["w:b was kept on val and is lost on test"]),
        (0, 0, ["the gain of the target is too small to be seen on its 100 test images"]),
    ],
)
def test_what_would_help_where_the_test_split_refused(lost: int, gained: int, words: list[str]) -> None:
    counts = [PairedCounts(f"w:{name}", 100, 50, b, 0, 0.5, 0.5) for name, b in (("a", 0), ("b", lost))]
    target = PairedCounts("w:t", 100, 50, 0, gained, 0.5, 0.5)
    made = certify(target, counts, tolerance=0.0, confidence=0.95, digests={})
    said = advise(diagnosis(), [candidate(100, 0.3, 0.0)], made)
    assert len(said) == len(words)
    assert all(only(said, word) for word in words)


def test_a_candidate_that_may_yet_be_chosen_needs_no_help() -> None:
    assert advise(diagnosis(), [candidate(100, 0.3, 0.0)]) == []


@pytest.mark.parametrize(
    ("late", "word"),
    [
        ([candidate(100, -0.1, 0.0), candidate(200, -0.05, 0.0)], "still rising"),
        ([candidate(100, -0.1, 0.0), candidate(200, -0.1, 0.0)], "smaller penalties"),
        ([candidate(100, -0.1, -0.3, -0.3), candidate(200, -0.1, -0.3, -0.3)], "optim.lr is too large"),
        ([candidate(100, -0.1, -0.02), candidate(200, -0.1, -0.02)], "its captions and prompts"),
    ],
)
def test_why_the_target_never_gained(late: list[dict[str, Any]], word: str) -> None:
    asked = diagnosis(violation={"train": 0.2, "val": 0.2})  # as with a negative ε that asks for a gain
    assert only(advise(asked, late), word)
