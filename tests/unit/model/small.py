"""Small models and their files, made on the fly."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import open_clip
import safetensors.torch
import torch
from torch import Tensor

from raymds.model import ClipWithHeads, Identity, Preprocess, load

CLASSES = ["weather:clear", "weather:foggy"]
TEXTS = ["the weather is foggy.", "a", "driving on a highway on a partly cloudy day at night in the rain"]
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}  # open_clip's own tokens
VISION = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
RESNET = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16, "head_width": 16, "patch_size": None}
TINY = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT}


def trained(classes: Sequence[str] = CLASSES, rank: int = 4) -> ClipWithHeads:
    """The tiny model, all of its heads trained."""
    net = ClipWithHeads("tiny-64", classes, rank, seed=0)
    with torch.no_grad():
        net.heads.B.normal_(generator=torch.Generator().manual_seed(1))
    return net


def of_config(vision: Mapping[str, Any], text: Mapping[str, Any] = TEXT, **more: Any) -> ClipWithHeads:
    """A model with random weights of a config that has no name."""
    config = {"embed_dim": 24, "vision_cfg": dict(vision), "text_cfg": dict(text), **more}
    return ClipWithHeads(Identity("", config, Preprocess(vision["image_size"])), CLASSES, 4, seed=0)


def open_clips() -> Any:
    """The tiny model as open_clip makes it, in its plain layout: no `text.` before the text tower's names."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return open_clip.create_model("tiny-64", load_weights=False).eval()


def pickled(content: Any, **options: Any) -> bytes:
    """As torch.save writes it."""
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def saved(tensors: Mapping[str, Tensor], about: Any = None) -> bytes:
    """A safetensors file, with `about` where raymds notes what the model is."""
    return safetensors.torch.save(dict(tensors), None if about is None else {"raymds": json.dumps(about)})


def write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def opened(path: Path, data: bytes, name: str = "tiny-64", classes: Sequence[str] = CLASSES, **more: Any) -> Any:
    """The model of a file with that content."""
    return load(name, write(path, data), classes, more.pop("head_rank", None), 0, **more)
