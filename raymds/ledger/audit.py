"""Whether a ledger is what was written: the chain, its signatures, what it counts, and the files that it names."""

import math
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from raymds.errors import UsageError
from raymds.ledger import signature
from raymds.ledger.chain import Ledger
from raymds.ledger.entry import Entry, decode
from raymds.ledger.record import uses
from raymds.method.wear import spent
from raymds.store import uri as storage

_HEAD = re.compile(r"([1-9][0-9]{0,8}):([0-9a-f]{64})")


def verify(
    ledger: Ledger, keys: Sequence[signature.PublicKey] = (), head: str | None = None, *, files: bool = True
) -> tuple[list[Entry], list[str]]:
    """The entries that could be read, and every fault in words, empty where there is none.

    With `keys` every entry has to be signed with one of them. Entries that are missing at the end are seen by `head`
    alone (`Entry.head` as it was kept elsewhere). With `files` all files that entries name are read.
    """
    numbers = ledger.numbers()
    newest = max(numbers, default=0)
    pairs = [(a, b) for a, b in pairwise([0, *numbers]) if b > a + 1]
    faults = [
        f"entry {a + 1}: is missing" if b == a + 2 else f"entries {a + 1} to {b - 1}: are missing" for a, b in pairs
    ]
    after_gap = {b for _, b in pairs}
    entries = []
    before: str | None = None
    for number, data in zip(numbers, ledger.raw(numbers), strict=True):
        try:
            entry = decode(data, ledger.path(number))
        except UsageError as error:
            faults.append(f"entry {number}: {error}")
        else:
            entries.append(entry)
            faults += [f"entry {number}: {fault}" for fault in _links(entry, number, before, number in after_gap)]
            fault = entry.envelope.wrong(signature.ENTRY, keys) if keys else None
            faults += [f"entry {number}: {fault}"] if fault else []
        before = storage.sha256(data)
    faults += _counts(entries) + _head(entries, newest, head)
    return entries, faults + (_files(entries) if files else [])


def _links(entry: Entry, number: int, before: str | None, gap: bool) -> list[str]:
    """What is wrong with an entry's place; `before` is the digest of what stands before it."""
    if entry.number != number:
        return [f"says that it is entry {entry.number}; entries were moved"]
    if entry.previous == before or gap:
        return []
    return ["does not name the entry before it, which was altered or replaced, or it was itself"]


def _counts(entries: Sequence[Entry]) -> list[str]:
    faults, named, declared = [], set[tuple[str, str]](), dict[str, int | None]()
    numbers = uses(entries)[1]
    for entry in entries:
        if (entry.kind, entry.id) in named:
            faults.append(f"entry {entry.number}: records again what an earlier entry records")
        named.add((entry.kind, entry.id))
        if entry.kind == "use":
            first = declared.setdefault(entry.content["split"], entry.content.get("declared"))
            found = _spending(entry.content, numbers[entry.number], first)
            faults += [f"entry {entry.number}: {fault}" for fault in found]
    return faults


def _spending(use: dict[str, Any], counted: int, declared: int | None) -> Iterator[str]:
    """What is wrong with a use that is the `counted`-th of its test split, for which so many were `declared`."""
    confidence, stated = use["confidence"], use["spent"]
    if use.get("declared") != declared:
        says = use.get("declared") or "no"
        yield f"declares {says} uses of its test split, whose first use declared {declared or 'none'}"
    elif use["number"] != counted:
        yield f"says use {use['number']} of its test split, which is use {counted}"
    elif not 0 < confidence < 1:
        yield f"says a confidence of {confidence:g}, and it has to lie between 0 and 1"
    elif declared is not None and not 0 < counted <= declared:
        yield f"is use {counted} of its test split, for which {declared} were declared"
    elif not math.isclose(stated, share := spent(confidence, counted, declared), rel_tol=1e-9):
        yield f"says that it spends an error of {stated:.6g}; use {counted} has {share:.6g}"


def _head(entries: Sequence[Entry], newest: int, head: str | None) -> list[str]:
    if head is None:
        return []
    found = _HEAD.fullmatch(head)
    if not found:
        raise UsageError(f"--head {head}: has to be NUMBER:SHA-256, as raymds ledger show prints it")
    number = int(found[1])
    if number > newest:
        return [f"entry {number}: is missing; the ledger ends at {newest}, so its last entries were removed"]
    at = next((entry for entry in entries if entry.number == number), None)
    if at is not None and at.sha256 != found[2]:
        return [f"entry {number}: is another one than --head names: it was altered, or all was written anew"]
    return []


def _files(entries: Sequence[Entry]) -> list[str]:
    """Files that are missing, or another than an entry names."""
    faults, proved = [], dict[str, tuple[str | None, str]]()  # URI -> its digest, or why it can't be read
    for entry in entries:
        for name, file in entry.files.items():
            uri = file["uri"]
            if not uri:
                continue
            if uri not in proved:
                try:
                    proved[uri] = storage.sha256(storage.read(uri)), ""
                except UsageError as error:
                    proved[uri] = None, str(error)
            found, fault = proved[uri]
            if found != file["sha256"]:
                fault = fault or f"{uri}: is another file: its SHA-256 is {found}, not {file['sha256']}"
                faults.append(f"entry {entry.number}: {name}: {fault}")
    return faults
