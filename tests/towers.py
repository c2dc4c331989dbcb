"""Small models of the kinds of towers that people have, as files of weights made on the fly."""

from pathlib import Path
from typing import Any

import torch

from raymds.model import ClipWithHeads, Identity, Preprocess, pack_weights

_VISION: dict[str, dict[str, Any]] = {
    "ResNet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
    "ConvNeXt": {
        "image_size": 64,
        "timm_model_name": "test_convnext",
        "timm_pool": "",
        "timm_proj": "linear",
        "timm_drop": 0.3,
        "timm_drop_path": 0.4,
    },
    "ViT with dropout": {
        "image_size": 64,
        "patch_size": 16,
        "width": 96,
        "layers": 2,
        "head_width": 32,
        "patch_dropout": 0.5,
    },
    "SigLIP": {
        "image_size": 64,
        "patch_size": 16,
        "width": 96,
        "layers": 2,
        "head_width": 32,
        "no_ln_pre": True,
        "pool_type": "avg",
    },
}
_TEXT = {"context_length": 32, "vocab_size": 629, "width": 64, "heads": 2, "layers": 2}
_MORE: dict[str, dict[str, Any]] = {"SigLIP": {"custom_text": True, "init_logit_bias": -10}}
_SIGLIP = {"no_causal_mask": True, "pool_type": "last", "proj_bias": True}

TOWERS = list(_VISION)


def tower(name: str) -> ClipWithHeads:
    """A model of this kind with random weights, and running statistics as if it had been trained."""
    text = _TEXT | (_SIGLIP if name == "SigLIP" else {})
    config = {"embed_dim": 64, "vision_cfg": _VISION[name], "text_cfg": text} | _MORE.get(name, {})
    # The name is that of the built-in model for its small vocabulary.
    net = ClipWithHeads(Identity("tiny-64", config, Preprocess(64)), [], 4, seed=3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for path, buffer in net.clip.named_buffers():
            if path.endswith("running_mean"):
                buffer.copy_(0.3 * torch.randn(buffer.shape, generator=generator))
            elif path.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return net


def write_tower(name: str, folder: Path) -> str:
    """The file of `tower(name)`; its path."""
    path = folder / f"{name.replace(' ', '-')}.safetensors"
    path.write_bytes(pack_weights(tower(name)))
    return str(path)
