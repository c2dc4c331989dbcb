"""A cycle with a ledger: what it refuses, which use of the test split it is, and that it is recorded exactly once."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from raymds.cli.main import main
from raymds.config import Config, load
from raymds.data.shards import DataSet
from raymds.errors import UsageError
from raymds.ledger import audit, record
from raymds.ledger.chain import Ledger
from raymds.ledger.signature import generate, public_key
from raymds.method.certificate import PairedCounts, certify
from raymds.store import uri as storage
from raymds.train import driver, recorded
from tests.conftest import overrides
from tests.unit.ledger import made

PROTECTED = ["weather:clear", "weather:rainy"]


@pytest.fixture
def settings(data_uri: str, old_weights: str, tmp_path: Path) -> list[str]:
    given = [*overrides(data_uri, old_weights, str(tmp_path / "run")), f"ledger.uri={tmp_path / 'ledger'}"]
    return [*given, "ledger.author=A. Nother", f"task.protect=[{', '.join(PROTECTED)}]"]


class Workers:
    """Stands in for Ray Train: what workers return of a cycle with a certified choice, or with nothing feasible."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.confidences: list[float] = []
        self.feasible, self.killed = True, False
        self.without: list[str] = []
        monkeypatch.setattr(driver, "_fit", self._fit)

    def _fit(self, config: Config, run: Any, loop: str, *_: Any, **__: Any) -> tuple[dict[str, Any], float]:
        self.confidences.append(config.select.confidence)
        if self.killed:
            raise KeyboardInterrupt
        tasks = [{"task": name, "delta": 0.0, "tolerance": 0.0} for name in PROTECTED]
        kept = {
            "target": {"task": "weather:foggy", "delta": 0.2, "new": 0.5},
            "tasks": tasks,
            "feasible": True,
            "margin": 0.0,
        }
        if not self.feasible:
            candidates = [{"step": 4, "record": kept | {"devsafety": 0.0}}]
            return {"choice": None, "candidates": candidates, "skipped_images": {}}, 1.0
        counts = [PairedCounts(name, 100, 50, 0, 0, 0.5, 0.5) for name in PROTECTED]
        target = PairedCounts("weather:foggy", 100, 50, 0, 20, 0.5, 0.5)
        certificate = certify(target, counts, tolerance=0.5, confidence=config.select.confidence, digests={})
        certificate |= {"not_certifiable": self.without} if self.without else {}
        weights, uri = f"made in {config.run.uri}", run.path("weights.safetensors")
        digest = made.file(Path(uri), weights)
        return {
            "choice": {"step": 4, "alpha": 1.0, "record": kept},
            "certificate": certificate, "refused": None, "flips": [], "skipped_images": {},
            "weights": {"uri": uri, "sha256": digest},
        }, 1.0  # fmt: skip


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Workers:
    return Workers(monkeypatch)


def cycle(settings: list[str], *more: str) -> tuple[dict[str, Any], list[str]]:
    notes: list[str] = []
    outcome = driver.finetune(load(Config, None, [*settings, *more]), lambda r: notes.append(r.get("note", "")))
    return outcome, notes


def kinds(settings: list[str]) -> list[str]:
    return [entry.kind for entry in Ledger(load(Config, None, settings).ledger.uri or "").entries()]


def expected(number: int) -> float:
    return 1 - 0.05 * 6 / (math.pi * number) ** 2


def test_a_cycle_is_recorded_once_with_its_use_of_the_test_split(
    settings: list[str], workers: Workers, tmp_path: Path, data_uri: str
) -> None:
    keys = generate(str(tmp_path / "key"))
    settings.append(f"ledger.key={keys[0]}")
    _, notes = cycle(settings)
    assert any(note.startswith("Use 1 of this test split") for note in notes)
    cycle(settings)
    assert kinds(settings) == ["use", "cycle"]
    assert workers.confidences == [pytest.approx(expected(1))]
    certificate = json.loads((tmp_path / "run" / "certificate.json").read_text())
    ledger = Ledger(str(tmp_path / "ledger"))
    use, entry = ledger.entries()
    assert certificate["confidence"] == workers.confidences[0]
    assert certificate["use"] == {
        "number": 1, "confidence": 0.95, "spent": pytest.approx(0.05 * 6 / math.pi**2), "entry": use.head,
        "of": DataSet.open(data_uri).split_digest("test"),
    }  # fmt: skip
    assert (entry.content["outcome"], entry.content["protected"]) == ("new", PROTECTED)
    assert entry.content["weights"]["sha256"] == certificate["digests"]["weights"]
    assert entry.author == "A. Nother"
    assert audit.verify(ledger, [public_key(keys[1])], certificate["use"]["entry"])[1] == []
    assert (tmp_path / "run" / "certificate.intoto.json").exists()


def test_one_that_was_killed_has_its_own_use_when_it_goes_on(
    settings: list[str], workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers.killed = True
    with pytest.raises(KeyboardInterrupt):
        cycle(settings)
    workers.killed = False
    cycle(settings, f"run.uri={tmp_path / 'another'}")
    monkeypatch.setattr(recorded, "keep", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))  # after outcome.json
    with pytest.raises(KeyboardInterrupt):
        cycle(settings)
    monkeypatch.undo()
    Workers(monkeypatch)
    for _ in range(2):
        cycle(settings)
    assert workers.confidences == [pytest.approx(expected(number)) for number in (1, 2, 1)]
    assert kinds(settings) == ["use", "use", "cycle", "cycle"]
    assert audit.verify(Ledger(str(tmp_path / "ledger")))[1] == []


def test_a_cycle_that_measured_nothing_on_test_leaves_it_as_new(
    settings: list[str], workers: Workers, tmp_path: Path
) -> None:
    workers.feasible = False
    assert cycle(settings)[0]["outcome"] == "old"
    workers.feasible = True
    cycle(settings, f"run.uri={tmp_path / 'another'}")
    assert workers.confidences == [pytest.approx(expected(1))] * 2
    entries = Ledger(str(tmp_path / "ledger")).entries()
    assert [e.content["certificate"] is None for e in entries if e.kind == "cycle"] == [True, False]


def test_protecting_less_than_the_ledger_says_is_refused_before_anything_starts(
    settings: list[str], workers: Workers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = Ledger(str(tmp_path / "ledger"), "b")
    record.add_run(ledger, made.run(tmp_path / "first", tmp_path / "old", "weather:snowy", ["weather:rainy"]))
    said = (
        r"task\.protect: leaves out what .*ledger protects: weather:snowy \(entry 1\); add it, or let it go by raymds"
    )
    with pytest.raises(UsageError, match=said):
        cycle(settings)
    assert not (tmp_path / "run").exists()
    preset = tmp_path / "mine.yaml"
    preset.write_text("run: {workers: 1}\n")
    assert main(["finetune", str(preset), *settings, "--dry-run"]) == 2
    assert "weather:snowy (entry 1)" in capsys.readouterr().err
    record.waive(ledger, "weather:snowy", "sold where there is none", "2199-01-01")
    assert cycle(settings)[0]["outcome"] == "new"
    # As a target again, or protected, it is not left out.
    cycle(settings, f"run.uri={tmp_path / 'b'}", "task.target=weather:snowy", "task.protect=[weather]")


def test_a_cycle_that_develops_another_model_than_the_newest_says_so(
    settings: list[str], workers: Workers, old_weights: str, tmp_path: Path
) -> None:
    def said(name: str) -> bool:
        _, notes = cycle(settings, f"run.uri={tmp_path / name}")
        return any("is not the model that entry 2, the newest, delivered; what was gained" in note for note in notes)

    assert [said("run"), said("a")] == [False, True]
    shutil.rmtree(tmp_path / "ledger")
    run = Path(made.run(tmp_path / "first", tmp_path / "older", "weather:clear", ["weather:rainy"]))
    weights, certificate = Path(old_weights).read_bytes(), json.loads((run / "certificate.json").read_text())
    certificate["digests"]["weights"] = storage.sha256(weights)
    (run / "weights.safetensors").write_bytes(weights)
    (run / "certificate.json").write_text(json.dumps(certificate))
    record.add_run(Ledger(str(tmp_path / "ledger"), "A. Nother"), str(run))
    assert not said("b")


def test_a_waiver_that_is_not_signed_is_said_where_a_cycle_signs(
    settings: list[str], workers: Workers, tmp_path: Path
) -> None:
    _, notes = cycle(settings)
    assert f"no ledger at {tmp_path / 'ledger'} yet; this run begins one" in notes
    record.waive(Ledger(str(tmp_path / "ledger"), "mallory"), "weather:clear", "r", "2199-01-01")
    _, notes = cycle(settings, f"run.uri={tmp_path / 'a'}")
    assert not any("not signed" in note or "begins one" in note for note in notes)
    record.waive(Ledger(str(tmp_path / "ledger"), "mallory"), "weather:clear", "r", "2199-01-01")
    keys = generate(str(tmp_path / "key"))
    _, notes = cycle(settings, f"run.uri={tmp_path / 'b'}", f"ledger.key={keys[0]}")
    assert "entry 6 waives weather:clear, and is not signed with the key of this run" in notes


def test_without_a_ledger_nothing_changes(settings: list[str], workers: Workers, tmp_path: Path) -> None:
    cycle(settings, "ledger.uri=null")
    assert workers.confidences == [0.95]
    assert "use" not in json.loads((tmp_path / "run" / "certificate.json").read_text())
    assert not (tmp_path / "ledger").exists()
    with pytest.raises(UsageError, match="holds a run with another config"):
        cycle(settings)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("ledger.key=nowhere.pem", r"nowhere\.pem: no such file"),
        ("ledger.uri=''", r"ledger\.uri=: is empty"),
        ("ledger.author=' '", r"ledger\.author= : is empty"),
        ("ledger.uri=/proc/nothing", "can't be written"),
        ("ledger.key='-----BEGIN PRIVATE KEY-----abc'", r"ledger\.key: names a file"),
    ],
)
def test_a_ledger_that_can_t_be_used_is_said_first(settings: list[str], override: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        cycle(settings, override)
    assert "abc" not in str(caught.value)


def test_certificates_that_are_made_by_hand_are_uses_too(
    settings: list[str], old_weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text("run: {workers: 1}\n")
    command = ["certify", str(preset), *settings, "--old", old_weights, "--new", old_weights, "--json"]

    def use(*more: str) -> Any:
        assert main([*command, *more]) == 0
        return json.loads(capsys.readouterr().out.splitlines()[-1])["certificate"].get("use")

    assert use()["number"] == 1
    assert use()["number"] == 1  # the same again tells nobody anything new
    assert use("constraints.temperature=0.04")["number"] == 2
    assert use("--split", "val") is None
    assert kinds(settings) == ["use", "use"]
    capsys.readouterr()
    assert main([*command, "--split", "val", "ledger.key=nowhere.pem"]) == 2
    said = capsys.readouterr()
    assert "ledger.key: nowhere.pem: no such file" in said.err
    assert "images through" not in said.out  # nothing was measured


def test_what_is_held_without_examples_needs_a_waiver_where_it_was_protected(
    settings: list[str], workers: Workers, tmp_path: Path
) -> None:
    ledger = Ledger(str(tmp_path / "ledger"), "b")
    record.add_run(ledger, made.run(tmp_path / "first", tmp_path / "old", "weather:foggy", ["weather:snowy"]))
    without = "task.without_data=[weather:snowy]"
    said = r"task\.without_data: no certificate could show what .* protects: weather:snowy \(entry 1\); protect it"
    for protect in (PROTECTED, [*PROTECTED, "weather:snowy"]):  # to name it as protected, too, changes nothing
        with pytest.raises(UsageError, match=said):
            cycle(settings, without, f"task.protect=[{', '.join(protect)}]")
    record.waive(ledger, "weather:snowy", "its images may not be kept", "2199-01-01")
    assert cycle(settings, without)[0]["outcome"] == "new"


def test_what_the_ledger_knows_as_not_certifiable_needs_no_waiver_and_may_not_be_left_out(
    settings: list[str], workers: Workers, tmp_path: Path
) -> None:
    workers.without = ["weather:snowy"]
    first = ["task.without_data=[weather:snowy]", f"run.uri={tmp_path / 'first'}"]
    cycle(settings, *first)
    entry = Ledger(str(tmp_path / "ledger")).entries()[-1]
    assert (entry.content["protected"], entry.content["not_certifiable"]) == (PROTECTED, ["weather:snowy"])
    cycle(settings, "task.without_data=[weather:snowy]")
    with pytest.raises(UsageError, match=r"task\.protect: leaves out what .* protects: weather:snowy \(entry 2\)"):
        cycle(settings, f"run.uri={tmp_path / 'b'}")
    # Protected with examples is more than held without.
    cycle(settings, f"run.uri={tmp_path / 'c'}", f"task.protect=[{', '.join([*PROTECTED, 'weather:snowy'])}]")
