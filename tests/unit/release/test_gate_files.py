"""What a gate makes of files: runs, certificates and signatures, whatever they hold."""

import copy
import json
import math
import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from raymds.errors import UsageError
from raymds.ledger import signature
from raymds.ledger.signature import VARIABLE, PublicKey, generate, public_key, signing_key
from raymds.release.findings import junit, markdown, records
from raymds.release.gate import Candidate, find, judge
from raymds.release.policy import Policy
from raymds.store import uri as storage
from tests.unit.release.made import COUNTS, MADE, certificate, failures, policy


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


@pytest.mark.parametrize("outcome", [[], {}, None, "New", True])
def test_an_outcome_of_another_type_is_said(tmp_path: Path, outcome: object) -> None:
    (tmp_path / "certificate.json").write_text(json.dumps(certificate()))
    (tmp_path / "outcome.json").write_text(json.dumps({"outcome": outcome, "weights": "w"}))
    with pytest.raises(UsageError, match="has to be new or old"):
        find(str(tmp_path))
