"""The verbs of `raymds ledger` as a user meets them."""

import json
from pathlib import Path
from typing import Any

import pytest

from raymds.cli.ledger import _value
from raymds.cli.main import main
from tests.unit.ledger import made

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def ledger(tmp_path: Path) -> str:
    made.run(tmp_path / "fog", tmp_path / "old", "w:fog", ["w:rain"])
    made.run(tmp_path / "snow", tmp_path / "fog/weights.safetensors", "w:snow", ["w:fog", "w:rain"])
    uri = str(tmp_path / "ledger")
    for run in ("fog", "snow"):
        assert main(["ledger", "add", uri, str(tmp_path / run), "--author", "A. Nother"]) == 0
    return uri


def said(capsys: Capture, *arguments: str, status: int = 0) -> str:
    capsys.readouterr()
    assert main(["ledger", *arguments]) == status
    found = capsys.readouterr()
    assert "Traceback" not in found.err
    return found.out + found.err


def lines(capsys: Capture, *arguments: str, status: int = 0) -> list[dict[str, Any]]:
    return [json.loads(line) for line in said(capsys, *arguments, "--json", status=status).splitlines()]


def test_show_lists_entries_what_is_protected_and_the_head(ledger: str, capsys: Capture) -> None:
    text = said(capsys, "show", ledger)
    assert "w:snow: new model" in text
    assert "protected: w:fog, w:rain, w:snow" in text
    *entries, result = lines(capsys, "show", ledger)
    assert [entry["content"]["target"] for entry in entries] == ["w:fog", "w:snow"]
    assert result["head"] == f"2:{entries[-1]['sha256']}"
    assert f"head: {result['head']}" in text


def test_verify_has_status_3_where_something_differs(ledger: str, tmp_path: Path, capsys: Capture) -> None:
    head = lines(capsys, "show", ledger)[-1]["head"]
    assert "2 entries: nothing was altered" in said(capsys, "verify", ledger, "--head", head)
    (tmp_path / "fog/certificate.json").write_text("{}")
    assert "certificate.json: is another file" in said(capsys, "verify", ledger, status=3)
    assert said(capsys, "verify", ledger, "--no-files")
    Path(ledger, "000000002.json").unlink()
    assert "so its last entries were removed" in said(capsys, "verify", ledger, "--no-files", "--head", head, status=3)
    assert lines(capsys, "verify", ledger, status=3)[-1]["faults"]
    assert "holds no ledger" in said(capsys, "verify", str(tmp_path / "nothing"), status=2)
    assert "is a file; give the folder" in said(capsys, "verify", str(tmp_path / "old"), status=2)
    assert "no such file" in said(capsys, "verify", ledger, "--key", "nothing.pem", status=2)


def test_signatures_are_looked_at_where_a_key_is_given(ledger: str, tmp_path: Path, capsys: Capture) -> None:
    key = str(tmp_path / "key")
    assert "keep it to yourself" in said(capsys, "keygen", key)
    said(capsys, "waive", ledger, "w:rain", "--reason", "r", "--expires", "2199-01-01", "--key", f"{key}.pem")
    assert "there are signatures, which were not looked at" in said(capsys, "verify", ledger)
    text = said(capsys, "verify", ledger, "--key", f"{key}.pub.pem", status=3)
    assert "entry 1: is not signed" in text
    assert "entry 3" not in text


def test_a_waiver_takes_a_capability_out(ledger: str, capsys: Capture) -> None:
    text = said(capsys, "waive", ledger, "w:rain", "--reason", "r [bold]", "--expires", "2199-01-01")
    assert "w:rain until 2199-01-01: r [bold]" in text
    assert "protected: w:fog, w:snow\n" in said(capsys, "show", ledger)
    assert "did you mean 'w:rain'" in said(
        capsys, "waive", ledger, "w:ran", "--reason", "r", "--expires", "2199-01-01", status=2
    )


def test_what_a_terminal_would_obey_is_shown(ledger: str, tmp_path: Path, capsys: Capture) -> None:
    reason = "x\x1b[2J\nprotected: nothing"
    text = said(capsys, "waive", ledger, "w:rain", "--reason", reason, "--expires", "2199-01-01")
    text += said(capsys, "show", ledger)
    made.run(tmp_path / "odd", tmp_path / "old", "w:\x1b[2J", ["w:\r\nhead: 1:0"])
    for arguments in (["add", ledger, str(tmp_path / "odd")], ["show", ledger], ["diff", ledger, "1", "4"]):
        text += said(capsys, *arguments)
    text += said(capsys, "waive", ledger, "w:x", "--reason", "r", "--expires", "2199-01-01", status=2)
    assert "x\\x1b[2J\\nprotected: nothing" in text
    assert "\x1b" not in text
    assert not any(line.startswith(("protected: nothing", "head: 1:0")) for line in text.splitlines())


def test_an_option_is_named_as_it_was_given(
    ledger: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.pem").write_text("x")
    bad, run = str(tmp_path / "bad.pem"), str(tmp_path / "fog")
    assert f"--key {bad}: is no private key" in said(capsys, "add", ledger, run, "--key", bad, status=2)
    assert "--key: nothing: no such file" in said(capsys, "add", ledger, run, "--key", "nothing", status=2)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.chdir(tmp_path)
    assert "--author: has no value" in said(capsys, "add", ledger, run, status=2)
    new = str(tmp_path / "new")
    assert f"no ledger at {new} yet" in said(capsys, "add", new, run, "--author", "A. Nother")
    assert "no ledger at" not in said(capsys, "add", ledger, run, "--author", "A. Nother")


def test_trace_and_diff(ledger: str, tmp_path: Path, capsys: Capture) -> None:
    newest = str(tmp_path / "snow/weights.safetensors")
    text = said(capsys, "trace", ledger, newest)
    assert text.index("w:snow: new") < text.index("w:fog: new") < text.index("no entry delivered it")
    found = lines(capsys, "trace", ledger, newest)[-1]["trace"]
    assert [step["entry"] and step["entry"]["number"] for step in found] == [2, 1, None]
    assert "w:snow" in said(capsys, "diff", ledger, "1", newest)
    assert lines(capsys, "diff", ledger, "1", "2")[-1]["differs"]["target"] == {"": ["w:fog", "w:snow"]}
    assert said(capsys, "diff", ledger, "2", "2") == "nothing differs\n"
    assert (_value("ab" * 32), _value("a sentence" * 6 + " of ")) == ("ab" * 6, "a sentence" * 6 + " of ")
    assert "no such file" in said(capsys, "trace", ledger, "nothing", status=2)
