"""What a directory or a file stands for, by the files beside it, whatever they hold."""

import json
from pathlib import Path
from typing import Any

import pytest

from raymds.errors import UsageError
from raymds.release import delivered
from tests.unit.ledger import made


def test_a_file_of_a_run_has_its_certificate(fog_run: Path) -> None:
    found = delivered.find(str(fog_run / "weights.safetensors"))
    assert found.certificate == json.loads((fog_run / "certificate.json").read_text())
    assert found.config is not None
    assert found.config.constraints.temperature == 0.03


def test_neither_file_nor_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such file, and no directory of a finished run"):
        delivered.find(str(tmp_path / "nothing"))


def test_a_certificate_beside_its_model_needs_no_run(tmp_path: Path) -> None:
    digest = made.file(tmp_path / "new.safetensors", made.WEIGHTS)
    certificate = made.certificate("w:fog", ["w:rain"], {"parent": "p", "weights": digest})
    made.file(tmp_path / "certificate.json", json.dumps(certificate))
    found = delivered.find(str(tmp_path / "new.safetensors"))
    assert (found.certificate, found.config, found.sha256) == (certificate, None, digest)
    made.file(tmp_path / "certificate.json", '{"digests": [1]}')  # of something else
    assert delivered.find(str(tmp_path / "new.safetensors")).certificate is None


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("certificate.json", {"digests": [1]}),
        ("certificate.json", {"digests": {"weights": 1, "parent": "p"}}),
        ("outcome.json", {"weights": None}),
        ("outcome.json", {"weights": ["w"]}),
    ],
)
def test_files_of_a_run_that_hold_something_else_are_one_sentence(
    tmp_path: Path, old: bool, name: str, change: dict[str, Any]
) -> None:
    run = Path(made.run(tmp_path / "run", tmp_path / "old", "w:fog", ["w:rain"], outcome="old" if old else "new"))
    (run / name).write_text(json.dumps(json.loads((run / name).read_text()) | change))
    with pytest.raises(UsageError, match=f"{name}: is not one that raymds wrote"):
        delivered.find(str(run))
