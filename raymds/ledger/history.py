"""Where a model comes from, and what differs between two of them, by the ledger."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from raymds.errors import UsageError
from raymds.ledger.entry import Entry
from raymds.store import uri as storage

_DIGEST = re.compile(r"[0-9a-f]{8,64}")
_NUMBER = re.compile(r"[0-9]{1,7}")
_APART = {"run", "reason", "certificate.uri", "certificate.sha256"}  # differ always, and say nothing of the model

Ancestry = list[tuple[str, Entry | None]]


def trace(entries: Sequence[Entry], model: str) -> Ancestry:
    """A model's digest with the entry that delivered it, then its parent's, to the first; None: none is recorded."""
    made = _deliveries(entries)
    digest = find_model(entries, model)
    found: Ancestry = []
    while digest not in {known for known, _ in found}:
        entry = made.get(digest)
        found.append((digest, entry))
        if entry is None or entry.kind != "cycle":
            break
        digest = entry.content["parent"]["sha256"]
    return found


def diff(entries: Sequence[Entry], a: str, b: str) -> dict[str, dict[str, list[Any]]]:
    """What differs between what two entries, or the entries of two models, say: part -> name -> the two values."""
    one, other = (_flat(_delivery(entries, what).content) for what in (a, b))
    found: dict[str, dict[str, list[Any]]] = {}
    for name in sorted({*one, *other} - _APART):
        values = [one.get(name), other.get(name)]
        if values[0] != values[1]:
            part, _, rest = name.partition(".")
            found.setdefault(part, {})[rest] = values
    return found


def find_model(entries: Sequence[Entry], what: str) -> str:
    """The SHA-256 of a model that is named by its file, by a digest (or its beginning), or by an entry's number."""
    if storage.exists(what):
        return storage.sha256(storage.read(what))
    if _NUMBER.fullmatch(what):
        return str(_numbered(entries, what).content["weights"]["sha256"])
    known: set[str] = {file["sha256"] for entry in entries for file in _models(entry)}
    matching = sorted(digest for digest in known if _DIGEST.fullmatch(what) and digest.startswith(what))
    if len(matching) != 1:
        several = f"{len(matching)} models of the ledger begin so" if matching else "no such file, and no such digest"
        raise UsageError(f"{what}: {several}; give a file of weights, an entry's number, or more of a digest")
    return matching[0]


def _delivery(entries: Sequence[Entry], what: str) -> Entry:
    if _NUMBER.fullmatch(what) and not storage.exists(what):
        return _numbered(entries, what)
    digest = find_model(entries, what)
    entry = _deliveries(entries).get(digest)
    if entry is None:
        raise UsageError(f"{what}: no entry of the ledger delivered the model {digest[:16]}; record it: ledger add")
    return entry


def _deliveries(entries: Sequence[Entry]) -> dict[str, Entry]:
    """Digest of a model -> the last entry that delivered it; what a cycle says of it before what a bare file does."""
    made: dict[str, Entry] = {}
    for kind in ("model", "cycle"):
        for entry in entries:
            if entry.kind == kind and entry.content.get("outcome", "new") == "new":
                made[entry.content["weights"]["sha256"]] = entry
    return made


def _numbered(entries: Sequence[Entry], number: str) -> Entry:
    entry = next((entry for entry in entries if entry.number == int(number)), None)
    if entry is None or entry.kind not in {"cycle", "model"}:
        what = "there is none" if entry is None else f"it is a {entry.kind} entry"
        raise UsageError(f"entry {number}: {what}; give one of a cycle or a model, as raymds ledger show lists them")
    return entry


def _models(entry: Entry) -> list[dict[str, Any]]:
    return [file for name, file in entry.files.items() if name in {"parent", "weights"}]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Values by their dotted names; a protected task is there or not."""
    if isinstance(value, Mapping):
        parts = [_flat(below, f"{prefix}.{name}" if prefix else str(name)) for name, below in value.items()]
        return {name: below for part in parts for name, below in part.items()}
    if prefix == "protected":
        return {f"protected.{name}": True for name in value}
    return {prefix: value}
