"""From encoded images to pixel tensors, decoded ahead of the step that needs them.

A retained example is always seen through the clean transform, the one its old loss was computed with: like for like.
Pairs of the objective are augmented, as a pure function of (seed, row, step).
"""

import io
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from raymds.data.sampler import Batch, Rows
from raymds.data.shards import Split
from raymds.errors import UsageError

Pixels = NDArray[np.uint8]  # (3, S, S)

_AUGMENT = 5  # stream of random numbers, beside those of the sampler
_SHIFT = 16  # an augmented image moves by at most 1/16 of its side
_PARALLEL = 64  # images per background call


@dataclass(frozen=True)
class Loaded:
    """One rank's share of a batch with its pixels."""

    batch: Batch
    pairs: Tensor  # (P + N, 3, S, S) uint8, augmented
    examples: Tensor  # (K·b, 3, S, S) uint8, clean


class Loader:
    """Serves consecutive steps, keeping the next ones decoding in background threads."""

    def __init__(
        self, split: Split, share: Callable[[int], Batch], size: int, seed: int, *, threads: int = 1, ahead: int = 2
    ) -> None:
        """`share(step)` is this rank's part of the batch; `ahead` steps are decoded before they are asked for."""
        self._split = split
        self._share = share
        self._size = size
        self._seed = seed
        self._ahead = ahead
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._queue: deque[tuple[Batch, list[Future[Pixels]], list[Future[Pixels]]]] = deque()

    def get(self, step: int) -> Loaded:
        """The pixels of a step; steps may be asked for in any order, in sequence is fast."""
        if not self._queue or self._queue[0][0].step != step:
            self._queue.clear()
            self._queue.append(self._submit(step))
        while len(self._queue) <= self._ahead:
            self._queue.append(self._submit(self._queue[-1][0].step + 1))
        batch, pairs, examples = self._queue.popleft()
        return Loaded(batch, self._stack(pairs), self._stack(examples))

    def close(self) -> None:
        """Stop the background threads."""
        self._pool.shutdown(cancel_futures=True)

    def _submit(self, step: int) -> tuple[Batch, list[Future[Pixels]], list[Future[Pixels]]]:
        batch = self._share(step)
        pairs = np.concatenate([batch.positive, batch.negative])

        def augmented(rows: Rows) -> Pixels:
            return np.stack([load(self._split, row, self._size, (self._seed, step)) for row in rows])

        def clean(rows: Rows) -> Pixels:
            return np.stack([load(self._split, row, self._size) for row in rows])

        return batch, self._map(augmented, pairs), self._map(clean, batch.example)

    def _map(self, function: Callable[[Rows], Pixels], rows: Rows) -> list[Future[Pixels]]:
        return [self._pool.submit(function, rows[i : i + _PARALLEL]) for i in range(0, len(rows), _PARALLEL)]

    def _stack(self, parts: Sequence[Future[Pixels]]) -> Tensor:
        empty = np.empty((0, 3, self._size, self._size), np.uint8)
        return torch.from_numpy(np.concatenate([empty, *(part.result() for part in parts)]))


def clean_pixels(split: Split, rows: Sequence[int] | Rows, size: int) -> Tensor:
    """Rows through the clean transform: (B, 3, S, S) uint8."""
    return torch.from_numpy(np.stack([load(split, int(row), size) for row in rows]))


def load(split: Split, row: int, size: int, augment: tuple[int, int] | None = None) -> Pixels:
    """One image: decoded, resized to its short side, centre cropped; then augmented where (seed, step) is given.

    UsageError naming shard and row where it can't be decoded.
    """
    try:
        image = decode(split.images[int(row)].as_buffer())
    except (ValueError, OSError) as error:
        raise UsageError(f"{split.where(row)} (id {split.ids[row]}): image can't be decoded: {error}") from None
    if image.shape[:2] != (size, size):
        height, width = image.shape[:2]
        side = min(height, width)
        left, top = (width - side) // 2, (height - side) // 2
        box = (left, top, left + side, top + side)
        image = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC, box=box))
    if augment is not None:
        image = _shifted(image, (*augment, row))
    return np.ascontiguousarray(image.transpose(2, 0, 1))


def decode(encoded: bytes | memoryview) -> NDArray[np.uint8]:
    """RGB pixels (H, W, 3) from encoded bytes; ValueError or OSError where they are damaged."""
    data = bytes(encoded)
    if simplejpeg.is_jpeg(data):
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data)
        return pixels
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def _shifted(image: NDArray[np.uint8], key: tuple[int, ...]) -> NDArray[np.uint8]:
    """The image moved a little, its edge repeated, and mirrored half of the time."""
    size = image.shape[0]
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence((_AUGMENT, *key))))
    down, across = random.integers(-size // _SHIFT, size // _SHIFT + 1, size=2)
    rows, columns = (np.clip(np.arange(size) + move, 0, size - 1) for move in (down, across))
    moved: NDArray[np.uint8] = image[rows][:, columns[::-1] if random.random() < 0.5 else columns]
    return moved
