"""What a gate lets through: nothing for nothing."""

import copy
import json
import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from raymds.errors import UsageError
from raymds.ledger import signature
from raymds.ledger.signature import VARIABLE, PublicKey, generate, public_key, signing_key
from raymds.method.certificate import PairedCounts, certify
from raymds.release.findings import junit, markdown, records
from raymds.release.gate import Candidate, Finding, find, judge
from raymds.release.policy import Policy
from raymds.store import uri as storage
from tests.unit.release.made import COUNTS, TARGET, certificate

MADE = datetime(2026, 5, 1, 12, tzinfo=UTC)


def found(made: dict[str, Any] | None = None, kept: str | None = None, **asked: Any) -> list[Finding]:
    given = certificate() if made is None else made
    return judge(Candidate(given, kept), policy(**asked), MADE + timedelta(days=10))


def policy(**asked: Any) -> Policy:
    """One that allows the tolerance that the made-up certificates have."""
    return Policy("p.yaml", **{"tolerance": {"*": 0.01}, **asked})


def failures(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.rule, finding.task) for finding in findings if not finding.passed]


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


def places(content: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in JSON."""
    yield above
    if isinstance(content, dict | list):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield from places(value, (*above, key))


ODD = [None, True, -1, 10**400, 0.5, math.nan, -math.inf, "", "weather:*", "\ud800\x00", [], [{}], {}, {"a": [1]}]


def test_whatever_a_field_holds_the_gate_answers_or_names_it(tmp_path: Path) -> None:
    given, asked = certificate(COUNTS[0]), {"tolerance": {"*": 0.01}, "protect": ["weather"], "age_days": 10}
    answered = named = 0
    for path in list(places(given))[1:]:
        for odd in ODD:
            content = copy.deepcopy(given)
            inner: Any = content
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = odd
            write(tmp_path / "c.json", content)
            try:
                findings = judge(find(str(tmp_path / "c.json")), Policy("p.yaml", **asked), MADE)
            except UsageError:
                named += 1
                continue
            answered += 1
            ElementTree.fromstring(junit(findings))
            markdown(findings).encode()
            json.dumps(records(findings), allow_nan=False)
    assert named > 300
    assert answered > 50


def write_certificate(path: Path, content: dict[str, Any]) -> None:
    """As `train.recorded.write_certificate`, which needs PyTorch."""
    storage.write_json(str(path), content)
    made = signature.statement(signature.CERTIFICATE, "weights.safetensors", content["digests"]["weights"], content)
    storage.write(signature.signed_name(str(path)), signature.line(signature.seal(made, signing_key(None))) + b"\n")


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def test_a_run_and_the_file_in_it_are_found_with_their_outcome(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write(run / "certificate.json", certificate())
    with pytest.raises(UsageError, match=r"no directory of a finished run \(it has no outcome\.json\)"):
        find(str(run))
    assert find(str(run / "certificate.json")) == Candidate(certificate(), None)
    write(run / "outcome.json", {"outcome": "new", "weights": str(run / "weights.safetensors")})
    write(run / "weights.safetensors", "new")
    known = Candidate(certificate(), None, sha256(b"new").hexdigest())
    assert find(str(run)) == find(f"{run}/") == find(str(run / "certificate.json")) == known
    write(run / "outcome.json", {"outcome": "old", "reason": "nothing was feasible"})
    kept = Candidate(certificate(), "the old model: nothing was feasible")
    assert find(str(run)) == find(str(run / "certificate.json")) == kept
    (run / "certificate.json").rename(run / "other.json")
    assert find(str(run)) == Candidate(None, "the old model: nothing was feasible")
    assert find(str(run / "other.json")) == Candidate(certificate(), None)
    write(run / "outcome.json", {"outcome": "new", "weights": "w"})
    with pytest.raises(UsageError, match=r"certificate\.json: no such file: the run measured nothing on test"):
        find(str(run))
    write(run / "outcome.json", {"outcome": "running"})
    with pytest.raises(UsageError, match="outcome='running' in its outcome\\.json"):
        find(str(run))
    write(run / "outcome.json", {"weights": {"uri": "w", "sha256": "s"}})
    with pytest.raises(UsageError, match="is a pretraining"):
        find(str(run))


def test_the_certificate_is_of_the_model_that_its_run_delivers(tmp_path: Path) -> None:
    digest = sha256(b"new").hexdigest()
    made = certificate(digests={"parent": "old", "weights": digest})
    elsewhere, own = tmp_path / "elsewhere", tmp_path / "run" / "weights.safetensors"
    write(tmp_path / "run" / "certificate.json", made)
    write(tmp_path / "run" / "outcome.json", {"outcome": "new", "weights": str(elsewhere)})

    def weights() -> list[tuple[str, bool]]:
        findings = judge(find(str(tmp_path / "run")), policy(), MADE)
        return [(str(f.found), f.passed) for f in findings if f.rule == "weights"]

    assert weights() == [(f"{elsewhere}: no such file", False)]
    write(elsewhere, "new")
    assert weights() == [(digest[:16], True)]
    write(own, "another")  # the one that lies in the run is delivered
    assert weights() == [(sha256(b"another").hexdigest()[:16], False)]
    for odd in ({}, {"weights": None}, {"weights": 3}):
        write(tmp_path / "run" / "outcome.json", {"outcome": "new", **odd})
        assert weights() == [("its outcome.json names no file of weights", False)]


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


def test_a_signature_is_of_one_of_the_keys_and_of_what_the_certificate_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [generate(str(tmp_path / name)) for name in ("board", "fleet", "other")]
    board, fleet, other = (public_key(pair[1]) for pair in pairs)
    path = tmp_path / "certificate.json"
    monkeypatch.setenv(VARIABLE, Path(pairs[0][0]).read_text())
    write_certificate(path, certificate())

    def signed(*keys: PublicKey) -> tuple[str, bool]:
        findings = judge(find(str(path), keys), policy(signature=keys), MADE)
        (finding,) = (f for f in findings if f.rule == "signature")
        return str(finding.found), finding.passed

    assert signed(board) == signed(fleet, board) == ("signed", True)
    words, passed = signed(fleet, other)
    assert ("is signed with the key" in words, passed) == (True, False)
    written = path.read_text()
    path.write_text(written.replace('"retained"', '"certified"', 1))
    assert signed(board) == ("was altered: it does not say what was signed", False)
    path.write_text(written)
    envelope = tmp_path / "certificate.intoto.json"
    for content in (b"", b"\xff", b"[]", b"[" * 100_000, envelope.read_bytes()[:-2]):
        envelope.write_bytes(content)
        assert not signed(board)[1]
    envelope.unlink()
    words, passed = signed(board)
    assert ("the certificate is not signed" in words, passed) == (True, False)
    assert ("signature", "") in failures(judge(Candidate(certificate(), None), policy(signature=[board]), MADE))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not valid JSON"),
        ("[]", "not a JSON object"),
        ("null", "not a JSON object"),
        ("{", "not valid JSON"),
        ('{"schema": 2, "schema": 2}', "'schema' stands twice in one object"),
        ("[" * 100_000, "nested too deeply"),
        (f'{{"schema": {"9" * 5000}}}', "not valid JSON"),
        ("{}", "is no certificate"),
        ('{"schema": 1, "outcome": "new"}', "is no certificate"),
        ('{"schema": 2, "verdict": "certified"}', "tolerance is missing"),
    ],
)
def test_a_file_that_is_no_certificate_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "c.json"
    write(path, content)
    with pytest.raises(UsageError, match=re.escape(message)) as error:
        find(str(path))
    assert str(error.value).startswith(f"{path}: ")
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(UsageError, match="not valid JSON"):
        find(str(path))


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


@pytest.mark.parametrize("outcome", [[], {}, None, "New", True])
def test_an_outcome_of_another_type_is_said(tmp_path: Path, outcome: object) -> None:
    (tmp_path / "certificate.json").write_text(json.dumps(certificate()))
    (tmp_path / "outcome.json").write_text(json.dumps({"outcome": outcome, "weights": "w"}))
    with pytest.raises(UsageError, match="has to be new or old"):
        find(str(tmp_path))
