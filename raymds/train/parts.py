"""A step's images and texts through the towers in parts: the memory of one part, the gradient of the whole.

A contrastive loss needs all embeddings of a batch at once, but not their graphs. So everything is embedded without a
graph first; the loss is a function of those embeddings; then each part is embedded again, with its graph, and the
loss's gradient at its embeddings is pulled through it (arXiv:2101.06983). A row depends on no other row, and the towers
draw nothing at random, so both passes give the same embeddings.

Legend of shapes: B images, U distinct token rows, L tokens, T texts, D embedding width.
"""

import contextlib
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from raymds.model import ClipWithHeads


class Parts:
    """One step's inputs in parts, and their embeddings, which a loss may be made of."""

    def __init__(self, model: ClipWithHeads, size: int, pixels: Tensor, texts: tuple[Tensor, Tensor, Tensor]) -> None:
        """`pixels` (B, 3, S, S); `texts`: tokens (U, L), rows (T,), heads (T,) as of `encode_text`; on the CPU.

        A part has at most `size` images and `size` token rows.
        """
        self._model = model
        self._pixels, (self._tokens, self._row, self._head) = pixels, texts
        count = -(-max(len(pixels), len(self._tokens)) // size)
        # The first part is the last of a step, which ranks exchange gradients with: it has a row of everything.
        self._images = _split(len(pixels), count)
        self._rows = _split(len(self._tokens), count)
        self._texts = [(self._row >= rows.start) & (self._row < rows.stop) for rows in self._rows]
        self._places = [model.here(own.nonzero()[:, 0]) for own in self._texts]
        with torch.no_grad():
            found = [model(*self._inputs(part)) for part in range(count)]
        image, text = (
            found[0][0].new_empty(len(pixels), found[0][0].shape[1]),
            found[0][1].new_empty(len(self._row), found[0][1].shape[1]),
        )
        for part, (some_image, some_text) in enumerate(found):
            image[self._images[part]] = some_image[: _length(self._images[part])]
            text[self._places[part]] = some_text
        self.image, self.text = image.requires_grad_(), text.requires_grad_()  # (B, D), (T, D)

    def backward(self, towers: nn.Module) -> None:
        """Add to the parameters' gradients what the embeddings' say; `towers`: the model, or data parallelism of it."""
        vectors = self._whole(self.image.grad, self.text.grad)
        for part in reversed(range(len(self._images))):
            alone = isinstance(towers, DistributedDataParallel) and part > 0
            with towers.no_sync() if alone else contextlib.nullcontext():  # type: ignore[operator]
                torch.autograd.backward(*self._pulled(towers, part, vectors))

    def gradient(self, loss: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
        """Gradient by parameter of a loss of the embeddings, this rank's part of it; the loss's graph stays."""
        found = torch.autograd.grad(loss, (self.image, self.text), retain_graph=True, allow_unused=True)
        vectors, total = self._whole(*found), [torch.zeros_like(p) for p in parameters]
        for part in range(len(self._images)):
            outputs, at = self._pulled(self._model, part, vectors)
            pulled = torch.autograd.grad(outputs, parameters, at, allow_unused=True)
            for i, own in enumerate(pulled):
                if own is not None:
                    total[i] += own
        return total

    def _inputs(self, part: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the towers take of a part; a row that counts for nothing where a tower has none of its own."""
        images, rows, texts = self._images[part], self._rows[part], self._texts[part]
        pixels = self._pixels[images if _length(images) else slice(1)]
        tokens = self._tokens[rows if _length(rows) else slice(1)]
        here = self._model.here
        return here(pixels), here(tokens), here(self._row[texts] - rows.start), here(self._head[texts])

    def _pulled(
        self, towers: nn.Module, part: int, vectors: tuple[Tensor, Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """A part's embeddings with their graph, but for those of a frozen tower, and the gradients at them."""
        image, text = vectors[0][self._images[part]], vectors[1][self._places[part]]
        at = image if len(image) else vectors[0].new_zeros(1, vectors[0].shape[1]), text
        live = [pair for pair in zip(towers(*self._inputs(part)), at, strict=True) if pair[0].requires_grad]
        return [output for output, _ in live], [vector for _, vector in live]

    def _whole(self, image: Tensor | None, text: Tensor | None) -> tuple[Tensor, Tensor]:
        """Gradients at all embeddings: 0 where the loss does not depend on them."""
        none_image, none_text = torch.zeros_like(self.image), torch.zeros_like(self.text)
        return none_image if image is None else image, none_text if text is None else text


def _split(count: int, parts: int) -> list[slice]:
    """Contiguous parts, as equal as they can be, the first ones the longer."""
    ends = [part * (count // parts) + min(part, count % parts) for part in range(parts + 1)]
    return [slice(*pair) for pair in itertools.pairwise(ends)]


def _length(part: slice) -> int:
    return int(part.stop - part.start)
