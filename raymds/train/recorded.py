"""What a ledger asks of a cycle, and what a cycle leaves in it. Without `ledger.uri` nothing of it happens."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

from raymds.config import Config
from raymds.data.shards import DataSet
from raymds.errors import UsageError
from raymds.ledger import facts, record
from raymds.ledger.chain import Ledger
from raymds.ledger.entry import Entry
from raymds.ledger.signature import CERTIFICATE, ENTRY, line, seal, signed_name, signing_key, statement
from raymds.method.wear import SEEN, said, spent
from raymds.run import RunDirectory, code_digest
from raymds.store import uri as storage
from raymds.tasks import Tasks
from raymds.text import visible
from raymds.train.cluster import Show

_NAMED = 5  # capabilities that a message names


def ledger_of(config: Config) -> Ledger | None:
    """The ledger that the config names, ready to be written; UsageError where it, its key or its author can't be."""
    key = signing_key(config.ledger.key)
    if not config.ledger.uri:
        return None
    ledger = Ledger(config.ledger.uri, config.ledger.author, key)
    storage.check_writable(ledger.uri)
    assert ledger.author
    return ledger


def located(config: Config) -> Config:
    """The config with the ledger's absolute URI: in another directory a relative one would begin another ledger."""
    if not config.ledger.uri:
        return config
    config = copy.deepcopy(config)
    config.ledger.uri = storage.absolute(str(config.ledger.uri))
    return config


def check(config: Config, run: RunDirectory, data: DataSet, tasks: Tasks, show: Show) -> float:
    """The confidence that the certificate will have; UsageError where the cycle protects less than the ledger says.

    Says how far the test split is worn.
    """
    ledger = ledger_of(config)
    if ledger is None or run.read("outcome.json") is not None:
        return config.select.confidence
    entries, today = ledger.entries(), datetime.now(UTC).date()
    if not entries:
        show({"event": "note", "note": f"no ledger at {ledger.uri} yet; this run begins one"})
    refuse_less(ledger.uri, *protected(entries, today), tasks)
    for entry in _unsigned(config, record.waivers(entries, today).values()):
        what = f"entry {entry.number} waives {visible(entry.content['capability'])}"
        show({"event": "note", "note": f"{what}, and is not signed with the key of this run"})
    last = record.newest(entries)
    if last and last.content["weights"]["sha256"] != storage.sha256(storage.read(str(config.model.weights))):
        what = f"model.weights={config.model.weights}: is not the model that entry {last.number}, the newest, delivered"
        show({"event": "note", "note": f"{what}; what was gained since they parted is missing, and nothing holds it"})
    split = data.split_digest("test")
    own = record.open_use(entries, facts.identity(run.uri), split) if run.read("config.yaml") else None
    declared = own.content.get("declared") if own else config.ledger.uses
    number = own.content["number"] if own else record.next_use(entries, split, declared)
    show({"event": "note", "note": said(config.select.confidence, len(tasks.protected), number, declared)})
    return 1 - spent(config.select.confidence, number, declared)


def protected(entries: Sequence[Entry], today: date) -> tuple[dict[str, str], dict[str, str]]:
    """What the ledger protects, and what with those that it can't certify, each with where it says so."""
    both = (record.protected(entries, today, weakly=weakly) for weakly in (False, True))
    protects, known = ({name: f"entry {number}" for name, number in found.items()} for found in both)
    return protects, known


def refuse_less(ledger: str, protects: Mapping[str, str], known: Mapping[str, str], tasks: Tasks) -> None:
    """UsageError where the cycle leaves out what is `protected`, or would hold it without examples."""
    kept, without = {task.name for task in tasks.all}, {task.name for task in tasks.without_data}
    weaker = {name: place for name, place in protects.items() if name in without}
    lacking = {name: place for name, place in known.items() if name not in kept | without}
    for key, fault, found, mend in (
        ("without_data", "no certificate could show what", weaker, "protect it with examples"),
        ("protect", "leaves out what", lacking, "add it"),
    ):
        if found:
            named = ", ".join(f"{visible(name)} ({place})" for name, place in list(found.items())[:_NAMED])
            more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
            raise UsageError(
                f"task.{key}: {fault} {ledger} protects: {named}{more}; {mend}, or let it go by raymds ledger waive "
                f"{ledger} '{visible(next(iter(found)))}' --reason WHY --expires DAY"
            )


def _unsigned(config: Config, entries: Iterable[Entry]) -> list[Entry]:
    """Entries that are not signed with the config's key; none where it has none."""
    key = signing_key(config.ledger.key)
    return [entry for entry in entries if key and entry.envelope.wrong(ENTRY, [key.public_key()])]


def reserve(config: Config, data: DataSet, split: str, name: str, settings: str) -> dict[str, Any] | None:
    """The use of a test split that a certificate will state, reserved before anything is measured; None: no ledger.

    `name` tells what uses it from everything else, and `settings` is its config's digest: what goes on, or is done
    again, has the use that it had.
    """
    signing_key(config.ledger.key)  # what signs the certificate: an error now, not after the measurement
    ledger = None if split in SEEN else ledger_of(config)
    if ledger is None:
        return None
    digest = data.split_digest(split)
    entry = record.use(ledger, name, settings, digest, config.select.confidence, config.ledger.uses)
    keys = ("number", "confidence", "spent", "declared")
    stated = {key: entry.content[key] for key in keys if key in entry.content}
    return {**stated, "of": digest, "entry": entry.head}


def reserve_test(config: Config, run: RunDirectory, data: DataSet) -> dict[str, Any] | None:
    """As `reserve`, of the test split by a run that was claimed."""
    return reserve(config, data, "test", facts.identity(run.uri), storage.sha256(run.read("config.yaml") or b""))


def spending(config: Config, use: dict[str, Any] | None) -> Config:
    """The config with the confidence that a use leaves."""
    if use is None:
        return config
    spending = copy.deepcopy(config)
    spending.select.confidence = 1 - use["spent"]
    return spending


def keep(config: Config, run: RunDirectory, show: Show) -> None:
    """Record a finished cycle, once, however often it is asked for."""
    ledger = ledger_of(config)
    if ledger is not None:
        entry = record.add_run(ledger, run.uri, code_digest())
        show({"event": "note", "note": f"recorded in {ledger.uri} as entry {entry.head}"})


def write_certificate(config: Config, uri: str, certificate: dict[str, Any]) -> None:
    """Publish a certificate, and where there is a key its signed statement beside it."""
    storage.write_json(uri, certificate)
    key = signing_key(config.ledger.key)
    if key is not None:
        made = statement(CERTIFICATE, "weights.safetensors", certificate["digests"]["weights"], certificate)
        storage.write(signed_name(uri), line(seal(made, key)) + b"\n")
