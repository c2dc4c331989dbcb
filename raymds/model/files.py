"""Weights in every form that people have, as named tensors; one form in which raymds writes them.

Whatever the form, the tensors come out in 32 bits under open_clip's names of a model with a separate text tower
(`visual.…`, `text.…`, `logit_scale`), heads as `heads.CLASS.A` and `heads.CLASS.B`. What a file is, its first bytes
say, not its ending. Nothing here runs code of a file: safetensors, JSON, and pickles with `weights_only`.
"""

import io
import json
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from raymds.errors import UsageError
from raymds.model import torchscript
from raymds.model.heads import HEADS, SHARED, head_names, place, trained
from raymds.model.identity import Found, Identity
from raymds.store import uri as storage

_OPENAI = {"input_resolution", "context_length", "vocab_size"}  # entries of OpenAI's state dicts that are no weights
_CONSTANT = ("position_ids", "attn_mask")  # of text towers, saved by older programs and with TorchScript
_NESTED = ("state_dict", "model_state_dict", "model", "module", "net")  # where training programs put the weights
_STACKED = ("heads.A", "heads.B"), ("projection_fn_A", "projection_fn_B")  # heads in the order of a list
_TEXT = ("text_projection", "positional_embedding", "token_embedding.", "transformer.", "ln_final.")
_TRANSFORMERS = {"vision_model", "text_model"}  # begin the names of Hugging Face's transformers
_CONFIG = "open_clip_config.json"
_HEADLESS = "headless"  # of the metadata of a file that was exported without its class heads


class Weights(NamedTuple):
    """A file's tensors, and what the file and the file beside it say of the model."""

    tensors: dict[str, Tensor]
    found: Found


class Model(Protocol):
    """What a file is made of."""

    identity: Identity

    def weights(self) -> dict[str, Tensor]:
        """All tensors by name."""


def read_weights(uri: str, heads: Sequence[str] | str | None = None) -> Weights:
    """Weights of a local file or one in an object store; UsageError naming it and what to do where it can't be used.

    `heads` places heads that the file does not name: the classes in their order, or `drop` to leave them out.
    """
    data = storage.read(uri)
    try:
        raw, metadata = _tensors(uri, data)
        state, about = _unwrapped(uri, raw), _about(uri, metadata)
    except RecursionError:
        raise UsageError(f"{uri}: is nested without an end; save the model's state_dict() alone") from None
    if not state:
        raise UsageError(f"{uri}: holds no tensors")
    for name, tensor in state.items():
        if tensor.layout is not torch.strided or tensor.is_meta:
            kind = "has no content (its device is meta)" if tensor.is_meta else "is sparse"
            raise UsageError(f"{uri}: {name} {kind}; save it as a plain tensor")
    _refuse_transformers(uri, state)
    openai = set(state) >= _OPENAI
    constant = {n for n in state if not n.startswith("visual.") and n.rpartition(".")[2] in _CONSTANT}
    state = {name: tensor for name, tensor in state.items() if name not in _OPENAI | constant}
    if about.get(_HEADLESS):
        raise UsageError(
            f"{uri}: was exported for open_clip, without the class heads that the model was measured with; give the "
            "weights.safetensors that it was exported from"
        )
    stacked = any(set(pair) <= set(state) for pair in _STACKED)
    note = f"model.heads=drop: the class heads of {uri} are left out" if stacked and heads == "drop" else ""
    state = _named_heads(uri, state, about.get("classes"), heads)
    twice = next((name for name in state if _separate(name) != name and _separate(name) in state), None)
    if twice:
        raise UsageError(f"{uri}: has both {twice} and {_separate(twice)}; save the tensors of one model alone")
    tensors = {_separate(name): _plain(tensor) for name, tensor in state.items()}
    for name in tensors:
        if name.startswith(HEADS) and not all(f"{name[:-2]}.{part}" in tensors for part in "AB"):
            raise UsageError(f"{uri}: {name} is half a head, the other half is missing; take the file as written")
    beside = None if about else _beside(uri)
    return Weights(tensors, Found(uri, about, beside, storage.sha256(data), openai, note))


def pack_weights(
    model: Model, tensors: Mapping[str, Tensor] | None = None, identity: Identity | None = None, headless: bool = False
) -> bytes:
    """A .safetensors file that says what it is, of the model or of other tensors and words. Equal ones, equal bytes.

    `headless` marks a file that others are to read, without the heads.
    """
    tensors = tensors or model.weights()
    # One metadata entry: several are written in an order that changes from file to file, and with it the digest.
    about = (
        json.loads((identity or model.identity).to_json())
        | {"classes": head_names(tensors)}
        | ({_HEADLESS: True} if headless else {})
    )
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(plain, {"raymds": json.dumps(about)})


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a model's tensors, whatever file they come from; heads that are untrained, and so change nothing,
    don't count."""
    names = [name for name in sorted(tensors) if not name.startswith(HEADS) or trained(tensors, name)]
    parts = []
    for name in names:
        tensor = tensors[name].detach().cpu().contiguous()
        content = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
        parts.append(f"{name} {tensor.dtype} {tuple(tensor.shape)} {storage.sha256(content)}")
    return storage.sha256("\n".join(parts).encode())


def _tensors(uri: str, data: bytes) -> tuple[Any, Mapping[str, str]]:
    """The content of a file by its first bytes, and a safetensors file's metadata."""
    if data[:1] == b"{" and b'"weight_map"' in data:
        raise UsageError(
            f"{uri}: is the index of a model in several files; join them into one: load each by "
            "safetensors.torch.load_file (.bin: torch.load), and save_file all their tensors together"
        )
    if data[8:9] == b"{":
        try:
            length = int.from_bytes(data[:8], "little")
            metadata = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
            return safetensors.torch.load(data), metadata
        except (SafetensorError, ValueError) as error:
            raise UsageError(f"{uri}: damaged, or no safetensors file: {error}; copy it again") from None
    if data[:2] in {b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"}:
        return _pickled(uri, data), {}
    if data.startswith(b"version https://git-lfs"):
        raise UsageError(f"{uri}: is a pointer of Git LFS, not the weights; fetch them with `git lfs pull`")
    raise UsageError(f"{uri}: damaged, or no file of weights: neither safetensors nor a checkpoint of PyTorch")


def _pickled(uri: str, data: bytes) -> Any:
    if data[:2] == b"PK":
        try:
            archive = zipfile.ZipFile(io.BytesIO(data))
            if torchscript.is_torchscript(archive.namelist()):
                return torchscript.state_dict(archive)
        except Exception as error:
            raise UsageError(f"{uri}: damaged: {error}; copy it again") from None
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+) was not", str(error))
        wanted = f" (it names {code[1]})" if code else ""
        raise UsageError(
            f"{uri}: can't be loaded without running code{wanted}; save its state_dict() alone with torch.save, or as "
            "safetensors"
        ) from None
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(f"{uri}: damaged, or no checkpoint of PyTorch: {first}; copy it again") from None


def _unwrapped(uri: str, content: Any) -> dict[str, Tensor]:
    """The state dict within what a training program saved, without a prefix that all its names share."""
    while isinstance(content, Mapping):
        inner = [key for key, value in content.items() if _holds(value) and "optim" not in str(key)]
        known = [key for key in _NESTED if key in inner]
        flat = any(isinstance(value, Tensor) for value in content.values())
        if not known and (flat or not inner):
            break
        models = [key for key in inner if not known or key in known or "ema" in str(key).lower()]
        if len(models) > 1:
            raise UsageError(f"{uri}: holds several models: {', '.join(map(str, models))}; save one of them by itself")
        content = content[models[0]]
    if not isinstance(content, Mapping):
        return {}
    state = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if extra := {str(name): torch.tensor(v) for name, v in content.items() if name in _OPENAI and type(v) is int}:
        state |= extra
    while len(first := {name.partition(".")[0] for name in state if name not in _OPENAI}) == 1:
        if first <= _TRANSFORMERS or not all("." in name for name in state if name not in _OPENAI):
            break
        state = {name if name in _OPENAI else name.partition(".")[2]: tensor for name, tensor in state.items()}
    return state


def _holds(content: Any) -> bool:
    """Whether there are tensors in a mapping, or in one within it."""
    return isinstance(content, Mapping) and any(isinstance(v, Tensor) or _holds(v) for v in content.values())


def _refuse_transformers(uri: str, state: Mapping[str, Tensor]) -> None:
    if any(f"{part}." in name for part in _TRANSFORMERS for name in state):
        raise UsageError(
            f"{uri}: has the names of Hugging Face's transformers (vision_model.…); take the same model in open_clip's "
            "form: its page on the hub has open_clip_model.safetensors or open_clip_pytorch_model.bin, or open_clip "
            "publishes it under a tag"
        )


def _named_heads(
    uri: str, state: dict[str, Tensor], noted: Sequence[str] | None, given: Sequence[str] | str | None
) -> dict[str, Tensor]:
    """The state with stacked heads, A (C, W, r) and B (C, r, D), under the names of their classes."""
    for pair in _STACKED:
        if not set(pair) <= set(state):
            continue
        A, B = (state.pop(name) for name in pair)
        if given == "drop" or not B.any():
            continue
        names = list(noted if given is None and isinstance(noted, list) else given or [])
        if A.ndim != 3 or B.ndim != 3 or len(A) != len(B):
            raise UsageError(f"{uri}: {pair[0]} {tuple(A.shape)} and {pair[1]} {tuple(B.shape)} are no class heads")
        if not names:
            raise UsageError(
                f"{uri}: has {len(B)} trained class heads ({pair[0]}) without the names of their classes; give "
                f"model.heads=[attribute:class, …] in their order, the last one of pairs of no class ({SHARED}) may "
                "be left out, or model.heads=drop to do without them"
            )
        if len(names) == len(B) - 1:
            names.append(SHARED)
        if len(names) != len(B) or len(set(names)) != len(names):
            raise UsageError(f"model.heads: names {len(set(names))} classes, {uri} has {len(B)} heads; name each once")
        state |= place(names, A, B)
    return state


def _about(uri: str, metadata: Mapping[str, str]) -> dict[str, Any]:
    """What raymds noted in a file."""
    try:
        about = json.loads(metadata.get("raymds", "{}"))
    except ValueError:
        about = None
    if not isinstance(about, dict):
        raise UsageError(f"{uri}: its metadata is damaged; take the file as it was written")
    return about


def _separate(name: str) -> str:
    """A tensor's name in a model with a separate text tower: open_clip's other layout has no `text.` there."""
    return f"text.{name}" if name.startswith(_TEXT) else name


def _plain(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    tensor = tensor.float() if tensor.is_floating_point() else tensor
    return tensor.contiguous()


def _beside(uri: str) -> Mapping[str, Any] | None:
    """`open_clip_config.json` in the folder of a file, None where there is none."""
    folder, slash, _ = storage.absolute(uri).rpartition("/")
    found = storage.read_or_none(f"{folder}{slash}{_CONFIG}")
    if found is None:
        return None
    try:
        content = json.loads(found)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{folder}/{_CONFIG}: not valid JSON: {error}") from None
    return content if isinstance(content, Mapping) else {}
