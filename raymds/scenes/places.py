"""The five places of the road: city street, highway, residential street, parking lot, tunnel."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from raymds.scenes import things
from raymds.scenes.air import Air
from raymds.scenes.ground import (
    EVERYWHERE,
    YELLOW,
    Facades,
    Sheen,
    Strips,
    Surface,
    between,
    paint_facades,
    paint_plane,
    paint_skyline,
    plain_wall,
    random_facades,
    road,
    zebra,
)
from raymds.scenes.paint import Dice, Rgb, mix, scale
from raymds.scenes.stage import Spot, Stage
from raymds.scenes.things import CAR_COLOURS

SODIUM: Rgb = (255.0, 186.0, 104.0)
LED: Rgb = (232.0, 238.0, 255.0)
SIDES = (-1.0, 1.0)


class Place:
    """One place being built: ground and walls are painted at once, things gathered, then painted from far to near."""

    def __init__(self, stage: Stage, air: Air, dice: Dice) -> None:
        self.stage, self.air, self.dice = stage, air, dice
        tone = dice(70.0, 124.0)
        rgb = (tone, tone * dice(0.98, 1.02), tone * dice(0.97, 1.06))
        self.asphalt = Surface(rgb, catch=dice(0.25, 0.85), wet=1.0)
        self.grass = Surface(mix((80.0, 118.0, 52.0), (156.0, 142.0, 86.0), dice() * dice()), catch=1.0)
        self._standing: list[tuple[float, Callable[[], None]]] = []

    def ground(self, strips: Strips, near: float = 0.0, far: float = 4000.0) -> None:
        """Paint the road's level; water on it mirrors the horizon."""
        sheen = Sheen(self.air.horizon, self.air.wet)
        paint_plane(self.stage, 0.0, strips, self.dice(0.0, 12.0), near, far, sheen)

    def horizon(self, towers: float) -> None:
        """Paint hills or a tree line behind everything, and perhaps towers before them."""
        dice = self.dice
        green = mix((60.0, 84.0, 60.0), (120.0, 130.0, 140.0), dice(0.2, 0.7))
        paint_skyline(self.stage, dice.several(24) * dice(4.0, 26.0) + 2.0, 420.0, green, catch=0.4)
        if dice.chance(towers):
            grey = mix((120.0, 120.0, 126.0), (90.0, 84.0, 84.0), dice())
            paint_skyline(self.stage, dice.several(40) * dice.several(40) * dice(30.0, 90.0), 330.0, grey)

    def facades(self, rows: list[Facades], lit: float) -> None:
        """Paint buildings on both sides; a share of up to `lit` of the windows is lit when it is dark."""
        for row in rows:
            row.lit = self.dice(0.1, lit) if self.air.daylight < 0.4 else 0.02
            row.start = self.dice(0.0, 200.0)
        paint_facades(self.stage, rows)

    def stand(self, painter: Callable[..., None], X: float, z: float, *details: object) -> None:
        """Put something at (X, z), to be painted when everything farther away has been."""
        self._standing.append((z, partial(painter, self.stage, X, z, *details)))

    def paint(self, far: float = 4000.0) -> None:
        """Paint what stands nearer than `far`, from far to near."""
        for z, painter in sorted(self._standing, key=lambda standing: -standing[0]):
            if z < far:
                painter()

    def depths(self, first: tuple[float, float], step: float, count: int, fill: float) -> list[float]:
        """Depths of the places taken in a line of `count` of them; the first one's is drawn from a range."""
        start = self.dice(*first)
        return [start + step * (place + self.dice(0.0, 0.2)) for place in range(count) if self.dice.chance(fill)]

    def vehicles(self, X: float, depths: list[float], ahead: bool, lorries: float, parked: bool = False) -> None:
        """Vehicles in a line; those not parked have their lights on in the dark, in rain and in fog."""
        air, dice = self.air, self.dice
        burning = not parked and (air.lamps or air.rain + 20.0 * air.extinction > 0.3)
        lights = 1.0 - 0.7 * air.daylight if burning else 0.0
        for z in depths:
            look = (dice.pick(CAR_COLOURS), dice.chance(lorries), ahead, lights)
            self.stand(things.paint_vehicle, X + dice(-0.25, 0.25), z, *look)

    def trees(self, X: float, deep: float, count: int, far: float, conifers: float) -> None:
        """Trees on both sides, between X and X + deep from the axis; in winter often without leaves."""
        dice = self.dice
        bare = dice.chance(0.12 + 0.5 * min(self.air.snow + self.air.flakes, 1.0))
        autumn = dice.pick(((110.0, 120.0, 46.0), (150.0, 96.0, 40.0), (40.0, 70.0, 52.0)))
        for _ in range(count):
            z, side = 7.0 + (far - 7.0) * dice() * dice(), dice.pick(SIDES)
            look = (dice(4.0, 10.0), mix((50.0, 90.0, 42.0), autumn, dice() * dice()), dice.chance(conifers), bare)
            self.stand(things.paint_tree, side * (X + deep * dice()), z, *look)

    def lamp_posts(self, X: float, height: float, spacing: float, sides: tuple[float, ...] = SIDES) -> None:
        """Three street lamps on each side."""
        lights = 1.0 - 0.8 * self.air.daylight if self.air.lamps else 0.0
        rgb, first = self.dice.pick((SODIUM, LED)), self.dice(8.0, 8.0 + spacing)
        for side in sides:
            for number in range(3):
                self.stand(things.paint_lamp_post, side * X, first + spacing * number, height, rgb, lights)

    def people(self, count: int, X: float, deep: float) -> None:
        """People on foot on both sides, between X and X + deep from the axis."""
        dice = self.dice
        for _ in range(count):
            place = dice.pick(SIDES) * (X + dice(0.0, deep))
            self.stand(things.paint_person, place, dice(7.0, 40.0), dice.pick(CAR_COLOURS))


def paint_city(stage: Stage, air: Air, dice: Dice) -> None:
    """Paint a city street: walls of buildings, pavements, parked cars, signals, people; sparse at the city's edge."""
    place = Place(stage, air, dice)
    sparse = max(dice(-0.6, 1.0), 0.0)  # from downtown to the edge of the city
    lanes = dice.pick((2, 2, 3, 4))
    half, walk = 1.75 * lanes + dice(0.0, 2.5 + 2.0 * sparse), dice(2.0, 5.0) + 8.0 * sparse * dice()
    stone = Surface((dice(132.0, 170.0),) * 3, catch=0.85, wet=0.5)
    outer = place.grass if dice() < sparse else stone
    pavement = [(0.25, stone._replace(rgb=(176.0, 176.0, 172.0))), (2.0, stone), (walk - 2.0, outer)]
    place.horizon(towers=0.6 - 0.4 * sparse)
    lines = road(place.asphalt, half, lanes, dice.pick((YELLOW, None)), edges=dice.chance(0.25), dashes=9.0)
    place.ground(between(half, lines, pavement, outer))
    if dice.chance(0.3):
        start = dice(8.0, 26.0)
        place.ground(between(half, zebra(place.asphalt, half), pavement, outer), start, start + 3.5)
    low, tall = dice(3.5, 12.0 - 6.0 * sparse), dice(12.0, 48.0) * (1.0 - 0.75 * sparse)
    rows = []
    for side in SIDES:
        gap = dice(0.0, 0.3) + 0.4 * sparse * dice()
        row = random_facades(dice, side * (half + walk), dice(12.0, 26.0), gap, low, tall)
        gable = dice(1.0, 3.0) if dice() < 0.7 * sparse else 0.0
        row.cap, row.gable, row.floors, row.catch = dice(0.3, 1.2), gable, 10, 0.9
        rows.append(row)
    place.facades(rows, lit=0.5)
    place.lamp_posts(half + 0.6, dice(6.0, 9.0), dice(18.0, 30.0))
    place.trees(half + 1.0, 0.8 * walk, dice.pick((0, 0, 2, 5)) + int(6.0 * sparse * dice()), 70.0, conifers=0.08)
    for side in SIDES:
        depths = place.depths((6.0, 10.0), 6.2, 6, dice(0.0, 0.9) * (1.0 - 0.5 * sparse))
        place.vehicles(side * (half - 1.1), depths, side > 0, lorries=0.04, parked=True)
    place.vehicles(0.26 * half, place.depths((9.0, 22.0), 16.0, 4, 0.4), ahead=True, lorries=0.12)
    place.vehicles(-0.3 * half, place.depths((12.0, 26.0), 18.0, 4, 0.45), ahead=False, lorries=0.12)
    if dice.chance(0.4):
        signals = (dice(16.0, 45.0), dice.pick((0, 0, 1, 2)), 1.0 - air.daylight)
        place.stand(things.paint_signals, half + 0.5, *signals)
    place.people(dice.pick((0, 0, 0, 1, 3, 5)), half, walk)
    place.paint()


def paint_highway(stage: Stage, air: Air, dice: Dice) -> None:
    """Paint a highway: wide carriageway with edge lines, rails, direction signs, traffic; open land or built up."""
    place = Place(stage, air, dice)
    lanes = dice.pick((2, 2, 3, 4))
    half, shoulder = dice(1.75, 1.9) * lanes, dice(0.3, 3.5)
    rim = half + shoulder
    place.horizon(towers=0.35)
    hard = place.asphalt._replace(rgb=scale(place.asphalt.rgb, 1.08))
    centre = YELLOW if dice.chance(0.15) else None
    lines = road(place.asphalt, half, lanes, centre, edges=dice.chance(0.85), dashes=12.0)
    place.ground(between(half, lines, [(shoulder, hard)], place.grass))
    if dice.chance(0.35):  # built up on both sides, behind the rails
        sides = [(side * (rim + dice(3.0, 16.0)), dice(16.0, 40.0), dice(0.2, 0.7)) for side in SIDES]
        place.facades([random_facades(dice, *side, 4.0, dice(6.0, 26.0)) for side in sides], lit=0.4)
    concrete: Rgb = (dice(130.0, 185.0),) * 3
    left, right = dice.pick((0.0, 0.75, 0.9, 3.2)), dice.pick((0.0, 0.0, 0.75, 3.5))
    if left or right:
        paint_facades(stage, [plain_wall(-rim, left, concrete), plain_wall(rim, right, concrete)])
    place.trees(rim + 1.5, 22.0, dice.pick((0, 3, 8, 12)), 120.0, conifers=dice())
    if dice.chance(0.5):
        place.lamp_posts(rim, dice(7.0, 11.0), dice(26.0, 38.0), dice.pick((SIDES, (1.0,))))
    lane = 2.0 * half / lanes
    for number in range(lanes):
        X = -half + lane * (number + 0.5)
        ours = abs(X) < 0.6 * lane
        depths = place.depths((10.0, 30.0) if ours else (7.0, 24.0), 24.0, 4, dice(0.0, 0.6))
        place.vehicles(X, depths, ahead=True, lorries=0.2)
    if dice.chance(0.5):
        place.vehicles(-rim - 5.0, place.depths((14.0, 30.0), 22.0, 5, 0.5), ahead=False, lorries=0.2)
    if dice.chance(0.35):
        boards = (dice.pick((1, 2, 3)), dice.pick(((20.0, 106.0, 66.0), (24.0, 74.0, 140.0))))
        place.stand(things.paint_gantry, rim, dice(24.0, 80.0), *boards)
    place.paint()


def paint_residential(stage: Stage, air: Air, dice: Dice) -> None:
    """Paint a residential street: narrow road, lawns, detached houses with gables, trees; or terraces, flats."""
    place = Place(stage, air, dice)
    dense = max(dice(-0.6, 1.0), 0.0)  # from the countryside to terraces in the city
    half, lawn = dice(3.0, 4.6) + 1.5 * dense * dice(), dice(1.5, 7.0) * (1.0 - 0.7 * dense)
    path, grass = Surface((176.0, 172.0, 164.0), catch=0.9, wet=0.4), place.grass
    front = path if dice() < 0.7 * dense else grass
    place.horizon(towers=0.1 + 0.3 * dense)
    centre, dashes = (YELLOW if dice.chance(0.3) else None), (9.0 if dice.chance(0.35) else 0.0)
    lines = road(place.asphalt, half, 2, centre, edges=dice.chance(0.1), dashes=dashes)
    place.ground(between(half, lines, [(0.2, path), (1.0, front), (1.4, path), (lawn, grass)], grass))
    roof: Rgb = dice.pick(((112.0, 66.0, 56.0), (82.0, 80.0, 86.0), (96.0, 78.0, 62.0)))
    tall = dice(4.5, 9.0) + 7.0 * dense * dice()
    rows = []
    for side in SIDES:
        gap = dice(0.2, 0.6) * (1.0 - dense)
        row = random_facades(dice, side * (half + 2.6 + lawn), dice(11.0, 20.0), gap, 3.2, tall)
        gable = dice(1.2, 3.6) if dice() > 0.6 * dense else 0.0
        row.gable, row.cap, row.floors, row.roof, row.catch, row.deep = gable, 0.3, 5, roof, 1.0, 9.0
        rows.append(row)
    place.facades(rows, lit=0.5)
    place.trees(half + 0.9, 2.0 + lawn, dice.pick((0, 2, 5, 9)), 80.0, conifers=0.15)
    place.lamp_posts(half + 0.6, dice(5.0, 7.5), dice(22.0, 32.0), dice.pick((SIDES, (-1.0,), (1.0,))))
    for side in SIDES:
        depths = place.depths((6.0, 12.0), 7.0, 7, dice(0.0, 0.6 + 0.3 * dense))
        place.vehicles(side * (half - 0.8), depths, dice.chance(0.8) == (side > 0), lorries=0.04, parked=True)
        place.vehicles(0.4 * side * half, place.depths((12.0, 30.0), 30.0, 2, 0.35), ahead=side > 0, lorries=0.04)
    place.people(dice.pick((0, 0, 0, 1, 2)), half + 1.0, 1.2)
    place.paint()


def paint_parking_lot(stage: Stage, air: Air, dice: Dice) -> None:
    """Paint a parking lot: rows of stalls and of cars on both sides of an aisle, buildings around, tall lamps."""
    place = Place(stage, air, dice)
    aisle, stall, far = dice(2.6, 5.0), 5.0, dice(22.0, 90.0)
    stalls = place.asphalt._replace(period=2.7, share=dice(0.03, 0.1))
    spine = place.asphalt._replace(rgb=mix(place.asphalt.rgb, (200.0, 200.0, 194.0), dice()))
    bays = [(stall, stalls), (0.2, spine), (stall, stalls), (2.0 * aisle, place.asphalt), (stall, stalls)]
    place.horizon(towers=0.3)
    place.ground([(EVERYWHERE, place.grass)])
    middle = road(place.asphalt, aisle, 2, None, edges=False, dashes=9.0 if dice.chance(0.25) else 0.0)
    place.ground(between(aisle, middle, bays, place.asphalt), far=far + 8.0)
    if dice.chance(0.6):
        roofs = (dice.several(8) * dice(0.0, 2.0) + dice(3.0, 9.0)).repeat(dice.pick((1, 2, 3)))[: dice.pick((8, 16))]
        wall = dice.pick(((178.0, 170.0, 158.0), (140.0, 96.0, 80.0), (196.0, 198.0, 202.0)))
        paint_skyline(stage, roofs, far + 8.0, wall)
    rows = [plain_wall(side * aisle, 0.0, place.asphalt.rgb) for side in SIDES]  # nothing
    for number, side in enumerate(SIDES):
        if dice.chance(0.35):
            X, pitch, gap = side * (aisle + dice(11.0, 24.0)), dice(14.0, 40.0), dice(0.0, 0.5)
            rows[number] = random_facades(dice, X, pitch, gap, 4.0, dice(5.0, 22.0))
    if rows[0].cap or rows[1].cap:
        place.facades(rows, lit=0.4)
    place.trees(aisle + 11.0, 16.0, dice.pick((0, 2, 5, 9)), far, conifers=0.1)
    fill, count = dice() * dice(), min(int((far - 6.0) / 2.7), 14)
    for X in (aisle + 2.6, aisle + 7.7, 3.0 * aisle + 12.7):
        for side in SIDES:
            for z in place.depths((5.0, 8.0), 2.7, count, 0.04 + 0.86 * fill):
                place.stand(things.paint_parked_across, side * (X + dice(-0.3, 0.3)), z, dice.pick(CAR_COLOURS))
    place.lamp_posts(aisle + 5.2, dice(6.0, 11.0), dice(20.0, 32.0))
    place.vehicles(dice(-1.0, 1.0), place.depths((12.0, 30.0), 20.0, 2, 0.3), ahead=dice.chance(0.6), lorries=0.03)
    place.people(dice.pick((0, 0, 1)), 0.0, aisle)
    place.paint()


def paint_tunnel(stage: Stage, air: Air, dice: Dice, exit_visible: bool) -> None:
    """Paint a tunnel: tiles, lamps along the ceiling, and at the end either the light outside or a dark bend."""
    lamp = mix(SODIUM, LED, dice.pick((0.0, 0.5, 1.0)))
    stage.ambient, stage.snow, stage.sun = scale(lamp, dice(0.0014, 0.003)), 0.0, 0.0
    outside = air.veil if air.extinction > 0.01 else mix(air.horizon, air.zenith, 0.3)
    place = Place(stage, replace(air, lamps=True, daylight=0.3, wet=0.0), dice)
    lanes = dice.pick((2, 2, 3))
    half, high, end = 1.85 * lanes + dice(0.3, 1.5), dice(4.6, 7.0), dice(10.0, 32.0)
    _ceiling(place, half, high, lamp)
    lines: Strips = [(EVERYWHERE, place.asphalt), *road(place.asphalt, half, lanes, None, edges=True, dashes=9.0)]
    paint_plane(stage, 0.0, lines, dice(0.0, 9.0), sheen=Sheen(scale(lamp, 0.6), dice(0.0, 0.5)))
    tiles, tone = dice(1.6, high - 0.6), mix((190.0, 190.0, 186.0), (150.0, 140.0, 120.0), dice())
    upper = scale(tone, dice(0.35, 0.8))
    walls = [plain_wall(side * (half + 0.6), tiles, tone, cap=high - tiles, roof=upper) for side in SIDES]
    paint_facades(stage, walls)
    if exit_visible:
        _portal(place, half, high, end, outside, air.daylight)
    else:
        end += 55.0
        spot = Spot(stage, 0.0, end)
        spot.stand(0.0, 0.0, 2.0 * half + 1.2, high, spot.ink(tone, 0.45))
    place.vehicles(0.5 * half, place.depths((9.0, 24.0), 18.0, 3, 0.5), ahead=True, lorries=0.2)
    place.vehicles(-0.5 * half, place.depths((9.0, 26.0), 18.0, 3, 0.4), ahead=dice.chance(0.5), lorries=0.2)
    place.paint(far=end)


def _ceiling(place: Place, half: float, high: float, lamp: Rgb) -> None:
    """The ceiling with one or two lines of lamps."""
    stage, dice = place.stage, place.dice
    dark = Surface((96.0, 94.0, 92.0))
    lights = dark._replace(period=dice(5.0, 10.0), share=dice(0.35, 0.95), mark=scale(lamp, 1.9))
    strips: Strips = [(EVERYWHERE, dark)]
    strength = dice(0.25, 0.5)
    for line in dice.pick(((-0.45, 0.45), (0.0,), (-0.75, 0.75))):
        strips += [(line * half - 0.3, lights), (line * half + 0.3, dark)]
        for number in range(3):
            stage.shine(line * half, high, 9.0 + 11.0 * number, 1.6, scale(lamp, strength))
    paint_plane(stage, high, strips, dice(0.0, 10.0))


def _portal(place: Place, half: float, high: float, end: float, outside: Rgb, daylight: float) -> None:
    """The tunnel's exit: sky over land, and by day its glare."""
    stage, spot, width = place.stage, Spot(place.stage, 0.0, end), 2.0 * half + 1.2
    spot.stand(0.0, 0.0, width, high, spot.glowing(scale(outside, 1.12)))
    spot.stand(0.0, 0.0, width, place.dice(0.8, 0.35 * high), spot.glowing(scale(outside, 0.6)))
    if daylight > 0.15:
        stage.shine(0.0, 0.5 * high, end, 2.2 * half, scale(outside, 0.7 * daylight))
