"""One entry of a ledger: its bytes, and what each kind of entry has to say."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from types import NoneType
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from raymds.errors import UsageError
from raymds.ledger import signature
from raymds.store import uri as storage


def _day(value: Any) -> bool:
    """A day as waivers have it, in the one form whose order as text is that of the days."""
    try:
        return isinstance(value, str) and date.fromisoformat(value).isoformat() == value
    except ValueError:
        return False


def _moment(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(datetime.fromisoformat(value))
    except ValueError:
        return False


def _outcome(value: Any) -> bool:
    return value in ("new", "old")


_OPTIONAL = (str, NoneType)
_FILE = {"uri": _OPTIONAL, "sha256": str}
_CERTIFICATE = {**_FILE, "verdict": str, "confidence": (int, float), "devsafety": (int, float)}
_FILES = ("parent", "weights", "certificate")
_HEAD = {"number": int, "previous": _OPTIONAL, "kind": str, "id": str, "time": _moment, "author": str, "content": dict}
# kind -> fields of its content; [shape]: a list of such, (shapes): any of them, a function: says whether it fits
SHAPES: dict[str, Any] = {
    "cycle": {
        "run": _OPTIONAL,
        "outcome": _outcome,
        "reason": str,
        "parent": _FILE,
        "weights": _FILE,  # of the outcome
        "data": {"digest": str, "manifest": (_FILE, NoneType)},
        "target": str,
        "protected": [str],
        "not_certifiable": [str],  # held without examples
        "certificate": (_CERTIFICATE, NoneType),  # None where test was not measured
        "capabilities": dict,  # task -> what the certificate says of it
        "settings": dict,
        "code": _OPTIONAL,
    },
    "model": {"weights": _FILE},
    "use": {"split": str, "number": int, "confidence": float, "spent": float, "declared": (int, NoneType)},
    "waive": {"capability": str, "reason": str, "expires": _day},
}
LATER: dict[str, dict[str, Any]] = {
    "cycle": {"not_certifiable": []},
    "use": {"declared": None},
}  # what may be left out, as in older entries


@dataclass(frozen=True)
class Entry:
    """An entry as it was read; `sha256` is that of its bytes, which the next entry names as `previous`."""

    sha256: str
    number: int  # from 1 on
    previous: str | None
    kind: str
    id: str  # of what it records; where that has to stand once, entries of the kind have different ones
    time: str  # UTC, ISO 8601
    author: str
    content: dict[str, Any]
    envelope: signature.Envelope

    @property
    def head(self) -> str:
        """Number and digest: who keeps it can tell later that nothing up to here was altered or removed."""
        return f"{self.number}:{self.sha256}"

    @property
    def files(self) -> dict[str, dict[str, Any]]:
        """The files that an entry of its kind names; what else stands in it may be anything."""
        named = {name: self.content[name] for name in _FILES if name in SHAPES[self.kind]}
        if "data" in SHAPES[self.kind]:
            named["manifest"] = self.content["data"]["manifest"]
        return {name: file for name, file in named.items() if file is not None}

    def to_json(self) -> dict[str, Any]:
        """For machines; `signed_by` are key ids."""
        names = ("number", "sha256", "previous", "kind", "id", "time", "author", "content")
        keys = [key for key, _ in self.envelope.signatures]
        return {**{name: getattr(self, name) for name in names}, "signed_by": keys}


def encode(head: Mapping[str, Any], subject: tuple[str, str], key: Ed25519PrivateKey | None) -> bytes:
    """An entry's bytes: a statement about the file `subject` (name, SHA-256) in an envelope, which digests itself.

    So a slip that alters the newest entry, which no other names, is found without a key, too.
    """
    envelope = signature.seal(signature.statement(signature.ENTRY, *subject, head), key)
    envelope |= {"sha256": storage.sha256(signature.line(envelope))}
    return signature.line(envelope) + b"\n"


def decode(data: bytes, where: str) -> Entry:
    """An entry from its bytes; UsageError naming `where` where they are not one, or were altered."""
    envelope = signature.parse(data, where)
    opened = signature.opened(envelope, data, where)
    own = envelope.pop("sha256", None)
    if own != storage.sha256(signature.line(envelope)):
        raise UsageError(f"{where}: was altered: its digest of itself does not fit")
    head = opened.predicate
    if opened.statement["predicateType"] != signature.ENTRY or not fits(head, _HEAD):
        raise UsageError(f"{where}: is no entry of a ledger that this raymds can read")
    content = {**LATER.get(head["kind"], {}), **head["content"]}
    if head["kind"] not in SHAPES or not fits(content, SHAPES[head["kind"]]):
        raise UsageError(
            f"{where}: is a {head['kind']} entry that this raymds can't read; use the version that wrote it"
        )
    return Entry(storage.sha256(data), **{name: head[name] for name in _HEAD}, envelope=opened)


def fits(value: Any, shape: Any) -> bool:
    """Whether a JSON value has the shape: types, the fields of a dict (it may have more), the items of a list."""
    if isinstance(shape, dict):
        return isinstance(value, dict) and all(name in value and fits(value[name], shape[name]) for name in shape)
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(item, shape[0]) for item in value)
    if isinstance(shape, tuple):
        return any(fits(value, one) for one in shape)
    if not isinstance(shape, type):
        return bool(shape(value))
    return isinstance(value, shape) and not (shape is int and isinstance(value, bool))
