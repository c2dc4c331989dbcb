"""Four verdicts on hand-made numbers, the worst of them, and what may become the outcome."""

from typing import Any

import pytest

from raymds.method.verdict import Verdict, of_task, refusal, verdict_of, worst


@pytest.mark.parametrize(
    ("delta", "lower", "upper", "tolerance", "verdict"),
    [
        (0.01, 0.001, 0.02, 0.0, "certified"),
        (0.01, 0.0, 0.02, 0.0, "certified"),
        (0.01, -0.001, 0.02, 0.0, "retained"),
        (0.0, -0.01, 0.01, 0.0, "retained"),
        (-0.001, -0.02, 0.01, 0.0, "undecided"),
        (-0.001, -0.02, 0.0, 0.0, "undecided"),
        (-0.01, -0.02, -0.001, 0.0, "violated"),
        (-0.001, -0.009, 0.001, 0.01, "certified"),
        (-0.01, -0.02, -0.001, 0.01, "retained"),
        (-0.02, -0.03, -0.01, 0.01, "undecided"),
        (-0.02, -0.03, -0.011, 0.01, "violated"),
    ],
)
def test_verdicts(delta: float, lower: float, upper: float, tolerance: float, verdict: str) -> None:
    assert verdict_of(delta, lower, upper, tolerance) == verdict


def test_a_model_is_as_good_as_its_worst_task() -> None:
    assert worst(["certified", "retained", "undecided"]) == "undecided"
    assert worst(["certified", "violated", "undecided"]) == "violated"
    assert worst(["certified"]) == "certified"


def test_a_tolerance_is_the_tasks_own_or_its_attributes_or_the_default() -> None:
    given = {"default": 0.01, "weather": 0.02, "weather:rainy": 0.03}
    names = ("weather:rainy", "weather:clear", "scene:tunnel")
    assert [of_task(given, name) for name in names] == [0.03, 0.02, 0.01]
    assert of_task({"weather": 0.02}, "scene:tunnel") == 0.0
    assert of_task(0.05, "scene:tunnel") == 0.05


def certificate(*verdicts: Verdict, gain: float = 0.1, lower: float = 0.05) -> dict[str, Any]:
    deltas = {"certified": 0.1, "retained": 0.0, "undecided": -0.01, "violated": -0.2}
    tasks = [
        {"task": f"w:{n}", "verdict": verdict, "delta": deltas[verdict] - n / 1000, "tolerance": 0.0}
        for n, verdict in enumerate(verdicts)
    ]
    return {"tasks": tasks, "target": {"task": "w:t", "delta": gain, "lower": lower}}


@pytest.mark.parametrize(
    ("verdict", "accepted"),
    [
        ("certified", {"certified", "retained", "undecided"}),
        ("retained", {"retained", "undecided"}),
        ("undecided", {"undecided"}),
        ("violated", set()),
    ],
)
def test_what_is_required_is_asked_of_the_worst_task(verdict: Verdict, accepted: set[str]) -> None:
    made = certificate("certified", verdict)
    needed: tuple[Verdict, ...] = ("certified", "retained", "undecided")
    assert {require for require in needed if refusal(made, require, "gain") is None} == accepted


def test_the_target_has_to_gain() -> None:
    made = certificate("certified", gain=0.0, lower=-0.1)
    assert refusal(made, "undecided", "gain") == "the target w:t (+0.0 points) does not gain on the test split"
    made = certificate("certified", gain=0.01, lower=-0.001)
    assert refusal(made, "undecided", "gain") is None
    assert "the gain of the target w:t (+1.0 points) is not proven" in (refusal(made, "undecided", "proven") or "")
    assert refusal(certificate("certified"), "undecided", "proven") is None


def test_a_reason_names_the_tasks_the_worst_first_and_not_a_hundred() -> None:
    reason = refusal(certificate("violated", "retained", "violated"), "certified", "gain")
    assert reason is not None
    assert reason.startswith("the test split proves a loss of w:2 (-20.2 points), w:0 (-20.0 points); ")
    assert "w:1 (-0.1 points), and select.require is certified" in reason
    many = refusal(certificate(*["undecided"] * 100), "retained", "gain")
    assert many is not None
    assert "w:99 (-10.9 points), w:98" in many
    assert "and 95 more is a loss, and select.require is retained" in many
