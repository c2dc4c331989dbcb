"""What the old model does, kept beside a search so that its trials don't all measure it.

Two files per key: `KEY.safetensors` and, written last, `KEY.json` with its digest. The key is the digest of everything
that the results depend on, so a trial that changes any of it measures for itself.
"""

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from raymds.config import Config
from raymds.errors import UsageError
from raymds.method import dist
from raymds.run import code_digest
from raymds.store import uri as storage
from raymds.train.evaluate import Evaluation
from raymds.train.limits import share_held

_PARTS = ("labels", "predicted", "loss")  # of an Evaluation
_ROWS = ("first", "group")  # of an Evaluation, where they are known


def key(config: Config, data: str, device: torch.device) -> str:
    """Digest of what results of the old model depend on; `data` is the data set's digest."""
    share = share_held(config)
    held = (share, config.constraints.images_per_task) if share else None  # which examples λ sees
    parts: dict[str, Any] = {
        "model": asdict(config.model),
        "weights": storage.sha256(storage.read(str(config.model.weights))),
        "data": data,
        "on_corrupt": config.data.on_corrupt,
        "task": asdict(config.task),
        "temperature": config.constraints.temperature,
        "retained": (config.constraints.loss, held),
        "seed": config.run.seed,
        "device": device.type,
        "precision": config.run.precision,
        "code": code_digest(),
    }
    return storage.sha256(json.dumps(parts, sort_keys=True).encode())


def recall(folder: str, name: str, device: torch.device) -> tuple[Evaluation, list[Tensor]] | None:
    """Results on val and the losses of each task's retained examples; None on all ranks unless all can read them."""
    index = storage.read_or_none(storage.join(folder, f"{name}.json"))
    # The ranks look one after the other: one may find what another did not yet.
    seen = dist.all_reduce_sum(torch.tensor([float(index is not None)], device=device))
    if index is None or float(seen) < dist.world_size():
        return None
    uri = storage.join(folder, f"{name}.safetensors")
    data = storage.read(uri)
    if storage.sha256(data) != json.loads(index)["sha256"]:
        raise UsageError(f"{uri}: damaged: its SHA-256 is not the one in {name}.json; remove both, to measure again")
    tensors = safetensors.torch.load(data)
    arrays: dict[str, Any] = {part: {} for part in _PARTS}
    for label, tensor in tensors.items():
        part, _, rest = label.partition(".")
        if part in arrays:
            arrays[part][rest] = tensor.numpy()
    losses = [tensors[f"retained.{k}"] for k in range(sum(label.startswith("retained.") for label in tensors))]
    arrays |= {name: tensors[name].numpy() for name in _ROWS if name in tensors}
    return Evaluation(**arrays), losses


def keep(folder: str, name: str, val: Evaluation, losses: list[Tensor]) -> None:
    """Publish what was measured; on rank 0. Of two trials that measure the same the files are the same."""
    tensors = {f"retained.{k}": loss for k, loss in enumerate(losses)}
    for part in _PARTS:
        arrays = getattr(val, part).items()
        tensors |= {f"{part}.{attribute}": torch.from_numpy(np.ascontiguousarray(array)) for attribute, array in arrays}
    tensors |= {name: torch.from_numpy(rows) for name in _ROWS if (rows := getattr(val, name)) is not None}
    data = safetensors.torch.save(tensors)
    storage.write(storage.join(folder, f"{name}.safetensors"), data)
    storage.write_json(storage.join(folder, f"{name}.json"), {"sha256": storage.sha256(data)})
