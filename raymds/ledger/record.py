"""What entries say: a cycle from its run directory, a model, a use of a test split, a waiver; and what follows."""

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

import yaml

from raymds.errors import UsageError
from raymds.ledger.chain import Ledger
from raymds.ledger.entry import Entry, fits
from raymds.ledger.signature import parse
from raymds.method.wear import spent
from raymds.store import uri as storage

_MEASURED = ("old", "new", "delta", "lower", "verdict")
_TASK = {"task": str}
_CERTIFICATE = {
    **{"verdict": str, "confidence": (int, float), "devsafety": (int, float), "target": _TASK, "tasks": [_TASK]},
    "digests": {"config": str, "data": str, "parent": str, "weights": str, "code": str},
}
_OUTCOME = {"outcome": str, "reason": str, "weights": str, "val": {"target": _TASK, "tasks": [_TASK]}}
_CONFIG = {"model": {"weights": str}, "data": {"uri": str}}


def identity(run: str) -> str:
    """What a run's entries are known by: its place, and the digest of its config."""
    stored = storage.read(storage.join(run, "config.yaml"))
    return f"{storage.absolute(run).rstrip('/')} {storage.sha256(stored)}"


def protected(entries: Sequence[Entry], today: date) -> dict[str, int]:
    """Capabilities that may not be lost, each with the entry that first said so.

    Those are all that a cycle protected, and all targets that were developed, but for unexpired waivers.
    """
    found: dict[str, int] = {}
    for entry in entries:
        if entry.kind == "cycle":
            developed = [entry.content["target"]] if entry.content["outcome"] == "new" else []
            for capability in [*developed, *entry.content["protected"]]:
                found.setdefault(capability, entry.number)
    waived = {entry.content["capability"]: entry.content["expires"] for entry in entries if entry.kind == "waive"}
    return {name: number for name, number in found.items() if waived.get(name, "") < today.isoformat()}


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


def use(ledger: Ledger, name: str, config: str, split: str, confidence: float) -> Entry:
    """The use of a test split by what is called `name`, under a config's digest: reserved now, unless it was before."""

    def content(entries: list[Entry]) -> dict[str, Any]:
        number = uses(entries)[0][split] + 1
        return {"split": split, "number": number, "confidence": confidence, "spent": spent(confidence, number)}

    return ledger.append_once("use", name, ("config.yaml", config), content)


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
    known = protected(ledger.entries(), date.max)
    if capability not in known:
        near = difflib.get_close_matches(capability, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it protects {', '.join(known) or 'nothing'}"
        raise UsageError(f"{capability!r}: is not protected by {ledger.uri}; {hint}")
    return ledger.append("waive", {"capability": capability, "reason": reason, "expires": until.isoformat()})


def add(ledger: Ledger, what: str, weights: str | None = None) -> Entry:
    """Record a finished run, a certificate (with the file of its weights, where that is known), or a model's file."""
    if storage.exists(what):
        if what.endswith(".json"):
            return _add_certificate(ledger, what, weights)
        content = {"weights": _file(what, storage.sha256(storage.read(what)))}
        return ledger.append("model", content, _subject(content["weights"]))
    if weights:
        raise UsageError(f"--weights {weights}: goes with a certificate; a run knows its own")
    return add_run(ledger, what)


def add_run(ledger: Ledger, run: str, code: str | None = None) -> Entry:
    """Record a finished run, once; UsageError where there is none. `code` is the digest of the code that made it."""
    content = of_run(run, code)
    kind = "cycle" if "outcome" in content else "model"
    return ledger.append_once(kind, identity(run), _subject(content["weights"]), lambda _: content)


def of_run(run: str, code: str | None = None) -> dict[str, Any]:
    """What an entry says of a finished run, from its files."""
    run = storage.absolute(run).rstrip("/")
    where = storage.join(run, "outcome.json")
    if not storage.exists(where):
        raise UsageError(
            f"{run}: no such file, and no directory of a finished run (it has no outcome.json); give one of the two, "
            "or a certificate"
        )
    outcome, config = parse(storage.read(where), where), _config(run)
    if fits(outcome, {"weights": {"uri": str, "sha256": str}}):  # of a pretraining
        return {"weights": outcome["weights"]}
    if not fits(outcome, _OUTCOME) or outcome["outcome"] not in {"new", "old"}:
        raise UsageError(f"{where}: is not the outcome of a cycle that this raymds can read")
    place = storage.join(run, "certificate.json")
    made = _certificate(place) if storage.exists(place) else None
    manifest = _manifest(config["data"]["uri"])
    parent = storage.absolute(config["model"]["weights"])
    old = _file(parent, made["digests"]["parent"] if made else storage.sha256(storage.read(parent)))
    own = storage.join(run, "weights.safetensors")  # of a run that was copied as a whole
    new = own if storage.exists(own) else outcome["weights"]
    return {
        "run": run,
        "outcome": outcome["outcome"],
        "reason": outcome["reason"],
        "parent": old,
        "weights": _file(new, storage.sha256(storage.read(new))) if outcome["outcome"] == "new" else old,
        "data": {"digest": made["digests"]["data"] if made else manifest[1], "manifest": manifest[0]},
        **_tasks(made or outcome["val"]),
        "certificate": _entry_of(place, made) if made else None,
        "capabilities": _capabilities(made),
        "settings": _settings(config),
        "code": made["digests"]["code"] if made else code,
    }


def _add_certificate(ledger: Ledger, uri: str, weights: str | None) -> Entry:
    made = _certificate(uri)
    digests = made["digests"]
    if weights and storage.sha256(storage.read(weights)) != digests["weights"]:
        raise UsageError(f"--weights {weights}: is not the model that {uri} certifies; give the file it was made of")
    content = {
        "run": None,
        "outcome": "new",
        "reason": "recorded from its certificate",
        "parent": _file(None, digests["parent"]),
        "weights": _file(weights, digests["weights"]),
        "data": {"digest": digests["data"], "manifest": None},
        **_tasks(made),
        "certificate": _entry_of(uri, made),
        "capabilities": _capabilities(made),
        "settings": {},
        "code": digests["code"],
    }
    return ledger.append_once(
        "cycle", content["certificate"]["sha256"], _subject(content["weights"]), lambda _: content
    )


def _certificate(uri: str) -> dict[str, Any]:
    found = parse(storage.read(uri), uri)
    if not fits(found, _CERTIFICATE):
        raise UsageError(f"{uri}: is no certificate that this raymds can read; give the certificate.json of a run")
    return dict(found)


def _config(run: str) -> dict[str, Any]:
    uri = storage.join(run, "config.yaml")
    try:
        found = yaml.safe_load(storage.read(uri))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{uri}: damaged: not YAML: {str(error).splitlines()[0]}") from None
    if not fits(found, _CONFIG) and not fits(found, {"data": {"uri": str}, "model": {"weights": type(None)}}):
        raise UsageError(f"{uri}: damaged: is not the config of a run")
    return dict(found)


def _manifest(data: str) -> tuple[dict[str, Any] | None, str]:
    """The file of a data set's manifest with its SHA-256, and the data set's digest; (None, "") where it is gone."""
    uri = storage.absolute(storage.join(data, "manifest.json"))
    content = storage.read_or_none(uri)
    if content is None:
        return None, ""
    found = parse(content, uri)
    return _file(uri, storage.sha256(content)), str(found.get("digest", "")) if isinstance(found, dict) else ""


def _tasks(found: Mapping[str, Any]) -> dict[str, Any]:
    return {"target": found["target"]["task"], "protected": [task["task"] for task in found["tasks"]]}


def _capabilities(certificate: Mapping[str, Any] | None) -> dict[str, Any]:
    tasks = [certificate["target"], *certificate["tasks"]] if certificate else []
    return {task["task"]: {name: task[name] for name in _MEASURED if name in task} for task in tasks}


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without where it ran."""
    kept = {name: section for name, section in config.items() if name not in {"storage", "ledger", "run", "search"}}
    run = config.get("run")
    return kept | {"run": {n: run.get(n) for n in ("seed", "precision")} if isinstance(run, Mapping) else {}}


def _entry_of(uri: str, made: Mapping[str, Any]) -> dict[str, Any]:
    names = ("verdict", "confidence", "devsafety")
    return {**_file(uri, storage.sha256(storage.read(uri))), **{name: made[name] for name in names}}


def _file(uri: str | None, sha256: str) -> dict[str, Any]:
    return {"uri": storage.absolute(uri) if uri else None, "sha256": sha256}


def _subject(file: Mapping[str, Any]) -> tuple[str, str]:
    return (file["uri"] or "weights").rpartition("/")[2], file["sha256"]
