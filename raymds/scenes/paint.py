"""Painting that gives the same bytes on every machine.

On the way to a pixel there are only operations that IEEE 754 rounds exactly: + - * /, comparisons, casts, look-ups.
numpy's exp, sin or normal() differ in the last bit from one instruction set to the next, and so do sums of floats.

Lengths in the world are metres (X right, Y up, z ahead); on the picture they are shares of its side (x right, y down),
so that a scene looks the same at every size. Arrays of colours have their channels first, which numpy is faster at:
a picture in the making is float32 (3, size, size), from 0 to 255.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
Floats = NDArray[np.float64]
Picture = NDArray[np.float32]
Codes = NDArray[np.uint8]
Offsets = NDArray[np.int64]
Rgb = tuple[float, float, float]

OVERSAMPLE = 2  # the canvas is painted twice as fine as the picture, then averaged by `Canvas.resolve`
SNOW: Rgb = (236.0, 240.0, 246.0)
SNOW_COVER = 1.5  # how much more ground than its depth thin snow whitens
NEAR = 12.0  # metres at which the depth code is half of its range


class _Key(np.random.SeedSequence):
    """The key of a Philox generator, which would ask the operating system for randomness if it got the key itself."""

    def __init__(self, seed: int, index: int) -> None:
        self.words = (seed, index)

    def generate_state(self, n_words: int, dtype: object = None) -> NDArray[np.uint64]:
        """The two words as they are: every scene of every data set has a stream of its own."""
        return np.array(self.words, dtype=np.uint64)


class Dice:
    """The random numbers of one scene: Philox is counter-based, so no scene waits for another."""

    def __init__(self, seed: int, index: int) -> None:
        self.generator = np.random.Generator(np.random.Philox(_Key(seed, index)))
        self._pool: list[float] = []

    def __call__(self, low: float = 0.0, high: float = 1.0) -> float:
        """A number in [low, high)."""
        if not self._pool:
            self._pool = self.generator.random(256).tolist()
        return low + (high - low) * self._pool.pop()

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self() < probability

    def pick(self, options: Sequence[T]) -> T:
        """One of the options, all equally likely."""
        return options[int(self() * len(options))]

    def several(self, count: int) -> Floats:
        """`count` numbers in [0, 1)."""
        return self.generator.random(count)

    def grain(self, size: int) -> Picture:
        """Noise (3, size, size) in 0..510, half of it common to the channels: bytes are the cheapest draw."""
        words = self.generator.integers(0, 2**64 - 1, (size * size + 1) // 2, dtype=np.uint64, endpoint=True)
        drawn = words.astype("<u8").view(np.uint8)[: 4 * size * size].reshape(4, size, size)
        noise: Picture = drawn[:3].astype(np.float32)
        noise += drawn[3].astype(np.float32)
        return noise


def mix(a: Rgb, b: Rgb, share: float) -> Rgb:
    """The colour `share` of the way from a to b."""
    return (a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share, a[2] + (b[2] - a[2]) * share)


def scale(a: Rgb, factor: float) -> Rgb:
    """The colour a, `factor` times as bright."""
    return (a[0] * factor, a[1] * factor, a[2] * factor)


def depth_code(z: Floats) -> NDArray[np.uint32]:
    """Depth in one byte, fine near and coarse far: 255 at the lens, 1 at the horizon; 0 is kept for the sky."""
    return np.maximum(255.0 * NEAR / (NEAR + z), 1.0).astype(np.uint32)


# Metres of every depth code; the sky lies behind everything.
DEPTH: Floats = np.array([4000.0] + [NEAR * (255.0 - code) / code for code in range(1, 256)])


def pack(rgb: Floats | Picture, code: NDArray[np.uint32] | int) -> NDArray[np.uint32]:
    """Colours (3, ...), 0 or more, and depth codes (...) as the canvas stores them."""
    colours = rgb.astype(np.uint32)
    red, green, blue = np.minimum(colours, 255, out=colours)
    green <<= 8
    blue <<= 16
    red |= green
    red |= blue
    return np.asarray(red | code << 24, dtype=np.uint32)


@lru_cache(maxsize=64)
def centres(count: int) -> Floats:
    """The middles (count,) of the pixels along a side, in shares of it."""
    middles: Floats = (np.arange(count) + 0.5) / count
    middles.flags.writeable = False
    return middles


@lru_cache(maxsize=4096)
def _small_mask(shape: str, width: int, height: int) -> NDArray[np.bool_]:
    y = (2 * np.arange(height)[:, None] + 1 - height) / height
    x = (2 * np.arange(width)[None, :] + 1 - width) / width
    if shape == "cone":
        return np.abs(x) * 2.0 <= y + 1.0
    if shape == "cabin":
        return np.abs(x) <= 0.8 + 0.1 * (y + 1.0)
    return x * x + y * y <= 1.0


def _mask(shape: str, width: int, height: int) -> NDArray[np.bool_]:
    cached = width * height <= 4096  # large masks are rare and would fill memory
    return _small_mask(shape, width, height) if cached else _small_mask.__wrapped__(shape, width, height)


class Canvas:
    """Colour and depth, four bytes a pixel, painted from far to near."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.side = side = OVERSAMPLE * size
        self.packed = np.zeros((side, side), dtype=np.uint32)

    def box(self, x0: float, y0: float, x1: float, y1: float, ink: int, shape: str = "") -> None:
        """Fill a rectangle, in canvas pixels and at least one wide and high.

        Or in it, unless it is smaller, an "ellipse", a "cone" (tip up) or a "cabin" (narrower at the top).
        """
        left, top, right, bottom = int(x0 + 0.5), int(y0 + 0.5), int(x1 + 0.5), int(y1 + 0.5)
        if shape:
            self._blob(shape, left, top, right - left, bottom - top, ink)
            return
        if right <= left:
            right = left + 1
        if bottom <= top:
            bottom = top + 1
        if right > 0 and bottom > 0:
            self.packed[top if top > 0 else 0 : bottom, left if left > 0 else 0 : right] = ink

    def _blob(self, shape: str, left: int, top: int, width: int, height: int, ink: int) -> None:
        side = self.side
        if width <= 0 or height <= 0 or left >= side or top >= side or left + width <= 0 or top + height <= 0:
            return
        mask = _mask(shape, width, height)
        if left < 0 or top < 0 or left + width > side or top + height > side:
            mask = mask[max(-top, 0) : side - top, max(-left, 0) : side - left]
        self.packed[max(top, 0) : top + height, max(left, 0) : left + width][mask] = ink

    def runs(self, edges: Floats, inks: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Scan lines (n, side) from ascending edges (n, k), in picture sides, and the inks (n, k + 1) between them."""
        lines, bounds = edges.shape
        pixels = np.empty((lines, bounds + 2), dtype=np.int64)
        pixels[:, 0], pixels[:, -1] = 0, self.side
        pixels[:, 1:-1] = np.minimum(np.maximum(edges * self.side + 0.5, 0.0), self.side)
        counts = pixels[:, 1:] - pixels[:, :-1]
        return inks.ravel().repeat(counts.ravel()).reshape(lines, self.side)

    def resolve(self) -> tuple[Picture, Codes]:
        """The picture (3, size, size) in 0..255 and its depth codes (size, size): the canvas averaged, in integers."""
        planes = np.empty((4, self.size, self.size), dtype=np.float32)
        pairs = self.packed.view(np.uint64)  # of neighbours in a row
        for first, channels in enumerate((pairs & 0x00FF00FF00FF00FF, pairs >> 8 & 0x00FF00FF00FF00FF)):
            total = channels[0::2] + channels[1::2]  # 16 bits for each channel
            four = (total + (total >> 32)).astype(np.uint32)
            planes[first], planes[first + 2] = four & 0xFFFF, four >> 16
        planes *= np.float32(0.25)
        return planes[:3], planes[3].astype(np.uint8)


def coverage(size: int, x: Floats, y: Floats, offsets: Offsets) -> Picture:
    """Share (size, size) of each pixel under a shape stamped at every (x, y).

    The shape is offsets (m, 2) in canvas pixels, rows then columns; what leaves the picture comes in opposite.
    """
    side = OVERSAMPLE * size
    layer = np.zeros((side, side), dtype=np.uint8)
    rows = ((y * side).astype(np.int64)[:, None] + offsets[None, :, 0]) % side
    columns = ((x * side).astype(np.int64)[:, None] + offsets[None, :, 1]) % side
    layer[rows, columns] = 1
    total = sum(layer[row::OVERSAMPLE, column::OVERSAMPLE] for row in range(OVERSAMPLE) for column in range(OVERSAMPLE))
    return np.asarray(total, dtype=np.float32) * np.float32(1.0 / OVERSAMPLE**2)


def _split(t: Floats) -> tuple[Offsets, Picture]:
    """Whole part and smoothed fraction."""
    cell = t.astype(np.int64)
    part = (t - cell).astype(np.float32)
    return cell, part * part * (np.float32(3.0) - np.float32(2.0) * part)


def value_noise(grid: Picture, y: Floats, x: Floats) -> Picture:
    """Smooth noise (k, n, m) in [0, 1): the grid (r, c), read at y (k, n) in [0, r - 1) and x (k, m) in [0, c - 1)."""

    (row, down), (column, right) = _split(y), _split(x)
    left = grid.take(column, axis=1)
    lines = left + (grid.take(column + 1, axis=1) - left) * right
    lines = lines.reshape(-1, lines.shape[-1])
    row = row * len(y) + np.arange(len(y))[:, None]
    noise: Picture = lines.take(row, axis=0)
    noise += (lines.take(row + len(y), axis=0) - noise) * down[:, :, None]
    return noise


def planes(rgb: Rgb) -> Picture:
    """A colour as (3, 1, 1), to be combined with a picture."""
    return np.array(rgb, dtype=np.float32)[:, None, None]
