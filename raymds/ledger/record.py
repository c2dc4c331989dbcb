"""What follows from entries (what is protected, which use of a test split is the next), and adding to them."""

import difflib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

from raymds.errors import UsageError
from raymds.ledger.chain import Ledger
from raymds.ledger.entry import Entry
from raymds.ledger.facts import file, identity, of_certificate, of_run, subject
from raymds.method.wear import spent
from raymds.store import uri as storage
from raymds.text import visible

_WEIGHTS = {b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"}  # first bytes of PyTorch's files


def protected(entries: Sequence[Entry], today: date, *, weakly: bool = False) -> dict[str, int]:
    """Capabilities that may not be lost, each with the entry that first said so.

    Those are all that a cycle protected, and all targets that were developed, but for what is waived. With `weakly`
    also those that a cycle held without examples, which no certificate shows.
    """
    found: dict[str, int] = {}
    for entry in entries:
        for capability in [*_named(entry), *(_without_data(entry) if weakly else [])]:
            found.setdefault(capability, entry.number)
    waived = waivers(entries, today)
    return {name: number for name, number in found.items() if name not in waived}


def newest(entries: Sequence[Entry]) -> Entry | None:
    """The last cycle that delivered a model: what it gained, other models lack."""
    cycles = (entry for entry in reversed(entries) if entry.kind == "cycle")
    return next((entry for entry in cycles if entry.content["outcome"] == "new"), None)


def waivers(entries: Sequence[Entry], today: date) -> dict[str, Entry]:
    """Capabilities that are waived today, each with the entry that says so.

    A waiver ends with its last day, and with a later cycle that protects or develops the capability. One that was begun
    before it (had reserved its use of the test split) ends none.
    """
    found, begun = dict[str, Entry](), dict[str, int]()
    for entry in entries:
        if entry.kind == "use":
            begun[entry.id] = entry.number
        elif entry.kind == "waive":
            found[entry.content["capability"]] = entry
        for capability in _named(entry):
            if capability in found and found[capability].number < begun.get(entry.id, entry.number):
                del found[capability]
    return {name: entry for name, entry in found.items() if entry.content["expires"] >= today.isoformat()}


def _named(entry: Entry) -> list[str]:
    """What may not be lost by a cycle's entry: what it protected, and the target that it developed."""
    if entry.kind != "cycle":
        return []
    developed = [entry.content["target"]] if entry.content["outcome"] == "new" else []
    return [*developed, *entry.content["protected"]]


def _without_data(entry: Entry) -> list[str]:
    """What a cycle's entry calls not certifiable."""
    return list(entry.content.get("not_certifiable", ())) if entry.kind == "cycle" else []


def uses(entries: Sequence[Entry]) -> tuple[Counter[str], dict[int, int]]:
    """How often each test split was used, or may have been, and by entry which use of its split each has to be.

    A use whose cycle ended without a measurement of the split is none any more.
    """
    count, numbers, splits = Counter[str](), dict[int, int](), dict[str, str]()
    for entry in entries:
        if entry.kind == "use":
            split = splits[entry.id] = entry.content["split"]
            count[split] += 1
            numbers[entry.number] = count[split]
        elif entry.kind == "cycle" and entry.content["certificate"] is None and entry.id in splits:
            count[splits.pop(entry.id)] -= 1
    return count, numbers


def use(ledger: Ledger, name: str, config: str, split: str, confidence: float, declared: int | None = None) -> Entry:
    """The use of a test split by what is called `name`, under a config's digest: reserved now, unless it was before.

    What ended in a cycle's entry, or was of another split, is another use: the run is done again in the same place.
    UsageError where there is none left of those `declared` for the split, or another number was declared.
    """

    def told(entries: list[Entry]) -> tuple[str, dict[str, Any]] | Entry:
        own = open_use(entries, name, split)
        if own is not None:
            return own
        number = next_use(entries, split, declared)
        share = spent(confidence, number, declared)
        made = {"split": split, "number": number, "confidence": confidence, "spent": share}
        return _next(entries, name), made | ({"declared": declared} if declared else {})

    return ledger.append_once("use", ("config.yaml", config), told)


def next_use(entries: Sequence[Entry], split: str, declared: int | None) -> int:
    """Which use of a test split the next one is; UsageError where its share of the error was not kept for it."""
    for entry in entries:
        if entry.kind != "use" or entry.content["split"] != split or entry.content.get("declared") == declared:
            continue
        before = entry.content.get("declared") or "no number"
        raise UsageError(
            f"ledger.uses={declared or 'null'}: entry {entry.number}, a use of the same test split, declared {before}, "
            "and the error is shared out by that; say the same, or mix in fresh test data (raymds data mix)"
        )
    number = uses(entries)[0][split] + 1
    if declared and number > declared:
        raise UsageError(
            f"ledger.uses={declared}: this would be use {number} of the test split, and no error is left for it; "
            "mix in fresh test data (raymds data mix)"
        )
    return number


def open_use(entries: Sequence[Entry], name: str, split: str | None = None) -> Entry | None:
    """The last use (of a test split) by what is called `name`, where its cycle is not recorded yet; else None."""
    own = _times(entries, name)
    ended = {entry.id for entry in own if entry.kind == "cycle"}
    left = [entry for entry in own if entry.kind == "use" and entry.id not in ended]
    return next((entry for entry in reversed(left) if split in {None, entry.content["split"]}), None)


def _times(entries: Sequence[Entry], name: str) -> list[Entry]:
    """All entries about what is called `name`; the second time that it was done its id is `name 2`."""
    numbered = re.compile(re.escape(name) + r"( [0-9]+)?")
    return [entry for entry in entries if numbered.fullmatch(entry.id)]


def _next(entries: Sequence[Entry], name: str) -> str:
    """The id of the next time that what is called `name` is done."""
    times = len({entry.id for entry in _times(entries, name)})
    return f"{name} {times + 1}" if times else name


def waive(ledger: Ledger, capability: str, reason: str, expires: str) -> Entry:
    """Let a capability go until a day (that day included); UsageError where it is not protected, or the day is none."""
    try:
        until = date.fromisoformat(expires)
    except ValueError:
        raise UsageError(f"--expires {expires}: has to be a day, like 2030-12-31") from None
    today = datetime.now(UTC).date()
    if until < today:
        raise UsageError(f"--expires {expires}: is over; give a day from {today} on")
    if not reason.strip():
        raise UsageError("--reason: is empty; say why the capability may be lost")
    known = protected([entry for entry in ledger.entries() if entry.kind != "waive"], date.max, weakly=True)
    if capability not in known:
        near = difflib.get_close_matches(capability, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it protects {', '.join(map(visible, known)) or 'nothing'}"
        raise UsageError(f"{capability!r}: is not protected by {ledger.uri}; {hint}")
    return ledger.append("waive", {"capability": capability, "reason": reason, "expires": until.isoformat()})


def add(ledger: Ledger, what: str, weights: str | None = None) -> Entry:
    """Record a finished run, a certificate (with the file of its weights, where that is known), or a model's file."""
    if what.endswith(".json") and storage.exists(what):
        content = of_certificate(what, weights)
        return _once(ledger, "cycle", content["certificate"]["sha256"], content)
    if weights:
        raise UsageError(f"--weights {weights}: goes with a certificate; a run knows its own")
    return _add_model(ledger, what) if storage.exists(what) else add_run(ledger, what)


def _add_model(ledger: Ledger, uri: str) -> Entry:
    data = storage.read(uri)
    if data[8:9] != b"{" and data[:2] not in _WEIGHTS:
        raise UsageError(
            f"{uri}: is no file of weights (neither safetensors nor a checkpoint of PyTorch); give one, a run's "
            "directory, or a certificate.json"
        )
    content = {"weights": file(uri, storage.sha256(data))}
    return _once(ledger, "model", content["weights"]["sha256"], content)


def _once(ledger: Ledger, kind: str, name: str, content: dict[str, Any]) -> Entry:
    """Append an entry about a model, or find the one of this kind and id."""

    def told(entries: list[Entry]) -> tuple[str, dict[str, Any]] | Entry:
        own = [entry for entry in entries if entry.kind == kind]
        # A run that was recorded has recorded its certificate.
        found = next((e for e in own if name in {e.id, (e.content.get("certificate") or {}).get("sha256")}), None)
        return found or (name, content)

    return ledger.append_once(kind, subject(content["weights"]), told)


def add_run(ledger: Ledger, run: str, code: str | None = None) -> Entry:
    """Record a finished run, once; UsageError where there is none. `code` is the digest of the code that made it.

    Another run in the same place, with the same config, is another one where its files are. A copy elsewhere, or the
    same place by another path, is not: its certificate names the config, and that the place.
    """
    content, name = of_run(run, code), identity(run)
    kind = "cycle" if "outcome" in content else "model"

    def told(entries: list[Entry]) -> tuple[str, dict[str, Any]] | Entry:
        times, use = _times(entries, name), open_use(entries, name)
        if use is not None:  # what was done again and ended alike closes its own use
            return use.id, content
        own = [entry for entry in entries if entry.kind == kind and (entry in times or _copy(entry.content, content))]
        same = next((entry for entry in own if _made(entry.content) == _made(content)), None)
        return same or (_next(entries, name), content)

    return ledger.append_once(kind, subject(content["weights"]), told)


def _copy(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two runs have the same certificate."""
    return bool(one.get("run") and one["certificate"]) and _made(one)[-1] == _made(other)[-1]


def _made(content: Mapping[str, Any]) -> list[str | None]:
    """Digests of a run's files: what tells it from another run with the same config."""
    return [(content.get(name) or {}).get("sha256") for name in ("parent", "weights", "certificate")]
