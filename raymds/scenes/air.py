"""What is in the air of a scene: light, clouds, fog, rain, snow.

Every strength is continuous, so that neighbouring classes overlap, as they do outside.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from raymds.scenes.paint import (
    DEPTH,
    OVERSAMPLE,
    Canvas,
    Codes,
    Dice,
    Floats,
    Offsets,
    Picture,
    Rgb,
    centres,
    coverage,
    mix,
    pack,
    planes,
    scale,
    value_noise,
)
from raymds.scenes.stage import Camera, Lamp, glow

# Ranges of cloud cover, extinction in 1/m, rain, wet road, lying snow and flakes.
RANGES: dict[str, tuple[tuple[float, float], ...]] = {
    "clear": ((0.0, 0.22), (0.0003, 0.004), (0, 0), (0, 0), (0, 0), (0, 0)),
    "partly cloudy": ((0.21, 0.71), (0.0004, 0.005), (0, 0), (0, 0), (0, 0), (0, 0)),
    "overcast": ((0.7, 1.0), (0.0008, 0.0145), (0, 0), (0, 0), (0, 0), (0, 0)),
    "rainy": ((0.74, 1.0), (0.002, 0.0145), (0.35, 1.0), (0.4, 1.0), (0, 0), (0, 0)),
    "snowy": ((0.6, 1.0), (0.0015, 0.0145), (0, 0), (0, 0.3), (0.25, 1.0), (0.0, 1.0)),
    "foggy": ((0.6, 1.0), (0.0138, 0.1), (0, 0), (0, 0.3), (0, 0), (0, 0)),
}
# Ranges of (daylight, warmth of the low sun).
LIGHT: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "daytime": ((0.78, 1.0), (0.0, 0.1)),
    "dawn/dusk": ((0.32, 0.52), (0.25, 1.0)),
    "night": ((0.0, 0.1), (0.0, 0.1)),
}
# Of the clouds' three octaves: how often they repeat from horizon to zenith and across, where they start, and how much
# they count.
OCTAVES: Floats = np.array(((9.0, 20.0, 33.0), (3.0, 7.0, 14.0), (0.5, 1.0, 0.0), (0.0, 1.0, 0.5), (0.6, 0.28, 0.12)))


@dataclass(frozen=True)
class Air:
    """Light and weather of one scene; all between 0 and 1 except `extinction`, in 1/m."""

    daylight: float
    warmth: float
    cloud: float
    extinction: float
    rain: float
    wet: float
    snow: float
    flakes: float
    lamps: bool

    @property
    def ambient(self) -> Rgb:
        """What an upright surface gets of the sky's light, by channel."""
        day = 0.05 + 0.97 * self.daylight * (1.6 - 0.6 * self.daylight) * (1.0 - 0.18 * self.cloud)
        tint = mix((1.0, 1.0, 1.0), (1.24, 0.92, 0.7), self.warmth * (1.0 - 0.7 * self.cloud))
        night = mix((0.8, 0.9, 1.25), (1.0, 1.0, 1.0), min(2.5 * self.daylight, 1.0))
        return (day * tint[0] * night[0], day * tint[1] * night[1], day * tint[2] * night[2])

    @property
    def horizon(self) -> Rgb:
        """The sky's colour where it meets the road."""
        day = mix((192.0, 216.0, 238.0), (196.0, 199.0, 203.0), self.cloud)
        low = mix((246.0, 158.0, 92.0), (170.0, 146.0, 136.0), self.cloud)
        share = 0.04 + 0.96 * self.daylight * (2.0 - self.daylight)
        return mix((26.0, 27.0, 40.0), mix(day, scale(low, 1.1), self.warmth), share)

    @property
    def zenith(self) -> Rgb:
        """The clear sky's colour overhead."""
        return mix((7.0, 9.0, 24.0), mix((62.0, 122.0, 206.0), (72.0, 84.0, 150.0), self.warmth), self.daylight)

    @property
    def veil(self) -> Rgb:
        """The colour that fog takes from the light in it."""
        grey = mix(self.horizon, (208.0, 211.0, 214.0), 0.55)
        return mix((52.0, 49.0, 50.0), grey, 0.08 + 0.92 * self.daylight)


TUNNEL = Air(0.3, 0.0, 0.0, 0.002, 0.0, 0.0, 0.0, 0.0, True)


def conditions(dice: Dice, weather: str, timeofday: str) -> Air:
    """Draw the light and weather of a scene of these classes."""
    cloud, extinction, rain, wet, snow, flakes = RANGES[weather]
    daylight, warmth = LIGHT[timeofday]
    haze, drops = dice(), dice()
    light = dice(*daylight) * (0.85 if cloud[0] > 0.5 else 1.0)
    damp = dice.chance(0.2) and weather in ("overcast", "foggy")
    old_snow = dice(0.0, 0.3) if dice.chance(0.06) else 0.0
    return Air(
        daylight=light,
        warmth=dice(*warmth),
        cloud=dice(*cloud),
        extinction=extinction[0] * (extinction[1] / extinction[0]) ** haze,  # visibility varies by ratios
        rain=rain[0] + (rain[1] - rain[0]) * drops,
        wet=dice(0.1, 0.7) if damp else dice(*wet),
        snow=max(dice(*snow), old_snow),
        flakes=dice(*flakes) * dice(),
        lamps=dice() < (0.97 - 1.5 * (light - 0.3) if light > 0.3 else 0.97),
    )


def paint_sky(canvas: Canvas, camera: Camera, air: Air, dice: Dice) -> None:
    """Paint the sky down to the horizon: gradient, clouds in perspective, sun or moon."""
    size = canvas.size
    rows = min(max(int(camera.y0 * size) + 2, 1), size)
    height = centres(size)[:rows][::-1]  # above the horizon, in picture sides
    rise = np.minimum(height * 2.0, 1.0)
    rise *= 2.0 - rise
    overhead = mix(air.zenith, scale(air.horizon, 0.92), 0.25 * air.cloud)
    low, high = planes(air.horizon), planes(overhead)
    sky = _paint_sun(low + (high - low) * rise.astype(np.float32)[:, None], size, air, dice)
    cover, noise = _cloud_cover(height, size, air.cloud, dice)
    bright = mix(scale(air.horizon, 1.06), (238.0, 240.0, 243.0), 0.6 * air.daylight * (1.0 - 0.8 * air.cloud))
    noise *= np.float32(-0.3 * air.cloud)
    noise += np.float32(1.0)
    clouds = planes(bright) * noise
    clouds -= sky
    clouds *= cover
    clouds += sky
    painted = pack(clouds, 0)
    for row in range(OVERSAMPLE):
        for column in range(OVERSAMPLE):
            canvas.packed[row : OVERSAMPLE * rows : OVERSAMPLE, column::OVERSAMPLE] = painted


@lru_cache(maxsize=16)
def _cloud_columns(size: int) -> Floats:
    """Where each octave of the clouds reads its grid across the picture."""
    return np.asarray(OCTAVES[1][:, None] * (np.arange(size) / size) + OCTAVES[2][:, None])


def _cloud_cover(height: Floats, size: int, cloud: float, dice: Dice) -> tuple[Picture, Picture]:
    """Opacity of the clouds and the noise they are made of, both (rows, size)."""
    grid = dice.several(24 * 16).reshape(24, 16).astype(np.float32)
    far = height / (height + 0.35)  # clouds crowd together towards the horizon
    octaves = value_noise(grid, far * OCTAVES[0][:, None] + OCTAVES[3][:, None], _cloud_columns(size))
    octaves *= OCTAVES[4].astype(np.float32)[:, None, None]
    noise: Picture = octaves[0] + octaves[1]
    noise += octaves[2]
    opacity = noise - np.float32(0.84 - 0.96 * cloud)
    opacity *= np.float32(5.5 - 3.0 * cloud)
    np.clip(opacity, 0.0, 1.0, out=opacity)
    opacity *= np.float32(min(1.0, 6.0 * cloud))
    return opacity, noise


def _paint_sun(sky: Picture, size: int, air: Air, dice: Dice) -> Picture:
    """Add the sun, its glow, or the moon to a sky (3, rows, 1); most often it is outside the picture."""
    x, above, shows = dice(-0.3, 1.3), dice(0.0, 0.5), dice.chance(0.6)
    if not shows and air.warmth < 0.1:
        return sky
    rows = sky.shape[1]
    y = rows / size - (above if air.warmth < 0.1 else 0.3 * above)
    u, v = np.arange(size) / size - x, np.arange(rows) / size - y
    square = (u * u + (v * v)[:, None]).astype(np.float32)
    bare = 1.0 - air.cloud
    if air.daylight < 0.15:
        moonlit: Picture = sky + (square < np.float32(0.0006)) * np.float32(170.0 * bare)
        return moonlit
    wide = 0.004 + 0.05 * air.warmth
    strength = (70.0 + 60.0 * air.warmth) * (1.0 - 0.8 * air.cloud) * air.daylight * wide
    glare: Picture = planes((strength, 0.8 * strength, 0.5 * strength)) / (square + np.float32(wide))
    glare += (square < np.float32(0.0008)) * np.float32(160.0 * bare * air.daylight)
    glare += sky
    return glare


def reflect(picture: Picture, camera: Camera, wet: float) -> None:
    """Mirror in the wet road, in place, what stands above the horizon: the less the nearer to us, as Fresnel has it."""
    size = picture.shape[-1]
    first = min(max(int(camera.y0 * size) + 1, 1), size)
    rows = min(first, size - first)
    if wet < 0.05 or rows < 2:
        return
    mirrored, road = picture[:, first - rows : first][:, ::-1], picture[:, first : first + rows]
    share = (np.arange(rows, 0, -1, dtype=np.float32) * np.float32(0.32 * wet / rows))[:, None]
    road += (mirrored - road) * share


def fog(picture: Picture, codes: Codes, air: Air) -> None:
    """Lay the air between lens and things (Koschmieder): light that comes through, and light scattered in; in place."""
    x = air.extinction * DEPTH
    through = 1.0 / (1.0 + x + x * x * 0.5 + x * x * x * (1.0 / 6.0))  # for exp(-x): exactly rounded
    dense = min(air.extinction / 0.012, 1.0)
    through[0] = 1.0 - dense * dense * (0.9 + 0.08 * air.cloud)  # clear sky overhead is deep but not hazy
    veil = planes(air.veil)
    picture -= veil
    picture *= through.astype(np.float32).take(codes)
    picture += veil


def halos(picture: Picture, lamps: list[Lamp], air: Air) -> None:
    """Let lamps shine: wider in fog, rain and snow; drawn out on a wet road; dim by day."""
    dark = 1.0 - 0.8 * air.daylight
    scatter = min(air.extinction * 25.0, 1.0) + 0.4 * air.rain + 0.2 * air.flakes
    for lamp in lamps:
        x = air.extinction * lamp.z
        through = 1.0 / (1.0 + x + x * x * 0.5)
        glow(picture, lamp, dark * (0.25 + 0.75 * through) * (0.75 + 0.5 * scatter), wide=1.0 + 1.6 * scatter)
        if air.wet > 0.15:
            glow(picture, lamp, 0.9 * dark * air.wet * through, wide=0.8, mirrored=True)


def fall(picture: Picture, air: Air, dice: Dice) -> None:
    """Draw falling rain as streaks and falling snow as discs of three sizes, in place."""
    fine = OVERSAMPLE * picture.shape[-1]
    light = planes(mix(air.veil, (235.0, 238.0, 242.0), 0.35 + 0.4 * air.daylight))
    if air.rain > 0.0:
        _stamp(picture, light, 0.34 + 0.3 * air.rain, 24 + int(150 * air.rain), _streak(fine, air.rain, dice), dice)
    for radius, number in ((0.0045, 130), (0.0075, 50), (0.013, 14)):
        if number * air.flakes >= 1.0:
            _stamp(picture, light * np.float32(1.05), 0.8, int(number * air.flakes), _disc(fine * radius), dice)


def _stamp(picture: Picture, light: Picture, opacity: float, count: int, offsets: Offsets, dice: Dice) -> None:
    """Cover the picture with `count` of a shape at random places."""
    share = coverage(picture.shape[-1], dice.several(count), dice.several(count), offsets)
    picture += (light - picture) * (share * np.float32(opacity))


def _streak(fine: int, rain: float, dice: Dice) -> Offsets:
    """Offsets (m, 2) of a slanted streak on a canvas of `fine` pixels."""
    down = np.arange(max(int((0.05 + 0.07 * rain) * fine), 2))
    across = (down * dice(-0.35, 0.35)).astype(np.int64) + np.arange(max(fine // 128, 1))[:, None]
    return np.stack([np.broadcast_to(down, across.shape).ravel(), across.ravel()], axis=-1)


def _disc(radius: float) -> Offsets:
    """Offsets (m, 2) of a disc of this radius in canvas pixels."""
    axis = np.arange(-int(radius) - 1, int(radius) + 2)
    inside = axis * axis + (axis * axis)[:, None] <= radius * radius + 0.5
    return np.asarray(np.argwhere(inside) + axis[0], dtype=np.int64)


@lru_cache(maxsize=16)
def _corners(size: int) -> Picture:
    """The squared distance (size, size) of every pixel from the middle, 1 being half a side."""
    axis = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(2.0 / size) - np.float32(1.0)
    return np.asarray(axis * axis + (axis * axis)[:, None], dtype=np.float32)


def expose(picture: Picture, air: Air, dice: Dice) -> None:
    """Add, in place, what lens and sensor do: exposure, white balance, vignette, grain."""
    gain, contrast = dice(0.83, 1.18), dice(0.85, 1.15)
    level = gain * contrast
    vignette = np.float32(1.0) - np.float32(dice(0.02, 0.12)) * _corners(picture.shape[-1])
    picture *= planes((level * dice(0.95, 1.05), level, level * dice(0.95, 1.05)))
    picture *= vignette
    strength = dice(2.0, 9.0) + 5.0 * dice() * (1.0 - air.daylight)
    grain = dice.grain(picture.shape[-1])
    grain *= np.float32(strength / 255.0)
    grain += np.float32(110.0 * (1.0 - contrast) * (0.2 + 0.8 * air.daylight) - strength)
    picture += grain
