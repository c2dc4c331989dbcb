"""Surfaces in exact perspective, by scan lines: strips of ground along the road, buildings beside it, the skyline."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raymds.scenes.paint import SNOW, SNOW_COVER, Dice, Floats, Offsets, Rgb, centres, depth_code, mix, pack, scale
from raymds.scenes.stage import Spot, Stage
from raymds.scenes.things import GLASS

PANES = np.array((GLASS, (250.0, 205.0, 130.0))).T[:, :, None]  # dark and lit
STOREY = 3.1  # metres
YELLOW: Rgb = (214.0, 172.0, 60.0)
LINE: Rgb = (214.0, 214.0, 208.0)
EVERYWHERE = float("-inf")  # where the leftmost strip begins
BAY = 2.7  # metres of wall to a window
MASONRY = np.array(
    (
        (150.0, 96.0, 78.0),
        (176.0, 150.0, 124.0),
        (198.0, 188.0, 172.0),
        (128.0, 122.0, 120.0),
        (206.0, 202.0, 200.0),
        (110.0, 84.0, 74.0),
        (164.0, 172.0, 178.0),
    )
).T


class Surface(NamedTuple):
    """A strip of ground: colour, shares of snow and water it keeps, marks every `period` metres over `share` of it."""

    rgb: Rgb
    catch: float = 0.0
    wet: float = 0.0
    period: float = 1.0
    share: float = 0.0
    mark: Rgb = (222.0, 222.0, 214.0)


Strips = list[tuple[float, Surface]]  # each from its left edge X, ascending, to the next one's


@dataclass(frozen=True)
class Sheen:
    """What a wet surface mirrors, and how wet it is in 0..1."""

    rgb: Rgb = (0.0, 0.0, 0.0)
    wet: float = 0.0


def road(asphalt: Surface, half: float, lanes: int, centre: Rgb | None, edges: bool, dashes: float) -> Strips:
    """Strips of a road of this half width: wheel tracks, a double line or dashes every `dashes` metres, edge lines."""
    track = asphalt._replace(rgb=scale(asphalt.rgb, 0.93), catch=0.35 * asphalt.catch)
    line = asphalt._replace(rgb=LINE, catch=0.9 * asphalt.catch)
    lane = 2.0 * half / lanes
    strips: Strips = [(-half, asphalt)]
    if edges:
        left = line._replace(rgb=YELLOW) if centre is None else line
        strips += [(-half + 0.25, left), (-half + 0.45, asphalt)]
    for number in range(lanes):
        X = -half + number * lane
        if number and centre is not None and 2 * number == lanes:
            mark = line._replace(rgb=centre)
            strips += [(X - 0.24, mark), (X - 0.07, asphalt), (X + 0.07, mark), (X + 0.24, asphalt)]
        elif number and dashes > 0.0:
            strips += [(X - 0.09, asphalt._replace(period=dashes, share=0.42)), (X + 0.09, asphalt)]
        for wheel in (0.24, 0.66):
            strips += [(X + wheel * lane, track), (X + (wheel + 0.13) * lane, asphalt)]
    return [*strips, (half - 0.45, line), (half - 0.25, asphalt)] if edges else strips


def zebra(asphalt: Surface, half: float) -> Strips:
    """A crossing's bars across a road of this half width."""
    strips: Strips = [(-half, asphalt)]
    for number in range(int(half)):
        X = -half + 2.0 * number
        strips += [(X + 0.5, asphalt._replace(rgb=LINE)), (X + 1.4, asphalt)]
    return strips


def between(half: float, middle: Strips, outwards: list[tuple[float, Surface]], beyond: Surface) -> Strips:
    """A road with the same strips, (width, surface) from the kerb outwards, on both sides, and what is beyond them."""
    left: Strips = []
    right: Strips = []
    X = half
    for width, surface in outwards:
        right.append((X, surface))
        X += width
        left.insert(0, (-X, surface))
    return [(EVERYWHERE, beyond), *left, *middle, *right, (X, beyond)]


def paint_plane(
    stage: Stage,
    level: float,
    strips: Strips,
    phase: float = 0.0,
    near: float = 0.0,
    far: float = 4000.0,
    sheen: Sheen = Sheen(),
) -> None:
    """Paint a plane `level` metres above the road between two depths; the first strip begins EVERYWHERE."""
    canvas, camera = stage.canvas, stage.camera
    reach = camera.focal * (camera.height - level)  # depth times distance from the horizon on the picture
    bounds = (reach / far, reach / near if near else math.copysign(math.inf, reach))
    first, last = (min(max((camera.y0 + y) * canvas.side - 0.5, -1.0), canvas.side - 1.0) for y in sorted(bounds))
    rows = slice(math.floor(first) + 1, math.floor(last) + 1)
    z = reach / (centres(canvas.side)[rows, None] - camera.y0)
    if not len(z):
        return
    kinds = {surface: number for number, surface in enumerate(dict.fromkeys(surface for _, surface in strips))}
    inks = pack(_colours(stage, list(kinds), z, phase, sheen), depth_code(z))
    edges = np.array([edge for edge, _ in strips[1:]]) * (camera.focal / z) + (
        camera.x0 + camera.focal * camera.bend * z
    )
    canvas.packed[rows] = canvas.runs(edges, inks.take([kinds[surface] for _, surface in strips], axis=1))


def _colours(stage: Stage, surfaces: list[Surface], z: Floats, phase: float, sheen: Sheen) -> Floats:
    """Colours (3, n, surfaces) at depths z (n, 1): paint, then snow, then light, then water."""
    table = np.array([(*surface.rgb, *surface.mark, *surface[1:5]) for surface in surfaces]).T
    catch, wet, period, share = table[6:]
    beat = (z + phase) / period
    marked = beat - np.floor(beat) < share
    paint = table[:6]
    if stage.snow:
        paint = paint + (np.array(SNOW * 2)[:, None] - paint) * np.minimum(SNOW_COVER * stage.snow * catch, 1.0)
    colour: Floats = np.where(marked, paint[3:, None, :], paint[:3, None, :])
    colour *= stage.light(z[:, 0])[..., None]
    if sheen.wet > 0.0:
        wet = sheen.wet * wet
        colour *= 1.0 - 0.35 * wet
        colour += (np.array(sheen.rgb)[:, None, None] - colour) * (wet * (0.65 * z / (z + 14.0)))
    return colour


@dataclass
class Facades:
    """Buildings along the road at X (its sign is the side), one every `pitch` metres, `gap` being the share between."""

    X: float
    pitch: float
    gap: float
    deep: float
    heights: Floats  # (16,) metres to the eaves; building k takes k mod 16
    colours: Floats  # (3, 16)
    chances: Floats  # (256,) in [0, 1): a window is lit where its chance is under `lit`
    cap: float = 0.0  # metres of parapet over the eaves
    gable: float = 0.0  # metres from the eaves to the ridge
    floors: int = 0
    lit: float = 0.0
    roof: Rgb = (90.0, 80.0, 76.0)
    catch: float = 0.0  # share of the lying snow that the roof keeps
    start: float = 0.0  # metres behind us where building 0 begins


def random_facades(dice: Dice, X: float, pitch: float, gap: float, low: float, high: float) -> Facades:
    """Buildings in brick, stone and plaster, with heights between `low` and `high` metres."""
    drawn = dice.several(4 * 16 + 256)
    kind, tone, tall, taller = drawn[:64].reshape(4, 16)
    colours = MASONRY[:, (kind * MASONRY.shape[1]).astype(np.int64)] * (0.75 + 0.45 * tone)
    heights = low + (high - low) * tall * taller
    return Facades(X, pitch, gap, 0.9 * pitch, heights, colours, drawn[64:], cap=0.6, floors=6, catch=0.9)


def plain_wall(X: float, height: float, rgb: Rgb, cap: float = 0.0, roof: Rgb = (0.0, 0.0, 0.0)) -> Facades:
    """An endless wall: a rail, a noise barrier, the side of a tunnel with its upper part as `roof`."""
    tone = np.array(rgb)[:, None].repeat(16, axis=1)
    return Facades(X, 1000.0, 0.0, 0.0, np.full(16, height), tone, np.ones(256), cap=cap, roof=roof)


def paint_facades(stage: Stage, rows: list[Facades]) -> None:
    """Paint buildings on the left and right by columns, rays that meet a street side or, in a gap, the next front."""
    canvas, camera = stage.canvas, stage.camera
    off_axis = centres(canvas.side) - camera.x0
    side = (off_axis > 0.0).astype(np.int64)
    numbers = [
        (abs(row.X), row.pitch, row.gap, row.deep, row.cap, row.gable, row.start, 1.0 - 0.25 * stage.sun * sign)
        for row, sign in zip(rows, (-1.0, 1.0), strict=True)
    ]
    X, pitch, gap, deep, cap, gable, start, sunlit = np.array(numbers).T.take(side, axis=1)
    away = np.maximum(np.abs(off_axis), 1e-4) * (1.0 / camera.focal)
    along = X / away + start  # metres on the wall
    number = along / pitch
    floor = np.floor(number)
    part = number - floor
    front = part + gap > 1.0
    floor += front
    z = np.where(front, floor * pitch, along) - start
    behind = away * z - X  # metres from the street side to where the ray meets a front
    hidden = (front & (behind > deep)) | (z > 300.0) | (z < 0.5)
    z = np.maximum(z, 0.5)
    house = (floor % 16.0).astype(np.int64) + 16 * side
    eaves = np.concatenate([row.heights for row in rows]).take(house)
    ridge = cap + gable * np.where(front, 0.55, 1.0 - np.abs(2.0 * part / (1.0 - gap) - 1.0))
    floors = min(max(row.floors for row in rows), int(eaves.max() / STOREY))  # no more than there are saves much time
    edges = camera.y0 + camera.focal * (camera.height - _storeys(eaves, eaves + ridge, floors)) / z[:, None]
    shade = np.where(front, 0.78, sunlit)  # the sun on the left lights the right side's walls
    inks = _wall_inks(stage, rows, side, house, np.where(front, behind, along), z, shade, floors)
    inks[hidden] = 0
    top = min(max(int(edges[:, 0].min() * canvas.side), 0), canvas.side)
    strips = np.ascontiguousarray(canvas.runs(edges, inks)[:, top:].T)
    canvas.packed[top:] = np.where(strips != 0, strips, canvas.packed[top:])  # much faster than copyto()


def _storeys(eaves: Floats, ridge: Floats, floors: int) -> Floats:
    """Heights (n, 2 floors + 3) where walls change, from the ridge down: eaves, each window's lintel and sill, foot."""
    sills = np.arange(floors)[::-1] * STOREY + 1.0
    eaves = eaves[:, None]
    heights = np.zeros((len(eaves), 2 * floors + 3))
    heights[:, 0], heights[:, 1:2] = ridge, eaves
    heights[:, 3:-1:2] = low = np.minimum(sills, eaves)
    heights[:, 2:-1:2] = np.where(eaves > sills + 2.0, sills + 1.5, low)
    return heights


def _wall_inks(
    stage: Stage,
    rows: list[Facades],
    side: Offsets,
    house: Offsets,
    along: Floats,
    z: Floats,
    shade: Floats,
    floors: int,
) -> NDArray[np.uint32]:
    """Inks (n, 2 floors + 4) between those heights; above the roof and below the foot 0, which leaves what is there."""
    roofs = [mix(row.roof, SNOW, min(SNOW_COVER * row.catch * stage.snow, 1.0)) for row in rows]
    tones = np.empty((3, 4, len(z)))
    tones[:, 0] = np.array(roofs).T.take(side, axis=1)
    tones[:, 1] = np.concatenate([row.colours for row in rows], axis=1).take(house, axis=1)
    tones[:, :2] *= shade
    tones[:, 2:] = PANES
    tones[:, :3] *= stage.light(z)[:, None]
    roof, wall, dark, lit = pack(tones, depth_code(z))[:, :, None]
    inks = np.zeros((len(z), 2 * floors + 4), dtype=np.uint32)
    inks[:, 1:2] = roof
    inks[:, 2:-1] = wall
    if floors:
        bay = along * (1.0 / BAY)
        pane = np.floor(bay)
        glazed = (np.abs(bay - pane - 0.5) < 0.28) & (z < 140.0)
        key = (house % 16 * 37 + pane.astype(np.int64) * 11)[:, None] + np.arange(floors) * 5 & 255
        burns = np.concatenate([row.chances < row.lit for row in rows]).take(key + 256 * side[:, None])
        inks[:, 3:-1:2] = np.where(glazed[:, None], np.where(burns, lit, dark), wall)
    return inks


def paint_skyline(stage: Stage, heights: Floats, z: float, rgb: Rgb, catch: float = 0.0) -> None:
    """Paint a far silhouette, heights (n,) in metres across the picture: hills, a tree line, towers."""
    side, spot = stage.canvas.side, Spot(stage, 0.0, z)
    tops = (spot.y - heights * spot.unit).take(_skyline_columns(side, len(heights)))
    rows = slice(max(int(tops.min() + 0.5), 0), max(int(spot.y + 0.004 * side + 0.5), 0))
    below = tops <= np.arange(rows.start, rows.stop)[:, None] + 0.5
    packed = stage.canvas.packed
    packed[rows] = np.where(below, np.uint32(spot.ink(rgb, 1.0, catch)), packed[rows])


@lru_cache(maxsize=64)
def _skyline_columns(side: int, count: int) -> Offsets:
    """Which of `count` heights each column (side,) of the canvas shows."""
    return (centres(side) * count).astype(np.int64)
