"""Signatures against what others compute: the vector of DSSE's own document, and cryptography alone."""

import base64
import json
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from raymds.errors import UsageError
from raymds.ledger import signature

KEY = Ed25519PrivateKey.generate()
STATEMENT = signature.statement(signature.CERTIFICATE, "weights.safetensors", "ab" * 32, {"verdict": "certified"})


def sealed(key: Ed25519PrivateKey | None = KEY) -> bytes:
    return signature.line(signature.seal(STATEMENT, key)) + b"\n"


def test_what_is_signed_is_dsse_s_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signature, "_PAYLOAD", "http://example.com/HelloWorld")
    assert signature._signed_bytes(b"hello world") == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_others_can_read_and_verify_an_envelope() -> None:
    envelope = json.loads(sealed())
    assert set(envelope) == {"payload", "payloadType", "signatures"}
    payload = base64.b64decode(envelope["payload"])
    assert json.loads(payload) == {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "weights.safetensors", "digest": {"sha256": "ab" * 32}}],
        "predicateType": "urn:raymds:certificate:v2",
        "predicate": {"verdict": "certified"},
    }
    (signed,) = envelope["signatures"]
    message = b"DSSEv1 28 application/vnd.in-toto+json " + str(len(payload)).encode() + b" " + payload
    KEY.public_key().verify(base64.b64decode(signed["sig"]), message)  # raises where it does not fit


def test_who_signed_what() -> None:
    other = Ed25519PrivateKey.generate().public_key()
    signed, unsigned = signature.unseal(sealed(), "here"), signature.unseal(sealed(None), "here")
    assert signed.wrong(signature.CERTIFICATE, [KEY.public_key()]) is None
    assert signed.wrong(signature.CERTIFICATE, [other, KEY.public_key()]) is None
    assert "is signed with the key" in str(signed.wrong(signature.CERTIFICATE, [other]))
    assert "states urn:raymds:certificate" in str(signed.wrong(signature.ENTRY, [KEY.public_key()]))
    assert unsigned.wrong(signature.CERTIFICATE, [KEY.public_key()]) == "is not signed"
    envelope = json.loads(sealed())
    forged = signature.line({**STATEMENT, "predicate": {"verdict": "violated"}})
    envelope["payload"] = base64.b64encode(forged).decode()
    found = signature.unseal(signature.line(envelope) + b"\n", "here")
    assert "does not fit" in str(found.wrong(signature.CERTIFICATE, [KEY.public_key()]))


def test_every_altered_byte_is_found() -> None:
    data = sealed()
    for at in range(len(data)):
        try:
            found = signature.unseal(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], "here")
        except UsageError:
            continue
        assert found.wrong(signature.CERTIFICATE, [KEY.public_key()]), at


def test_a_key_pair_is_made_once_and_its_owner_alone_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private, public, name = signature.generate(str(tmp_path / "new" / "key"))
    assert stat.S_IMODE(Path(private).stat().st_mode) == 0o600
    assert signature.key_id(signature.public_key(public)) == name == signature.key_id(signature.public_key(private))
    made = signature.signing_key(private)
    assert made is not None
    assert signature.key_id(made.public_key()) == name
    with pytest.raises(UsageError, match=r"key\.pem: is there already"):
        signature.generate(str(tmp_path / "new" / "key.pem"))
    (tmp_path / "left.pub.pem").write_text("x")
    with pytest.raises(UsageError, match=r"left\.pub\.pem: is there already"):
        signature.generate(str(tmp_path / "left"))
    assert not (tmp_path / "left.pem").exists()
    with pytest.raises(UsageError, match=r"left\.pub\.pem: can't be written: .*left\.pub\.pem is no directory"):
        signature.generate(str(tmp_path / "left.pub.pem" / "key"))
    with pytest.raises(UsageError, match="--key: bad: no such file"):
        signature.signing_key("bad", "--key ")
    with pytest.raises(UsageError, match="--key: empty URI"):
        signature.signing_key("", "--key ")
    with pytest.raises(UsageError, match="belongs on this machine"):
        signature.generate("s3://bucket/key")
    assert signature.signing_key(None) is None
    for text in (Path(private).read_text(), Path(private).read_text().replace("\n", "\\n")):
        monkeypatch.setenv(signature.VARIABLE, text)
        found = signature.signing_key(None)
        assert found is not None
        assert signature.key_id(found.public_key()) == name
    for text in ("", "\n"):
        monkeypatch.setenv(signature.VARIABLE, text)
        with pytest.raises(UsageError, match="RAYMDS_SIGNING_KEY: is empty, so nothing would be signed"):
            signature.signing_key(None)


def pem(key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey, password: bytes = b"") -> bytes:
    how = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no private key"), (b"\xff\x00", "is no private key"), (pem(KEY)[:60], "is no private key"),
        (pem(KEY, b"secret"), "has a password"), (pem(ec.generate_private_key(ec.SECP256R1())), "another kind"),
    ],
    ids=["empty", "binary", "cut", "password", "kind"],  # a key is another one in every process
)  # fmt: skip
def test_what_is_no_key_is_said_and_not_shown(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        signature.signing_key(str(file))
    assert str(file) in str(caught.value)
    assert "BEGIN" not in str(caught.value)
    with pytest.raises(UsageError, match=str(file)):
        signature.public_key(str(file))


def test_a_public_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    file.write_bytes(public.public_bytes(serialization.Encoding.PEM, spki))
    with pytest.raises(UsageError, match="another kind than Ed25519"):
        signature.public_key(str(file))
    assert isinstance(KEY.public_key(), Ed25519PublicKey)


@pytest.mark.parametrize("signatures", [{}, "", None])
def test_signatures_are_a_list(signatures: object) -> None:
    envelope = signature.seal(signature.statement(signature.ENTRY, "file", "s", {}), None) | {"signatures": signatures}
    with pytest.raises(UsageError, match="not a DSSE envelope"):
        signature.unseal(signature.line(envelope) + b"\n", "here")


def test_a_name_that_stands_twice_is_refused_within_a_payload_and_without() -> None:
    payload = signature.line(signature.statement(signature.ENTRY, "file", "s", {"n": 1})).replace(
        b'"n":1', b'"n":2,"n":1'
    )
    envelope = {**signature.seal({}, None), "payload": base64.b64encode(payload).decode()}
    with pytest.raises(UsageError, match="'n' stands twice"):
        signature.unseal(signature.line(envelope) + b"\n", "here")
    with pytest.raises(UsageError, match=r"here: damaged: .*'a' stands twice"):
        signature.parse(b'{"a": 1, "a": 2}', "here")


def test_a_payload_in_another_form_is_refused() -> None:
    payload = signature.line(signature.statement(signature.ENTRY, "file", "s", {"n": 1})) + b" "
    with pytest.raises(UsageError, match="damaged or altered"):
        signature.unseal(
            signature.line({**signature.seal({}, None), "payload": base64.b64encode(payload).decode()}) + b"\n", "here"
        )


def test_a_private_key_never_gets_the_name_of_a_public_one(tmp_path: Path) -> None:
    private, public, _ = signature.generate(str(tmp_path / "fleet.pub.pem"))
    assert (private, public) == (str(tmp_path / "fleet.pem"), str(tmp_path / "fleet.pub.pem"))
