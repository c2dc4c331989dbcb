"""What stands on and beside the road, as upright shapes: vehicles, trees, lamps, signals, signs, people."""

from raymds.scenes.paint import Rgb, scale
from raymds.scenes.stage import Spot, Stage

FINE = 8.0  # canvas pixels to a metre, with fewer of which details are not to be seen
GLASS: Rgb = (44.0, 54.0, 66.0)
STEEL: Rgb = (88.0, 90.0, 94.0)
RUBBER: Rgb = (20.0, 20.0, 22.0)
BARK: Rgb = (74.0, 58.0, 46.0)
PLATE: Rgb = (235.0, 238.0, 240.0)
CAR_COLOURS: tuple[Rgb, ...] = (
    (225, 226, 228),
    (30, 32, 36),
    (120, 124, 130),
    (70, 74, 80),
    (150, 28, 30),
    (36, 60, 120),
    (180, 176, 165),
    (40, 80, 60),
    (200, 140, 30),
)
SIGNALS: tuple[Rgb, ...] = ((255.0, 50.0, 40.0), (255.0, 190.0, 50.0), (60.0, 240.0, 150.0))
# Parts (of the height: offset, foot, width, height; tone; share of snow kept).
CROWN = (
    (0.0, 0.28, 0.62, 0.62, 0.72, 0.1),
    (-0.14, 0.42, 0.44, 0.44, 0.95, 0.25),
    (0.15, 0.44, 0.4, 0.4, 0.85, 0.25),
    (0.02, 0.56, 0.42, 0.42, 1.1, 0.4),
)
CONE = ((0.0, 0.12, 0.5, 0.45, 0.75, 0.7), (0.0, 0.34, 0.4, 0.42, 0.9, 0.7), (0.0, 0.58, 0.28, 0.42, 1.05, 0.8))
BRANCHES = (
    (-0.16, 0.42, 0.018, 0.3, 1.0, 0.5),
    (0.15, 0.4, 0.018, 0.36, 1.0, 0.5),
    (-0.05, 0.5, 0.018, 0.42, 1.0, 0.5),
    (0.07, 0.5, 0.018, 0.34, 1.0, 0.5),
    (0.0, 0.42, 0.36, 0.025, 1.0, 0.8),
)


def paint_vehicle(stage: Stage, X: float, z: float, rgb: Rgb, big: bool, ahead: bool, lights: float) -> None:
    """A car, or a lorry if big, with its near end at z.

    `ahead` shows its tail, otherwise its face; `lights` run from 0, off, to 1, full at night.
    """
    width, body, long = (2.4, 3.0, 8.0) if big else (1.8, 0.72, 4.2)
    if not stage.shows(X, z + long, 2.0 * width):
        return
    spot = Spot(stage, X, z)
    fine = spot.unit > FINE
    _paint_shadow(stage, spot, width * 1.08)
    slices = min(int(0.08 * long * spot.unit), 40)  # the side we see, from its far end
    for number in range(slices, 0, -1):
        deep = Spot(stage, X, z + long * number / slices)
        deep.stand(0.0, 0.32, width, body, deep.ink(rgb, 0.62))
    if not big:
        shape = "cabin" if fine else ""
        if fine:
            Spot(stage, X, z + 0.75 * long).stand(0.0, 0.98, 1.5, 0.5, spot.ink(rgb, 0.55, 0.5), shape)
            Spot(stage, X, z + 0.45 * long).stand(0.0, 0.98, 1.5, 0.5, spot.ink(rgb, 0.6, 0.5), shape)
        back = Spot(stage, X, z + 0.7)
        back.stand(0.0, 0.98, 1.55, 0.52, spot.ink(rgb, catch=0.85), shape)
        back.stand(0.0, 1.0, 1.36, 0.4, spot.ink(GLASS), shape)
    spot.stand(0.0, 0.3, width, body, spot.ink(rgb, catch=0.25))
    if big and not ahead:
        spot.stand(0.0, 1.5, 2.1, 0.9, spot.ink(GLASS))
    if fine:
        spot.stand(0.0, 0.3, width * 0.94, 0.2, spot.ink(rgb, 0.45))
        rubber = spot.ink(RUBBER)
        spot.stand(-0.4 * width, -0.03, 0.24, 0.42, rubber)
        spot.stand(0.4 * width, -0.03, 0.24, 0.42, rubber)
    _paint_lights(stage, spot, X, z, 0.39 * width, ahead, lights)


def paint_parked_across(stage: Stage, X: float, z: float, rgb: Rgb) -> None:
    """A parked car that shows its side."""
    if not stage.shows(X, z, 4.4):
        return
    spot, back = Spot(stage, X, z), Spot(stage, X, z + 0.3)
    _paint_shadow(stage, spot, 4.3)
    if spot.unit > FINE:
        Spot(stage, X, z + 1.4).stand(0.0, 0.94, 2.5, 0.5, spot.ink(rgb, 0.6, 1.0), "cabin")
    back.stand(0.0, 0.9, 2.5, 0.54, spot.ink(rgb, catch=0.9), "cabin")
    back.stand(0.0, 0.96, 2.2, 0.38, spot.ink(GLASS), "cabin")
    spot.stand(0.0, 0.28, 4.2, 0.66, spot.ink(rgb, catch=0.3))
    rubber = spot.ink(RUBBER)
    spot.stand(-1.35, -0.03, 0.62, 0.62, rubber, "ellipse")
    spot.stand(1.35, -0.03, 0.62, 0.62, rubber, "ellipse")


def _paint_shadow(stage: Stage, spot: Spot, width: float) -> None:
    """The dark under a vehicle, and in the sun its shadow on the road."""
    if abs(stage.sun) > 0.25:
        reach = 1.5 * stage.sun
        spot.stand(-0.5 * reach, -0.1, width + abs(reach), 0.22, spot.ink((44.0, 44.0, 50.0), catch=0.3))
    spot.stand(0.0, -0.06, width, 0.3, spot.ink((16.0, 16.0, 18.0)))


def _paint_lights(stage: Stage, spot: Spot, X: float, z: float, apart: float, ahead: bool, lights: float) -> None:
    """A vehicle's tail lights or headlights; far away the halos of the two are one."""
    if lights > 0.0:
        ink = spot.glowing((255.0, 60.0, 40.0) if ahead else (255.0, 250.0, 230.0))
        halo, radius = ((230.0, 40.0, 28.0), 0.9) if ahead else ((225.0, 212.0, 180.0), 1.6)
        if z < 18.0:
            stage.shine(X - apart, 0.77, z, radius, scale(halo, lights))
            stage.shine(X + apart, 0.77, z, radius, scale(halo, lights))
        else:
            stage.shine(X, 0.77, z, 1.3 * radius, scale(halo, 1.2 * lights))
    else:
        ink = spot.ink((120.0, 20.0, 18.0) if ahead else (200.0, 200.0, 205.0))
    spot.stand(-apart, 0.68, 0.34, 0.18, ink)
    spot.stand(apart, 0.68, 0.34, 0.18, ink)


def paint_tree(stage: Stage, X: float, z: float, height: float, rgb: Rgb, conifer: bool, bare: bool) -> None:
    """A conifer, a round tree, or one without leaves."""
    if not stage.shows(X, z, height):
        return
    spot = Spot(stage, X, z)
    spot.stand(0.0, 0.0, 0.05 * height, 0.5 * height, spot.ink(BARK))
    parts, tint, shape = (CONE, rgb, "cone") if conifer else (BRANCHES, BARK, "") if bare else (CROWN, rgb, "ellipse")
    for across, foot, wide, tall, tone, catch in parts:
        ink = spot.ink(tint, tone, catch)
        spot.stand(across * height, foot * height, wide * height, tall * height, ink, shape)


def paint_lamp_post(stage: Stage, X: float, z: float, height: float, rgb: Rgb, lights: float) -> None:
    """A street lamp that leans over the road."""
    reach = -1.6 if X > 0 else 1.6
    if not stage.shows(X + reach, z, 6.0):
        return
    spot = Spot(stage, X, z)
    steel = spot.ink(STEEL)
    spot.stand(0.0, 0.0, 0.16, height, steel)
    spot.stand(0.5 * reach, height - 0.1, abs(reach), 0.12, steel)
    spot.stand(reach, height - 0.22, 0.7, 0.2, spot.glowing(rgb) if lights > 0.0 else steel)
    if lights > 0.0:
        stage.shine(X + reach, height - 0.2, z, 2.4, scale(rgb, 0.9 * lights))


def paint_signals(stage: Stage, X: float, z: float, phase: int, lights: float) -> None:
    """Traffic lights on a mast; phase 0 is red, 1 amber, 2 green."""
    spot, reach = Spot(stage, X, z), -2.4 if X > 0 else 2.4
    steel, housing, burning = spot.ink(STEEL), spot.ink((26.0, 28.0, 30.0)), spot.glowing(SIGNALS[phase])
    spot.stand(0.0, 0.0, 0.18, 5.6, steel)
    spot.stand(0.5 * reach, 5.4, abs(reach), 0.14, steel)
    for across, foot in ((0.0, 2.6), (reach, 4.2)):
        spot.stand(across, foot, 0.5, 1.4, housing)
        spot.stand(across, foot + 0.95 - 0.43 * phase, 0.34, 0.36, burning)
    stage.shine(X + reach, 5.2, z, 0.9, scale(SIGNALS[phase], 0.4 + 0.5 * lights))


def paint_person(stage: Stage, X: float, z: float, rgb: Rgb) -> None:
    """Someone on foot."""
    spot = Spot(stage, X, z)
    spot.stand(0.0, 0.0, 0.36, 0.85, spot.ink((40.0, 42.0, 56.0)))
    spot.stand(0.0, 0.8, 0.5, 0.68, spot.ink(rgb))
    spot.stand(0.0, 1.48, 0.26, 0.28, spot.ink((190.0, 150.0, 125.0)), "ellipse")


def paint_gantry(stage: Stage, half: float, z: float, panels: int, rgb: Rgb) -> None:
    """Direction signs over a highway of this half width."""
    spot = Spot(stage, 0.0, z)
    steel, plate, board = spot.ink(STEEL), spot.ink(PLATE), spot.ink(rgb)
    spot.stand(-half, 0.0, 0.35, 6.8, steel)
    spot.stand(half, 0.0, 0.35, 6.8, steel)
    spot.stand(0.0, 6.4, 2.0 * half, 0.35, steel)
    width = 1.3 * half / panels
    for panel in range(panels):
        X = half * ((2.0 * panel + 1.0) / panels - 1.0)
        spot.stand(X, 5.4, width, 2.4, plate)
        spot.stand(X, 5.5, width - 0.2, 2.2, board)
        spot.stand(X, 6.3, 0.55 * width, 0.3, plate)
