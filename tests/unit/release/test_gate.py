"""What a gate lets through: nothing for nothing."""

import copy
from datetime import timedelta
from typing import Any

import pytest

from raymds.errors import UsageError
from raymds.method.certificate import PairedCounts, certify
from raymds.release.findings import markdown
from raymds.release.gate import Candidate, Finding, judge
from raymds.release.policy import Policy
from tests.unit.release.made import COUNTS, MADE, TARGET, certificate, failures, policy


def found(made: dict[str, Any] | None = None, kept: str | None = None, **asked: Any) -> list[Finding]:
    given = certificate() if made is None else made
    return judge(Candidate(given, kept), policy(**asked), MADE + timedelta(days=10))


def test_every_rule_of_every_task_is_looked_at() -> None:
    asked: dict[str, Any] = {
        "verdict": {"*": "retained"}, "negative_flips": {"*": 0.04}, "tolerance": {"*": 0.01}, "gain": 0.3,
        "gain_lower": 0.2, "confidence": 0.95, "age_days": 10, "protect": ["scene:tunnel", "weather:foggy"],
    }  # fmt: skip
    findings = found(**asked)
    tasks = {name for name, *_ in COUNTS}
    assert failures(findings) == []
    assert {(finding.rule, finding.task) for finding in findings} == {
        *((rule, task) for rule in ("verdict", "negative_flips", "tolerance", "numbers") for task in tasks),
        *((rule, TARGET.task) for rule in ("gain", "gain_lower", "negative_flips", "numbers")),
        *((rule, "") for rule in ("outcome", "split", "numbers", "confidence", "age_days")),
        *(("protect", name) for name in asked["protect"]),
    }  # fmt: skip
    assert len(findings) == 4 * len(tasks) + 4 + 5 + 2


@pytest.mark.parametrize(
    ("asked", "failed"),
    [
        ({"verdict": {"*": "certified"}}, {"scene:tunnel", "weather:rainy@timeofday:night"}),
        ({"verdict": {"*": "certified", "scene:*": "retained"}}, {"weather:rainy@timeofday:night"}),
        ({"negative_flips": {"*": 0.025}}, {"weather:rainy@timeofday:night"}),  # of the target exactly 10 in 400
        ({"negative_flips": {"*": 0.0249999}}, {"weather:foggy", "weather:rainy@timeofday:night"}),
        ({"negative_flips": {"weather:foggy": 0.02}}, {"weather:foggy"}),  # one that only the target has guards it
        ({"negative_flips": {"weather:rainy": 0.0}}, {"weather:rainy"}),
        ({"tolerance": {"*": 0.009}}, {name for name, *_ in COUNTS}),
        ({"gain": 0.31}, {TARGET.task}),
        ({"gain_lower": 0.29}, {TARGET.task}),
        ({"confidence": 0.99}, {""}),
        ({"age_days": 9.9}, {""}),
    ],
)
def test_what_is_not_enough_fails_alone(asked: dict[str, Any], failed: set[str]) -> None:
    (rule,) = asked
    assert sorted(failures(found(**asked))) == sorted((rule, task) for task in failed)


def test_the_worst_comes_first() -> None:
    order = [finding.task for finding in found(negative_flips={"*": 0.001}) if finding.rule == "negative_flips"]
    assert order == ["weather:rainy@timeofday:night", "weather:foggy", "weather:rainy", "scene:tunnel", "weather:clear"]


def test_a_proven_loss_and_a_target_that_does_not_gain_pass_under_no_policy() -> None:
    lost = certificate(("a:b", 1000, 900, 200, 5))
    assert failures(found(lost, confidence=0.5)) == [("verdict", "a:b")]
    idle = certificate(target=PairedCounts("weather:foggy", 400, 100, 10, 10, 1.0, 1.0))
    assert failures(found(idle, confidence=0.5)) == [("gain", "weather:foggy")]


def test_an_old_model_is_refused_with_or_without_a_certificate() -> None:
    assert failures(found(kept="the old model: no candidate")) == [("outcome", "")]
    (alone,) = judge(Candidate(None, "the old model: no candidate"), policy(), MADE)
    assert (alone.rule, alone.found, alone.passed) == ("outcome", "the old model: no candidate", False)
    same = certificate(digests={"parent": "one", "weights": "one"})
    assert failures(found(same)) == [("outcome", "")]


def test_numbers_that_contradict_each_other_are_refused() -> None:
    edited = copy.deepcopy(certificate())
    edited["tasks"][2]["verdict"] = "certified"
    assert failures(found(edited, verdict={"scene:*": "certified"})) == [("numbers", "scene:tunnel")]
    edited = certificate(verdict="certified")
    assert failures(found(edited)) == [("numbers", "")]


def test_a_certificate_that_protects_nothing_is_refused() -> None:
    empty = copy.deepcopy(certificate())
    empty |= {"tasks": [], "verdict": "certified", "devsafety": 0.0}
    assert failures(found(empty, confidence=0.9)) == [("protect", "")]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("weather", "protected"),
        ("weather:rainy@timeofday:night", "protected"),
        ("weather:foggy", "protected"),  # the target, which has to gain
        ("scene", "without scene:street"),
        ("scene:street", "without scene:street"),
        ("wether", "not in it"),
        ("weather:*", "without weather:*"),
    ],
)
def test_what_has_to_be_protected_is_there(name: str, words: str) -> None:
    (finding,) = (f for f in found(protect=[name]) if f.rule == "protect")
    assert (finding.found, finding.passed) == (words, words == "protected")


def test_what_was_chosen_on_a_split_is_not_released_by_it() -> None:
    for split, failed in (
        ("test", []),
        ("val", ["split"]),
        ("train", ["split"]),
        ("VAL", ["split"]),
        (None, ["split"]),
    ):
        assert [rule for rule, _ in failures(found(certificate(measured={"split": split})))] == failed
    (missing,) = (finding for finding in found(certificate(measured={})) if not finding.passed)
    assert (missing.rule, missing.found) == ("split", "not said: make the certificate again")
    assert failures(found(certificate(measured={"split": "drives"}), split="drives")) == []
    assert failures(found(split="drives")) == [("split", "")]


def test_an_attribute_whose_classes_nobody_says_is_not_taken_for_protected() -> None:
    for measured in ({}, {"label_sets": None}, {"label_sets": {"weather": "all"}}):
        made = certificate(measured={**measured, "split": "test"})
        assert failures(found(made, protect=["weather"])) == [("protect", "weather")]


@pytest.mark.parametrize(
    ("created", "passed"),
    [
        ("2026-05-01T12:00:00Z", True),
        ("2026-05-11T12:00:00Z", True),
        ("2026-05-11T18:00:00Z", True),  # a clock that is ahead
        ("2027-05-11T12:00:00Z", False),
        ("2026-05-01T11:59:00Z", False),
        (None, False),
    ],
)
def test_the_age_of_the_data(created: str | None, passed: bool) -> None:
    (finding,) = (f for f in found(certificate(data={"created": created}), age_days=10) if f.rule == "age_days")
    assert finding.passed == passed
    assert not any(f.passed for f in found(certificate(data={}), age_days=10) if f.rule == "age_days")


def test_a_pattern_of_no_task_is_an_error_of_the_policy() -> None:
    with pytest.raises(UsageError, match=r"p\.yaml: verdict: 'wether:\*' matches no task"):
        found(verdict={"*": "retained", "wether:*": "certified"})
    assert failures(found(verdict={"weather:foggy": "certified"})) == []  # the target of this cycle


def test_a_certificate_does_not_bring_the_tolerance_that_it_is_judged_by() -> None:
    lost = certify(
        TARGET, [PairedCounts("a:b", 1000, 900, 500, 5, 1.0, 1.0)], tolerance=0.9, confidence=0.95,
        digests={"parent": "old", "weights": "new"},
    ) | {"measured": {"split": "test"}}  # fmt: skip
    assert lost["verdict"] == "certified"
    assert failures(judge(Candidate(lost, None), Policy("p.yaml", verdict={"*": "certified"}), MADE)) == [
        ("tolerance", "a:b")
    ]
    assert failures(found(lost, tolerance={"*": 0.89})) == [("tolerance", "a:b")]
    assert failures(found(lost, tolerance={"*": 0.9})) == []  # who allows it has it


def test_what_has_no_examples_is_said_and_never_taken_for_protected() -> None:
    made = certificate(not_certifiable=["weather:snowy"])
    made["measured"]["label_sets"]["weather"]["snowy"] = []
    findings = found(made)
    (said,) = (finding for finding in findings if finding.task == "weather:snowy")
    assert (said.found, said.passed, failures(findings)) == ("not certifiable", True, [])
    assert "| protect | weather:snowy | not asked for | not certifiable |" in markdown(findings)
    for name in ("weather:snowy", "weather"):
        (asked,) = (finding for finding in found(made, protect=[name]) if finding.rule == "protect")
        assert (asked.found, asked.passed) == ("without weather:snowy (not certifiable)", False)
    with pytest.raises(UsageError, match=r"'weather:snowy' matches no task of the certificate, so it guards nothing"):
        found(made, verdict={"weather:snowy": "retained"})
