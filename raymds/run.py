"""The run directory: `config.yaml`, `metrics.jsonl`, `checkpoints/`, `outcome.json`, `certificate.json`, `flips.json`.

What the old model does, measured once, is in `old/`.

A run is finished when its last file, `outcome.json`, is there.
"""

import difflib
from importlib import resources
from typing import Any

import yaml

from raymds import __version__
from raymds.config import Config, to_yaml
from raymds.errors import UsageError
from raymds.store import uri as storage

_PRECISION = "fp32"  # of runs that were begun before there was another one


class RunDirectory:
    """Reads and writes the files of one run, local or in an object store."""

    def __init__(self, uri: str) -> None:
        self.uri = storage.absolute(uri)

    def path(self, name: str) -> str:
        """URI of one of its files."""
        return storage.join(self.uri, name)

    def claim(self, config: Config, search: bool = False) -> None:
        """Store the config, or check that a run begun here has the same: UsageError naming a key that differs.

        How the store is reached and what machines there are may differ: the results don't depend on it. Nor do those of
        a single cycle on what a search would try; of a `search` that has to be the same.
        """
        text = to_yaml(config)
        # Created, not written: of two commands that begin at the same moment one finds the other's.
        if not storage.create(self.path("config.yaml"), text.encode()):
            self.check(config, search)

    def check(self, config: Config, search: bool = False) -> None:
        """As `claim`, without storing anything: what it would refuse is an error here."""
        stored, text = self.read("config.yaml"), to_yaml(config)
        if stored is None:
            storage.check_writable(self.uri)
            return
        begun_in = self.precision() or _PRECISION
        found = _settled(stored.decode(), search, begun_in)
        if found != (given := _settled(text, search, begun_in)):
            changes = difflib.unified_diff(found, given, n=0, lineterm="")
            lines = [line for line in changes if line[:3] not in {"---", "+++"} and line[0] in "+-"]
            raise UsageError(
                f"run.uri={self.uri}: holds a run with another config ({'; '.join(lines[:4])}); give another run.uri, "
                "or the same config to go on with that run"
            )

    def precision(self) -> str | None:
        """`run.precision` of the run that was begun here, None where there is none; older ones had fp32."""
        stored = self.config()
        return None if stored is None else stored["run"].get("precision") or _PRECISION

    def config(self) -> dict[str, Any] | None:
        """The config that the run was begun with, None where there is none; UsageError where it is another file."""
        stored = self.read("config.yaml")
        if stored is None:
            return None
        try:
            found = yaml.safe_load(stored)
        except (yaml.YAMLError, ValueError, RecursionError):
            found = None
        sections = ("model", "data", "task", "run")
        if not isinstance(found, dict) or not all(isinstance(found.get(name), dict) for name in sections):
            raise UsageError(
                f"run.uri={self.uri}: its config.yaml is not one that raymds wrote; give another run.uri, or remove it"
            )
        return found

    def read(self, name: str) -> bytes | None:
        """A file's bytes, None where there is none."""
        return storage.read_or_none(self.path(name))

    def read_json(self, name: str) -> dict[str, Any] | None:
        """A JSON file, None where there is none."""
        return storage.read_json(self.path(name))

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Publish a JSON file."""
        storage.write_json(self.path(name), content)


def _filled(content: Any, defaults: Any) -> Any:
    """A config with every key: those that an older version did not know have the value that changes nothing."""
    if not isinstance(content, dict) or not isinstance(defaults, dict):
        return content
    filled = {key: _filled(content[key], value) if key in content else value for key, value in defaults.items()}
    return filled | {key: value for key, value in content.items() if key not in defaults}


def _settled(text: str, search: bool, begun_in: str) -> list[str]:
    """The lines of a config that decide what a run computes; one that says no precision goes on in `begun_in`."""
    content = _filled(yaml.safe_load(text), yaml.safe_load(to_yaml(Config())))
    content.pop("storage", None)
    if search:
        content.setdefault("search", {}).pop("concurrency", None)
    else:
        content.pop("search", None)
    # How its own directory is named may differ, too.
    content["run"] = {"seed": content["run"]["seed"], "precision": content["run"].get("precision") or begun_in}
    for name in ("cache", "cache_size"):
        content["data"].pop(name, None)
    # A certificate's confidence depends on the uses that the ledger counts, and on nothing else of the section.
    content["ledger"] = (content.pop("ledger", None) or {}).get("uri")
    return yaml.safe_dump(content, sort_keys=False).splitlines()


def digests(config: str, data: str, parent: str, weights: str) -> dict[str, str]:
    """What a certificate rests on: digests of the stored config.yaml, of data and of weights, and of the code."""
    return {
        "config": config,
        "data": data,
        "parent": parent,
        "weights": weights,
        "code": code_digest(),
    }


def code_digest() -> str:
    """Version and SHA-256 of this package's own source, for the certificate."""
    root = resources.files("raymds")
    parts: list[str] = []

    def visit(folder: Any, prefix: str) -> None:
        for entry in sorted(folder.iterdir(), key=lambda e: e.name):
            if entry.is_dir() and entry.name != "__pycache__":
                visit(entry, f"{prefix}{entry.name}/")
            elif entry.name.endswith((".py", ".json", ".yaml", ".j2")):
                parts.append(f"{prefix}{entry.name} {storage.sha256(entry.read_bytes())}")

    visit(root, "")
    return f"{__version__}+{storage.sha256(chr(10).join(parts).encode())}"
