"""What is recorded of the files that people have, whatever they hold."""

import copy
import json
from datetime import date
from pathlib import Path

import pytest

from raymds.errors import UsageError
from raymds.ledger import audit, history, record
from raymds.ledger.chain import Ledger
from tests.unit.ledger import made


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(str(tmp_path / "ledger"), "A. Nother")


def test_what_no_run_delivered_is_not_recorded_as_delivered(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(made.run(tmp_path / "run", tmp_path / "old", "w:fog", ["w:rain"]))
    certificate, weights = run / "certificate.json", run / "weights.safetensors"
    good, model = json.loads(certificate.read_text()), weights.read_text()
    weights.write_text("another model")
    with pytest.raises(UsageError, match=r"weights\.safetensors: is not the model that .*certificate\.json certifies"):
        record.add(ledger, str(run))
    weights.write_text(model)
    lost = copy.deepcopy(good)
    lost["tasks"][0]["verdict"] = "violated"
    idle = {**good, "target": {**good["target"], "delta": 0.0}}
    for made_ in ({**good, "verdict": "violated"}, lost, idle):
        certificate.write_text(json.dumps(made_))
        for what in (run, certificate):
            with pytest.raises(UsageError, match=r"proves a loss|shows no gain"):
                record.add(ledger, str(what))
    certificate.write_text(json.dumps(good))
    outcome = json.loads((run / "outcome.json").read_text())
    (run / "outcome.json").write_text(json.dumps({**outcome, "outcome": "old"}))
    monkeypatch.chdir(run)
    for what in (str(certificate), "certificate.json"):
        with pytest.raises(UsageError, match="its run did not deliver this model"):
            record.add(ledger, what)
    assert ledger.numbers() == []
    assert record.add(ledger, str(run)).content["outcome"] == "old"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400"])
def test_what_is_no_number_is_not_recorded(ledger: Ledger, tmp_path: Path, number: str) -> None:
    run = Path(made.run(tmp_path / "run", tmp_path / "old", "w:fog", ["w:rain"]))
    text = (run / "certificate.json").read_text().replace('"devsafety": 0.1', f'"devsafety": {number}')
    (run / "certificate.json").write_text(text)
    with pytest.raises(UsageError, match=r"certificate\.json: damaged: not JSON"):
        record.add(ledger, str(run))
    assert ledger.numbers() == []


def test_settings_are_recorded_as_far_as_json_has_them(ledger: Ledger, tmp_path: Path) -> None:
    run = Path(made.run(tmp_path / "run", tmp_path / "old", "w:fog", ["w:rain"]))
    with (run / "config.yaml").open("a") as file:
        file.write("select: {tolerance: .inf, day: 2030-01-01}\n")
    assert record.add(ledger, str(run)).content["settings"]["select"] == {"tolerance": "Infinity", "day": "2030-01-01"}
    with (run / "config.yaml").open("a") as file:
        file.write("? [1, 2]\n: 3\n")
    with pytest.raises(UsageError, match=r"config\.yaml: damaged"):
        record.add(ledger, str(run))


@pytest.mark.parametrize("content", ["", "hello: world\n", "%PDF-1.7", "\2\0\0\0\0\0\0\0[]"])
def test_what_is_no_file_of_weights_is_no_model(ledger: Ledger, tmp_path: Path, content: str) -> None:
    made.file(tmp_path / "notes.yaml", content)
    with pytest.raises(UsageError, match=r"notes\.yaml: is no file of weights"):
        record.add(ledger, str(tmp_path / "notes.yaml"))
    assert ledger.numbers() == []


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
    made.file(tmp_path / "model", made.WEIGHTS)
    assert [record.add(ledger, str(tmp_path / "model")).kind for _ in range(2)] == ["model"] * 2
    with pytest.raises(UsageError, match="goes with a certificate"):
        record.add(ledger, str(tmp_path / "model"), str(tmp_path / "old"))
    found = record.add(ledger, str(run / "certificate.json"), str(run / "weights.safetensors"))
    assert record.add(ledger, str(run / "certificate.json")).number == found.number
    assert record.protected(ledger.entries(), date(2030, 6, 1)) == {"w:fog": 2, "w:rain": 2}
    with pytest.raises(UsageError, match="is not the model that"):
        record.add(ledger, str(run / "certificate.json"), str(tmp_path / "old"))
    with pytest.raises(UsageError, match="goes with a certificate"):
        record.add(ledger, str(run), str(tmp_path / "old"))
    assert [
        entry and entry.number for _, entry in history.trace(ledger.entries(), str(run / "weights.safetensors"))
    ] == [2, None]
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
    run = Path(made.run(tmp_path / "run", tmp_path / "old", "w:fog", ["w:rain"]))
    (run / "config.yaml").unlink()
    with pytest.raises(UsageError, match=rf"^{run}/config\.yaml: no such file"):
        record.add(ledger, str(run))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("verdict",), "excellent"), (("tasks", 0, "verdict"), "Violated"), (("tasks", 0, "verdict"), []),
        (("confidence",), 95), (("confidence",), 1), (("devsafety",), 1e308), (("target", "delta"), 30),
    ],
)  # fmt: skip
def test_a_certificate_with_what_can_t_be_is_not_recorded(
    ledger: Ledger, tmp_path: Path, path: tuple[str | int, ...], value: object
) -> None:
    run = made.run(tmp_path / "a", tmp_path / "old", "w:fog", ["w:rain"])
    content = at = json.loads(Path(run, "certificate.json").read_text())
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = value
    Path(run, "certificate.json").write_text(json.dumps(content))
    for what in (run, f"{run}/certificate.json"):
        with pytest.raises(UsageError, match=r"certificate\.json: is no certificate that this raymds can read"):
            record.add(ledger, what)
    assert ledger.numbers() == []


@pytest.mark.parametrize("split", ["val", "train"])
def test_what_was_measured_on_a_split_that_the_model_was_chosen_with_is_no_certificate(
    ledger: Ledger, tmp_path: Path, split: str
) -> None:
    run = made.run(tmp_path / "a", tmp_path / "old", "w:fog", ["w:rain"])
    file = Path(run, "certificate.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"measured": {"split": split}}))
    for what in (run, str(file)):
        with pytest.raises(UsageError, match=rf"certificate\.json: was measured on {split}, which models are made"):
            record.add(ledger, what)
    assert ledger.numbers() == []


def test_a_certificate_that_lacks_a_task_of_its_run_is_not_recorded(ledger: Ledger, tmp_path: Path) -> None:
    """What is cut out of it would be protected no more."""
    run = made.run(tmp_path / "a", tmp_path / "old", "w:fog", ["w:rain", "w:snow"])
    content = json.loads(Path(run, "certificate.json").read_text())
    del content["tasks"][1]
    Path(run, "certificate.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"certificate\.json: is of other tasks than .*outcome\.json"):
        record.add(ledger, run)


def test_a_name_that_stands_twice_in_a_certificate_is_refused(ledger: Ledger, tmp_path: Path) -> None:
    run = made.run(tmp_path / "a", tmp_path / "old", "w:fog", ["w:rain"])
    file = Path(run, "certificate.json")
    file.write_text(file.read_text().replace('"verdict"', '"verdict": "violated", "verdict"', 1))
    with pytest.raises(UsageError, match=r"certificate\.json: damaged: .*'verdict' stands twice"):
        record.add(ledger, str(file))


def test_a_model_that_was_replaced_since_is_not_recorded_as_the_one_that_stayed(ledger: Ledger, tmp_path: Path) -> None:
    run = made.run(tmp_path / "a", tmp_path / "old", "w:fog", ["w:rain"], outcome="old", certified=False)
    told = json.loads(Path(run, "outcome.json").read_text())
    old = made.file(tmp_path / "old", "old weights")
    Path(run, "outcome.json").write_text(json.dumps({**told, "parent": old}))
    first = record.add_run(ledger, run)
    made.file(tmp_path / "old", "another model")
    assert record.add_run(ledger, run) == first
    assert first.content["parent"]["sha256"] == first.content["weights"]["sha256"] == old
    (fault, *_) = audit.verify(ledger)[1]
    assert fault.startswith(f"entry 1: parent: {tmp_path / 'old'}: is another file")


def test_a_manifest_of_other_data_is_not_named_as_that_of_the_certificate(ledger: Ledger, tmp_path: Path) -> None:
    run = made.run(tmp_path / "a", tmp_path / "old", "w:fog", ["w:rain"])
    made.file(Path(run, "data", "manifest.json"), json.dumps({"digest": "of data that were made there later"}))
    assert record.add(ledger, run).content["data"] == {"digest": "d", "manifest": None}
