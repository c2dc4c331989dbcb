"""Any open_clip model with task-dependent low-rank text heads, METHOD 4.

Legend of shapes: B images, T texts, U distinct token rows, L tokens, W text width, D embedding width, C heads, r rank.
"""

import io
import json
import logging
import warnings
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from typing import Any

import open_clip
import safetensors.torch
import torch
from open_clip.model import convert_to_custom_text_state_dict
from open_clip.transformer import TextTransformer, text_global_pool
from safetensors import SafetensorError
from torch import Tensor, nn

from raymds.errors import UsageError
from raymds.store import uri as storage

_ARCHITECTURES = resources.files("raymds") / "architectures"
open_clip.add_model_config(_ARCHITECTURES)

_HEADS = ("heads.A", "heads.B")
_CACHED = 65_536  # texts whose tokens are kept


class TaskHeads(nn.Module):
    """Per class a low-rank addition A·B to the text projection, METHOD 4; one more head serves pairs of no class."""

    def __init__(self, classes: int, width: int, embed_dim: int, rank: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.A = nn.Parameter(torch.randn(classes + 1, width, rank, generator=generator) * width**-0.5)
        self.B = nn.Parameter(torch.zeros(classes + 1, rank, embed_dim))

    def forward(self, trunk_TW: Tensor, head_T: Tensor) -> Tensor:
        """What each text's head adds to its projection: (T, W), (T,) → (T, D); head −1 is the shared one."""
        head_T = torch.where(head_T < 0, self.A.shape[0] - 1, head_T)
        low_rank = torch.bmm(trunk_TW[:, None, :], self.A[head_T])
        return torch.bmm(low_rank, self.B[head_T])[:, 0, :]


class ClipWithHeads(nn.Module):
    """An open_clip model whose text side ends in task heads. Embeddings have unit norm."""

    def __init__(self, architecture: str, classes: Sequence[str], head_rank: int, seed: int) -> None:
        """Random weights; `classes` names the heads ('weather:foggy', …)."""
        super().__init__()
        self.architecture = architecture
        self.classes = list(classes)
        self.clip = _create(architecture, seed)
        self.tokenizer = tokenizer = _tokenizer(architecture)
        # Prompts come at every step and captions at every epoch; in Python they take a tenth of a small model's step.
        self._token_row = lru_cache(_CACHED)(lambda text: tokenizer([text])[0])
        text = self.clip.text
        self.heads = TaskHeads(len(classes), text.width, text.output_dim, head_rank, seed)
        preprocess = self.clip.visual.preprocess_cfg
        self.image_size = int(torch.as_tensor(preprocess["size"]).max())
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(preprocess["mean"]).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(preprocess["std"]).view(3, 1, 1) * 255, persistent=False)
        self._trim()

    def _trim(self) -> None:
        # The losses fix their temperatures; a learned scale would be a parameter without a gradient.
        self.clip.logit_scale.requires_grad_(False)
        if self.clip.logit_bias is not None:
            self.clip.logit_bias.requires_grad_(False)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Token rows (U, L), cut after the longest text's end: the tower is causal, what follows changes nothing."""
        tokens = torch.stack([self._token_row(text) for text in texts])
        return tokens[:, : int(tokens.argmax(dim=1).max()) + 1]

    def encode_image(self, pixels_BCHW: Tensor) -> Tensor:
        """Raw uint8 pixels (B, 3, H, W) → (B, D)."""
        dtype = self.heads.A.dtype
        normal = (pixels_BCHW.to(dtype) - self.mean) / self.std
        return nn.functional.normalize(self.clip.visual(normal), dim=-1)

    def encode_text(self, tokens_UL: Tensor, row_T: Tensor, head_T: Tensor) -> Tensor:
        """Texts as (token row, head) pairs → (T, D). Equal token rows go through the tower once, for all heads."""
        trunk_UW = self._trunk(tokens_UL)
        projection = self.clip.text.text_projection
        projected = projection(trunk_UW) if isinstance(projection, nn.Linear) else trunk_UW @ projection
        return nn.functional.normalize(projected[row_T] + self.heads(trunk_UW[row_T], head_T), dim=-1)

    def forward(self, pixels: Tensor, tokens: Tensor, row: Tensor, head: Tensor) -> tuple[Tensor, Tensor]:
        """Image and text embeddings in one call, as data parallelism needs it."""
        return self.encode_image(pixels), self.encode_text(tokens, row, head)

    def _trunk(self, tokens_UL: Tensor) -> Tensor:
        """The causal text tower up to its projection, on a context of L ≤ 77 tokens: (U, L) → (U, W)."""
        text, length = self.clip.text, tokens_UL.shape[1]
        x_ULW = text.token_embedding(tokens_UL) + text.positional_embedding[:length]
        x_ULW = text.ln_final(text.transformer(x_ULW, attn_mask=text.attn_mask[:length, :length]))
        pooled: Tensor = text_global_pool(x_ULW, tokens_UL, text.pool_type, text.eos_id)
        return pooled

    def weights(self) -> dict[str, Tensor]:
        """A copy, on the CPU, of all parameters under open_clip's names, with heads.A and heads.B."""
        state = self.clip.state_dict() | {"heads.A": self.heads.A, "heads.B": self.heads.B}
        return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in state.items()}

    def load_weights(self, state: dict[str, Tensor], source: str) -> None:
        """Take over weights; heads are left as they are where the state has none.

        UsageError naming `source`, the architecture and the tensor where they do not fit.
        """
        state = dict(state)
        heads = {name.removeprefix("heads."): state.pop(name) for name in _HEADS if name in state}
        state = convert_to_custom_text_state_dict(state)
        pairs = [(self.clip, state)] + ([(self.heads, heads)] if heads else [])
        for module, tensors in pairs:
            own = module.state_dict()
            wrong = sorted(
                [n for n in own if n not in tensors]
                + [n for n in tensors if n not in own]
                + [n for n in own if n in tensors and own[n].shape != tensors[n].shape]
            )
            if wrong:
                name = wrong[0]
                shapes = [f"{tuple(s[name].shape)}" if name in s else "absent" for s in (tensors, own)]
                raise UsageError(
                    f"{source}: holds another architecture than model.name={self.architecture} with "
                    f"{len(self.classes)} class heads: {name} is {shapes[0]} in the file, {shapes[1]} in the model "
                    f"({len(wrong)} tensors differ)"
                )
            module.load_state_dict(tensors)


def load(architecture: str, weights: str | None, classes: Sequence[str], head_rank: int, seed: int) -> ClipWithHeads:
    """A model by open_clip name, with the weights of a path or URI where one is given.

    Heads in the file are used where they are for the same classes; otherwise heads start untrained.
    """
    model = ClipWithHeads(architecture, classes, head_rank, seed)
    if weights:
        state, about = read_weights(weights)
        if about.get("classes") != model.classes:
            state = {name: value for name, value in state.items() if name not in _HEADS}
        model.load_weights(state, weights)
    return model


def read_weights(uri: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of a .safetensors file, or of an open_clip .pt (read with weights_only), and what raymds noted there."""
    data = storage.read(uri)
    if uri.endswith((".pt", ".pth", ".bin")):
        return _read_pickle(uri, data), {}
    try:
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
        return safetensors.torch.load(data), json.loads(metadata.get("raymds", "{}"))
    except (SafetensorError, ValueError) as error:
        raise UsageError(f"{uri}: damaged or no safetensors file: {error}") from None


def pack_weights(model: ClipWithHeads, tensors: dict[str, Tensor] | None = None) -> bytes:
    """A .safetensors file of the model, or of other tensors of its shape, with its architecture and classes."""
    # One metadata entry: several are written in an order that changes from file to file, and with it the digest.
    about = {"architecture": model.architecture, "classes": model.classes}
    return safetensors.torch.save(tensors or model.weights(), {"raymds": json.dumps(about)})


def _read_pickle(uri: str, data: bytes) -> dict[str, Tensor]:
    try:
        loaded: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        raise UsageError(f"{uri}: can't be loaded without running code (weights_only): {error}") from None
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UsageError(f"{uri}: holds no state dict of tensors")
    return {name.removeprefix("module."): value for name, value in state.items()}


def _tokenizer(architecture: str) -> Any:
    """open_clip's tokenizer; a built-in architecture may have byte-pair merges of its own for a small vocabulary."""
    merges = _ARCHITECTURES / f"{architecture}.bpe.gz"
    return open_clip.get_tokenizer(architecture, **({"bpe_path": str(merges)} if merges.is_file() else {}))


def _create(architecture: str, seed: int) -> Any:
    """An open_clip model with a separate text tower and random weights that depend on the seed alone."""
    if architecture not in open_clip.list_models():
        raise UsageError(f"model.name={architecture}: no such architecture; open_clip.list_models() names them")
    config = open_clip.get_model_config(architecture) or {}
    if "hf_model_name" in config.get("text_cfg", {}):
        raise UsageError(f"model.name={architecture}: its text tower comes from a hub, which raymds does not use")
    logging.getLogger().setLevel(logging.ERROR)  # open_clip warns of the random weights that are asked for here
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        clip = open_clip.create_model(architecture, force_custom_text=True, load_weights=False, pretrained_text=False)
    text = clip.text
    causal = isinstance(text, TextTransformer) and text.attn_mask is not None and text.cls_emb is None
    if not causal or text.text_projection is None or text.pool_type not in {"argmax", "eos"}:
        raise UsageError(f"model.name={architecture}: its text tower is not CLIP's causal one, which raymds needs")
    return clip
