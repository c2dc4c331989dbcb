"""Surfaces in exact perspective, by scan lines: strips of ground along the road, buildings beside it, the skyline."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raymds.data.scene_paint import SNOW, SNOW_COVER, Dice, Floats, Rgb, Stage, depth_code, mix, pack, scale
from raymds.data.scene_things import GLASS

LIT_WINDOW = np.array((250.0, 205.0, 130.0))[:, None]
STOREY = 3.1  # metres
YELLOW: Rgb = (214.0, 172.0, 60.0)
LINE: Rgb = (214.0, 214.0, 208.0)
EVERYWHERE = float("-inf")  # where the leftmost strip begins
BAY = 2.7  # metres of wall to a window
MASONRY: tuple[Rgb, ...] = (
    (150, 96, 78),
    (176, 150, 124),
    (198, 188, 172),
    (128, 122, 120),
    (206, 202, 200),
    (110, 84, 74),
    (164, 172, 178),
)


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
    drop = canvas.centres() - camera.y0
    depth = camera.focal * (camera.height - level) / np.where(np.abs(drop) < 1e-6, 1e-6, drop)
    rows = np.flatnonzero((depth > near) & (depth < far))
    if not len(rows):
        return
    z = depth[rows][:, None]
    colour = _strip_colours(stage, [surface for _, surface in strips], z, phase, sheen)
    edges = camera.x0 + camera.focal * (np.array([edge for edge, _ in strips[1:]]) / z + camera.bend * z)
    canvas.packed[rows[0] : rows[-1] + 1] = canvas.runs(edges, pack(colour, depth_code(z)))


def _strip_colours(stage: Stage, surfaces: list[Surface], z: Floats, phase: float, sheen: Sheen) -> Floats:
    """Colours (3, n, strips) at depths z (n, 1): paint, then snow, then light, then water."""
    table = np.array([(*surface.rgb, *surface.mark, *surface[1:5]) for surface in surfaces]).T
    catch, wet, period, share = table[6:]
    beat = (z + phase) / period
    marked = beat - np.floor(beat) < share
    cover = np.minimum(SNOW_COVER * stage.snow * catch, 1.0)
    base, mark = (paint + (np.array(SNOW)[:, None] - paint) * cover for paint in (table[0:3], table[3:6]))
    colour: Floats = np.where(marked, mark[:, None, :], base[:, None, :])
    colour *= stage.light(z[:, 0])[..., None] * (1.0 - 0.35 * sheen.wet * wet)
    if sheen.wet > 0.0:
        colour += (np.array(sheen.rgb)[:, None, None] - colour) * (sheen.wet * wet * (0.65 * z / (z + 14.0)))
    return colour


@dataclass(frozen=True)
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
    far: float = 300.0


def random_facades(dice: Dice, X: float, pitch: float, gap: float, low: float, high: float) -> Facades:
    """Buildings in brick, stone and plaster, with heights between `low` and `high` metres."""
    colours = np.array([scale(dice.pick(MASONRY), dice(0.75, 1.2)) for _ in range(16)]).T
    heights = low + (high - low) * dice.several(16) * dice.several(16)
    return Facades(X, pitch, gap, deep=0.9 * pitch, heights=heights, colours=colours, chances=dice.several(256))


def plain_wall(X: float, height: float, rgb: Rgb, cap: float = 0.0, roof: Rgb = (0.0, 0.0, 0.0)) -> Facades:
    """An endless wall: a rail, a noise barrier, the side of a tunnel with its upper part as `roof`."""
    tone = np.array(rgb)[:, None].repeat(16, axis=1)
    return Facades(X, 1000.0, 0.0, 0.0, np.full(16, height), tone, np.ones(256), cap=cap, roof=roof)


def paint_facades(stage: Stage, row: Facades, offset: float) -> None:
    """Paint buildings by columns: each is a ray that meets a street side or, in a gap, the front of the next one."""
    canvas, camera = stage.canvas, stage.camera
    side = -1.0 if row.X < 0 else 1.0
    off_axis = (canvas.centres() - camera.x0) * side
    columns = np.flatnonzero(off_axis > 1e-3)
    if not len(columns):
        return
    away = off_axis[columns]
    z = camera.focal * abs(row.X) / away
    number = np.floor((z + offset) / row.pitch)
    part = (z + offset) / row.pitch - number
    front = part + row.gap > 1.0
    number += front
    z = np.where(front, number * row.pitch - offset, z)
    behind = away * z / camera.focal - abs(row.X)  # metres from the street side to where the ray meets a front
    hidden = (front & (behind > row.deep)) | (z > row.far) | (z < 0.5)
    z = np.maximum(z, 0.5)
    house = (number % 16).astype(np.int64)
    eaves = row.heights[house]
    ridge = row.cap + row.gable * np.where(front, 0.55, 1.0 - np.abs(2.0 * part / (1.0 - row.gap) - 1.0))
    edges = camera.y0 + camera.focal * (camera.height - _storeys(eaves, eaves + ridge, row.floors)) / z[:, None]
    along = np.where(front, behind, z + offset)
    shade = np.where(front, 0.78, 1.0 - 0.25 * stage.sun * side)  # the sun on the left lights the right side's walls
    inks = _wall_inks(stage, row, house, along, z, shade)
    inks[hidden] = 0
    strips = canvas.runs(edges, inks)
    np.copyto(canvas.packed.T[columns[0] : columns[-1] + 1], strips, where=strips != 0)


def _storeys(eaves: Floats, ridge: Floats, floors: int) -> Floats:
    """Heights (n, 2 floors + 3) where walls change, from the ridge down: eaves, each window's lintel and sill, foot."""
    sills = np.arange(floors)[::-1] * STOREY + 1.0
    heights = np.zeros((len(eaves), 2 * floors + 3))
    heights[:, 0], heights[:, 1] = ridge, eaves
    heights[:, 3:-1:2] = np.minimum(sills, eaves[:, None])
    heights[:, 2:-1:2] = np.where(eaves[:, None] > sills + 2.0, sills + 1.5, heights[:, 3:-1:2])
    return heights


def _wall_inks(
    stage: Stage, row: Facades, house: NDArray[np.int64], along: Floats, z: Floats, shade: Floats
) -> NDArray[np.uint32]:
    """Inks (n, 2 floors + 4) between those heights; above the roof and below the foot 0, which leaves what is there."""
    code, light = depth_code(z), stage.light(z)
    roof = np.array(mix(row.roof, SNOW, min(SNOW_COVER * row.catch * stage.snow, 1.0)))[:, None]
    wall = pack(row.colours[:, house] * light * shade, code)
    glass = pack(np.array(GLASS)[:, None] * light, code)
    bay = along * (1.0 / BAY)
    pane = np.floor(bay)
    glazed = (np.abs(bay - pane - 0.5) < 0.28) & (z < 140.0)
    key = (house * 37 + pane.astype(np.int64) * 11)[:, None] + np.arange(row.floors) * 5
    windows = np.where(row.chances[key & 255] < row.lit, pack(LIT_WINDOW, code)[:, None], glass[:, None])
    inks = np.zeros((len(z), 2 * row.floors + 4), dtype=np.uint32)
    inks[:, 1] = pack(roof * light * shade, code)
    inks[:, 2:-1] = wall[:, None]
    inks[:, 3:-1:2] = np.where(glazed[:, None], windows, wall[:, None])
    return inks


def paint_skyline(stage: Stage, heights: Floats, z: float, rgb: Rgb, catch: float = 0.0) -> None:
    """Paint a far silhouette, heights (n,) in metres across the picture: hills, a tree line, towers."""
    canvas, camera = stage.canvas, stage.camera
    foot = camera.y(0.0, z)
    column = (canvas.centres() * len(heights)).astype(np.int64)
    edges = np.stack([foot - heights[column] * (camera.focal / z), np.full(canvas.side, foot + 0.004)], axis=-1)
    inks = np.zeros((canvas.side, 3), dtype=np.uint32)
    inks[:, 1] = stage.ink(rgb, z, catch)
    strips = canvas.runs(edges, inks)
    np.copyto(canvas.packed.T, strips, where=strips != 0)
