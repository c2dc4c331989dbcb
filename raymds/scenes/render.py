"""Photographs of the road in miniature, with the weather, scene and time of day of BDD100K.

They are data for tests, demonstrations and benchmarks. Each picture is a pure function of (seed, index, size): the same
bytes on any machine, in any order, in any thread.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raymds.errors import UsageError
from raymds.scenes import air as scene_air
from raymds.scenes import places as scene_places
from raymds.scenes.air import Air
from raymds.scenes.paint import Canvas, Dice, Picture
from raymds.scenes.stage import Camera, Stage

WEATHER: tuple[str, ...] = ("clear", "partly cloudy", "overcast", "rainy", "snowy", "foggy")
SCENE: tuple[str, ...] = ("city street", "highway", "residential", "parking lot", "tunnel")
TIMEOFDAY: tuple[str, ...] = ("daytime", "dawn/dusk", "night")
ATTRIBUTES: dict[str, tuple[str, ...]] = {"weather": WEATHER, "scene": SCENE, "timeofday": TIMEOFDAY}

Frequencies = Mapping[str, Mapping[str, float]]  # attribute -> class -> weight, of any scale
LONG_TAILED: dict[str, dict[str, float]] = {
    "weather": {"clear": 0.52, "partly cloudy": 0.12, "overcast": 0.14, "rainy": 0.1, "snowy": 0.1, "foggy": 0.02},
    "scene": {"city street": 0.55, "highway": 0.24, "residential": 0.12, "parking lot": 0.05, "tunnel": 0.04},
    "timeofday": {"daytime": 0.5, "dawn/dusk": 0.12, "night": 0.38},
}
BALANCED: dict[str, dict[str, float]] = {name: dict.fromkeys(values, 1.0) for name, values in ATTRIBUTES.items()}

TEMPLATES: dict[str, float] = {  # and how often each is used, where a picture has all it mentions
    "the weather is {weather}.": 0.3,
    "the scene is a {scene}.": 0.3,
    "the time of day is {timeofday}.": 0.05,
    "a photo of a {weather} {scene} at {timeofday}.": 0.06,
    "a {scene} at {timeofday}, the weather is {weather}.": 0.03,
    "driving on a {scene} on a {weather} day.": 0.08,
    "a dashcam picture of a {scene} at {timeofday}.": 0.03,
    "{weather} weather at {timeofday}.": 0.02,
    "a {weather} {scene}.": 0.08,
    "a picture of a {scene}, seen from a car.": 0.05,
}
EXIT_VISIBLE = 0.15  # share of the tunnels whose exit can be seen
OUTDOORS: dict[str, Callable[[Stage, Air, Dice], None]] = {
    "city street": scene_places.paint_city,
    "highway": scene_places.paint_highway,
    "residential": scene_places.paint_residential,
    "parking lot": scene_places.paint_parking_lot,
}


@dataclass(frozen=True)
class Scene:
    """A picture (H, W, 3) in RGB, its attributes (None where a picture cannot show one) and a caption."""

    pixels: NDArray[np.uint8]
    attributes: dict[str, str | None]
    caption: str


def draw_attributes(seed: int, index: int, frequencies: Frequencies = LONG_TAILED) -> dict[str, str | None]:
    """Draw the attributes of one scene, independently of each other.

    A tunnel has no weather, and a time of day only where its exit can be seen. A class without a weight is never drawn;
    an attribute without weights has those of LONG_TAILED. Raises UsageError for an unknown attribute or class, weights
    that are not a distribution, and a seed or index that is not 0 to 2**64 - 1.
    """
    drawn, exit_visible, _ = _draw(seed, index, frequencies)
    return _visible(drawn, exit_visible)


def render(seed: int, index: int, size: int = 64, frequencies: Frequencies = LONG_TAILED) -> Scene:
    """Render scene `index` of the data set `seed` as a square of 16 to 512 pixels; errors as of draw_attributes."""
    if not 16 <= size <= 512:
        raise UsageError(f"size is {size} pixels, but scenes are rendered at 16 to 512")
    drawn, exit_visible, dice = _draw(seed, index, frequencies)
    attributes = _visible(drawn, exit_visible)
    caption = _caption(attributes, dice())
    air = scene_air.conditions(dice, drawn["weather"], drawn["timeofday"])
    picture = (
        _indoors(air, exit_visible, size, dice)
        if drawn["scene"] == "tunnel"
        else _outdoors(drawn["scene"], air, size, dice)
    )
    picture += np.float32(0.5)
    np.clip(picture, 0.0, 255.0, out=picture)
    pixels = np.empty((size, size, 3), dtype=np.uint8)
    for channel in range(3):  # faster than transposing at once
        pixels[:, :, channel] = picture[channel]
    return Scene(pixels, attributes, caption)


def _draw(seed: int, index: int, frequencies: Frequencies) -> tuple[dict[str, str], bool, Dice]:
    """The classes drawn, whether a tunnel's exit can be seen, and the dice for all that follows."""
    if not (0 <= seed < 2**64 and 0 <= index < 2**64):
        raise UsageError(f"seed {seed} and index {index} have to be whole numbers from 0 to 2**64 - 1")
    _check(frequencies)
    dice = Dice(seed, index)
    drawn = {}
    for name, values in ATTRIBUTES.items():
        weights = frequencies.get(name, LONG_TAILED[name])
        drawn[name] = _choose({value: weights.get(value, 0.0) for value in values}, dice())
    return drawn, dice.chance(EXIT_VISIBLE), dice


def _choose(weights: Mapping[str, float], point: float) -> str:
    """The name at `point`, in [0, 1), of the distribution's cumulative sum."""
    drawable = [(name, weight) for name, weight in weights.items() if weight > 0.0]
    rest = point * math.fsum(weight for _, weight in drawable)
    for name, weight in drawable:
        rest -= weight
        if rest < 0.0:
            return name
    return drawable[-1][0]


def _visible(drawn: dict[str, str], exit_visible: bool) -> dict[str, str | None]:
    if drawn["scene"] != "tunnel":
        return {**drawn}
    return {"weather": None, "scene": "tunnel", "timeofday": drawn["timeofday"] if exit_visible else None}


def _check(frequencies: Frequencies) -> None:
    for attribute, weights in frequencies.items():
        if attribute not in ATTRIBUTES:
            raise UsageError(f"unknown attribute {attribute!r} in the frequencies; there are {', '.join(ATTRIBUTES)}")
        for name, weight in weights.items():
            if name not in ATTRIBUTES[attribute]:
                classes = ", ".join(ATTRIBUTES[attribute])
                raise UsageError(f"unknown {attribute} {name!r} in the frequencies; there are {classes}")
            if not 0.0 <= weight < math.inf:
                raise UsageError(f"frequency of {attribute}:{name} is {weight}, but has to be finite and not negative")
        if not any(weight > 0.0 for weight in weights.values()):
            raise UsageError(f"no class of {attribute} has a frequency over 0")


def _caption(attributes: Mapping[str, str | None], point: float) -> str:
    """A sentence from the templates that mention defined attributes only."""
    known = {name: value for name, value in attributes.items() if value is not None}
    missing = ["{" + name + "}" for name in attributes if name not in known]
    usable = {words: often for words, often in TEMPLATES.items() if not any(name in words for name in missing)}
    return _choose(usable, point).format(**known)


def _stage(air: Air, size: int, dice: Dice, bend: float, street_light: float) -> Stage:
    """An empty stage: a camera behind a windscreen, in the light of the sky, of street lamps and of our own."""
    camera = Camera(dice(0.36, 0.64), dice(0.38, 0.56), dice(0.75, 1.05), dice(1.2, 1.8), bend)
    dark, sky, lamps = 1.0 - air.daylight, air.ambient, dice(0.3, 1.0) * street_light
    ambient = (sky[0] + dark * lamps, sky[1] + dark * lamps * 0.82, sky[2] + dark * lamps * 0.6)
    sun = dice.pick((-1.0, 1.0)) * air.daylight * (1.0 - air.cloud)
    return Stage(Canvas(size), camera, ambient, dice(0.35, 0.75) * dark * dark, air.snow, sun)


def _outdoors(scene: str, air: Air, size: int, dice: Dice) -> Picture:
    """Paint the place from far to near, then lay over it, in the order of the light, what air and lens do."""
    bend = dice(-0.0011, 0.0011) if scene == "highway" else 0.0
    stage = _stage(air, size, dice, bend, street_light=0.3 if air.lamps else 0.06)
    scene_air.paint_sky(stage.canvas, stage.camera, air, dice)
    OUTDOORS[scene](stage, air, dice)
    picture, codes = stage.canvas.resolve()
    scene_air.reflect(picture, stage.camera, air.wet)
    scene_air.fog(picture, codes, air)
    scene_air.halos(picture, stage.lamps, air)
    scene_air.fall(picture, air, dice)
    scene_air.expose(picture, air, dice)
    return picture


def _indoors(air: Air, exit_visible: bool, size: int, dice: Dice) -> Picture:
    """A tunnel: the weather stays outside."""
    stage = _stage(air, size, dice, bend=0.0, street_light=0.0)
    scene_places.paint_tunnel(stage, air, dice, exit_visible)
    picture, _ = stage.canvas.resolve()
    scene_air.halos(picture, stage.lamps, scene_air.TUNNEL)
    scene_air.expose(picture, scene_air.TUNNEL, dice)
    return picture
