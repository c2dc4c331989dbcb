"""A delivered model that is asked about images.

Legend of shapes: B images, C classes of an attribute, D embedding width, S pixels a side.
"""

import contextlib
import math
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from raymds.data.decode import decode_upright
from raymds.errors import UsageError
from raymds.model import ClipWithHeads
from raymds.release.delivered import Delivered, find
from raymds.store import uri as storage

Picture = Image.Image | NDArray[np.uint8] | str | os.PathLike[str]  # arrays are RGB (H, W, 3)

_BATCH = 64  # images in memory at a time


class Prediction(NamedTuple):
    """What a model says of one image and attribute."""

    label: str
    probability: float  # softmax over the attribute's classes of cosine / temperature
    margin: float  # probability less that of the second class; 1 where there is no second


class Recogniser:
    """A model with the classes that it was developed with. It runs on the GPU where there is one."""

    def __init__(self, model: ClipWithHeads, temperature: float) -> None:
        """`temperature` divides the cosines before the softmax that makes probabilities of them."""
        self.model = model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        self.temperature = temperature
        sentences = model.identity.prompts
        self.classes = {attribute: list(labels) for attribute, labels in sentences.items()}
        for attribute, labels in sentences.items():
            if len({len(texts) for texts in labels.values()}) > 1:
                raise UsageError(
                    f"{attribute}: its classes have different numbers of sentences in the file of weights, which no "
                    "raymds writes; take the file as it was delivered"
                )
        with torch.no_grad(), one_thread():  # the same bits on machines with more cores or fewer
            self.classifiers = self.model.classifiers(sentences)

    def classify(self, images: Iterable[Picture]) -> list[dict[str, Prediction]]:
        """For each image what the model says of every attribute.

        Images are PIL images, RGB uint8 arrays (H, W, 3), paths or URIs, in any mixture; those with an EXIF orientation
        are made upright. UsageError for one that can't be read, or where the model's file does not say its classes.
        """
        self.require_classes()
        return [answer for pixels in self._pixels(images) for answer in self.answers(pixels)]

    def embed(self, images: Iterable[Picture]) -> NDArray[np.float32]:
        """Embeddings (B, D) of unit norm, of images as in `classify`."""
        with torch.no_grad():
            parts = [
                self.model.encode_image(pixels.to(self.model.mean.device)).cpu() for pixels in self._pixels(images)
            ]
        width = self.model.heads.B.shape[2]
        return torch.cat([torch.empty(0, width), *parts]).numpy()

    def classifier(self, attribute: str) -> NDArray[np.float32]:
        """The classes' embeddings (C, D) of unit norm, in the order of `classes[attribute]`.

        `embed(images) @ classifier(attribute).T` are the cosines that `classify` goes by.
        """
        if attribute not in self.classifiers:
            raise UsageError(
                f"{attribute!r}: no attribute of this model, which has {', '.join(self.classes) or 'none'}"
            )
        return self.classifiers[attribute].cpu().numpy()

    @torch.no_grad()
    def answers(self, pixels: Tensor) -> list[dict[str, Prediction]]:
        """What the model says of images that are preprocessed already, (B, 3, S, S) uint8."""
        found: list[dict[str, Prediction]] = [{} for _ in pixels]
        for attribute, cosine_BC in self.model.cosines(self.classifiers, pixels).items():
            self.model.require_finite(cosine_BC)
            labels = self.classes[attribute]
            probability_BC = (cosine_BC.double() / self.temperature).softmax(dim=1).cpu()
            top_B2 = probability_BC.topk(min(2, len(labels)), dim=1).values.tolist()
            # By cosine, as accuracies are measured: probabilities of two classes may round to the same number.
            for i, best in enumerate(cosine_BC.argmax(dim=1).tolist()):
                first, second = (*top_B2[i], 0.0)[:2]
                found[i][attribute] = Prediction(labels[best], first, first - second)
        return found

    def require_classes(self) -> None:
        """UsageError where the model's file says no classes."""
        if not self.classes:
            raise UsageError(
                "the file of weights does not say its classes, as those that raymds developed do; give the weights or "
                "the directory of a run of raymds"
            )

    def _pixels(self, images: Iterable[Picture]) -> Iterator[Tensor]:
        fit = self.model.preprocess
        numbered = enumerate(images)
        while pictures := [fit(_picture(image, f"images[{i}]")) for i, image in islice(numbered, _BATCH)]:
            yield torch.from_numpy(np.stack(pictures).transpose(0, 3, 1, 2))


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch computes each product in one thread, as another number of them may round its last bit in another way."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def load(uri: str) -> Recogniser:
    """The model of a run directory (its outcome, which may be the old model) or of a file of weights; path or URI.

    Probabilities have the temperature of the run's constraints, or 1 / exp(logit_scale) of a file without a run.
    """
    return recogniser(find(uri))[0]


def recogniser(found: Delivered) -> tuple[Recogniser, str]:
    """The model of what is delivered, and the SHA-256 of its file."""
    model, digest = found.open()
    own = math.exp(-float(model.clip.logit_scale.detach()))
    return Recogniser(model, found.config.constraints.temperature if found.config else own), digest


def _picture(image: Picture, where: str) -> NDArray[np.uint8]:
    """RGB pixels (H, W, 3), upright."""
    if isinstance(image, str | os.PathLike):
        encoded = storage.read(os.fspath(image))
        try:
            return decode_upright(encoded)
        except ValueError as error:
            raise UsageError(f"{where}: {image}: {error}") from None
    if isinstance(image, Image.Image):
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return image
    kind = f"{image.dtype} array {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
    raise UsageError(f"{where}: a {kind}; give a PIL image, an RGB uint8 array (H, W, 3), a path or a URI")
