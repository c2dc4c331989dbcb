"""What the old model does, measured once: on val, and on the examples that λ is measured on.

It lies in a folder, of a run, or of all cells of a study or trials of a search: `val-KEY.json` and `retained-KEY.json`,
each written after the `SHA256.safetensors` that it names. KEY is the digest of everything that the results depend on,
so a cycle that changes any of it measures for itself. Cycles that begin at once may measure the same; whichever writes
last, an index and its file fit together.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from raymds.config import Config
from raymds.data.shards import DataSet
from raymds.errors import UsageError
from raymds.method import dist
from raymds.model import ClipWithHeads
from raymds.run import code_digest
from raymds.store import uri as storage
from raymds.tasks import Tasks
from raymds.train.evaluate import Evaluation
from raymds.train.limits import share_held

_PARTS = ("labels", "predicted", "loss")  # of an Evaluation
_ROWS = ("first", "group")  # of an Evaluation, where they are known


class OldModel:
    """Results of a cycle's old model: found in a folder, or measured and left there for who needs them next.

    Rank 0 alone reads and writes; all ranks have what it has.
    """

    def __init__(
        self,
        folder: str,
        config: Config,
        data: DataSet,
        tasks: Tasks,
        net: ClipWithHeads,
        tell: Callable[[str], None] = lambda what: None,
    ) -> None:
        """`net` is the old model, on the device that it is measured on; `tell` is told what is measured."""
        self._folder, self._device, self._tell = folder, net.mean.device, tell
        self._val, self._retained = names(config, data.digest, tasks, net) if dist.rank() == 0 else ("", "")

    def known_val(self) -> Evaluation | None:
        """The results on val, where they were measured before; UsageError where their file is damaged."""
        found = self._recall(self._val)
        return None if found is None else _unpacked(found)

    def val(self, measure: Callable[[], Evaluation]) -> Evaluation:
        """The results on val, from `measure` where they are not known."""
        found = self.known_val()
        if found is None:
            self._tell("measuring the old model")
            found = measure()
            self._keep(self._val, _packed(found))
        return found

    def retained(self, measure: Callable[[], list[Tensor]]) -> list[Tensor]:
        """Per task the values of the examples that λ is measured on, from `measure` where they are not known."""
        found = self._recall(self._retained)
        if found is not None:
            return [found[str(k)] for k in range(len(found))]
        self._tell("measuring the old model on the retained examples")
        losses = measure()
        self._keep(self._retained, {str(k): loss for k, loss in enumerate(losses)})
        return losses

    def _recall(self, name: str) -> dict[str, Tensor] | None:
        data = dist.broadcast_bytes(_read(self._folder, name) if dist.rank() == 0 else None, self._device)
        return None if data is None else safetensors.torch.load(data)

    def _keep(self, name: str, tensors: dict[str, Tensor]) -> None:
        if dist.rank() == 0:
            data = safetensors.torch.save(tensors)
            digest = storage.sha256(data)
            storage.write(storage.join(self._folder, f"{digest}.safetensors"), data)
            storage.write_json(storage.join(self._folder, f"{name}.json"), {"sha256": digest})


def names(config: Config, data: str, tasks: Tasks, net: ClipWithHeads) -> tuple[str, str]:
    """Names, with their keys, of the results on val and on the retained examples; `data` is the data set's digest.

    Val does not depend on which tasks are asked for, on seed or training's precision: cells that differ share it.
    """
    device, limits = net.mean.device, config.constraints
    cuda = device.type == "cuda"
    parts: dict[str, Any] = {
        "model": asdict(config.model) | {"weights": storage.sha256(storage.read(str(config.model.weights)))},
        "identity": net.identity.to_json(),
        "data": data,
        "images": (config.data.on_corrupt, net.image_size),
        "label_sets": [tasks.classes, tasks.prompts, tasks.vocabularies, sorted(tasks.attributes)],
        "temperature": limits.temperature,
        "precision": config.select.precision,
        "device": torch.cuda.get_device_name(device) if cuda else torch.backends.cpu.get_cpu_capability(),
        "code": [code_digest(), torch.__version__],
    }
    share = share_held(config)
    held = (share, limits.images_per_task) if share else None  # which examples λ sees
    more = {
        "task": asdict(config.task), "retained": (limits.loss, held), "seed": config.run.seed,
        "memory": config.data.memory,  # a larger split may have retained examples of few shards
        "trained_in": config.run.precision,
        "threads": torch.get_num_threads(),  # last bits may differ, and h of an unchanged model is exactly 0
    }  # fmt: skip

    def key(parts: dict[str, Any]) -> str:
        return storage.sha256(json.dumps(parts, sort_keys=True).encode())

    return f"val-{key(parts)}", f"retained-{key(parts | more)}"


def _read(folder: str, name: str) -> bytes | None:
    """The file of an index, None where there is no index."""
    index = storage.read_json(storage.join(folder, f"{name}.json"))
    if index is None:
        return None
    if not isinstance(index.get("sha256"), str):
        raise UsageError(f"{folder}/{name}.json: damaged: it names no file; remove it, to measure again")
    uri = storage.join(folder, f"{index['sha256']}.safetensors")
    data = storage.read(uri)
    if storage.sha256(data) != index["sha256"]:
        raise UsageError(f"{uri}: damaged: its SHA-256 is not its name; remove it and {name}.json, to measure again")
    return data


def _packed(found: Evaluation) -> dict[str, Tensor]:
    tensors = {
        f"{part}.{attribute}": torch.from_numpy(np.ascontiguousarray(array))
        for part in _PARTS
        for attribute, array in getattr(found, part).items()
    }
    return tensors | {name: torch.from_numpy(rows) for name in _ROWS if (rows := getattr(found, name)) is not None}


def _unpacked(tensors: dict[str, Tensor]) -> Evaluation:
    arrays: dict[str, Any] = {part: {} for part in _PARTS}
    for label, tensor in tensors.items():
        part, _, rest = label.partition(".")
        if part in arrays:
            arrays[part][rest] = tensor.numpy()
    arrays |= {name: tensors[name].numpy() for name in _ROWS if name in tensors}
    return Evaluation(**arrays)
