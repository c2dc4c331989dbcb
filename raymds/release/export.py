"""A delivered model as files for people who do not have raymds.

    open_clip_model.safetensors, open_clip_config.json   what open_clip loads by `local-dir:`
    classifier.safetensors                               per attribute its classes' embeddings, (C, D) of unit norm
    labels.json                                          what the rows of classifier.safetensors are
    image_tower.onnx                                     on request: pixels to embedding and cosines
    certificate.json                                     where there is one of these weights
    README.md                                            the model card
    export.json                                          written last: size and SHA-256 of every file above

Nothing is published before open_clip has loaded it from a scratch directory and says what raymds says.
"""

import json
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import open_clip
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor

from raymds.errors import RaymdsError, UsageError
from raymds.ledger.entry import fits
from raymds.model import ClipWithHeads, pack_weights
from raymds.model.heads import HEADS, head_names, trained
from raymds.release import card, onnx_file
from raymds.release.delivered import Delivered
from raymds.release.recogniser import Recogniser, recogniser
from raymds.store import uri as storage

SCHEMA = 1
MODEL, CONFIG = "open_clip_model.safetensors", "open_clip_config.json"
CLASSIFIER, LABELS, INDEX = "classifier.safetensors", "labels.json", "export.json"

_CLOSE = 1e-4  # largest difference of two unit-norm embeddings of one image, by raymds and by open_clip


class Exported(NamedTuple):
    """What was published."""

    content: dict[str, Any]  # of export.json
    notes: list[str]  # what a person should be told


def export(found: Delivered, to: str, *, onnx: bool, show: Callable[[dict[str, Any]], None]) -> Exported:
    """Publish a delivered model in a directory, local or in an object store; `show` gets phase records.

    UsageError where the directory holds an export of other weights or can't be written, or the model can't be read;
    RaymdsError where open_clip or ONNX Runtime do not say of an image what raymds says.
    """
    storage.check_writable(to)
    asked, digest = recogniser(found)
    model = asked.model
    before = storage.read_json(storage.join(to, INDEX))
    if before is not None and not fits(before, {"weights": {"sha256": lambda found: found == digest}}):
        raise UsageError(f"--to {to}: already holds an export of other weights; give another directory")
    tensors = model.weights()
    notes = [found.kept, *_left_out(tensors, asked)]
    files = _open_clip_files(model, tensors)
    show({"event": "phase", "phase": "checking what open_clip makes of it"})
    _check(files, asked)
    if onnx:
        show({"event": "phase", "phase": "making and checking image_tower.onnx"})
        files |= onnx_file.image_tower(asked)
    if asked.classes:
        classifiers = {name: matrix.cpu().contiguous() for name, matrix in asked.classifiers.items()}
        files[CLASSIFIER] = safetensors.torch.save(classifiers)
        files[LABELS] = _json(_labels(asked, files))
    if found.certificate:
        files["certificate.json"] = _json(found.certificate)
    weights = {"uri": found.weights, "sha256": digest, "parent": model.identity.parent}
    about = card.About(asked, found, weights, {name: storage.sha256(data) for name, data in files.items()})
    files["README.md"] = card.card(about).encode()
    listed = {name: {"bytes": len(data), "sha256": storage.sha256(data)} for name, data in files.items()}
    content = {"schema": SCHEMA, "weights": weights, "files": listed}
    show({"event": "phase", "phase": f"writing {to}"})
    storage.delete(storage.join(to, INDEX))
    for name, data in files.items():
        storage.write(storage.join(to, name), data)
    storage.write_json(storage.join(to, INDEX), content)
    return Exported(content, [note for note in notes if note])


def _left_out(tensors: dict[str, Tensor], asked: Recogniser) -> list[str]:
    """What of the model the export has no place for."""
    if not asked.classes:
        return [
            f"there is no {CLASSIFIER} and no {LABELS}: the file of weights does not say its classes, as those that "
            "raymds developed do"
        ]
    known = {f"{attribute}:{label}" for attribute, labels in asked.classes.items() for label in labels}
    lost = [name for name in head_names(tensors) if name not in known and trained(tensors, f"{HEADS}{name}.B")]
    return [f"{CLASSIFIER} lacks {', '.join(lost)}: the file of weights does not say their sentences"] if lost else []


def _open_clip_files(model: ClipWithHeads, tensors: dict[str, Tensor]) -> dict[str, bytes]:
    """Weights and config under the names that open_clip's own class of the architecture has."""
    config = model.identity.model_cfg
    state = {name: tensor for name, tensor in tensors.items() if not name.startswith(HEADS)}
    if not config.get("custom_text"):
        state = {name.removeprefix("text."): tensor for name, tensor in state.items()}
    about = {"model_cfg": config, "preprocess_cfg": model.preprocess.as_open_clip()}
    return {MODEL: pack_weights(model, state, headless=True), CONFIG: _json(about)}


@torch.no_grad()
def _check(files: dict[str, bytes], asked: Recogniser) -> None:
    """That open_clip loads the files, and makes the same pixels and the same embedding of a picture."""
    random = np.random.default_rng(0)
    side = asked.model.image_size
    picture = random.integers(0, 256, (side + side // 2, 2 * side, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory(prefix="raymds-export-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        try:
            clip, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
        except (RuntimeError, ValueError, TypeError) as error:
            raise RaymdsError(f"open_clip {open_clip.__version__} can't load the exported model: {error}") from None
    theirs = clip.eval().encode_image(preprocess(Image.fromarray(picture))[None], normalize=True).numpy()
    ours = asked.embed([picture])
    apart = float(np.abs(theirs - ours).max())
    if not apart < _CLOSE:
        raise RaymdsError(
            f"open_clip {open_clip.__version__} makes another embedding of a picture than raymds ({apart:.1g} apart); "
            "nothing was exported"
        )


def _labels(asked: Recogniser, files: dict[str, bytes]) -> dict[str, Any]:
    """labels.json."""
    about: dict[str, Any] = {
        "schema": SCHEMA,
        "classes": asked.classes,
        "sentences": asked.model.identity.prompts,
        "temperature": asked.temperature,
        "probability": "softmax over an attribute's classes of cosine / temperature",
        "digests": {name: storage.sha256(data) for name, data in files.items()},
    }
    if onnx_file.NAME in files:
        about["onnx"] = onnx_file.described(asked)
    return about


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()
