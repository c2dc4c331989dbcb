"""The model card of an export: Hugging Face's front matter, and what certificate and config say, in Markdown.

Every number in it comes from the certificate, the config or the files.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

import yaml
from open_clip.pretrained import get_pretrained_cfg

from raymds import __version__
from raymds.config import Config
from raymds.method.verdict import NOT_CERTIFIABLE, images, in_groups, not_certifiable
from raymds.method.wear import SEEN
from raymds.release.delivered import Delivered
from raymds.release.markdown import escaped, table
from raymds.release.recogniser import Recogniser

_SECTIONS = ("task", "objective", "constraints", "optim", "select")  # of the config; the others name places, machines

_LOADING = """\
```python
import json, open_clip, torch
from PIL import Image
from safetensors.torch import load_file
model, _, preprocess = open_clip.create_model_and_transforms("local-dir:.")
classifier, labels = load_file("classifier.safetensors"), json.load(open("labels.json"))
with torch.no_grad():
    embedding = model.eval().encode_image(preprocess(Image.open("image.jpg")).unsqueeze(0), normalize=True)
print({a: labels["classes"][a][(embedding @ matrix.T).argmax()] for a, matrix in classifier.items()})
```

in the folder of this card. A probability is a softmax of cosines / {temperature:g}. Images have to be upright:
open_clip does not turn them by their EXIF orientation."""


class About(NamedTuple):
    """What a card is made of."""

    model: Recogniser
    found: Delivered
    weights: Mapping[str, Any]  # uri, sha256 and parent of what was exported
    digests: Mapping[str, str]  # file -> SHA-256


def card(about: About) -> str:
    """The text of README.md."""
    parts = [
        _front_matter(about),
        *_title(about),
        *_certificate(about.found.certificate),
        *_use(about),
        *_digests(about),
        *_settings(None if about.found.kept else about.found.config),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(about: About) -> str:
    config, identity = about.found.config, about.model.model.identity
    tags = ["clip", "open_clip", "safetensors", *(["onnx"] if "image_tower.onnx" in about.digests else [])]
    front = {"library_name": "open_clip", "pipeline_tag": "zero-shot-image-classification", "tags": tags}
    tag = config.model.pretrained if config else None
    hub = (get_pretrained_cfg(identity.architecture, tag) or {}).get("hf_hub") if tag else None
    if hub:
        front["base_model"] = "/".join(hub.split("/")[:2])
    return f"---\n{yaml.safe_dump(front, sort_keys=False).strip()}\n---"


def _title(about: About) -> list[str]:
    identity, classes = about.model.model.identity, about.model.classes
    certificate = about.found.certificate
    name = escaped(identity.called)
    if certificate is None:
        parts = [f"# {name}", f"An open_clip model with {identity.activation}, exported by raymds. No certificate."]
    else:
        parts = [
            f"# {name}, developed for {escaped(certificate['target']['task'])}",
            f"An open_clip model with {identity.activation}, developed further by raymds under one constraint for each "
            "protected capability, and measured against the model that it was developed from.",
        ]
    use = (
        "To find in an image what the table below names, among images like those of the data set that the certificate "
        "rests on. What it does with other images or other words was not measured."
        if certificate
        else "That of the model that it comes from; nothing of it was measured here."
    )
    parts += ["## Intended use", use]
    if classes:
        rows = [(attribute, ", ".join(map(escaped, labels))) for attribute, labels in classes.items()]
        parts.append(table(("attribute", "classes"), [(escaped(attribute), labels) for attribute, labels in rows]))
    return parts


def _certificate(certificate: Mapping[str, Any] | None) -> list[str]:
    if certificate is None:
        return []
    target, tolerance = certificate["target"], certificate["tolerance"]
    tolerated = (
        f"a tolerance of {100 * tolerance:g} points"
        if isinstance(tolerance, float | int)
        else "a tolerance of its own for each"
    )
    rows = [
        (
            escaped(task["task"]), images(task), f"{100 * task['old']:.1f}", f"{100 * task['new']:.1f}",
            f"{100 * task['delta']:+.1f}", f"{100 * task['lower']:+.1f}", f"{100 * task['upper']:+.1f}",
            f"{task['negative_flips']}/{task['positive_flips']}", task.get("verdict", "target"),
        )
        for task in (target, *certificate["tasks"])
    ]  # fmt: skip
    none = "–", "–", "–", "–", "–", "–", "–", NOT_CERTIFIABLE
    rows += [(escaped(name), *none) for name in not_certifiable(certificate)]
    split = certificate.get("measured", {}).get("split", "test")
    chosen = f"Measured on {escaped(split)}, which models are made and chosen with: so this certifies nothing."
    names = ("task", "n", "old %", "new %", "Δ points", "lower", "upper", "flips −/+", "verdict")
    return [
        "## Certificate",
        f"Verdict: **{certificate['verdict']}**, with {tolerated}, at {100 * certificate['confidence']:g} % joint "
        f"confidence over {len(certificate['tasks'])} protected tasks. The worst measured change of a protected task "
        f"is {100 * certificate['devsafety']:+.1f} points.",
        table(names, rows, numbers=range(1, 8)),
        f"n: {escaped(split)} images; old, new: accuracy of the model before and of this one; lower, upper: bounds of "
        "the true change, those of all protected tasks on one side holding together with that confidence, each of the "
        "target's by itself; flips: images right before and wrong now, and the reverse. `certificate.json` has all "
        "digits.",
        *filter(None, [in_groups(certificate), chosen if split in SEEN else None]),
    ]


def _use(about: About) -> list[str]:
    if not about.model.classes:
        return [
            "## Use",
            'With open_clip: `open_clip.create_model_and_transforms("local-dir:.")` in the folder of this card.',
        ]
    parts = ["## Use", "With open_clip:", _LOADING.replace("{temperature:g}", f"{about.model.temperature:g}")]
    parts.append(
        "`classifier.safetensors` holds the embeddings of the classes' sentences (`labels.json`) through the heads "
        "that each class has in raymds. Sentences that open_clip encodes itself do not go through these heads, and are "
        "not what was certified."
    )
    if not about.model.model.identity.model_cfg["text_cfg"].get("hf_tokenizer_name") and _own_vocabulary(about):
        parts.append("Its text tower has a small vocabulary of its own, for which open_clip has no tokenizer.")
    if "image_tower.onnx" in about.digests:
        parts.append(
            "`image_tower.onnx` does the same without PyTorch: `labels.json` names its input, which is normalised as "
            "`open_clip_config.json` says, and its outputs, the embedding and the cosines of each attribute."
        )
    return parts


def _own_vocabulary(about: About) -> bool:
    return int(about.model.model.identity.model_cfg["text_cfg"].get("vocab_size", 49408)) < 49408


def _digests(about: About) -> list[str]:
    rows = [(f"`{name}`", f"`{digest}`") for name, digest in about.digests.items()]
    rows += [
        (f"{what} (certificate)", f"`{digest}`")
        for what, digest in (about.found.certificate or {"digests": {}})["digests"].items()
    ]
    rows.append(("weights that this was exported from", f"`{about.weights['sha256']}`"))
    if about.weights["parent"]:
        rows.append(("weights that those were developed from", f"`{about.weights['parent']}`"))
    return ["## Digests", f"SHA-256, exported by raymds {__version__}.", table(("what", "SHA-256"), rows)]


def _settings(config: Config | None) -> list[str]:
    if config is None:
        return []
    content = {section: asdict(getattr(config, section)) for section in _SECTIONS} | {"seed": config.run.seed}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100).strip()
    return ["## Settings", f"```yaml\n{text}\n```"]
