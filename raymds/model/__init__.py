"""CLIP models with task heads: what a model is, its files in every form, the network."""

from raymds.model.clip import STEP_CHUNK, TEXT_CHUNK, ClipWithHeads, class_means
from raymds.model.files import Weights, pack_weights, read_weights
from raymds.model.identity import Identity
from raymds.model.opened import load
from raymds.model.preprocess import Preprocess

__all__ = [
    "STEP_CHUNK",
    "TEXT_CHUNK",
    "ClipWithHeads",
    "Identity",
    "Preprocess",
    "Weights",
    "class_means",
    "load",
    "pack_weights",
    "read_weights",
]
