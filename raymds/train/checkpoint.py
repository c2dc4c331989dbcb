"""One checkpoint format for every world size: a directory that is complete or is not read.

`weights.safetensors` (the model), `state.safetensors` (optimiser and estimator state) and, written last,
`checkpoint.json` with the step and the digests of the other two. Random numbers and the data position are functions
of (seed, step), so the step is all of their state.
"""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from raymds import storage
from raymds.errors import UsageError
from raymds.model import ClipWithHeads, pack_weights

SCHEMA = 1
_FILES = ("weights.safetensors", "state.safetensors")


def save(directory: Path, step: int, model: ClipWithHeads, state: dict[str, Tensor]) -> None:
    """Write a checkpoint of the state after `step` steps."""
    contents = dict(zip(_FILES, (pack_weights(model), safetensors.torch.save(state)), strict=True))
    for name, data in contents.items():
        storage.write(str(directory / name), data)
    index: dict[str, Any] = {"schema": SCHEMA, "step": step}
    index["sha256"] = {name: storage.sha256(data) for name, data in contents.items()}
    storage.write(str(directory / "checkpoint.json"), json.dumps(index).encode())


def load(directory: Path) -> tuple[int, dict[str, Tensor], dict[str, Tensor]]:
    """(steps taken, weights, state) of a checkpoint; UsageError where it is incomplete or damaged."""
    index_file = directory / "checkpoint.json"
    if not index_file.is_file():
        raise UsageError(f"{directory}: checkpoint is incomplete (no checkpoint.json); remove it to use the one before")
    index = json.loads(index_file.read_text())
    if index["schema"] != SCHEMA:
        raise UsageError(f"{directory}: checkpoint of schema version {index['schema']}, this raymds reads {SCHEMA}")
    parts = []
    for name in _FILES:
        data = storage.read(str(directory / name))
        if storage.sha256(data) != index["sha256"][name]:
            raise UsageError(f"{directory / name}: damaged: its SHA-256 is not the one in checkpoint.json")
        parts.append(safetensors.torch.load(data))
    return index["step"], parts[0], parts[1]
