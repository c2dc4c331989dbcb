"""open_clip's network and tokenizer of what a model is said to be."""

import warnings
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import open_clip
import torch
from open_clip.model import CustomTextCLIP
from open_clip.modified_resnet import ModifiedResNet
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from raymds.errors import UsageError
from raymds.model.identity import ARCHITECTURES, Identity


def tokenizer(identity: Identity) -> Any:
    """Its tokenizer; a built-in architecture may have byte-pair merges of its own for a small vocabulary.

    UsageError where open_clip can't make it, or the hub that it comes from can't be reached.
    """
    text = identity.model_cfg["text_cfg"]
    length, options = text.get("context_length", 77), text.get("tokenizer_kwargs") or {}
    merges = ARCHITECTURES / f"{identity.architecture}.bpe.gz"
    if identity.architecture and merges.is_file():
        return SimpleTokenizer(bpe_path=str(merges), context_length=length)
    name = text.get("hf_tokenizer_name")
    if not name:
        try:
            return SimpleTokenizer(context_length=length, **options)
        except TypeError as error:
            raise UsageError(
                f"model.name={identity.called}: open_clip {open_clip.__version__} can't make its tokenizer: {error}"
            ) from None
    try:
        return HFTokenizer(name, context_length=length, tokenizer_mode=text.get("tokenizer_mode"), **options)
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"model.name={identity.called}: its tokenizer {name} can't be had: {first}; it needs `pip install "
            "transformers`, and the hub or a copy in its cache (HF_HOME)"
        ) from None


def network(identity: Identity, seed: int) -> Any:
    """Its model with a separate text tower and random weights that depend on the seed alone.

    UsageError where open_clip can't build it, or where raymds does not know such a text tower.
    """
    config = deepcopy(dict(identity.model_cfg))
    config.pop("custom_text", None)
    if "hf_model_name" in config.get("text_cfg", {}):
        raise UsageError(f"model.name={identity.called}: its text tower comes from a hub, which raymds does not use")
    if "multimodal_cfg" in config:
        raise UsageError(f"model.name={identity.called}: is a CoCa model, whose text tower raymds does not know")
    config["vision_cfg"] = config["vision_cfg"] | {"timm_model_pretrained": False}
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        try:
            clip = CustomTextCLIP(**config)
        except (ArithmeticError, AssertionError, LookupError, TypeError, RuntimeError, ValueError) as error:
            raise UsageError(
                f"model.name={identity.called}: open_clip {open_clip.__version__} can't build it: {error}"
            ) from None
    text = clip.text
    if not isinstance(text, TextTransformer) or text.cls_emb is not None or text.pool_type == "none":
        raise UsageError(f"model.name={identity.called}: its text tower is of a kind that raymds does not know")
    if sum(isinstance(module, nn.Conv2d) for module in clip.visual.modules()) > 1:
        clip.visual.to(memory_format=torch.channels_last)  # as convolutions multiply
    return clip


def checkpoint_blocks(clip: Any, identity: Identity) -> None:
    """Have both towers keep the inputs of their blocks alone for the gradient; UsageError where one can't."""
    trunk = getattr(clip.visual, "trunk", clip.visual)  # of timm, where open_clip only warns
    try:
        if isinstance(clip.visual, ModifiedResNet):  # whose own method does nothing
            raise NotImplementedError
        trunk.set_grad_checkpointing(True)
    except (AttributeError, AssertionError, NotImplementedError):
        raise UsageError(
            f"run.grad_checkpointing: the image tower of {identity.called} does not know it; take run.micro_batch, "
            "which bounds the memory of every model"
        ) from None
    clip.text.transformer.grad_checkpointing = True


def refuse_others(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str, identity: Identity) -> None:
    """UsageError naming `source`, the architecture and a tensor: `tensors` have other names or shapes than `own`."""
    wrong = sorted(
        [n for n in own if n not in tensors]
        + [n for n in tensors if n not in own]
        + [n for n in own if n in tensors and own[n].shape != tensors[n].shape]
    )
    if wrong:
        name = wrong[0]
        shapes = [f"{tuple(s[name].shape)}" if name in s else "absent" for s in (tensors, own)]
        part = all(n not in tensors for n in wrong)
        raise UsageError(
            f"{source}: holds another architecture than {identity.called}: {name} is {shapes[0]} in the file, "
            f"{shapes[1]} in the model ({len(wrong)} tensors differ); give model.name=ARCHITECTURE of the file"
            + (", or, where it is one tower or one of several shards, a file of the whole model" if part else "")
        )
