"""The verdict as one sentence, for every end that a cycle can have."""

import dataclasses
import re
from typing import Any

import pytest

from raymds.report import RunFiles, render
from raymds.report.verdict import verdict
from tests.unit.report import report_run
from tests.unit.report.report_run import changed

ROSE = "Foggy recognition rose from 41.2 % to 63.0 % on 1,000 test images"


def parsed(**looks: str) -> RunFiles:
    return report_run.parsed(report_run.run(**looks))


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (
            "certified",
            f"{ROSE} and none of 13 protected capabilities lost more than the tolerance of 2.0 points: "
            "certified at 95 % joint confidence.",
        ),
        (
            "retained",
            f"{ROSE} and none of 13 protected capabilities was measured to lose more than the tolerance of 2.0 points: "
            "retained but not certified, because at 95 % joint confidence a larger loss is not yet ruled out for 3 of "
            "them, which up to 2,400 more test images each would decide (night (timeofday) needs the most).",
        ),
        (
            "undecided",
            f"{ROSE}; 2 of 13 protected capabilities were measured to lose more than the tolerance of 2.0 points: "
            "night (timeofday) 4.2 points, dawn/dusk (timeofday) 4.1 points, but at 95 % joint confidence no loss is "
            "proven: chance alone puts some there, which up to 2,400 more test images each would decide "
            "(night (timeofday) needs the most).",
        ),
        (
            "violated",
            f"{ROSE}, but 2 of 13 protected capabilities lost more than the tolerance of 2.0 points: "
            "night (timeofday) 3.4 points, tunnel (scene) 2.2 points; keep the old model in service.",
        ),
        (
            "old",
            "No candidate both improved foggy and kept all 13 protected capabilities, so the outcome is the old model; "
            "on the validation split the nearest miss, step 25, took it from 41.0 % to 45.5 % but lost 5.4 points on "
            "night (timeofday).",
        ),
    ],
)
def test_the_verdict_is_one_plain_sentence(kind: str, sentence: str) -> None:
    run = parsed(verdict=kind)
    assert verdict(run) == (kind, sentence)
    assert sentence in render(run)


def test_a_retained_task_that_no_number_of_images_decides_is_said() -> None:
    def undecidable(certificate: Any) -> None:
        certificate["tasks"][12]["more_examples"] = None

    _, sentence = verdict(changed(parsed(verdict="retained"), "certificate", undecidable))
    assert "up to 2,300 more test images each would decide (dawn/dusk (timeofday) needs the most); " in sentence
    assert sentence.endswith("1 of those lie too close to the tolerance for any number to decide.")


def test_a_new_model_without_certificate_is_not_praised() -> None:
    word, sentence = verdict(dataclasses.replace(parsed(), certificate=None))
    assert word == "uncertified"
    assert sentence.startswith("Foggy recognition rose from 41.0 % to 61.3 % on 500 validation images and none of 13")
    assert sentence.endswith("there is no certificate, so nothing is known about the test split.")


def test_without_a_tolerance_no_tolerance_is_spoken_of() -> None:
    def strict(certificate: Any) -> None:
        tasks = [task | {"tolerance": 0.0} for task in certificate["tasks"][:7]]
        certificate["tolerance"], certificate["tasks"] = 0.0, tasks

    _, sentence = verdict(changed(parsed(), "certificate", strict))
    assert sentence == f"{ROSE} and none of 7 protected capabilities lost accuracy: certified at 95 % joint confidence."


def test_a_model_that_the_test_split_rejects_is_told_with_its_step() -> None:
    def old(outcome: Any) -> None:
        outcome.update(outcome="old", reason="the test split shows a loss of timeofday:night", step=0, alpha=0.0)
        outcome["candidate"] = {"step": 225, "alpha": 1.0}

    run = changed(parsed(verdict="violated"), "outcome", old)
    word, sentence = verdict(run)
    assert word == "violated"
    assert sentence.endswith("tunnel (scene) 2.2 points; the outcome is the old model.")
    assert render(run).count(">rejected: step 225</text>") == 2


def rejected(kind: str, reason: str) -> RunFiles:
    def old(outcome: Any) -> None:
        outcome.update(outcome="old", reason=reason, step=0, alpha=0.0, candidate={"step": 225, "alpha": 1.0})

    return changed(parsed(verdict=kind), "outcome", old)


@pytest.mark.parametrize("kind", ["certified", "retained", "undecided"])
def test_a_model_that_is_not_good_enough_is_told_as_the_old_one_that_stays(kind: str) -> None:
    """By select.require, or because the target gains nothing on test; the recorded reason says which."""
    run = rejected(kind, "the target weather:foggy (-1.0 points) does not gain on the test split")
    word, sentence = verdict(run)
    assert word == "old"
    assert sentence.startswith(ROSE)
    assert sentence.endswith("; that is not enough, and the outcome is the old model.")
    assert "Recorded reason: the target weather:foggy (-1.0 points) does not gain on the test split" in render(run)


def test_tolerances_of_their_own_are_shown() -> None:
    def own(certificate: Any) -> None:
        certificate["tolerance"] = {"default": 0.02, "weather:clear": 0.05}
        certificate["tasks"][0]["tolerance"] = 0.05

    run = changed(parsed(verdict="violated"), "certificate", own)
    _, sentence = verdict(run)
    assert "2 of 13 protected capabilities lost more than their tolerance: night" in sentence
    page = render(run)
    assert "each capability has a tolerance of its own" in page
    row = re.search(r'<th scope="row">weather:clear</th>(.*)', page)
    assert row
    assert "<td>5.0</td>" in row[1]


def test_a_certificate_of_an_older_version_still_has_a_page() -> None:
    """Of schema 1: no tolerance per task, and every measured loss is violated."""

    def older(certificate: Any) -> None:
        for task in certificate["tasks"]:
            del task["tolerance"]

    for kind in ("certified", "violated"):
        run = changed(parsed(verdict=kind), "certificate", older)
        assert verdict(run) == verdict(parsed(verdict=kind))
        assert "the tolerance is 2.0 points" in render(run)
