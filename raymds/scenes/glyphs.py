"""Things in hundreds of classes: a shape of a colour and a pattern ("red striped star"), somewhere among clutter.

They are data for tests and benchmarks of many classes. As in `render`, each picture is a pure function of (seed, index,
size, thing): the same bytes on any machine. A class has everything of the others but one of its three words, while
place, size, turn, light, ground, clutter and noise say nothing about it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from raymds.errors import UsageError
from raymds.scenes.paint import Dice, Floats, Picture, Rgb, mix

Mask = NDArray[np.bool_]
Inside = Callable[[Floats, Floats], Mask]  # of coordinates in which a shape reaches from about -1 to 1, y down

COLOURS: dict[str, Rgb] = {
    "red": (205.0, 35.0, 40.0),
    "orange": (240.0, 135.0, 30.0),
    "yellow": (240.0, 220.0, 50.0),
    "green": (40.0, 150.0, 60.0),
    "blue": (40.0, 75.0, 200.0),
    "purple": (130.0, 50.0, 165.0),
    "white": (238.0, 238.0, 238.0),
    "black": (25.0, 25.0, 28.0),
}
ATTRIBUTE = "thing"
TEMPLATES = ("a photo of a {}.", "a {}.", "there is a {} in the picture.", "a picture of a {}.")

_OVERSAMPLE = 2
_CLUTTER = 4  # pieces behind the thing, at most
_STAR = (
    (0.0, -1.0), (0.235, -0.324), (0.951, -0.309), (0.38, 0.124), (0.588, 0.809),
    (0.0, 0.4), (-0.588, 0.809), (-0.38, 0.124), (-0.951, -0.309), (-0.235, -0.324),
)  # fmt: skip
_ARROW = ((0.0, -1.0), (0.9, 0.0), (0.35, 0.0), (0.35, 1.0), (-0.35, 1.0), (-0.35, 0.0), (-0.9, 0.0))
_TRIANGLE = ((0.0, -0.95), (0.95, 0.8), (-0.95, 0.8))


def _polygon(corners: Sequence[tuple[float, float]]) -> Inside:
    """Inside where a ray to the right crosses an odd number of edges."""

    def inside(x: Floats, y: Floats) -> Mask:
        odd = np.zeros(x.shape, np.bool_)
        for (x0, y0), (x1, y1) in zip(corners, [*corners[1:], corners[0]], strict=True):
            if y0 != y1:
                odd ^= ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) * ((x1 - x0) / (y1 - y0)))
        return odd

    return inside


def _circle(x: Floats, y: Floats) -> Mask:
    return x * x + y * y < 0.81


def _ring(x: Floats, y: Floats) -> Mask:
    square = x * x + y * y
    return (square < 1.0) & (square > 0.27)


def _moon(x: Floats, y: Floats) -> Mask:
    return (x * x + y * y < 1.0) & ((x - 0.5) * (x - 0.5) + y * y > 0.64)


def _square(x: Floats, y: Floats) -> Mask:
    return (abs(x) < 0.78) & (abs(y) < 0.78)


def _cross(x: Floats, y: Floats) -> Mask:
    return (np.minimum(abs(x), abs(y)) < 0.3) & (np.maximum(abs(x), abs(y)) < 0.95)


def _heart(x: Floats, y: Floats) -> Mask:
    aside = abs(x) - 0.45
    lobes = aside * aside + (y + 0.4) * (y + 0.4) < 0.25
    return lobes | ((y > -0.25) & (abs(x) + 0.85 * y < 0.72))


def _bow(x: Floats, y: Floats) -> Mask:
    return (abs(x) < 0.95) & (abs(y) < 0.12 + 0.7 * abs(x))


SHAPES: dict[str, Inside] = {
    "circle": _circle,
    "square": _square,
    "triangle": _polygon(_TRIANGLE),
    "star": _polygon(_STAR),
    "cross": _cross,
    "ring": _ring,
    "heart": _heart,
    "arrow": _polygon(_ARROW),
    "moon": _moon,
    "bow": _bow,
}


def _even(cells: Floats) -> Mask:
    return cells - 2.0 * np.floor(cells * 0.5) < 0.5


def _plain(x: Floats, y: Floats) -> Mask:
    return np.zeros(x.shape, np.bool_)


def _striped(x: Floats, y: Floats) -> Mask:
    return _even(np.floor(y * 2.4 + 0.25))


def _spotted(x: Floats, y: Floats) -> Mask:
    across, down = x * 2.2 - np.floor(x * 2.2) - 0.5, y * 2.2 - np.floor(y * 2.2) - 0.5
    return across * across + down * down < 0.09


def _checked(x: Floats, y: Floats) -> Mask:
    return _even(np.floor(x * 2.2) + np.floor(y * 2.2))


PATTERNS: dict[str, Inside] = {"plain": _plain, "striped": _striped, "spotted": _spotted, "checked": _checked}
THINGS: tuple[str, ...] = tuple(
    f"{colour} {pattern} {shape}" for colour in COLOURS for pattern in PATTERNS for shape in SHAPES
)


def things(classes: int) -> tuple[str, ...]:
    """The first classes; UsageError where there aren't as many."""
    if not 2 <= classes <= len(THINGS):
        raise UsageError(f"classes={classes}: has to be 2 to {len(THINGS)}")
    return THINGS[:classes]


def draw_thing(seed: int, index: int, classes: Sequence[str], weights: Mapping[str, float]) -> str:
    """The class of picture `index`, in proportion to `weights`; one without a weight has 1.

    UsageError for an unknown class, a weight that is negative or not finite, and weights that are all 0.
    """
    for name, weight in weights.items():
        if name not in classes:
            raise UsageError(f"frequencies.{name}: is none of the {len(classes)} classes, the last is {classes[-1]!r}")
        if not 0.0 <= weight < math.inf:
            raise UsageError(f"frequencies.{name}={weight}: has to be finite and not negative")
    sums = list(accumulate(weights.get(name, 1.0) for name in classes))
    if sums[-1] <= 0.0:
        raise UsageError("frequencies: no class has one above 0")
    point = Dice(seed, index)() * sums[-1]
    return next(name for name, above in zip(classes, sums, strict=True) if point < above)


def check(seed: int, index: int, size: int) -> None:
    """UsageError for what `render` can't draw."""
    if not (0 <= seed < 2**64 and 0 <= index < 2**64):
        raise UsageError(f"seed {seed} and index {index} have to be whole numbers from 0 to 2**64 - 1")
    if not 16 <= size <= 512:
        raise UsageError(f"size={size}: has to be 16 to 512 pixels")


def caption(seed: int, index: int, thing: str) -> str:
    """A sentence that names the thing."""
    return TEMPLATES[(seed + index) % len(TEMPLATES)].format(thing)


def render(seed: int, index: int, size: int, thing: str) -> NDArray[np.uint8]:
    """Picture (size, size, 3) of a thing, a square of 16 to 512 pixels; UsageError as `raymds.scenes.render`."""
    check(seed, index, size)
    if thing not in THINGS:
        raise UsageError(f"{thing!r} is no thing")
    colour, pattern, shape = thing.split(" ")
    dice = Dice(seed, index)
    dice()  # decides the class, draw_thing
    picture = _ground(size * _OVERSAMPLE, dice)
    for _ in range(int(dice(0, _CLUTTER + 1))):
        _clutter(picture, dice)
    _thing(picture, colour, PATTERNS[pattern], SHAPES[shape], dice)
    return _exposed(picture, size, dice)


@lru_cache(maxsize=4)
def _grid(side: int) -> tuple[Floats, Floats]:
    """x and y, from 0 to 1, of the middle of every pixel; nobody writes to them."""
    middles = (np.arange(side) + 0.5) / side
    return np.broadcast_to(middles, (side, side)), np.broadcast_to(middles[:, None], (side, side))


def _turned(side: int, dice: Dice, radius: float, most: float) -> tuple[Floats, Floats]:
    """Coordinates of something of a radius somewhere, turned by at most 2·atan(most) either way."""
    room = min(radius, 0.42)
    x, y = _grid(side)
    x, y = (x - dice(room, 1.0 - room)) / radius, (y - dice(room, 1.0 - room)) / radius
    half = dice(-most, most)  # tangent of half the angle: sine and cosine without sin and cos
    cosine, sine = (1.0 - half * half) / (1.0 + half * half), 2.0 * half / (1.0 + half * half)
    return cosine * x + sine * y, cosine * y - sine * x


def _muted(dice: Dice) -> Rgb:
    gray = dice(70.0, 190.0)
    return (gray + dice(-35.0, 35.0), gray + dice(-35.0, 35.0), gray + dice(-35.0, 35.0))


def _lay(picture: Picture, where: Mask, colour: Rgb) -> None:
    for channel, value in enumerate(colour):
        picture[channel][where] = value


def _ground(side: int, dice: Dice) -> Picture:
    """A muted colour that runs into another one."""
    one, other, slope = _muted(dice), _muted(dice), dice()
    x, y = _grid(side)
    share = slope * x + (1.0 - slope) * y
    return np.stack([a + (b - a) * share for a, b in zip(one, other, strict=True)]).astype(np.float32)


def _clutter(picture: Picture, dice: Dice) -> None:
    """A muted bar or blot."""
    x, y = _turned(picture.shape[1], dice, dice(0.06, 0.2), 1.0)
    where = (abs(x) < 1.0) & (abs(y) < 0.25) if dice.chance(0.6) else x * x + y * y < 0.3
    _lay(picture, where, _muted(dice))


def _thing(picture: Picture, colour: str, pattern: Inside, shape: Inside, dice: Dice) -> None:
    """The thing itself, in a shade of its colour; the pattern is dark on light colours and light on dark ones."""
    x, y = _turned(picture.shape[1], dice, dice(0.34, 0.46), 0.07)
    base = COLOURS[colour]
    shade = mix(base, (128.0, 128.0, 128.0), dice(0.0, 0.1))
    dark = 0.3 * base[0] + 0.59 * base[1] + 0.11 * base[2] < 128.0
    contrast = mix(shade, (255.0, 255.0, 255.0) if dark else (0.0, 0.0, 0.0), dice(0.55, 0.75))
    inside = shape(x, y)
    _lay(picture, inside, shade)
    _lay(picture, inside & pattern(x, y), contrast)


def _exposed(picture: Picture, size: int, dice: Dice) -> NDArray[np.uint8]:
    """Averaged to its size, in some light, with grain."""
    fine = picture.reshape(3, size, _OVERSAMPLE, size, _OVERSAMPLE)
    small: Picture = fine[:, :, 0, :, 0] + fine[:, :, 0, :, 1]
    small += fine[:, :, 1, :, 0] + fine[:, :, 1, :, 1]
    small *= np.float32(0.25)
    small *= np.float32(dice(0.85, 1.15))
    small += (dice.grain(size) - np.float32(255.0)) * np.float32(dice(0.01, 0.05))
    return np.ascontiguousarray(np.clip(small + np.float32(0.5), 0.0, 255.0).astype(np.uint8).transpose(1, 2, 0))
