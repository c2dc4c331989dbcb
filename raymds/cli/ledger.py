"""The verbs of `raymds ledger`, and `raymds certify --verify`."""

import argparse
import re
from collections.abc import Sequence
from typing import Any

from raymds.cli.data import verb_parser
from raymds.cli.terminal import Terminal
from raymds.errors import UsageError
from raymds.method.verdict import NOT_CERTIFIABLE, not_certifiable
from raymds.text import visible

_SHORT = 12  # characters of a digest for people
_NONE = "–"  # where one of two has no value
_DIGEST = re.compile("[0-9a-f]{64}")


def show(options: argparse.Namespace, terminal: Terminal) -> int:
    """All entries of a ledger, what it protects now, and its head."""
    from datetime import UTC, datetime

    from raymds.ledger import record

    entries = _ledger(options).entries()
    for entry in entries:
        terminal.show({"event": "entry", **entry.to_json()})
        terminal.say(_line(entry))
    today = datetime.now(UTC).date()
    kept, both = record.protected(entries, today), record.protected(entries, today, weakly=True)
    weak = {name: number for name, number in both.items() if name not in kept}
    terminal.say(visible(f"protected: {', '.join(kept) or 'nothing'}"))
    if weak:
        terminal.say(visible(f"{NOT_CERTIFIABLE}: {', '.join(weak)}"))
    return _end(entries, terminal, {"protected": kept, "not_certifiable": weak})


def verify(options: argparse.Namespace, terminal: Terminal) -> int:
    """Whether anything was altered, removed or reordered; status 3 and what it is where something was."""
    from raymds.ledger import audit
    from raymds.ledger.signature import public_key

    keys = [public_key(uri) for uri in options.key or ()]
    entries, faults = audit.verify(_ledger(options), keys, options.head, files=not options.no_files)
    for fault in faults:
        terminal.say(visible(fault))
    checked = [
        "the chain",
        *(["signatures"] if keys else []),
        *([] if options.no_files else ["the files that it names"]),
    ]
    if not faults:
        terminal.say(f"{len(entries)} entries: nothing was altered (looked at: {', '.join(checked)})")
        if not keys and any(entry.envelope.signatures for entry in entries):
            terminal.say("note: there are signatures, which were not looked at; give --key")
    return _end(entries, terminal, {"faults": faults, "checked": checked}, 3 if faults else 0)


def add_entry(options: argparse.Namespace, terminal: Terminal) -> int:
    """Record a finished run, a certificate, or a model's file; what is recorded already is not recorded again."""
    from raymds.ledger import record

    entry = record.add(_writable(options, terminal), options.what, options.weights)
    return _appended(entry, terminal)


def waive(options: argparse.Namespace, terminal: Terminal) -> int:
    """Let a protected capability go, with a reason, until a day."""
    from raymds.ledger import record

    entry = record.waive(_writable(options, terminal), options.capability, options.reason, options.expires)
    return _appended(entry, terminal)


def trace(options: argparse.Namespace, terminal: Terminal) -> int:
    """Where a model comes from: the entry that delivered it, that of its parent, and so on to the first."""
    from raymds.ledger import history

    found = history.trace(_ledger(options).entries(), options.model)
    for digest, entry in found:
        terminal.say(_line(entry) if entry else f"   –  model {digest[:_SHORT]}: no entry delivered it")
    models = [{"model": digest, "entry": entry and entry.to_json()} for digest, entry in found]
    terminal.result({"trace": models})
    return 0


def diff(options: argparse.Namespace, terminal: Terminal) -> int:
    """What differs between two entries, or the entries of two models: capabilities, settings, data, code."""
    from raymds.ledger import history

    found = history.diff(_ledger(options).entries(), options.a, options.b)
    rows = [
        [visible(f"{part}.{name}".rstrip(".")), *map(_value, values)]
        for part, names in found.items()
        for name, values in names.items()
    ]
    if rows:
        terminal.table("what differs", ("name", options.a, options.b), rows)
    else:
        terminal.say("nothing differs")
    terminal.result({"differs": found})
    return 0


def keygen(options: argparse.Namespace, terminal: Terminal) -> int:
    """Make an Ed25519 key pair: NAME.pem to sign with, and NAME.pub.pem for everybody who verifies."""
    from raymds.ledger.signature import VARIABLE, generate

    private, public, name = generate(options.name)
    terminal.say(f"private key: {private} (ledger.key={private}, or its content in {VARIABLE}); keep it to yourself")
    terminal.say(f"public key:  {public} (--key {public}); key id {name}")
    terminal.result({"private": private, "public": public, "id": name})
    return 0


def verify_certificate(options: argparse.Namespace, terminal: Terminal) -> int:
    """`raymds certify --verify`: whether a certificate is signed with the key, and of this model and these data."""
    from raymds.ledger.signature import public_key
    from raymds.release import attest

    if not (options.weights and options.key):
        raise UsageError("--verify: also give --weights, the file of the model, and --key, whom to believe")
    if options.preset or options.old or options.new or options.out:
        raise UsageError("--verify: measures nothing, so it takes no preset, --old, --new, --out; leave them out")
    keys = [public_key(uri) for uri in options.key]
    certificate, differs = attest.verify(options.verify, options.weights, options.data, keys)
    for line in differs:
        terminal.say(visible(line))
    if not differs:
        data = "and these data" if options.data else "(data were not compared: give --data)"
        terminal.say(visible(f"signed, and of this model {data}; verdict: {certificate.get('verdict')}"))
    terminal.result({"differs": differs, "certificate": certificate})
    return 3 if differs else 0


def add_verification(verb: argparse.ArgumentParser) -> None:
    """The options of `raymds certify` that measure nothing."""
    group = verb.add_argument_group("to verify a signed certificate instead, offline; status 3 where something differs")
    group.add_argument("--verify", metavar="CERT", help="certificate.json beside its certificate.intoto.json, or that")
    group.add_argument("--weights", metavar="W", help="the model's file")
    group.add_argument("--data", metavar="URI", help="the data set that it was measured on")
    group.add_argument(
        "--key", action="append", metavar="PEM", help="public key; again for others that may have signed"
    )


def add(verbs: Any) -> None:
    """The parsers of `raymds ledger`."""
    ledger = verbs.add_parser("ledger", help="the record of cycles: show, verify, add, waive, trace, diff, keygen")
    below = ledger.add_subparsers(metavar="VERB", required=True)
    _verb(below, "show", show, "raymds ledger show s3://bucket/ledger --json")

    verb = _verb(below, "verify", verify, "raymds ledger verify ledger --key fleet.pub.pem --head 17:5f2e…")
    verb.add_argument("--key", action="append", metavar="PEM", help="public key; again for others that may have signed")
    verb.description = (
        f"{verify.__doc__} A chain can't show that its last entries are missing: keep the head that `show` prints, or "
        "that a certificate states in `use`, and give it as --head. Without --key, whoever can write the ledger can "
        "write all of it anew."
    )
    verb.add_argument("--head", metavar="NUMBER:SHA256", help="an entry as it was known earlier")
    verb.add_argument("--no-files", action="store_true", help="the entries alone, not the files that they name")

    verb = _verb(below, "add", add_entry, "raymds ledger add ledger runs/fog")
    verb.add_argument("what", metavar="RUN|CERTIFICATE|WEIGHTS", help="run directory, certificate.json, or a model")
    verb.add_argument("--weights", metavar="W", help="the model that the certificate is of")
    _writer(verb)

    example = "raymds ledger waive ledger weather:snowy --reason 'no snow in this market' --expires 2030-12-31"
    verb = _verb(below, "waive", waive, example)
    verb.add_argument("capability", metavar="CAPABILITY", help="attribute:class, as show lists it")
    verb.add_argument("--reason", required=True, help="why it may be lost")
    verb.add_argument("--expires", required=True, metavar="DAY", help="the last day that it may be, as 2030-12-31")
    _writer(verb)

    verb = _verb(below, "trace", trace, "raymds ledger trace ledger runs/fog/weights.safetensors")
    verb.add_argument("model", metavar="MODEL", help="file of weights, digest or its beginning, number of an entry")

    verb = _verb(below, "diff", diff, "raymds ledger diff ledger 3 runs/fog/weights.safetensors")
    for name in ("a", "b"):
        verb.add_argument(name, metavar=name.upper(), help="entry by its number, or model by its file or digest")

    verb = verb_parser(below, "keygen", keygen, "raymds ledger keygen keys/fleet")
    verb.add_argument("name", metavar="NAME", help="path without its ending")


def _verb(below: Any, name: str, run: Any, example: str) -> argparse.ArgumentParser:
    verb = verb_parser(below, name, run, example)
    verb.add_argument("ledger", metavar="LEDGER", help="its directory, local or in a bucket")
    return verb


def _writer(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--author", help="who says so (default: user.name and user.email of git)")
    verb.add_argument("--key", metavar="PEM", help="private key to sign with (default: RAYMDS_SIGNING_KEY, if set)")


def _ledger(options: argparse.Namespace) -> Any:
    """A ledger to read; UsageError where there is none."""
    from raymds.ledger.chain import Ledger

    found = Ledger(options.ledger)
    if not found.numbers():
        raise UsageError(f"{options.ledger}: holds no ledger (no 000000001.json); check the URI")
    return found


def _writable(options: argparse.Namespace, terminal: Terminal) -> Any:
    """A ledger to append to, there or not yet."""
    from raymds.ledger.chain import Ledger, git_author
    from raymds.ledger.signature import signing_key
    from raymds.store import uri as storage

    storage.check_writable(options.ledger)
    key = signing_key(options.key, "--key ")
    found = Ledger(options.ledger, options.author or git_author("--author"), key)
    if not found.numbers():
        terminal.say(f"note: no ledger at {found.uri} yet; the first entry begins one")
    return found


def _appended(entry: Any, terminal: Terminal) -> int:
    terminal.say(visible(f"entry {entry.number}: {_said(entry.kind, entry.content)}"))
    terminal.say(f"head: {entry.head}")
    terminal.result({"entry": entry.to_json(), "head": entry.head})
    return 0


def _end(entries: Sequence[Any], terminal: Terminal, content: dict[str, Any], status: int = 0) -> int:
    head = entries[-1].head if entries else None
    terminal.say(f"head: {head}")
    terminal.result({"entries": len(entries), "head": head, **content})
    return status


def _line(entry: Any) -> str:
    said = _said(entry.kind, entry.content)
    return visible(f"{entry.number:4}  {entry.time}  {entry.kind:5}  {said}  ({entry.author})")


def _said(kind: str, content: dict[str, Any]) -> str:
    """An entry in a line for people."""
    if kind == "cycle":
        made = content["certificate"]
        verdict = made["verdict"] if made else "not certified"
        model = content["weights"]["sha256"][:_SHORT]
        said = f"{content['target']}: {content['outcome']} model {model}, {verdict}"
        said += f", {len(content['protected'])} protected"
        without = not_certifiable(content)
        return f"{said}, {len(without)} {NOT_CERTIFIABLE}" if without else said
    if kind == "use":
        return f"use {content['number']} of test split {content['split'][:_SHORT]}"
    if kind == "waive":
        return f"{content['capability']} until {content['expires']}: {content['reason']}"
    return f"model {content['weights']['sha256'][:_SHORT]} ({content['weights']['uri']})"


def _value(value: Any) -> str:
    if value is None:
        return _NONE
    if isinstance(value, float):
        return f"{value:.4g}"
    return value[:_SHORT] if isinstance(value, str) and _DIGEST.fullmatch(value) else visible(str(value))
