"""The image tower as ONNX, with the classifiers as outputs, checked with ONNX Runtime before anyone gets it."""

import contextlib
import io
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raymds.errors import RaymdsError, UsageError
from raymds.release.recogniser import Recogniser

NAME = "image_tower.onnx"
INPUT, EMBEDDING = "pixels", "embedding"

_CLOSE = 1e-3  # largest difference of an embedding's part, and of a logit (cosine / temperature)
_WHOLE = 2**31 - 2**24  # bytes of weights that fit into one ONNX file; what is larger has a second one
_CHECKED = 3  # images


class _Tower(nn.Module):
    """Normalised pixels (B, 3, S, S) → embedding (B, D) of unit norm, cosines (B, C) of each attribute."""

    def __init__(self, asked: Recogniser) -> None:
        super().__init__()
        self.visual = asked.model.clip.visual
        self.attributes = list(asked.classes)
        for i, attribute in enumerate(self.attributes):
            self.register_buffer(f"classifier_{i}", asked.classifiers[attribute].T.contiguous())

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """The embedding, then the attributes' cosines."""
        embedding = nn.functional.normalize(self.visual(pixels), dim=-1)
        return embedding, *(embedding @ getattr(self, f"classifier_{i}") for i in range(len(self.attributes)))


def described(asked: Recogniser) -> dict[str, Any]:
    """What labels.json says of the file."""
    return {
        "file": NAME,
        "input": {"name": INPUT, "shape": ["batch", 3, asked.model.image_size, asked.model.image_size]},
        "input_is": "float32, as the preprocessing of open_clip_config.json gives it, normalised",
        "embedding": EMBEDDING,
        "cosines": {attribute: _output(attribute) for attribute in asked.classes},
    }


def image_tower(asked: Recogniser) -> dict[str, bytes]:
    """The ONNX file, for any number of images at once, by its name; of a tower of 2 GB or more also its weights' file.

    UsageError where the packages of `raymds[onnx]` are missing; RaymdsError where ONNX Runtime disagrees with PyTorch.
    """
    try:
        import onnx  # noqa: F401, PLC0415 - an extra
        import onnxruntime  # noqa: PLC0415
        import onnxscript  # noqa: F401, PLC0415
    except ImportError as error:
        raise UsageError(f"--onnx: needs {error.name}; install it with pip install 'raymds[onnx]'") from None
    tower = _Tower(asked).cpu().eval()
    example = _noise(asked, _CHECKED, 0)
    size = sum(tensor.nbytes for tensor in tower.state_dict().values())
    with tempfile.TemporaryDirectory(prefix="raymds-onnx-") as folder:
        path = Path(folder) / NAME
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                tower,
                (example,),
                input_names=[INPUT],
                output_names=[EMBEDDING, *map(_output, tower.attributes)],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
                verbose=False,
            )
            program.save(path, external_data=size > _WHOLE)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for images in (example, _noise(asked, 1, 1)):
            _compare(asked, tower, session, images)
        return {file.name: file.read_bytes() for file in sorted(Path(folder).iterdir())}


@torch.no_grad()
def _compare(asked: Recogniser, tower: _Tower, session: Any, images: Tensor) -> None:
    scale = [1.0, *[1 / asked.temperature] * len(tower.attributes)]
    found = session.run(None, {INPUT: images.numpy()})
    for name, want, got, by in zip([EMBEDDING, *tower.attributes], tower(images), found, scale, strict=True):
        apart = float((want - torch.from_numpy(got)).abs().max()) * by
        if not apart < _CLOSE:
            raise RaymdsError(
                f"--onnx: ONNX Runtime differs from PyTorch by {apart:.1g} in {name}, more than {_CLOSE:g}; nothing "
                "was exported. Without --onnx the model is exported as it is"
            )


def _noise(asked: Recogniser, images: int, seed: int) -> Tensor:
    side = asked.model.image_size
    return torch.randn(images, 3, side, side, generator=torch.Generator().manual_seed(seed))


def _output(attribute: str) -> str:
    return f"{attribute}.cosines"
