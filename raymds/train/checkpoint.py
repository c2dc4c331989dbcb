"""One checkpoint format for every world size: a directory, local or in an object store, complete or not read.

`weights.safetensors` (the model), `state.safetensors` (optimiser and estimator state) and, written last,
`checkpoint.json` with the step and the digests of the other two. Random numbers and the data position are functions
of (seed, step), so the step is all of their state.
"""

import json
from typing import Any

import safetensors.torch
from torch import Tensor

from raymds.errors import UsageError
from raymds.model import ClipWithHeads, pack_weights
from raymds.store import uri as storage

SCHEMA = 1
_FILES = ("weights.safetensors", "state.safetensors")


def pack(step: int, model: ClipWithHeads, state: dict[str, Tensor]) -> dict[str, bytes]:
    """The files of a checkpoint of the state after `step` steps, in the order in which they are to be written."""
    files = dict(zip(_FILES, (pack_weights(model), safetensors.torch.save(state)), strict=True))
    index: dict[str, Any] = {"schema": SCHEMA, "step": step}
    index["sha256"] = {name: storage.sha256(data) for name, data in files.items()}
    return files | {"checkpoint.json": json.dumps(index).encode()}


def write(uri: str, files: dict[str, bytes]) -> None:
    """Write a packed checkpoint; it is complete with its last file."""
    for name, data in files.items():
        storage.write(storage.join(uri, name), data)


def load(uri: str) -> tuple[int, dict[str, Tensor], dict[str, Tensor]]:
    """(steps taken, weights, state) of a checkpoint; UsageError where it is incomplete or damaged."""
    found = storage.read_or_none(storage.join(uri, "checkpoint.json"))
    if found is None:
        raise UsageError(f"{uri}: checkpoint is incomplete (no checkpoint.json); remove it to use the one before")
    index = json.loads(found)
    if index["schema"] != SCHEMA:
        raise UsageError(f"{uri}: checkpoint of schema version {index['schema']}, this raymds reads {SCHEMA}")
    parts = []
    for name in _FILES:
        data = storage.read(storage.join(uri, name))
        if storage.sha256(data) != index["sha256"][name]:
            raise UsageError(f"{storage.join(uri, name)}: damaged: its SHA-256 is not the one in checkpoint.json")
        parts.append(safetensors.torch.load(data))
    return index["step"], parts[0], parts[1]
