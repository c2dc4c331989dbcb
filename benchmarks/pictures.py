"""Pictures with labels for `datasets.py`: Fashion-MNIST of Debian, the digits of scikit-learn, weather laid over both.

Everything is a function of its seed. A picture leaves this module as a PNG.
"""

import gzip
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn import datasets as bundled

from raymds.errors import UsageError

FASHION = Path("/usr/share/datasets/fashion-mnist")
KINDS = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
BROAD = ("top", "trouser", "top", "dress", "top", "shoe", "top", "shoe", "bag", "shoe")  # of each of KINDS
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

Gray = NDArray[np.uint8]  # (S, S)
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Pictures:
    """n pictures, the classes of each, and how one becomes a file."""

    gray: NDArray[np.uint8]  # (n, S, S)
    labels: dict[str, list[str]]  # attribute -> n classes
    templates: tuple[str, ...]  # captions, with {attribute}
    draw: Callable[[int, Gray], Image.Image]  # of a row's number and its pixels

    def png(self, row: int) -> bytes:
        """A row's picture as a file."""
        buffer = io.BytesIO()
        self.draw(row, self.gray[row]).convert("RGB").save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()


def _idx(name: str) -> NDArray[np.uint8]:
    """An array of the idx format: two zeros, a type (8: bytes), the number of axes, the length of each, the values."""
    path = FASHION / name
    if not path.is_file():
        raise UsageError(f"{path}: Fashion-MNIST is missing; apt install dataset-fashion-mnist")
    content = gzip.decompress(path.read_bytes())
    axes = content[3]
    shape = np.frombuffer(content, ">u4", axes, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def _fashion_files() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """All 70,000: the official train part first, then the official test part of 10,000."""
    parts = ("train", "t10k")
    images = [_idx(f"{part}-images-idx3-ubyte.gz") for part in parts]
    labels = [_idx(f"{part}-labels-idx1-ubyte.gz") for part in parts]
    return np.concatenate(images), np.concatenate(labels)


def fashion() -> Pictures:
    """Fashion-MNIST by kind."""
    images, classes = _fashion_files()
    templates = ("a photo of a {kind}.", "a {kind}.", "a gray picture of a {kind}.", "this is a {kind}.")
    return Pictures(images, {"kind": [KINDS[c] for c in classes]}, templates, lambda _, gray: Image.fromarray(gray))


def digits() -> Pictures:
    """The 1,797 hand-written digits, 8 × 8 pixels enlarged to 32 × 32."""
    loaded = bundled.load_digits()
    images = (loaded.images * (255 / 16)).astype(np.uint8)
    templates = ("the digit is {digit}.", "a hand-written {digit}.", "the number {digit}.")
    return Pictures(
        images,
        {"digit": [DIGITS[c] for c in loaded.target]},
        templates,
        lambda _, gray: Image.fromarray(gray).resize((32, 32), Image.Resampling.BICUBIC),
    )


def weathered(seed: int) -> Pictures:
    """Fashion-MNIST in five broad kinds, each picture in weather that is drawn for it alone."""
    images, classes = _fashion_files()
    drawn = np.random.default_rng([seed, 0]).integers(0, len(WEATHER), len(images))
    names = list(WEATHER)

    def draw(row: int, gray: Gray) -> Image.Image:
        large = np.asarray(Image.fromarray(gray).resize((64, 64), Image.Resampling.BICUBIC), np.float64) / 255
        dice = np.random.default_rng([seed, 1, row])
        pixels = WEATHER[names[drawn[row]]](_on_ground(large, dice), dice)
        return Image.fromarray((np.clip(pixels, 0, 1) * 255).astype(np.uint8))

    labels = {"kind": [BROAD[c] for c in classes], "weather": [names[w] for w in drawn]}
    templates = (
        "a photo of a {kind}, the weather is {weather}.",
        "the weather is {weather}.",
        "a photo of a {kind}.",
        "a {kind} in {weather}.",
    )
    return Pictures(images, labels, templates, draw)


def _on_ground(large: Floats, dice: np.random.Generator) -> Floats:
    """The thing in front of a wall of some grey, so that weather is seen around it too."""
    wall = dice.uniform(0.1, 0.35) + 0.1 * (_plasma(64, 1.5, dice) - 0.5)
    return np.where(large > 0.08, 0.15 + 0.8 * large, wall)


def _plasma(side: int, roughness: float, dice: np.random.Generator) -> Floats:
    """Cloudy noise (side, side) from 0 to 1: a random field whose amplitudes fall as frequency^-roughness."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    frequency[0, 0] = np.inf
    phases = dice.uniform(0, 2 * np.pi, frequency.shape)
    field = np.fft.irfft2(frequency**-roughness * np.exp(1j * phases), s=(side, side))
    return (field - field.min()) / (field.max() - field.min())


def _streaks(side: int, share: float, length: int, slope: float, dice: np.random.Generator) -> Floats:
    """Falling drops or flakes (side, side), 0 to 1: seeds drawn out over `length` pixels."""
    seeds = (dice.random((side, side)) < share) * dice.uniform(0.4, 1, (side, side))
    drawn = [np.roll(seeds, (step, round(step * slope)), (0, 1)) for step in range(length)]
    return np.max(drawn, axis=0)


def _clear(picture: Floats, dice: np.random.Generator) -> Floats:
    return picture * dice.uniform(0.9, 1.1)


def _fog(picture: Floats, dice: np.random.Generator) -> Floats:
    thickness = dice.uniform(0.8, 1.6)
    veil = thickness * (0.55 + 0.45 * _plasma(picture.shape[0], 1.6, dice))
    return (picture + veil) / (1 + thickness)


def _snow(picture: Floats, dice: np.random.Generator) -> Floats:
    flakes = _streaks(picture.shape[0], dice.uniform(0.015, 0.04), int(dice.integers(2, 4)), 0.5, dice)
    return np.maximum(0.8 * picture + 0.15, flakes)


def _rain(picture: Floats, dice: np.random.Generator) -> Floats:
    drops = _streaks(
        picture.shape[0], dice.uniform(0.006, 0.015), int(dice.integers(8, 14)), dice.uniform(0, 0.4), dice
    )
    return 0.75 * picture + 0.3 * drops


def _sun(picture: Floats, dice: np.random.Generator) -> Floats:
    return picture + dice.uniform(0.25, 0.45)


def _night(picture: Floats, dice: np.random.Generator) -> Floats:
    return picture * dice.uniform(0.2, 0.4) + dice.normal(0, 0.03, picture.shape)


WEATHER = {"clear": _clear, "fog": _fog, "snow": _snow, "rain": _rain, "sun": _sun, "darkness": _night}
