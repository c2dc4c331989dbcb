"""From encoded images to pixel tensors, decoded ahead of the step that needs them.

A retained example is always seen through the clean transform, the one its old loss was computed with: like for like.
Pairs of the objective are augmented, as a pure function of (seed, row, step).
"""

import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from raymds.config import AugmentConfig
from raymds.data.decode import decode
from raymds.data.reader import Example
from raymds.data.sampler import Batch, Rows
from raymds.data.split import Split
from raymds.errors import UsageError
from raymds.model.preprocess import Preprocess

Pixels = NDArray[np.uint8]  # (3, S, S)

_AUGMENT = 5  # stream of random numbers, beside those of the sampler
_PARALLEL = 64  # images per background call
_BATCH = 256  # images evaluated together
_PART = 16  # of those images per background call
_BATCHES_AHEAD = 2
_FETCH_AHEAD = 8  # steps whose shards are fetched before they are asked for

_Part = tuple[Tensor, list[Future[list[str]]]]  # filled when its futures are done, which give the captions


class _Buffers:
    """Memory for pixels, used again once no tensor refers to it: the system zeroes fresh memory page by page."""

    def __init__(self, pinned: bool) -> None:
        """`pinned`: such as a GPU copies from by itself, which PyTorch keeps for use again."""
        self._pinned = pinned
        self._free: dict[tuple[int, ...], list[Pixels]] = {}

    def take(self, shape: tuple[int, ...]) -> Tensor:
        """Uninitialised pixels of a shape."""
        if self._pinned:
            return torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        free = self._free.setdefault(shape, [])
        memory = free.pop() if free else np.empty(shape, np.uint8)
        pixels = memory.view()
        # A tensor keeps `pixels` alive, not the list's `memory`, which goes back when the last tensor is gone.
        weakref.finalize(pixels, free.append, memory).atexit = False
        return torch.from_numpy(pixels)


@dataclass(frozen=True)
class Loaded:
    """One rank's share of a batch with its pixels."""

    batch: Batch
    pairs: Tensor  # (P + N, 3, S, S) uint8, augmented
    captions: list[str]  # of the pairs
    examples: Tensor  # (K·b, 3, S, S) uint8, clean
    example_captions: list[str] = field(default_factory=list)
    held: Tensor | None = None  # (K·b, 3, S, S) uint8, clean: of the examples that λ is measured on, if others


class Loader:
    """Serves consecutive steps, keeping the next ones decoding in background threads."""

    def __init__(
        self,
        split: Split,
        share: Callable[[int], Batch],
        fit: Preprocess,
        seed: int,
        *,
        augment: AugmentConfig | None = None,
        threads: int = 1,
        ahead: int = 2,
        read: Callable[[str], object] = lambda caption: None,
        pinned: bool = False,
    ) -> None:
        """`share(step)` is this rank's part of the batch; `ahead` steps are decoded before they are asked for.

        Meanwhile `read` is told the captions of pairs, in the same threads: a tokenizer takes its time for a new one.
        With `pinned` the pixels lie where a GPU copies them from by itself.
        """
        self._split = split
        self._share = share
        self._fit = fit
        self._seed = seed
        self._augment = augment or AugmentConfig()
        self._ahead, self._read = ahead, read
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._queue: deque[tuple[Batch, list[_Part]]] = deque()
        self._buffers = _Buffers(pinned)
        self._later: deque[Rows] = deque()  # of the next steps behind the queue

    def get(self, step: int) -> Loaded:
        """The pixels of a step; steps may be asked for in any order, in sequence is fast."""
        if not self._queue or self._queue[0][0].step != step:
            self._queue.clear()
            self._later = deque(_rows(self._share(later)) for later in range(step, step + _FETCH_AHEAD))
            self._queue.append(self._submit(step))
        while len(self._queue) <= self._ahead:
            self._queue.append(self._submit(self._queue[-1][0].step + 1))
        batch, parts = self._queue.popleft()
        captions = [[caption for future in futures for caption in future.result()] for _, futures in parts]
        pairs, examples, *held = (pixels for pixels, _ in parts)
        return Loaded(batch, pairs, captions[0], examples, captions[1], held[0] if held else None)

    def close(self) -> None:
        """Stop the background threads."""
        self._pool.shutdown(cancel_futures=True)

    def _submit(self, step: int) -> tuple[Batch, list[_Part]]:
        batch = self._share(step)
        decoding = [_rows(queued) for queued, parts in self._queue if not all(f.done() for _, fs in parts for f in fs)]
        self._later.append(_rows(self._share(step + _FETCH_AHEAD)))
        self._split.ahead(np.concatenate([*decoding, *self._later]))
        self._later.popleft()  # this step's, which is in the queue from now on

        def parts(rows: Rows, augment: tuple[int, int] | None) -> _Part:
            tensor = self._buffers.take((len(rows), 3, self._fit.size, self._fit.size))
            pixels = tensor.numpy()

            def decoded(start: int) -> list[str]:
                captions = []
                for i in range(start, min(start + _PARALLEL, len(rows))):
                    pixels[i], example = load(self._split, int(rows[i]), self._fit, augment, how=self._augment)
                    captions.append(example.caption)
                    if augment:
                        self._read(example.caption)
                return captions

            return tensor, [self._pool.submit(decoded, start) for start in range(0, len(rows), _PARALLEL)]

        pairs = np.concatenate([batch.positive, batch.negative])
        clean = [batch.example] if batch.held is None else [batch.example, batch.held]
        return batch, [parts(pairs, (self._seed, step)), *(parts(rows, None) for rows in clean)]


def _rows(batch: Batch) -> Rows:
    held = batch.example[:0] if batch.held is None else batch.held
    return np.concatenate([batch.positive, batch.negative, batch.example, held])


def clean_pixels(split: Split, rows: Sequence[int] | Rows, fit: Preprocess, *, substitutes: bool = True) -> Tensor:
    """Rows through the clean transform: (B, 3, S, S) uint8."""
    return torch.from_numpy(np.stack([load(split, int(row), fit, substitutes=substitutes)[0] for row in rows]))


def clean_batches(split: Split, rows: Rows, fit: Preprocess, *, substitutes: bool) -> Iterator[tuple[Rows, Tensor]]:
    """Rows through the clean transform, batch after batch, each decoded while the one before is used.

    As many threads decode as PyTorch computes with: those are the cores of this worker.
    """
    blocks = [rows[i : i + _BATCH] for i in range(0, len(rows), _BATCH)]
    with ThreadPoolExecutor(torch.get_num_threads(), thread_name_prefix="decode") as pool:
        decoding: deque[list[Future[Tensor]]] = deque()
        for number, block in enumerate(blocks):
            split.ahead(np.concatenate(blocks[number : number + 1 + _BATCHES_AHEAD]))
            for coming in blocks[number + len(decoding) : number + 1 + _BATCHES_AHEAD]:
                parts = [coming[i : i + _PART] for i in range(0, len(coming), _PART)]
                decoding.append([pool.submit(clean_pixels, split, p, fit, substitutes=substitutes) for p in parts])
            yield block, torch.cat([part.result() for part in decoding.popleft()])


def load(
    split: Split,
    row: int,
    fit: Preprocess,
    augment: tuple[int, int] | None = None,
    *,
    how: AugmentConfig | None = None,
    substitutes: bool = True,
) -> tuple[Pixels, Example]:
    """One image: decoded, resized and cropped as the model asks; then augmented where (seed, step) is given.

    Without `augment` these are open_clip's own pixels, so that others measure what is measured here. Augmented ones,
    which only train, are decoded at a fraction of their scale where they are far larger, in a third of the time.

    One that can't be decoded is a UsageError naming shard and row; where the split skips such rows, its substitute is
    given instead, the same for old and new model, or without `substitutes` a black image.
    """
    example = split.example(row)
    try:
        image = decode(example.image, fit.size if augment else 0)
    except ValueError as error:
        if split.skip_corrupt:
            split.corrupt.add(row)
            if not substitutes:
                return np.zeros((3, fit.size, fit.size), np.uint8), example
            return load(split, split.substitute(row), fit, augment, how=how)
        raise UsageError(
            f"{split.where(row)} (id {example.id}): image {error}; mend it, or leave such images out "
            "with data.on_corrupt=skip"
        ) from None
    image = fit(image)
    if augment is not None:
        image = _augmented(image, how or AugmentConfig(), (*augment, row))
    return image.transpose(2, 0, 1), example


def _augmented(image: NDArray[np.uint8], how: AugmentConfig, key: tuple[int, ...]) -> NDArray[np.uint8]:
    """The image moved a little, its edge repeated, mirrored half of the time, and a part of it: (S, S, 3)."""
    size = image.shape[0]
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence((_AUGMENT, *key))))
    most = int(size * how.shift)
    down, across = random.integers(-most, most + 1, size=2)
    rows, columns = (np.clip(np.arange(size) + move, 0, size - 1) for move in (down, across))
    mirrored = random.random() < 0.5 and how.mirror
    moved: NDArray[np.uint8] = image[rows][:, columns[::-1] if mirrored else columns]
    if how.crop == 0:
        return moved
    side = size * (1 - how.crop * random.random())
    left, top = random.random(2) * (size - side)
    part = (left, top, left + side, top + side)
    return np.asarray(Image.fromarray(moved).resize((size, size), Image.Resampling.BICUBIC, box=part))
