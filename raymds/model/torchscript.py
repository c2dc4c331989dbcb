"""The tensors of a TorchScript archive, the form in which OpenAI gives its CLIP models, without running its code.

Such an archive is a zip file: `data.pkl` describes an object of compiled classes, `data/N` hold the bytes of its
tensors, `code/` the program. Here classes are mere holders of attributes and the program is not looked at.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

_DTYPES = {
    f"{name}Storage": dtype
    for name, dtype in {
        "Double": torch.float64,
        "Float": torch.float32,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
}


class _Module:
    """Stands for an object of any compiled class."""


def is_torchscript(names: list[str]) -> bool:
    """Whether a zip file with these members is such an archive."""
    return any(name.endswith("/constants.pkl") for name in names) and any("/code/" in name for name in names)


def state_dict(archive: zipfile.ZipFile) -> dict[str, Any]:
    """Tensors by their dotted names, and the model's whole numbers; UnpicklingError where it names anything else."""
    [described] = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    root = _Unpickler(archive, described.removesuffix(".pkl")).load()
    return dict(_walk(root, ""))


def _walk(module: _Module, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in vars(module).items():
        if isinstance(value, _Module):
            yield from _walk(value, f"{prefix}{name}.")
        elif isinstance(value, Tensor) or (type(value) is int and not prefix):
            yield prefix + name, value


class _Unpickler(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{folder}.pkl")))
        self._archive, self._folder = archive, folder

    def find_class(self, module: str, name: str) -> Any:
        """Only what builds tensors and plain containers; all of it code of torch and Python, none of the file."""
        if module.split(".", maxsplit=1)[0] == "__torch__":
            return _Module
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _DTYPES:
            return name
        if module == "torch.jit._pickle":  # lists and dictionaries with the types of what they hold
            return lambda content, *_: content
        raise pickle.UnpicklingError(f"GLOBAL {module}.{name} was not expected in an archive of weights")

    def persistent_load(self, pid: Any) -> Any:
        """A tensor's memory: ("storage", kind, number of the member, device, elements)."""
        _, kind, key, _, _ = pid
        content = bytearray(self._archive.read(f"{self._folder}/{key}"))
        return torch.frombuffer(content, dtype=_DTYPES[kind]) if content else torch.empty(0, dtype=_DTYPES[kind])


def _tensor(memory: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return memory.as_strided(size, stride, offset).clone()
