"""Painting that gives the same bytes on every machine.

On the way to a pixel there are only operations that IEEE 754 rounds exactly: + - * /, comparisons, casts, look-ups.
numpy's exp, sin or normal() differ in the last bit from one instruction set to the next, and so do sums of floats.

Lengths in the world are metres (X right, Y up, z ahead); on the picture they are shares of its side (x right, y down),
so that a scene looks the same at every size. Arrays of colours have their channels first, which numpy is faster at:
a picture in the making is float32 (3, size, size), from 0 to 255.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
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


class Dice:
    """Uniform draws from one stream of one scene: Philox is counter-based, so no scene waits for another."""

    def __init__(self, seed: int, index: int, stream: int) -> None:
        key = np.array([seed, index], dtype=np.uint64)
        counter = np.array([0, 0, 0, stream], dtype=np.uint64)
        self.generator = np.random.Generator(np.random.Philox(key=key, counter=counter))
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
        """Noise (3, size, size) in -1..1, half of it common to the channels: a byte each is the cheapest exact draw."""
        drawn = np.frombuffer(self.generator.bytes(4 * size * size), dtype=np.uint8).reshape(4, size, size)
        noise: Picture = (drawn[:3].astype(np.float32) + drawn[3]) * np.float32(1.0 / 255.0) - np.float32(1.0)
        return noise


def mix(a: Rgb, b: Rgb, share: float) -> Rgb:
    """The colour `share` of the way from a to b."""
    return (a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share, a[2] + (b[2] - a[2]) * share)


def scale(a: Rgb, factor: float) -> Rgb:
    """The colour a, `factor` times as bright."""
    return (a[0] * factor, a[1] * factor, a[2] * factor)


@dataclass(frozen=True)
class Camera:
    """A camera over a road that vanishes at (x0, y0); focal length in picture sides, height in metres, bend in 1/m."""

    x0: float
    y0: float
    focal: float
    height: float
    bend: float = 0.0

    def x(self, X: float, z: float) -> float:
        """Where a point X metres right of the road's axis, z ahead, falls on the picture."""
        return self.x0 + self.focal * (X / z + self.bend * z)

    def y(self, Y: float, z: float) -> float:
        """Where a point Y metres above the road, z ahead, falls on the picture."""
        return self.y0 + self.focal * (self.height - Y) / z


def depth_code(z: Floats) -> NDArray[np.uint32]:
    """Depth in one byte, fine near and coarse far: 255 at the lens, 1 at the horizon; 0 is kept for the sky."""
    return np.maximum(255.0 * NEAR / (NEAR + z), 1.0).astype(np.uint32)


# Metres of every depth code; the sky lies behind everything.
DEPTH: Floats = np.array([4000.0] + [NEAR * (255.0 - code) / code for code in range(1, 256)])


def pack(rgb: Floats, code: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Colours (3, ...), 0 or more, and depth codes (...) as the canvas stores them."""
    red, green, blue = np.minimum(rgb, 255.0).astype(np.uint32)
    return np.asarray(red | green << 8 | blue << 16 | code << 24, dtype=np.uint32)


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

    def centres(self) -> Floats:
        """The coordinates (side,) of the pixels' centres."""
        return (np.arange(self.side) + 0.5) / self.side

    def rect(self, x0: float, y0: float, x1: float, y1: float, ink: int) -> None:
        """Fill a rectangle, at least one pixel wide and high, clipped to the canvas."""
        side = self.side
        left, top = int(x0 * side + 0.5), int(y0 * side + 0.5)
        right, bottom = int(x1 * side + 0.5), int(y1 * side + 0.5)
        if right <= left:
            right = left + 1
        if bottom <= top:
            bottom = top + 1
        if right > 0 and bottom > 0:
            self.packed[top if top > 0 else 0 : bottom, left if left > 0 else 0 : right] = ink

    def blob(self, shape: str, x0: float, y0: float, x1: float, y1: float, ink: int) -> None:
        """Fill an "ellipse", a "cone" (tip up) or a "cabin" (narrower at the top) that spans this rectangle."""
        side = self.side
        left, top = int(x0 * side + 0.5), int(y0 * side + 0.5)
        width, height = int(x1 * side + 0.5) - left, int(y1 * side + 0.5) - top
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
        return np.repeat(inks.ravel(), counts.ravel()).reshape(lines, self.side)

    def resolve(self) -> tuple[Picture, Codes]:
        """The picture (3, size, size) in 0..255 and its depth codes (size, size): the canvas averaged, in integers."""
        sums = []
        for channels in (self.packed & 0x00FF00FF, self.packed >> 8 & 0x00FF00FF):  # two at a time, 16 bits for each
            lines = channels[0::2] + channels[1::2]
            total = lines[:, 0::2] + lines[:, 1::2]
            sums.append((total & 0xFFFF, total >> 16))
        (red, blue), (green, code) = sums
        picture = np.stack([red, green, blue]).astype(np.float32) * np.float32(0.25)
        return picture, (code >> 2).astype(np.uint8)


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


def value_noise(grid: Floats, y: Floats, x: Floats) -> Floats:
    """Smooth noise (len(y), len(x)) in [0, 1): the grid (n, m), read at y in [0, n - 1) and x in [0, m - 1)."""

    def split(t: Floats) -> tuple[NDArray[np.int64], Floats]:
        cell = t.astype(np.int64)
        part = t - cell
        return cell, part * part * (3.0 - 2.0 * part)

    (row, down), (column, right) = split(y), split(x)
    lines = grid[:, column] + (grid[:, column + 1] - grid[:, column]) * right
    upper = lines[row]
    return upper + (lines[row + 1] - upper) * down[:, None]


def planes(rgb: Rgb) -> Picture:
    """A colour as (3, 1, 1), to be combined with a picture."""
    return np.array(rgb, dtype=np.float32)[:, None, None]


@dataclass(frozen=True)
class Lamp:
    """A light that glows: where it and the road below it are on the picture, depth, radius of the halo, colour."""

    x: float
    y: float
    road: float
    z: float
    radius: float
    rgb: Rgb


def glow(picture: Picture, lamp: Lamp, strength: float, wide: float, mirrored: bool = False) -> None:
    """Add a lamp's halo, `wide` times its radius, to the picture in place; or its image, drawn out, in a wet road."""
    size = picture.shape[-1]
    if max(lamp.rgb) * strength < 8.0:
        return
    wide *= lamp.radius * size
    x, y, high, highest = lamp.x * size, lamp.y * size, wide, 0.0
    if mirrored:
        y, high, highest = (2.0 * lamp.road - lamp.y) * size, 5.0 * wide, lamp.road * size
    left, right = max(int(x - wide), 0), min(int(x + wide) + 1, size)
    top, bottom = max(int(y - high), int(highest), 0), min(int(y + high) + 1, size)
    if left >= right or top >= bottom:
        return
    u = (np.arange(left, right, dtype=np.float32) + np.float32(0.5 - x)) * np.float32(1.0 / wide)
    v = (np.arange(top, bottom, dtype=np.float32) + np.float32(0.5 - y)) * np.float32(1.0 / high)
    square = u * u + (v * v)[:, None]
    halo = np.maximum(np.float32(1.0) - square, 0) / (np.float32(1.0) + np.float32(24.0) * square)
    picture[:, top:bottom, left:right] += halo * planes(scale(lamp.rgb, strength))


@dataclass
class Stage:
    """What the painters of a scene share: canvas, camera, light, and the lamps met so far."""

    canvas: Canvas
    camera: Camera
    ambient: Rgb
    headlight: float
    snow: float
    sun: float  # strength of direct sunlight in 0..1; its sign is the side that it comes from
    lamps: list[Lamp] = field(default_factory=list)

    def light(self, z: Floats) -> Floats:
        """Light (3, n) at depths (n,): the place's, and our own headlights near by."""
        return np.array(self.ambient)[:, None] + self.headlight / (1.0 + z * z * 0.004)

    def ink(self, rgb: Rgb, z: float, catch: float = 0.0) -> int:
        """The canvas value of an albedo at depth z, in this light, that keeps the share `catch` of the snow."""
        if catch and self.snow:
            rgb = mix(rgb, SNOW, min(SNOW_COVER * catch * self.snow, 1.0))
        head = self.headlight / (1.0 + z * z * 0.004)
        red, green, blue = self.ambient
        return self.glowing((rgb[0] * (red + head), rgb[1] * (green + head), rgb[2] * (blue + head)), z)

    def glowing(self, rgb: Rgb, z: float) -> int:
        """The canvas value of something that shines by itself at depth z."""
        red, green, blue = rgb
        code = int(255.0 * NEAR / (NEAR + z)) or 1
        return min(int(red), 255) | min(int(green), 255) << 8 | min(int(blue), 255) << 16 | code << 24

    def shows(self, X: float, z: float, width: float) -> bool:
        """Whether something this wide at (X, z) is on the picture at all."""
        return abs(self.camera.x(X, z) - 0.5) < 0.5 + 0.5 * width * self.camera.focal / z

    def fineness(self, z: float) -> float:
        """Canvas pixels to a metre at depth z: what is smaller than a pixel need not be painted."""
        return self.camera.focal * self.canvas.side / z

    def box(self, X: float, Y: float, width: float, height: float, z: float, ink: int, shape: str = "") -> None:
        """An upright rectangle (or blob) that stands with the middle of its foot at (X, Y, z)."""
        unit = self.camera.focal / z
        x, y, half = self.camera.x(X, z), self.camera.y(Y, z), 0.5 * width * unit
        if shape:
            self.canvas.blob(shape, x - half, y - height * unit, x + half, y, ink)
        else:
            self.canvas.rect(x - half, y - height * unit, x + half, y, ink)

    def shine(self, X: float, Y: float, z: float, radius: float, rgb: Rgb) -> None:
        """Note a lamp whose halo has this radius in metres."""
        camera = self.camera
        size = min(max(radius * camera.focal / z, 0.02), 0.32)
        self.lamps.append(Lamp(camera.x(X, z), camera.y(Y, z), camera.y(0.0, z), z, size, rgb))
