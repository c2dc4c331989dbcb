"""`raymds gate`: exit statuses, the two reports, and messages."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from raymds.cli.main import main
from tests.unit.release.made import certificate


@pytest.fixture
def given(tmp_path: Path) -> str:
    path = tmp_path / "certificate.json"
    path.write_text(json.dumps(certificate()))
    return str(path)


def policy(tmp_path: Path, text: str) -> str:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(("asked", "status", "word"), [("retained", 0, "passed"), ("certified", 3, "refused")])
def test_the_status_is_the_answer_and_both_reports_say_it(
    given: str, tmp_path: Path, asked: str, status: int, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    table, cases = tmp_path / "out" / "gate.md", tmp_path / "out" / "gate.xml"
    command = ["gate", given, "--policy", policy(tmp_path, f"{{verdict: {asked}, tolerance: 0.01}}")]
    assert main([*command, "--markdown", str(table), "--junit", str(cases)]) == status
    shown = capsys.readouterr().out
    assert f"{word}: " in shown.splitlines()[-1]
    assert table.read_text().startswith(f"### raymds gate {word}: ")
    root = ElementTree.parse(cases).getroot()
    assert (root.get("failures") == "0") == (status == 0)
    assert main([*command, "--json"]) == status
    (record,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert record["gate"] == word
    failed = [(found["rule"], found["task"]) for found in record["findings"] if not found["passed"]]
    assert len(failed) == int(root.attrib["failures"])
    assert root.attrib["tests"] == str(len(record["findings"]))
    assert set(failed) == (
        {("verdict", "scene:tunnel"), ("verdict", "weather:rainy@timeofday:night")} if status else set()
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("verdct: retained", "policy.yaml: verdct: unknown key; did you mean verdict?"),
        ('verdict: {"wether:*": retained}', "policy.yaml: verdict: 'wether:*' matches no task"),
        ("", "policy.yaml: is empty"),
        ("signature: {key: release.pub}", "policy.yaml: signature.key: release.pub: no such file"),
    ],
)
def test_a_policy_that_is_wrong_ends_with_status_2_and_writes_nothing(
    given: str, tmp_path: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "gate.md"
    assert main(["gate", given, "--policy", policy(tmp_path, text), "--markdown", str(out)]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize("content", ["", "[]", '{"schema": 3}', json.dumps(certificate() | {"tasks": [{}]})])
def test_a_certificate_that_is_none_ends_with_status_2(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "certificate.json"
    path.write_text(content)
    assert main(["gate", str(path), "--policy", policy(tmp_path, "verdict: retained")]) == 2
    assert capsys.readouterr().err.startswith(f"raymds: {path}: ")
    assert main(["gate", str(tmp_path / "none"), "--policy", policy(tmp_path, "verdict: retained")]) == 2


def test_names_that_a_terminal_would_obey_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps(certificate(("a:\x1b[2J[red]\ud800", 1000, 900, 200, 5))))
    assert main(["gate", str(path), "--policy", policy(tmp_path, "verdict: retained")]) == 3
    assert "a:\\x1b[2J[red]\\ud800" in capsys.readouterr().out


def test_the_gate_needs_neither_torch_nor_ray(given: str, tmp_path: Path) -> None:
    """A CI that gates a release has a machine without a GPU, and no minute to lose."""
    script = "import sys; sys.modules |= {'torch': None, 'ray': None, 'matplotlib': None}\n"
    script += "from raymds.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [
        sys.executable,
        "-c",
        script,
        "gate",
        given,
        "--policy",
        policy(tmp_path, "{verdict: retained, tolerance: 0.01}"),
    ]
    found: Any = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert "passed: all " in found.stdout
