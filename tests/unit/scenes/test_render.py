import hashlib
import itertools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from raymds.errors import UsageError
from raymds.scenes.air import Air, conditions, fog
from raymds.scenes.paint import DEPTH, Dice, depth_code, value_noise
from raymds.scenes.render import (
    ATTRIBUTES,
    BALANCED,
    EXIT_VISIBLE,
    LONG_TAILED,
    SCENE,
    TEMPLATES,
    TIMEOFDAY,
    WEATHER,
    Scene,
    draw_attributes,
    render,
)
from raymds.scenes.stage import Camera

GOLDEN = "1eac56fa916fada9343ca2354a124131595d10fec6d2911d96333827f442fb02"


def only(weather: str = "clear", scene: str = "highway", timeofday: str = "daytime") -> dict[str, dict[str, float]]:
    return {"weather": {weather: 1.0}, "scene": {scene: 1.0}, "timeofday": {timeofday: 1.0}}


def luma(scene: Scene) -> np.ndarray:
    return scene.pixels.astype(np.float64) @ np.array([0.299, 0.587, 0.114])


def digest() -> str:
    sha = hashlib.sha256()
    for index in range(24):
        sha.update(render(7, index, frequencies=BALANCED).pixels.tobytes())
    sha.update(render(7, 1, size=200).pixels.tobytes())
    return sha.hexdigest()


def test_pixels_are_those_of_the_day_they_were_approved() -> None:
    assert digest() == GOLDEN, "pictures changed: look at them, then put this digest into GOLDEN"


def test_same_scene_in_any_order_and_thread() -> None:
    forward = [render(3, index) for index in range(4)]
    with ThreadPoolExecutor(2) as pool:
        backward = list(pool.map(lambda index: render(3, index), [3, 2, 1, 0]))
    for first, second in zip(forward, reversed(backward), strict=True):
        assert np.array_equal(first.pixels, second.pixels)
        assert (first.attributes, first.caption) == (second.attributes, second.caption)


def test_same_scene_without_the_vector_instructions_of_this_processor() -> None:
    """Another process, whose numpy runs its baseline kernels, stands for another machine."""
    code = "from tests.unit.scenes.test_render import digest; print(digest())"
    features = " ".join(np._core._multiarray_umath.__cpu_dispatch__)
    environment = {**os.environ, "NPY_DISABLE_CPU_FEATURES": features, "PYTHONWARNINGS": "ignore"}
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=root).stdout
    assert printed.split()[-1] == GOLDEN


def test_seeds_and_indices_differ() -> None:
    assert len({render(seed, index, 16).pixels.tobytes() for seed in (0, 1, 2**63) for index in (0, 1, 2**40)}) == 9


@pytest.mark.parametrize("frequencies", [LONG_TAILED, BALANCED])
def test_frequencies_are_honoured(frequencies: dict[str, dict[str, float]]) -> None:
    drawn = [draw_attributes(0, index, frequencies) for index in range(2000)]
    for name, values in ATTRIBUTES.items():
        seen = [attributes[name] for attributes in drawn if attributes[name] is not None]
        total = sum(frequencies[name].values())
        expected = np.array([len(seen) * frequencies[name][value] / total for value in values])
        observed = np.array([seen.count(value) for value in values])
        # 99.9 % of chi-square with 5, the most, degrees of freedom.
        assert (np.square(observed - expected) / expected).sum() < 20.5


def test_draw_does_not_depend_on_the_order_of_classes_nor_on_the_scale_of_weights() -> None:
    turned = {
        name: {value: 4.0 * LONG_TAILED[name][value] for value in reversed(ATTRIBUTES[name])}
        for name in reversed(ATTRIBUTES)
    }
    assert all(draw_attributes(5, index, turned) == draw_attributes(5, index) for index in range(300))


def test_a_class_without_weight_is_never_drawn() -> None:
    frequencies = {"weather": {"clear": 0.0, "foggy": 1.0, "snowy": 2.0}}
    assert {draw_attributes(0, index, frequencies)["weather"] for index in range(1000)} == {"foggy", "snowy", None}


@pytest.mark.parametrize(
    ("frequencies", "words"),
    [
        ({"mood": {"clear": 1.0}}, ("mood", *ATTRIBUTES)),
        ({"weather": {"hail": 1.0}}, ("hail", *WEATHER)),
        ({"scene": {"tunnel": -1.0}}, ("scene:tunnel", "-1.0")),
        ({"scene": {"tunnel": float("nan")}}, ("scene:tunnel", "nan")),
        ({"timeofday": {"night": 0.0}}, ("timeofday",)),
    ],
)
def test_wrong_frequencies_are_named(frequencies: dict[str, dict[str, float]], words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as caught:
        draw_attributes(0, 0, frequencies)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(("seed", "index"), [(-1, 0), (0, -1), (2**64, 0)])
def test_keys_out_of_range_are_refused(seed: int, index: int) -> None:
    with pytest.raises(UsageError, match="64"):
        render(seed, index)


@pytest.mark.parametrize("size", [16, 17, 512])
def test_sizes(size: int) -> None:
    pixels = render(0, 3, size).pixels
    assert pixels.shape == (size, size, 3)
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize("size", [8, 513])
def test_sizes_out_of_range_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="16 to 512"):
        render(0, 0, size)


@pytest.mark.parametrize("weather", ["clear", "snowy", "foggy"])
@pytest.mark.parametrize("scene", SCENE)
def test_a_scene_looks_the_same_at_every_size(weather: str, scene: str) -> None:
    """Averaged down, the picture of twice the size is the picture, but for grain and outlines."""
    small = luma(render(2, 11, 64, only(weather, scene)))
    large = luma(render(2, 11, 128, only(weather, scene))).reshape(64, 2, 64, 2).mean(axis=(1, 3))
    assert np.corrcoef(small.ravel(), large.ravel())[0, 1] > 0.9


@pytest.mark.parametrize("scene", SCENE)
def test_every_class_renders(scene: str) -> None:
    for index, (weather, timeofday) in enumerate(itertools.product(WEATHER, TIMEOFDAY)):
        rendered = render(1, index, 32, only(weather, scene, timeofday))
        assert rendered.pixels.std() > 3.0
        expected = (weather, scene, timeofday) if scene != "tunnel" else (None, scene, rendered.attributes["timeofday"])
        assert tuple(rendered.attributes.values()) == expected


def test_a_tunnel_has_no_weather_and_shows_the_time_at_its_exit_only() -> None:
    drawn = [draw_attributes(4, index, only("rainy", "tunnel", "night")) for index in range(500)]
    assert {attributes["weather"] for attributes in drawn} == {None}
    share = [attributes["timeofday"] for attributes in drawn].count("night") / 500
    assert share == pytest.approx(EXIT_VISIBLE, abs=0.05)


def test_the_exit_of_a_tunnel_is_brighter_by_day() -> None:
    def brightest(timeofday: str) -> float:
        scenes = [render(6, index, 32, only("overcast", "tunnel", timeofday)) for index in range(30)]
        # Below the ceiling's lamps, above the road: where the exit is.
        return float(np.mean([luma(scene)[13:17, 11:21].mean() for scene in scenes if scene.attributes["timeofday"]]))

    assert brightest("daytime") > brightest("dawn/dusk") > brightest("night")


def test_fog_is_koschmieders_law() -> None:
    """Contrast of a far thing against the veil falls as exp(-extinction * depth), within the approximation's 2 %."""
    air = Air(daylight=0.8, warmth=0.0, cloud=1.0, extinction=0.02, rain=0, wet=0, snow=0, flakes=0, lamps=False)
    codes = depth_code(np.array([[5.0, 20.0, 60.0]])).astype(np.uint8)
    dark, light = np.zeros((3, 1, 3), dtype=np.float32), np.full((3, 1, 3), 200.0, dtype=np.float32)
    fog(dark, codes, air)
    fog(light, codes, air)
    contrast = (light - dark)[0, 0] / 200.0
    np.testing.assert_allclose(contrast, np.exp(-0.02 * DEPTH[codes[0]]), atol=0.02)


def test_fog_lowers_far_contrast_of_the_same_street() -> None:
    """Only the weather differs between the pairs: the same geometry, drawn from the same stream."""

    def far_contrast(weather: str) -> np.ndarray:
        return np.array([luma(render(9, index, 32, only(weather, "city street")))[10:16].std() for index in range(24)])

    ratio = far_contrast("foggy") / far_contrast("clear")
    assert np.median(ratio) < 0.7
    assert np.mean(ratio < 1.0) > 0.85


def test_night_is_darker_than_dusk_is_darker_than_day() -> None:
    night, dusk, day = (
        np.mean([luma(render(10, index, 32, only("overcast", "residential", time))).mean() for index in range(24)])
        for time in ("night", "dawn/dusk", "daytime")
    )
    assert night < 0.85 * dusk < 0.85 * 0.85 * day


def test_snow_whitens_the_ground() -> None:
    def ground(weather: str) -> float:
        lots = [luma(render(11, index, 32, only(weather, "parking lot"))) for index in range(24)]
        return float(np.mean([lot[24:].mean() for lot in lots]))

    assert ground("snowy") > 1.2 * ground("overcast")


def test_weathers_overlap_at_their_borders() -> None:
    """Neighbouring classes share part of their range, so that no model can be perfect."""

    def drawn(weather: str, field: str) -> list[float]:
        return [getattr(conditions(Dice(0, index), weather, "daytime"), field) for index in range(300)]

    assert max(drawn("clear", "cloud")) > min(drawn("partly cloudy", "cloud"))
    assert max(drawn("partly cloudy", "cloud")) > min(drawn("overcast", "cloud"))
    thinnest = min(drawn("foggy", "extinction"))
    assert max(drawn("clear", "extinction")) < thinnest
    assert all(max(drawn(neighbour, "extinction")) > thinnest for neighbour in ("overcast", "rainy", "snowy"))


def test_captions_mention_what_is_there_and_use_every_template() -> None:
    seen = set()
    frequencies = {**BALANCED, "scene": {**BALANCED["scene"], "tunnel": 4.0}}
    for index in range(160):
        scene = render(12, index, 16, frequencies)
        known = {name: value for name, value in scene.attributes.items() if value is not None}
        sources = []
        for template in TEMPLATES:
            try:
                if template.format(**known) == scene.caption:
                    sources.append(template)
            except KeyError:  # mentions what this scene does not define
                continue
        assert len(sources) == 1
        seen.update(sources)
    assert seen == set(TEMPLATES)


def test_camera_projects_by_similar_triangles() -> None:
    camera = Camera(x0=0.5, y0=0.4, focal=0.9, height=1.5)
    assert camera.x(2.0, 10.0) == pytest.approx(0.5 + 0.9 * 2.0 / 10.0)
    assert camera.y(0.0, 10.0) == pytest.approx(0.4 + 0.9 * 1.5 / 10.0)
    assert camera.y(1.5, 33.0) == pytest.approx(0.4)  # what is as high as the lens lies on the horizon


def test_depth_code_and_back() -> None:
    z = np.array([1.5, 10.0, 50.0])
    np.testing.assert_allclose(DEPTH[depth_code(z)], z, rtol=0.03)


def test_value_noise_meets_its_grid() -> None:
    grid = np.arange(12.0, dtype=np.float32).reshape(3, 4) / np.float32(12.0)
    np.testing.assert_array_equal(value_noise(grid, np.arange(2.0)[None], np.arange(3.0)[None])[0], grid[:2, :3])
    middle = value_noise(grid, np.full((1, 1), 0.5), np.full((1, 1), 0.5))
    assert middle[0, 0, 0] == pytest.approx(grid[:2, :2].mean())
