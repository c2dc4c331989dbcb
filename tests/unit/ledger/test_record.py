"""What is protected, which use of a test split is the next, and what is recorded once."""

import json
import shutil
from datetime import date
from pathlib import Path

import pytest

from raymds.errors import UsageError
from raymds.ledger import audit, facts, record
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
    assert use(facts.identity(run)) == 3
    assert use("three") == 4  # that run may be measuring now
    record.add_run(ledger, run)
    assert use("four") == 4  # it has not
    assert use(facts.identity(run)) == 5  # done again, it is another use


def test_a_run_that_is_done_again_in_its_place_is_another(ledger: Ledger, tmp_path: Path) -> None:
    """Each of the two that are certified uses the test split."""
    run = made.run(tmp_path / "run", tmp_path / "old", "w:fog", ["w:rain"], outcome="old", certified=False)

    def use(split: str = "s") -> int:
        number: int = record.use(ledger, facts.identity(run), "c", split, 0.95).content["number"]
        return number

    assert (use(), use()) == (1, 1)
    record.add_run(ledger, run)
    assert record.uses(ledger.entries())[0]["s"] == 0
    for number in (1, 2):
        shutil.rmtree(run)
        made.file(tmp_path / "old", f"{number} old weights")
        made.run(tmp_path / "run", tmp_path / "old", "w:fog", ["w:rain"])
        assert (use(), use()) == (number, number)
        first, second = (record.add_run(ledger, run) for _ in range(2))
        assert first == second
        assert first.content["outcome"] == "new"
    assert record.uses(ledger.entries())[0]["s"] == 2
    assert [entry.kind for entry in ledger.entries()] == ["use", "cycle"] * 3
    assert protected(ledger) == {"w:fog": 4, "w:rain": 2}
    assert audit.verify(ledger, files=False)[1] == []
    assert (use("another"), use("another")) == (1, 1)
    assert use() == 3


def test_a_run_is_the_same_one_as_its_copy_and_by_another_path(ledger: Ledger, tmp_path: Path) -> None:
    run = made.run(tmp_path / "run", tmp_path / "old", "w:fog", ["w:rain"])
    first = record.add_run(ledger, run)
    shutil.copytree(run, tmp_path / "copy")
    for same in (f"{tmp_path}/copy", f"{tmp_path}/copy/../run"):
        assert record.add(ledger, same) == first
    record.add_run(ledger, made.run(tmp_path / "another", tmp_path / "old", "w:fog", ["w:rain"]))
    assert ledger.numbers() == [1, 2]


def test_a_use_is_of_one_split(ledger: Ledger) -> None:
    uses = [record.use(ledger, "run", "c", split, 0.95).content for split in ("a", "b", "a", "b")]
    assert [(use["split"], use["number"]) for use in uses] == [("a", 1), ("b", 1)] * 2
    assert record.uses(ledger.entries())[0] == {"a": 1, "b": 1}


def test_declared_uses_share_the_error_equally_and_there_are_no_more(ledger: Ledger) -> None:
    uses = [record.use(ledger, name, "c", "s", 0.95, 2).content for name in ("one", "two")]
    assert [use["spent"] for use in uses] == pytest.approx([0.025, 0.025])
    with pytest.raises(
        UsageError, match=r"ledger\.uses=2: this would be use 3 of the test split, and no error is left"
    ):
        record.use(ledger, "three", "c", "s", 0.95, 2)
    with pytest.raises(UsageError, match=r"ledger\.uses=null: entry 1, a use of the same test split, declared 2"):
        record.use(ledger, "three", "c", "s", 0.95)
    record.use(ledger, "three", "c", "another", 0.95)
    with pytest.raises(UsageError, match=r"ledger\.uses=2: entry 3, a use of the same test split, declared no number"):
        record.use(ledger, "four", "c", "another", 0.95, 2)
    assert audit.verify(ledger)[1] == []


@pytest.mark.parametrize("says", [True, False])
def test_a_use_is_not_freed_by_removing_a_certificate(ledger: Ledger, tmp_path: Path, says: bool) -> None:
    run = Path(made.run(tmp_path / "run", tmp_path / "old", "w:fog", ["w:rain"], outcome="old"))
    record.use(ledger, facts.identity(str(run)), "c", "s", 0.95)
    (run / "certificate.json").unlink()
    if says:
        outcome = json.loads((run / "outcome.json").read_text())
        (run / "outcome.json").write_text(json.dumps({**outcome, "tested": True}))
    else:  # of an older version
        made.file(run / "flips.json", "{}")
    with pytest.raises(UsageError, match=r"certificate\.json: is missing, and the run did use the test split"):
        record.add(ledger, str(run))
    assert record.uses(ledger.entries())[0]["s"] == 1


def test_a_waiver_ends_where_a_later_cycle_names_the_capability(ledger: Ledger, tmp_path: Path) -> None:
    def cycle(name: str, target: str, *protected: str, outcome: str = "new", begun: bool = False) -> str:
        run = made.run(tmp_path / name, tmp_path / "old", target, list(protected), outcome=outcome)
        if begun:
            record.use(ledger, facts.identity(run), "c", "s", 0.95)
        return run

    record.add_run(ledger, cycle("a", "w:fog", "w:rain"))
    begun = cycle("b", "w:snow", "w:fog", "w:rain", begun=True)
    record.waive(ledger, "w:fog", "r", "2199-01-01")
    record.add_run(ledger, begun)
    assert "w:fog" not in protected(ledger)  # that cycle knew of no waiver
    record.add_run(ledger, cycle("c", "w:fog", "w:rain", outcome="old"))
    assert "w:fog" not in protected(ledger)  # the old model has no more of it
    record.add_run(ledger, cycle("d", "w:hail", "w:fog", begun=True))
    assert "w:fog" in protected(ledger)
    record.waive(ledger, "w:fog", "r", "2199-01-01")
    record.add_run(ledger, cycle("e", "w:fog", "w:rain"))
    assert protected(ledger)["w:fog"] == 1


def test_a_waiver_can_be_shortened(ledger: Ledger, tmp_path: Path) -> None:
    record.add_run(ledger, made.run(tmp_path / "a", tmp_path / "old", "w:fog", ["w:rain"]))
    record.waive(ledger, "w:rain", "a slip", "9999-12-31")
    record.waive(ledger, "w:rain", "mended", "2199-01-01")
    assert "w:rain" in protected(ledger, date(2199, 1, 2))


def without(run: str, *names: str) -> str:
    """A finished run whose certificate says that these tasks are not certifiable."""
    for file, path in (("certificate.json", ()), ("outcome.json", ("val",))):
        content = json.loads(Path(run, file).read_text())
        part = content
        for name in path:
            part = part[name]
        part["not_certifiable"] = list(names)
        Path(run, file).write_text(json.dumps(content))
    return run


def test_what_was_held_without_examples_is_known_and_not_protected(ledger: Ledger, tmp_path: Path) -> None:
    record.add_run(ledger, without(made.run(tmp_path / "a", tmp_path / "old", "w:fog", ["w:rain"]), "w:snow"))
    weakly = record.protected(ledger.entries(), TODAY, weakly=True)
    assert (protected(ledger), weakly) == ({"w:fog": 1, "w:rain": 1}, {"w:fog": 1, "w:rain": 1, "w:snow": 1})
    record.waive(ledger, "w:snow", "no snow there", "2199-01-01")
    assert record.protected(ledger.entries(), TODAY, weakly=True) == {"w:fog": 1, "w:rain": 1}
    assert audit.verify(ledger)[1] == []


def test_holding_without_examples_neither_ends_a_waiver_nor_what_is_protected(ledger: Ledger, tmp_path: Path) -> None:
    record.add_run(ledger, made.run(tmp_path / "a", tmp_path / "old", "w:fog", ["w:snow"]))
    record.waive(ledger, "w:snow", "its images may not be kept", "2199-01-01")
    record.add_run(ledger, without(made.run(tmp_path / "b", tmp_path / "old", "w:hail", ["w:fog"]), "w:snow"))
    assert "w:snow" not in protected(ledger)
    assert protected(ledger, date(2199, 1, 2))["w:snow"] == 1


@pytest.mark.parametrize("file", ["certificate.json", "outcome.json"])
def test_a_list_of_what_is_not_certifiable_that_is_none_is_no_run(ledger: Ledger, tmp_path: Path, file: str) -> None:
    run = made.run(tmp_path / "a", tmp_path / "old", "w:fog", ["w:rain"])
    content = json.loads(Path(run, file).read_text())
    content.get("val", content)["not_certifiable"] = 5
    Path(run, file).write_text(json.dumps(content))
    with pytest.raises(UsageError, match="that this raymds can read"):
        record.add_run(ledger, run)


def test_the_certificate_of_a_run_that_is_recorded_is_no_cycle_of_its_own(ledger: Ledger, tmp_path: Path) -> None:
    run = made.run(tmp_path / "a", tmp_path / "old", "w:fog", ["w:rain"])
    first = record.add(ledger, run)
    assert record.add(ledger, f"{run}/certificate.json") == first
    assert ledger.numbers() == [1]
