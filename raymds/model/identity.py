"""What a model is beside its tensors: architecture, activation, preprocessing, and the words of its classes.

Who says it, in this order: the file itself (raymds' metadata), an `open_clip_config.json` beside it, OpenAI's table of
digests, and only then `model.name`, `model.pretrained` and `model.activation`. Two that disagree are an error, and so
is a question that nobody answers: QuickGELU and GELU have the same tensors and are two models.
"""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from typing import Any

import open_clip
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from open_clip.pretrained import get_pretrained_cfg, get_pretrained_url, list_pretrained_tags_by_model

from raymds.errors import UsageError
from raymds.model.preprocess import Preprocess, square

ARCHITECTURES = resources.files("raymds") / "architectures"
open_clip.add_model_config(ARCHITECTURES)

_TWIN = "-quickgelu"  # open_clip's suffix of the architectures with QuickGELU
_FIT = ("mean", "std", "interpolation", "resize_mode")  # what open_clip keeps with a pretrained tag

Prompts = dict[str, dict[str, list[str]]]  # attribute -> class -> its sentences


@dataclass(frozen=True)
class Identity:
    """All that a model's file says of it."""

    architecture: str  # open_clip's name; empty where only `model_cfg` is known
    model_cfg: dict[str, Any]  # open_clip's config of that architecture
    preprocess: Preprocess
    prompts: Prompts = field(default_factory=dict)  # of the label sets that it was developed with
    parent: str | None = None  # SHA-256 of the weights that it was developed from

    @property
    def activation(self) -> str:
        """`quickgelu` or `gelu`."""
        return "quickgelu" if self.model_cfg.get("quick_gelu") else "gelu"

    @property
    def called(self) -> str:
        """A name for messages."""
        return self.architecture or "the architecture of its open_clip_config.json"

    def to_json(self) -> str:
        """As it stands in a file's metadata."""
        about = {
            "schema": 2,
            "architecture": self.architecture,
            "activation": self.activation,
            "model_cfg": self.model_cfg,
            "preprocess": self.preprocess.as_open_clip(),
            "prompts": self.prompts,
            "parent": self.parent,
        }
        return json.dumps(about)


@dataclass(frozen=True)
class Asked:
    """What the config says of a model: the keys `name`, `pretrained` and `activation` of its section."""

    name: str = ""
    pretrained: str | None = None
    activation: str | None = None


@dataclass(frozen=True)
class Found:
    """What a file of weights, and what lies beside it, says of the model."""

    source: str  # its URI, for messages
    metadata: Mapping[str, Any] = field(default_factory=dict)  # what raymds noted in the file
    config: Mapping[str, Any] | None = None  # open_clip_config.json beside it
    sha256: str = ""  # of its bytes
    openai: bool = False  # has the three entries that OpenAI's state dicts have beside the weights
    note: str = ""  # what people should know of how the file was read


def identify(asked: Asked, found: Found | None) -> Identity:
    """The model that config and file describe together; UsageError where they disagree, or leave something open.

    `found` is None for random weights: then the name alone decides.
    """
    own = _of_file(found) if found else None
    if own is None:
        return _of_config(asked, found)
    where = found.source if found else ""
    if asked.name and not _same(_asked_config(asked, own), own.model_cfg):
        raise UsageError(
            f"model.name={asked.name}: {where} says that it is {own.called} with {own.activation}; leave model.name "
            "out, or give the weights of the other architecture"
        )
    if asked.activation and asked.activation != own.activation:
        raise UsageError(f"model.activation={asked.activation}: {where} says {own.activation}; leave the key out")
    if asked.pretrained:
        tag = _tag(own.architecture or asked.name, asked.pretrained)
        fits = Preprocess.parse(tag, own.preprocess.size, where) == own.preprocess
        if not fits or (_twins(own.architecture) and _quick(tag) != (own.activation == "quickgelu")):
            raise UsageError(
                f"model.pretrained={asked.pretrained}: has another preprocessing or activation than {where} says of "
                "itself; leave the key out"
            )
    return own


def model_config(name: str) -> dict[str, Any]:
    """open_clip's config of an architecture; UsageError where it knows none of that name."""
    config = open_clip.get_model_config(name) if "://" not in name and ":" not in name else None
    if config is None:
        near = difflib.get_close_matches(name, open_clip.list_models(), n=1)
        hint = f"; did you mean {near[0]}?" if near else "; open_clip.list_models() names them"
        raise UsageError(f"model.name={name}: no such architecture{hint}")
    return dict(config)


def _asked_config(asked: Asked, own: Identity) -> dict[str, Any]:
    """The config of `model.name`, whose activation the other keys may decide; they are checked by themselves."""
    config = model_config(asked.name)
    if (asked.activation or asked.pretrained) and not asked.name.endswith(_TWIN):
        config["quick_gelu"] = own.activation == "quickgelu"
    return config


def _of_file(found: Found) -> Identity | None:
    """What the file says of itself, None where it says nothing."""
    about, source = found.metadata, found.source
    if "model_cfg" in about:
        config, prompts = _whole(about["model_cfg"], source), about.get("prompts")
        if not isinstance(prompts, dict) or not {"architecture", "preprocess", "parent"} <= set(about):
            raise UsageError(f"{source}: its metadata is damaged; take the file as it was written")
        preprocess = Preprocess.parse(about["preprocess"], _size(config, source), source)
        return Identity(about["architecture"], config, preprocess, prompts, about["parent"])
    if "architecture" in about:  # as the first versions of raymds wrote it
        name = str(about["architecture"])
        return Identity(name, model_config(name), Preprocess(_size(model_config(name), source)))
    if found.config is not None:
        beside = f"open_clip_config.json beside {source}"
        config = _whole(found.config.get("model_cfg"), beside)
        preprocess = Preprocess.parse(found.config.get("preprocess_cfg") or {}, _size(config, beside), beside)
        name = next((n for n in open_clip.list_models() if _same(model_config(n), config)), "")
        return Identity(name, config, preprocess)
    if found.sha256 in _OPENAI:
        return _plain(_OPENAI[found.sha256] + _TWIN, get_pretrained_cfg(_OPENAI[found.sha256], "openai"))
    return None


def _of_config(asked: Asked, found: Found | None) -> Identity:
    """The architecture of `model.name`, once activation and preprocessing are settled for a file that says neither."""
    where = found.source if found else "random weights"
    name = asked.name
    if not name:
        raise UsageError(
            f"model.name: has no value, and {where} does not say what it is; give open_clip's name of its architecture"
        )
    config = model_config(name)
    base = name.removesuffix(_TWIN)
    twins = _twins(name)
    tag = _tag(name, asked.pretrained) if asked.pretrained else {}
    says = {  # who says which activation
        f"model.pretrained={asked.pretrained}": _quick(tag) if tag and twins else None,
        f"model.activation={asked.activation}": asked.activation == "quickgelu" if asked.activation else None,
        f"model.name={name}": True if twins and name != base else None,
        f"{where}, which has the entries of OpenAI's,": True if found and found.openai and twins else None,
    }
    told = {who: quick for who, quick in says.items() if quick is not None}
    if len(set(told.values())) > 1:
        one, other = (next(who for who, quick in told.items() if quick is which) for which in (True, False))
        raise UsageError(f"{one} stands for QuickGELU, {other} for GELU; the two are different models")
    if not told and twins and found:
        raise UsageError(
            f"model.name={name}: {where} does not say which activation it was trained with, and the tensors of the two "
            f"are alike. Give model.name={base}{_TWIN} (OpenAI's CLIP and what was finetuned from it), or model.name="
            f"{base} with model.activation=gelu (most of LAION's and DataComp's); model.pretrained=TAG of the model "
            "that it was finetuned from decides as well"
        )
    if told:
        quick = next(iter(told.values()))
        name = (base + _TWIN if quick else base) if twins else name
        config = model_config(name) | {"quick_gelu": quick}
    if not tag and found and not found.openai:
        tag = _agreed(name, where)
    return replace(_plain(name, tag), model_cfg=config)


def _plain(name: str, fit: Mapping[str, Any]) -> Identity:
    config = model_config(name)
    fit = {key: fit[key] for key in _FIT if key in fit}
    return Identity(name, config, Preprocess.parse(fit, _size(config, f"model.name={name}"), f"model.name={name}"))


def _agreed(name: str, where: str) -> Mapping[str, Any]:
    """The preprocessing on which all published weights of an architecture agree; UsageError where they don't."""
    tags = list_pretrained_tags_by_model(name)
    kinds = {tuple(str(get_pretrained_cfg(name, tag)[key]) for key in _FIT): tag for tag in tags}
    if len(kinds) > 1:
        raise UsageError(
            f"model.name={name}: published weights of this architecture differ in their preprocessing, and {where} "
            f"says nothing of its own; give model.pretrained=TAG of the model that it was finetuned from (one of "
            f"{', '.join(tags)}), or put its open_clip_config.json beside it"
        )
    return get_pretrained_cfg(name, tags[0]) if tags else {}


def _tag(name: str, tag: str) -> Mapping[str, Any]:
    """open_clip's entry of a pretrained tag, which loads nothing."""
    base = name.removesuffix(_TWIN)
    found: Mapping[str, Any] = get_pretrained_cfg(name, tag) or get_pretrained_cfg(base, tag)
    if not found:
        tags = list_pretrained_tags_by_model(base) or list_pretrained_tags_by_model(name)
        raise UsageError(
            f"model.pretrained={tag}: open_clip has no such weights of {name or 'a model without a name'}; "
            f"it has {', '.join(tags) or 'none'}"
        )
    return found


def _twins(name: str) -> bool:
    """Whether open_clip has an architecture with either activation."""
    return name.removesuffix(_TWIN) + _TWIN in open_clip.list_models()


def _quick(tag: Mapping[str, Any]) -> bool:
    return bool(tag.get("quick_gelu", False))


def _whole(config: Any, source: str) -> dict[str, Any]:
    """A `model_cfg`; UsageError naming `source` where it can't be one."""
    known = {"embed_dim": int, "vision_cfg": Mapping, "text_cfg": Mapping}
    if not isinstance(config, Mapping) or not all(isinstance(config.get(key), kind) for key, kind in known.items()):
        raise UsageError(f"{source}: has no model_cfg of an open_clip model; take the file as it was written")
    return dict(config)


def _size(config: Mapping[str, Any], source: str) -> int:
    return square(config["vision_cfg"].get("image_size", 224), source)


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two configs describe one network, whatever they leave to open_clip's defaults."""

    def whole(config: Mapping[str, Any]) -> Any:
        vision = {key: value for key, value in config["vision_cfg"].items() if key != "timm_model_pretrained"}
        towers = CLIPVisionCfg(**vision), CLIPTextCfg(**config["text_cfg"])
        return config["embed_dim"], bool(config.get("quick_gelu")), *towers

    try:
        return bool(whole(one) == whole(other))
    except TypeError:  # a key that this open_clip does not know
        return one == other


def _openai() -> dict[str, str]:
    """SHA-256 of OpenAI's own files, as their URLs have it -> architecture."""
    names = [name for name in open_clip.list_models() if not name.endswith(_TWIN)]
    urls = {name: get_pretrained_url(name, "openai") for name in names}
    return {url.rsplit("/", 2)[1]: name for name, url in urls.items() if url.count("/") > 3}


_OPENAI = _openai()
