"""What an entry says of a finished run or of a certificate, from their files."""

import json
from collections.abc import Mapping
from typing import Any

import yaml

from raymds.errors import UsageError
from raymds.ledger.entry import fits
from raymds.ledger.signature import parse
from raymds.method.verdict import VERDICTS, not_certifiable
from raymds.method.wear import SEEN
from raymds.store import uri as storage

_MEASURED = ("old", "new", "delta", "lower", "verdict")
_NUMBER = (int, float)
_TASK = {"task": str}


def _verdict(value: Any) -> bool:
    return value in VERDICTS


def _change(value: Any) -> bool:
    return fits(value, _NUMBER) and -1 <= value <= 1


def _confidence(value: Any) -> bool:
    return fits(value, _NUMBER) and 0 < value < 1


_CERTIFICATE = {
    **{"verdict": _verdict, "confidence": _confidence, "devsafety": _change, "target": {"task": str, "delta": _change}},
    "tasks": [{"task": str, "verdict": _verdict}],
    "digests": {"config": str, "data": str, "parent": str, "weights": str, "code": str},
}
_OUTCOME = {"outcome": str, "reason": str, "weights": str, "val": {"target": _TASK, "tasks": [_TASK]}}
_CONFIG = {"model": {"weights": str}, "data": {"uri": str}}


def identity(run: str) -> str:
    """What a run's entries are known by: its place, and the digest of its config."""
    stored = storage.read(storage.join(run, "config.yaml"))
    return f"{storage.absolute(run).rstrip('/')} {storage.sha256(stored)}"


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
    read = fits(outcome, _OUTCOME) and fits(outcome["val"].get("not_certifiable", []), [str])
    read = read and isinstance(outcome.get("parent", ""), str)
    if not read or outcome["outcome"] not in {"new", "old"} or config["model"]["weights"] is None:
        raise UsageError(f"{where}: is not the outcome of a cycle that this raymds can read")
    place = storage.join(run, "certificate.json")
    made = _certificate(place) if storage.exists(place) else None
    if made is None and outcome.get("tested", storage.exists(storage.join(run, "flips.json"))):
        raise UsageError(f"{place}: is missing, and the run did use the test split; put it back")
    if made and _names(made) != _names(outcome["val"]):
        raise UsageError(f"{place}: is of other tasks than {where}, so it is that of another run; copy the run again")
    manifest = _manifest(config["data"]["uri"])
    if made and manifest[1] != made["digests"]["data"]:
        manifest = None, ""  # other data lie there now
    parent = storage.absolute(config["model"]["weights"])
    stated = made["digests"]["parent"] if made else outcome.get("parent")  # another file may lie there by now
    old = file(parent, stated or storage.sha256(storage.read(parent)))
    delivered = old
    if outcome["outcome"] == "new":
        new = weights_of(run, outcome)
        delivered = file(new, storage.sha256(storage.read(new)))
        if made:
            _check_delivered(made, place)
            if delivered["sha256"] != made["digests"]["weights"]:
                raise UsageError(f"{new}: is not the model that {place} certifies; copy the run again")
    return {
        "run": run,
        "outcome": outcome["outcome"],
        "reason": outcome["reason"],
        "parent": old,
        "weights": delivered,
        "data": {"digest": made["digests"]["data"] if made else manifest[1], "manifest": manifest[0]},
        **_tasks(made or outcome["val"]),
        "certificate": _entry_of(place, made) if made else None,
        "capabilities": _capabilities(made),
        "settings": _settings(config),
        "code": made["digests"]["code"] if made else code,
    }


def of_certificate(uri: str, weights: str | None) -> dict[str, Any]:
    """What an entry says of a certificate alone; `weights` is the file of its model, where that is known."""
    made = _certificate(uri)
    digests = made["digests"]
    if weights and storage.sha256(storage.read(weights)) != digests["weights"]:
        raise UsageError(f"--weights {weights}: is not the model that {uri} certifies; give the file it was made of")
    _check_delivered(made, uri)
    folder, _, name = storage.absolute(uri).rpartition("/")
    outcome = storage.read_json(storage.join(folder, "outcome.json")) if name == "certificate.json" else None
    if outcome is not None and outcome.get("outcome") != "new":
        raise UsageError(f"{uri}: its run did not deliver this model (its outcome.json); give the run, {folder}")
    return {
        "run": None,
        "outcome": "new",
        "reason": "recorded from its certificate",
        "parent": file(None, digests["parent"]),
        "weights": file(weights, digests["weights"]),
        "data": {"digest": digests["data"], "manifest": None},
        **_tasks(made),
        "certificate": _entry_of(uri, made),
        "capabilities": _capabilities(made),
        "settings": {},
        "code": digests["code"],
    }


def weights_of(run: str, outcome: Mapping[str, Any]) -> str:
    """The file of the model that a run's outcome names; of a run that was copied as a whole, the one beside it."""
    own, said = storage.join(run, "weights.safetensors"), outcome["weights"]
    return own if storage.exists(own) else str(said["uri"] if isinstance(said, Mapping) else said)


def _check_delivered(made: Mapping[str, Any], where: str) -> None:
    """UsageError where a certificate is of a model that no cycle delivers."""
    lost = "violated" in [made["verdict"], *(task.get("verdict") for task in made["tasks"])]
    if lost or not made["target"]["delta"] > 0:
        found = "proves a loss" if lost else "shows no gain of the target"
        raise UsageError(f"{where}: {found}, so its model was never delivered; give a run that ended with the old one")


def _certificate(uri: str) -> dict[str, Any]:
    found = parse(storage.read(uri), uri)
    if not fits(found, _CERTIFICATE) or not fits(found.get("not_certifiable", []), [str]):
        raise UsageError(f"{uri}: is no certificate that this raymds can read; give the certificate.json of a run")
    measured = found.get("measured")
    split = measured.get("split") if isinstance(measured, dict) else None
    if split in SEEN:
        raise UsageError(
            f"{uri}: was measured on {split}, which models are made and chosen with, so it certifies nothing; make one "
            "with raymds certify --split test, or record the model's file"
        )
    return dict(found)


def _config(run: str) -> dict[str, Any]:
    uri = storage.join(run, "config.yaml")
    content = storage.read(uri)
    try:
        # YAML has more than JSON: infinity, dates.
        found = json.loads(json.dumps(yaml.safe_load(content), default=str), parse_constant=str)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
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
    return file(uri, storage.sha256(content)), str(found.get("digest", "")) if isinstance(found, dict) else ""


def _tasks(found: Mapping[str, Any]) -> dict[str, Any]:
    without = not_certifiable(found)
    return {
        "target": found["target"]["task"],
        "protected": [task["task"] for task in found["tasks"]],
        **({"not_certifiable": without} if without else {}),
    }


def _names(found: Mapping[str, Any]) -> tuple[str, set[str]]:
    return found["target"]["task"], {task["task"] for task in found["tasks"]}


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
    return {**file(uri, storage.sha256(storage.read(uri))), **{name: made[name] for name in names}}


def file(uri: str | None, sha256: str) -> dict[str, Any]:
    """A file as entries name it."""
    return {"uri": storage.absolute(uri) if uri else None, "sha256": sha256}


def subject(named: Mapping[str, Any]) -> tuple[str, str]:
    """The name and the SHA-256 of a file that an entry names, which its statement is about."""
    return (named["uri"] or "weights").rpartition("/")[2], named["sha256"]
