"""The stage of a scene: the camera and its canvas, the light on things, and the lamps that shine into the lens."""

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from raymds.scenes.paint import NEAR, SNOW, SNOW_COVER, Canvas, Floats, Picture, Rgb, mix, planes, scale


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


@dataclass(frozen=True)
class Lamp:
    """A light that glows: where it and the road below it are on the picture, depth, radius of the halo, colour."""

    x: float
    y: float
    road: float
    z: float
    radius: float
    rgb: Rgb


@lru_cache(maxsize=1024)
def _small_halo(wide: int, high: int, right: int, down: int) -> Picture:
    """A halo (high + 1, wide + 1) of these radii, and this far off the pixels' grid, in half pixels."""
    u = np.arange(1 - wide - right, 3 + wide - right, 2, dtype=np.float32) * np.float32(1.0 / wide)
    v = np.arange(1 - high - down, 3 + high - down, 2, dtype=np.float32) * np.float32(1.0 / high)
    square = u * u + (v * v)[:, None]
    halo: Picture = np.maximum(np.float32(1.0) - square, 0) / (np.float32(1.0) + np.float32(24.0) * square)
    return halo


def glow(picture: Picture, lamp: Lamp, strength: float, wide: float, mirrored: bool = False) -> None:
    """Add a lamp's halo, `wide` times its radius, to the picture in place; or its image, drawn out, in a wet road."""
    size = picture.shape[-1]
    if max(lamp.rgb) * strength < 8.0:
        return
    radius = int(2.0 * wide * lamp.radius * size) + 1  # in half pixels, as is what follows
    high, y, first = (5 * radius, 2.0 * lamp.road - lamp.y, int(lamp.road * size)) if mirrored else (radius, lamp.y, 0)
    x_from, y_from = int(2.0 * size * lamp.x) - radius, int(2.0 * size * y) - high
    left, top = x_from // 2, y_from // 2
    sprite = _small_halo if radius * high <= 4096 else _small_halo.__wrapped__  # large ones would fill memory
    halo = sprite(radius, high, x_from & 1, y_from & 1)
    down, across = max(first - top, -top, 0), max(-left, 0)
    halo = halo[down : max(size - top, 0), across : max(size - left, 0)]
    if halo.size:
        lines, columns = halo.shape
        top, left = top + down, left + across
        picture[:, top : top + lines, left : left + columns] += halo * planes(scale(lamp.rgb, strength))


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

    def shows(self, X: float, z: float, width: float) -> bool:
        """Whether something this wide at (X, z) is on the picture at all."""
        return abs(self.camera.x(X, z) - 0.5) < 0.5 + 0.5 * width * self.camera.focal / z

    def shine(self, X: float, Y: float, z: float, radius: float, rgb: Rgb) -> None:
        """Note a lamp whose halo has this radius in metres."""
        camera = self.camera
        size = min(max(radius * camera.focal / z, 0.02), 0.32)
        self.lamps.append(Lamp(camera.x(X, z), camera.y(Y, z), camera.y(0.0, z), z, size, rgb))


class Spot:
    """A place on the stage, X metres right of the road's axis and z ahead, where upright shapes stand."""

    __slots__ = ("box", "code", "light", "snow", "unit", "x", "y")

    def __init__(self, stage: Stage, X: float, z: float) -> None:
        camera, side, (red, green, blue) = stage.camera, stage.canvas.side, stage.ambient
        self.box = stage.canvas.box
        self.unit = unit = camera.focal * side / z  # canvas pixels to a metre
        self.x, self.y = camera.x(X, z) * side, camera.y0 * side + camera.height * unit
        head = stage.headlight / (1.0 + z * z * 0.004)
        self.light = (red + head, green + head, blue + head)
        self.code = (int(255.0 * NEAR / (NEAR + z)) or 1) << 24
        self.snow = SNOW_COVER * stage.snow

    def ink(self, rgb: Rgb, tone: float = 1.0, catch: float = 0.0) -> int:
        """The canvas value of an albedo, `tone` times as bright, that keeps the share `catch` of the snow."""
        if catch and self.snow:
            rgb, tone = mix(scale(rgb, tone), SNOW, min(catch * self.snow, 1.0)), 1.0
        light = self.light
        red, green, blue = int(rgb[0] * light[0] * tone), int(rgb[1] * light[1] * tone), int(rgb[2] * light[2] * tone)
        if red > 255 or green > 255 or blue > 255:
            red, green, blue = min(red, 255), min(green, 255), min(blue, 255)
        return self.code | blue << 16 | green << 8 | red

    def glowing(self, rgb: Rgb) -> int:
        """The canvas value of something that shines by itself."""
        red, green, blue = rgb
        return self.code | min(int(blue), 255) << 16 | min(int(green), 255) << 8 | min(int(red), 255)

    def stand(self, across: float, Y: float, width: float, height: float, ink: int, shape: str = "") -> None:
        """Paint a rectangle, or a shape in it, with the middle of its foot `across` metres right and at height Y."""
        unit, y = self.unit, self.y - Y * self.unit
        left = self.x + (across - 0.5 * width) * unit
        self.box(left, y - height * unit, left + width * unit, y, ink, shape)
