"""Ed25519 signatures over in-toto statements in DSSE envelopes, made and checked offline.

in-toto Statement v1 (in-toto.io/Statement/v1) and DSSE v1 (github.com/secure-systems-lab/dsse). An envelope is one
line of JSON in one form alone, so that no byte of it can change unseen.
"""

import base64
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from raymds.errors import UsageError
from raymds.store import uri as storage

VARIABLE = "RAYMDS_SIGNING_KEY"
CERTIFICATE = "urn:raymds:certificate:v2"  # predicate types
ENTRY = "urn:raymds:ledger-entry:v1"
PublicKey = Ed25519PublicKey
_PAYLOAD = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
_PRIVATE, _PUBLIC = b"PRIVATE KEY-----", b"PUBLIC KEY-----"


@dataclass(frozen=True)
class Envelope:
    """What a DSSE envelope holds: the statement, its bytes, and (key id, signature) of who signed."""

    statement: dict[str, Any]
    payload: bytes
    signatures: tuple[tuple[str, bytes], ...]

    @property
    def predicate(self) -> dict[str, Any]:
        """What the statement says of its subject."""
        found: dict[str, Any] = self.statement["predicate"]
        return found

    def wrong(self, predicate_type: str, keys: Sequence[PublicKey]) -> str | None:
        """Why this is not a statement of that type signed with one of the keys, in words; None where it is."""
        if self.statement["predicateType"] != predicate_type:
            return f"states {self.statement['predicateType']}, not {predicate_type}"
        if not self.signatures:
            return "is not signed"
        known = {key_id(key): key for key in keys}
        for name, signature in self.signatures:
            if name not in known:
                given = ", ".join(found[:16] for found in known)
                return f"is signed with the key {name[:16]}, not with {given}, which was given"
            try:
                known[name].verify(signature, _signed_bytes(self.payload))
            except InvalidSignature:
                return f"was altered: the signature with the key {name[:16]} does not fit"
        return None


def key_id(key: Ed25519PublicKey) -> str:
    """SHA-256 of the public key in DER, hexadecimal."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return storage.sha256(der)


def signing_key(uri: str | None, named: str = "ledger.key=") -> Ed25519PrivateKey | None:
    """The private key of a PEM file, else of RAYMDS_SIGNING_KEY, which holds the PEM itself; None where neither is.

    `named` is what errors say before the file: the key or option that it was given by. UsageError where one of the two
    is there and empty, as a secret that a CI lacks is: nothing would be signed.
    """
    if uri is not None:
        return _private(_pem(uri, named), f"{named}{uri}")
    given = os.environ.get(VARIABLE)
    if given is None:
        return None
    if not given.strip():
        raise UsageError(f"{VARIABLE}: is empty, so nothing would be signed; put a key's PEM into it, or unset it")
    # Variables of CI systems often hold \n in place of line ends.
    return _private(given.replace("\\n", "\n").encode(), VARIABLE)


def public_key(uri: str, named: str = "--key ") -> Ed25519PublicKey:
    """The public key of a PEM file, which may also hold the private one; `named` as in `signing_key`."""
    data, where = _pem(uri, named), f"{named}{uri}"
    if _PRIVATE in data:
        return _private(data, where).public_key()
    try:
        found = serialization.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError(f"{where}: is no public key in PEM; give the .pub.pem of raymds ledger keygen") from None
    if not isinstance(found, Ed25519PublicKey):
        raise UsageError(f"{where}: is a key of another kind than Ed25519; make one with raymds ledger keygen")
    return found


def _pem(uri: str, named: str) -> bytes:
    try:
        return storage.read(uri)
    except UsageError as error:
        raise UsageError(f"{named.rstrip('= ')}: {error}") from None


def _private(pem: bytes, where: str) -> Ed25519PrivateKey:
    """A private key; `where` names its source in errors, which never show the key."""
    try:
        found = serialization.load_pem_private_key(pem, password=None)
    except TypeError:
        raise UsageError(f"{where}: the key has a password, which nobody could type in a job; remove it") from None
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError(f"{where}: is no private key in PEM; make one with raymds ledger keygen") from None
    if not isinstance(found, Ed25519PrivateKey):
        raise UsageError(f"{where}: is a key of another kind than Ed25519; make one with raymds ledger keygen")
    return found


def generate(name: str) -> tuple[str, str, str]:
    """Make a key pair: NAME.pem, which its owner alone may read, and NAME.pub.pem; both paths and the key id."""
    if "://" in name and not name.startswith("file://"):
        raise UsageError(f"{name}: a private key belongs on this machine; give a path")
    base = storage.resolve(name)[1].removesuffix(".pem").removesuffix(".pub")
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    paths = f"{base}.pem", f"{base}.pub.pem"
    for path in paths:  # both before either is written
        if os.path.lexists(path):
            raise UsageError(f"{path}: is there already; a key is never overwritten, so give another name")
    for path, content, mode in zip(paths, (private, public), (0o600, 0o644), strict=True):
        try:
            storage.check_writable(str(Path(path).parent))
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(content)
        except FileExistsError:
            raise UsageError(f"{path}: is there already; a key is never overwritten, so give another name") from None
        except OSError as error:
            raise UsageError(f"{path}: can't be written: {error.strerror}") from None
    return (*paths, key_id(key.public_key()))


def signed_name(certificate: str) -> str:
    """Where the signed statement of a certificate lies: certificate.json -> certificate.intoto.json."""
    return f"{certificate.removesuffix('.json')}.intoto.json"


def statement(predicate_type: str, name: str, sha256: str, predicate: Mapping[str, Any]) -> dict[str, Any]:
    """An in-toto statement about one file, known by its digest."""
    subject = [{"name": name, "digest": {"sha256": sha256}}]
    return {"_type": _STATEMENT, "subject": subject, "predicateType": predicate_type, "predicate": dict(predicate)}


def seal(content: Mapping[str, Any], key: Ed25519PrivateKey | None) -> dict[str, Any]:
    """The envelope of a statement as JSON; without a key it has no signature."""
    payload = line(content)
    signatures = []
    if key is not None:
        signature = base64.b64encode(key.sign(_signed_bytes(payload))).decode()
        signatures.append({"keyid": key_id(key.public_key()), "sig": signature})
    return {"payload": base64.b64encode(payload).decode(), "payloadType": _PAYLOAD, "signatures": signatures}


def line(content: Any) -> bytes:
    """JSON in the one form that envelopes have."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False).encode()


def parse(data: bytes, where: str) -> Any:
    """JSON from anywhere; UsageError naming `where` for whatever is none, or could not be shown."""
    try:
        content = json.loads(data, object_pairs_hook=storage.named_once)
        json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: damaged: not JSON: {str(error).splitlines()[0]}") from None
    return content


def unseal(data: bytes, where: str) -> Envelope:
    """The content of an envelope's bytes; UsageError naming `where` where they are none, or were altered."""
    return opened(parse(data, where), data, where)


def opened(envelope: Any, data: bytes, where: str) -> Envelope:
    """As `unseal`, of an envelope that was parsed; `data` is all of the file, which has to be its one form."""
    damaged = UsageError(f"{where}: damaged or altered: not a DSSE envelope as raymds writes it")
    try:
        if line(envelope) + b"\n" != data or envelope["payloadType"] != _PAYLOAD:
            raise damaged
        if not isinstance(envelope["signatures"], list):
            raise damaged
        payload = _decoded(envelope["payload"])
        signatures = tuple((str(signed["keyid"]), _decoded(signed["sig"])) for signed in envelope["signatures"])
    except (KeyError, TypeError, ValueError, RecursionError):
        raise damaged from None
    content = parse(payload, where)
    if line(content) != payload:
        raise damaged
    if not (
        isinstance(content, dict)
        and content.get("_type") == _STATEMENT
        and isinstance(content.get("predicateType"), str)
        and isinstance(content.get("predicate"), dict)
        and _subject_digest(content) is not None
    ):
        raise UsageError(f"{where}: damaged or altered: holds no in-toto statement (v1) about a file")
    return Envelope(content, payload, signatures)


def _subject_digest(content: Mapping[str, Any]) -> str | None:
    """SHA-256 of a statement's one subject, None where there is none."""
    try:
        (subject,) = content["subject"]
        found = subject["digest"]["sha256"]
    except (KeyError, TypeError, ValueError):
        return None
    return found if isinstance(found, str) else None


def subject_digest(envelope: Envelope) -> str:
    """SHA-256 of the file that a statement is about."""
    found = _subject_digest(envelope.statement)
    assert found is not None
    return found


def _decoded(text: str) -> bytes:
    """Base64 in its one form; ValueError for any other."""
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data).decode() != text:
        raise ValueError("not the canonical form")
    return data


def _signed_bytes(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding (PAE), which is what is signed."""
    return b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD), _PAYLOAD.encode(), len(payload), payload)
