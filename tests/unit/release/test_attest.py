"""A signed certificate, its model, its data: whatever is another is said."""

import json
import shutil
from pathlib import Path

import pytest

from raymds.cli.main import main
from raymds.config import Config
from raymds.ledger.signature import generate
from raymds.train.recorded import write_certificate


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("keys")
    return generate(str(folder / "right"))[1], generate(str(folder / "wrong"))[1]


@pytest.fixture
def signed(fog_run: Path, keys: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The certificate of a run, signed with a key of the environment."""
    monkeypatch.setenv("RAYMDS_SIGNING_KEY", Path(keys[0].replace(".pub", "")).read_text())
    write_certificate(
        Config(), str(tmp_path / "certificate.json"), json.loads((fog_run / "certificate.json").read_text())
    )
    monkeypatch.delenv("RAYMDS_SIGNING_KEY")
    return tmp_path


def test_what_differs_is_said_with_status_3(
    signed: Path,
    fog_run: Path,
    data_uri: str,
    old_weights: str,
    keys: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    plain, envelope = signed / "certificate.json", signed / "certificate.intoto.json"
    weights, key = str(fog_run / "weights.safetensors"), keys[0]

    def verify(cert: Path = plain, weights: str = weights, data: str = data_uri, key: str = key) -> tuple[int, str]:
        status = main(["certify", "--verify", str(cert), "--weights", weights, "--data", data, "--key", key])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return status, said.out + said.err

    assert verify()[0] == verify(envelope)[0] == 0
    assert verify(weights=old_weights) == (3, verify(weights=old_weights)[1])
    assert "is another model" in verify(weights=old_weights)[1]
    status, said = verify(key=keys[1])
    assert (status, "is signed with the key" in said) == (3, True)
    status, said = verify(data=str(signed))
    assert (status, "no data set there" in said) == (3, True)
    copy = signed / "data"
    shutil.copytree(data_uri, copy)
    shard = copy / "test-1.parquet"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    status, said = verify(data=str(copy))
    assert (status, "shard is damaged" in said) == (3, True)
    content = plain.read_bytes()
    plain.write_bytes(
        content.replace(b'"certified"', b'"retained"', 1) if b'"certified"' in content else content + b" "
    )
    status, said = verify()
    assert (status, "was altered: it does not say what was signed" in said) == (3, True)
    plain.write_bytes(content)
    signature = envelope.read_bytes()
    for at in (5, len(signature) // 2, len(signature) - 20):
        envelope.write_bytes(signature[:at] + bytes([signature[at] ^ 1]) + signature[at + 1 :])
        assert verify()[0] == verify(envelope)[0] == 3
    for garbage in (b"", b"\xff", b"[]", b"{}", b"[" * 100_000):
        envelope.write_bytes(garbage)
        assert verify()[0] == 3
    envelope.unlink()
    status, said = verify()
    assert (status, "is not signed; set ledger.key" in said) == (2, True)


def test_a_command_that_mixes_the_two_kinds_is_refused(
    signed: Path, keys: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    cert = str(signed / "certificate.json")
    assert main(["certify", "--verify", cert, "--key", keys[0]]) == 2
    assert "also give --weights" in capsys.readouterr().err
    assert main(["certify", "demo", "--verify", cert, "--weights", cert, "--key", keys[0]]) == 2
    assert "takes no preset" in capsys.readouterr().err
    assert main(["certify", "demo", "--old", "x"]) == 2
    assert "give PRESET, --old and --new" in capsys.readouterr().err
