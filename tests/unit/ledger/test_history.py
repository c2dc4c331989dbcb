"""Ancestry, and what differs."""

from pathlib import Path

import pytest

from raymds.errors import UsageError
from raymds.ledger import history, record
from raymds.ledger.chain import Ledger
from tests.unit.ledger import made


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    found = Ledger(str(tmp_path / "ledger"), "A. Nother")
    record.add_run(found, made.run(tmp_path / "a", tmp_path / "old", "w:fog", ["w:rain"]))
    record.add_run(found, made.run(tmp_path / "lost", tmp_path / "a/weights.safetensors", "w:snow", [], outcome="old"))
    record.waive(found, "w:rain", "r", "2199-01-01")
    record.add_run(found, made.run(tmp_path / "b", tmp_path / "a/weights.safetensors", "w:snow", ["w:fog"]))
    return found


def test_a_model_is_traced_to_its_first_parent(ledger: Ledger, tmp_path: Path) -> None:
    entries, newest = ledger.entries(), str(tmp_path / "b/weights.safetensors")
    digest = made.file(tmp_path / "b/weights.safetensors", "weights for w:snow in b")
    old = made.file(tmp_path / "old", "old weights")
    for model in (newest, digest, digest[:10], "4"):
        found = history.trace(entries, model)
        assert [entry and entry.number for _, entry in found] == [4, 1, None]
        assert (found[0][0], found[-1][0]) == (digest, old)


def test_models_that_come_from_each_other_end_the_trace(ledger: Ledger, tmp_path: Path) -> None:
    """Nothing keeps somebody from going back to an old model and recording it."""
    content = dict(ledger.entries()[0].content)
    content |= {"parent": content["weights"], "weights": content["parent"]}
    ledger.append("cycle", content)
    assert len(history.trace(ledger.entries(), "4")) == 3


def test_what_differs(ledger: Ledger, tmp_path: Path) -> None:
    found = history.diff(ledger.entries(), "1", str(tmp_path / "b/weights.safetensors"))
    assert found["target"] == {"": ["w:fog", "w:snow"]}
    assert found["protected"] == {"w:fog": [None, True], "w:rain": [True, None]}
    assert found["capabilities"]["w:snow.new"] == [None, 0.6]
    assert "code" not in found
    assert history.diff(ledger.entries(), "1", "1") == {}


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("3", "entry 3: it is a waive entry"), ("9", "entry 9: there is none"), ("nothing", "no such file"),
        ("0" * 64, "no such file, and no such digest"), ("", "empty"),
    ],
)  # fmt: skip
def test_what_is_no_model_is_said(ledger: Ledger, what: str, message: str) -> None:
    for search in (history.trace, lambda entries, what: history.diff(entries, "1", what)):
        with pytest.raises(UsageError, match=message):
            search(ledger.entries(), what)
