"""Images that stand in a data set more than once: the same pixels, or nearly the same picture.

Every row of a shard has a digest of its decoded pixels, and a perceptual hash: signs of the lowest frequencies of the
picture in grey. Of an image that was encoded again, or resized, few of those change.

Legend of shapes: n rows, S side of the small picture, F frequencies along a side.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from raymds.data.decode import Pixels, decode

COLUMNS = {"pixels": pa.binary(8), "likeness": pa.binary(16)}  # of shards and labels files; null: can't be decoded

_S, _F = 32, 12
_BITS = 128
_BANDS = 8  # parts of the hash, one of which has to be the same: sure of 7 bits that differ, likely of 12
_ALIKE = 12  # bits that may differ: those of other pictures, of the same kind of thing even, do in 16 and more
_PAIRS = 1 << 20  # compared at a time

_FREQUENCY, _PLACE = np.meshgrid(np.arange(_F), np.arange(_S), indexing="ij")
_COSINE = np.cos(np.pi * _FREQUENCY * (2 * _PLACE + 1) / (2 * _S))  # (F, S), of the discrete cosine transform
_ORDER = sorted(((u, v) for u in range(_F) for v in range(_F) if u + v), key=lambda uv: (sum(uv), uv))[:_BITS]
_U, _V = np.array(_ORDER).T

Hashes = NDArray[np.uint64]


class Row(NamedTuple):
    """A row of a split."""

    split: str
    row: int


@dataclass(frozen=True)
class Prints:
    """What is known of the images of a split, (n,) and (n, 2)."""

    pixels: Hashes
    likeness: Hashes
    known: NDArray[np.bool_]  # whether a row's image could be decoded

    @cached_property
    def first(self) -> NDArray[np.int64]:
        """Of each row the first one that has the same pixels, itself where there is none before: (n,)."""
        found, ordered = np.arange(len(self.pixels)), np.sort(self.pixels)  # many times as fast as with positions
        again = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
        if len(again):
            rows = np.flatnonzero(np.isin(self.pixels, again))
            _, first, which = np.unique(self.pixels[rows], return_index=True, return_inverse=True)
            found[rows] = np.where(self.known[rows], rows[first[which]], rows)
        return found

    @classmethod
    def of(cls, table: Any) -> "Prints | None":
        """From a table with `COLUMNS`; None where it was written without them."""
        if not COLUMNS.keys() <= set(table.column_names):
            return None

        known = table["pixels"].is_valid().to_numpy()

        def words(name: str) -> Hashes:
            column = table[name].combine_chunks()
            count = column.type.byte_width // 8
            found = np.frombuffer(column.buffers()[1], np.uint64)[column.offset * count :][: len(column) * count]
            return np.where(known[:, None], found.reshape(len(column), count), 0)

        return cls(words("pixels")[:, 0], words("likeness"), known)


def fingerprint(encoded: bytes) -> tuple[bytes, bytes] | tuple[None, None]:
    """Digest of the decoded pixels and perceptual hash of an encoded image; Nones where it can't be decoded."""
    try:
        pixels = decode(encoded)
    except ValueError:
        return None, None
    return digest(pixels), likeness(pixels)


def digest(pixels: Pixels) -> bytes:
    """Digest of RGB pixels."""
    content = f"{pixels.shape}".encode() + pixels.tobytes()
    return hashlib.blake2b(content, digest_size=8).digest()


def likeness(pixels: Pixels) -> bytes:
    """Perceptual hash of RGB pixels: a bit for each of the 128 lowest frequencies, whether its part is above 0."""
    small = Image.fromarray(pixels).convert("L").resize((_S, _S), Image.Resampling.BICUBIC)
    frequencies_FF = _COSINE @ np.asarray(small, dtype=np.float64) @ _COSINE.T
    return np.packbits(frequencies_FF[_U, _V] > 0).tobytes()


def same(prints: Mapping[str, Prints]) -> list[tuple[Row, Row]]:
    """Rows whose pixels a row of another split has, each with the first such row; in the order of the splits."""
    found: list[tuple[Row, Row]] = []
    before: dict[int, Row] = {}
    for split, those in prints.items():
        values, firsts = np.unique(np.where(those.known, those.pixels, 0), return_index=True)
        own = {int(value): Row(split, int(row)) for value, row in zip(values, firsts, strict=True) if those.known[row]}
        again = own.keys() & before.keys()
        if again:
            rows = np.flatnonzero(np.isin(those.pixels, np.array(sorted(again), np.uint64)) & those.known)
            found += [(before[int(those.pixels[row])], Row(split, int(row))) for row in rows]
        before = own | before
    return found


def near(prints: Mapping[str, Prints]) -> list[tuple[Row, Row, int]]:
    """Rows of two splits whose pictures are nearly the same, and the bits that differ; not those of equal pixels."""
    found: dict[tuple[Row, Row], int] = {}
    names = list(prints)
    for position, one in enumerate(names):
        for other in names[position + 1 :]:
            for rows, others in _candidates(prints[one], prints[other]):
                bits = np.bitwise_count(prints[one].likeness[rows] ^ prints[other].likeness[others]).sum(axis=1)
                alike = (bits <= _ALIKE) & (prints[one].pixels[rows] != prints[other].pixels[others])
                for row, its, differ in zip(rows[alike], others[alike], bits[alike], strict=True):
                    found[Row(one, int(row)), Row(other, int(its))] = int(differ)
    return [(*pair, bits) for pair, bits in sorted(found.items(), key=lambda item: (item[1], item[0]))]


def _candidates(one: Prints, other: Prints) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of rows of two splits that have a part of the hash in common, many at a time."""
    for band in range(_BANDS):
        mine, theirs = (prints.likeness.view(np.uint16)[:, band] for prints in (one, other))
        order = np.argsort(theirs, kind="stable")
        order = order[other.known[order]]
        rows = np.flatnonzero(one.known)
        start = np.searchsorted(theirs[order], mine[rows], "left")
        count = np.searchsorted(theirs[order], mine[rows], "right") - start
        total = np.cumsum(count)
        for first in range(0, int(total[-1]) if len(total) else 0, _PAIRS):
            pair = np.arange(first, min(first + _PAIRS, int(total[-1])))
            which = np.searchsorted(total, pair, "right")
            yield rows[which], order[start[which] + pair - (total - count)[which]]
