"""What is protected, which use of a test split is the next, and what is recorded of the files that people have."""

import json
from datetime import date
from pathlib import Path

import pytest

from raymds.errors import UsageError
from raymds.ledger import history, record
from raymds.ledger.chain import Ledger
from tests.unit.ledger import made

TODAY = date(2030, 6, 1)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(str(tmp_path / "ledger"), "A. Nother")


def protected(ledger: Ledger, today: date = TODAY) -> dict[str, int]:
    return record.protected(ledger.entries(), today)


def test_what_was_developed_or_protected_is_protected_from_then_on(ledger: Ledger, tmp_path: Path) -> None:
    record.add_run(ledger, made.run(tmp_path / "a", tmp_path / "old", "w:fog", ["w:rain"]))
    assert protected(ledger) == {"w:fog": 1, "w:rain": 1}
    record.add_run(ledger, made.run(tmp_path / "b", tmp_path / "old", "w:snow", ["w:hail"], outcome="old"))
    assert protected(ledger) == {"w:fog": 1, "w:rain": 1, "w:hail": 2}  # the old model never had snow
    record.add_run(ledger, made.run(tmp_path / "c", tmp_path / "old", "w:snow", ["w:hail", "w:rain"]))
    assert protected(ledger) == {"w:fog": 1, "w:rain": 1, "w:hail": 2, "w:snow": 3}


def test_a_waiver_holds_until_its_last_day(ledger: Ledger, tmp_path: Path) -> None:
    record.add_run(ledger, made.run(tmp_path / "a", tmp_path / "old", "w:fog", ["w:rain"]))
    record.waive(ledger, "w:rain", "dry market", "2199-06-01")
    assert protected(ledger, date(2199, 6, 1)) == {"w:fog": 1}
    assert protected(ledger, date(2199, 6, 2)) == {"w:fog": 1, "w:rain": 1}
    record.waive(ledger, "w:rain", "longer", "2200-01-01")  # one that is waived can be waived again
    assert protected(ledger, date(2199, 6, 2)) == {"w:fog": 1}


@pytest.mark.parametrize(
    ("capability", "reason", "expires", "message"),
    [
        ("w:rian", "r", "2199-01-01", "'w:rian': is not protected .*; did you mean 'w:rain'"),
        ("x", "r", "2199-01-01", "it protects w:fog, w:rain"),
        ("w:rain", " ", "2199-01-01", "--reason: is empty"),
        ("w:rain", "r", "2020-01-01", "--expires 2020-01-01: is over"),
        ("w:rain", "r", "31.12.2199", "has to be a day, like 2030-12-31"),
        ("w:rain", "r", "", "has to be a day"),
    ],
)
def test_a_waiver_that_says_too_little_is_refused(
    ledger: Ledger, tmp_path: Path, capability: str, reason: str, expires: str, message: str
) -> None:
    record.add_run(ledger, made.run(tmp_path / "a", tmp_path / "old", "w:fog", ["w:rain"]))
    with pytest.raises(UsageError, match=message):
        record.waive(ledger, capability, reason, expires)
    assert len(ledger.entries()) == 1


def test_uses_are_counted_by_split_and_those_that_measured_nothing_are_none(ledger: Ledger, tmp_path: Path) -> None:
    def use(name: str, split: str = "s") -> int:
        number: int = record.use(ledger, name, "c", split, 0.95).content["number"]
        return number

    run = made.run(tmp_path / "run", tmp_path / "old", "w:fog", ["w:rain"], outcome="old", certified=False)
    assert [use("one"), use("two"), use("one"), use("other", "t")] == [1, 2, 1, 1]
    assert use(record.identity(run)) == 3
    assert use("three") == 4  # that run may be measuring now
    record.add_run(ledger, run)
    assert use("four") == 4  # it has not
    assert use(record.identity(run)) == 3


def test_a_run_is_recorded_once_with_what_it_rests_on(ledger: Ledger, tmp_path: Path) -> None:
    run = made.run(tmp_path / "run", tmp_path / "old", "w:fog", ["w:rain"])
    first = record.add(ledger, run)
    assert record.add(ledger, f"{run}/").number == first.number
    content = first.content
    assert (content["outcome"], content["target"], content["protected"]) == ("new", "w:fog", ["w:rain"])
    assert content["parent"]["sha256"] == made.file(tmp_path / "old", "old weights")
    assert content["weights"]["uri"] == f"{run}/weights.safetensors"
    assert content["certificate"]["verdict"] == "certified"
    assert content["capabilities"]["w:rain"]["verdict"] == "certified"
    assert content["settings"]["optim"] == {"lr": 0.1}
    assert "uri" not in content["settings"]["run"]
    assert first.author == "A. Nother"
    assert record.add_run(ledger, run).number == first.number


def test_models_and_certificates_from_elsewhere_are_recorded(ledger: Ledger, tmp_path: Path) -> None:
    run = Path(made.run(tmp_path / "run", tmp_path / "old", "w:fog", ["w:rain"]))
    assert record.add(ledger, str(tmp_path / "old")).kind == "model"
    found = record.add(ledger, str(run / "certificate.json"), str(run / "weights.safetensors"))
    assert record.add(ledger, str(run / "certificate.json")).number == found.number
    assert protected(ledger) == {"w:fog": 2, "w:rain": 2}
    with pytest.raises(UsageError, match="is not the model that"):
        record.add(ledger, str(run / "certificate.json"), str(tmp_path / "old"))
    with pytest.raises(UsageError, match="goes with a certificate"):
        record.add(ledger, str(run), str(tmp_path / "old"))
    assert [
        entry and entry.number for _, entry in history.trace(ledger.entries(), str(run / "weights.safetensors"))
    ] == [2, 1]
    made.file(tmp_path / "pre" / "config.yaml", "model: {weights: null}\ndata: {uri: d}\n")
    made.file(tmp_path / "pre" / "outcome.json", json.dumps({"weights": {"uri": "w", "sha256": "s"}}))
    assert record.add(ledger, str(tmp_path / "pre")).content == {"weights": {"uri": "w", "sha256": "s"}}


BAD = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"3",
    b"\xff",
    b"NaN",
    b"[" * 100_000,
    b"1" * 5000,
    b"{}",
    b'{"outcome": 1}',
    b'"\\ud800"',
]


@pytest.mark.parametrize("name", ["outcome.json", "certificate.json", "config.yaml", "data/manifest.json"])
@pytest.mark.parametrize("content", BAD)
def test_whatever_a_file_of_a_run_has_there_is_one_sentence(
    ledger: Ledger, tmp_path: Path, name: str, content: bytes
) -> None:
    run = Path(made.run(tmp_path / "run", tmp_path / "old", "w:fog", ["w:rain"]))
    (run / name).write_bytes(content)
    if name == "data/manifest.json":
        try:
            record.add(ledger, str(run))
        except UsageError as error:
            assert "manifest.json: damaged" in str(error)
        return
    with pytest.raises(UsageError, match=name.replace(".", r"\.")):
        record.add(ledger, str(run))
    assert ledger.numbers() == []
    if name == "certificate.json":
        with pytest.raises(UsageError, match=r"certificate\.json"):
            record.add(ledger, str(run / name))


def test_what_is_no_run_is_said(ledger: Ledger, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file, and no directory of a finished run"):
        record.add(ledger, str(tmp_path / "nothing"))
