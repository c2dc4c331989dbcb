"""What every viewer shows is decoded, and shown alike; what is damaged is a ValueError, whatever a decoder raises."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from raymds.data.decode import decode, decode_upright, orientation, shrink

LOW = np.linspace(0, 255, 8 * 6 * 3).astype(np.uint8).reshape(6, 8, 3)
PIXELS = np.asarray(Image.fromarray(LOW).resize((64, 48), Image.Resampling.BICUBIC))


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


KINDS = [
    "jpeg",
    "extraneous",
    "trailing",
    "no-end",
    "progressive",
    "cmyk",
    "bad-exif",
    "png",
    "webp",
    "avif",
    "tiff",
    "bmp",
]
GOOD = encoded(Image.fromarray(PIXELS), quality=95)
SCAN = GOOD.index(b"\xff\xda")


def close(found: NDArray[np.uint8], want: NDArray[np.uint8] = PIXELS, most: float = 4) -> bool:
    return found.shape == want.shape and float(np.abs(found.astype(float) - want).mean()) <= most


@pytest.mark.parametrize(
    "data",
    [
        GOOD,
        GOOD[:SCAN] + b"\x00\x00\x00" + GOOD[SCAN:],  # libjpeg: extraneous bytes before marker
        GOOD + b"a camera's own data",
        GOOD[:-2],  # without its last marker
        encoded(Image.fromarray(PIXELS), progressive=True, quality=95),
        encoded(Image.fromarray(PIXELS).convert("CMYK"), quality=95),
        encoded(Image.fromarray(PIXELS), exif=b"Exif\x00\x00broken"),
        encoded(Image.fromarray(PIXELS), "PNG"),
        encoded(Image.fromarray(PIXELS), "WEBP", lossless=True),
        encoded(Image.fromarray(PIXELS), "AVIF", quality=95),
        encoded(Image.fromarray(PIXELS), "TIFF"),
        encoded(Image.fromarray(PIXELS), "BMP"),
    ],
    ids=[
        "jpeg",
        "extraneous",
        "trailing",
        "no-end",
        "progressive",
        "cmyk",
        "bad-exif",
        "png",
        "webp",
        "avif",
        "tiff",
        "bmp",
    ],
)
def test_what_a_viewer_shows(data: bytes) -> None:
    assert close(decode(data))
    assert close(decode_upright(data))
    assert orientation(data) == 1


def test_grey_of_sixteen_bits_is_scaled_and_transparency_lies_on_white() -> None:
    grey = (PIXELS[..., 0].astype(np.uint16)) * 257
    assert np.array_equal(decode(encoded(Image.fromarray(grey), "PNG"))[..., 0], PIXELS[..., 0])
    assert np.array_equal(decode(encoded(Image.fromarray(grey), "TIFF"))[..., 2], PIXELS[..., 0])
    dark = Image.fromarray((PIXELS[..., 0] // 4).astype(np.uint16) * 256)
    assert decode(encoded(dark, "PNG")).max() == PIXELS[..., 0].max() // 4
    alpha = np.concatenate([PIXELS, np.zeros_like(PIXELS[..., :1])], axis=2)
    assert (decode(encoded(Image.fromarray(alpha), "PNG")) == 255).all()
    palette = Image.fromarray(np.zeros((4, 4), np.uint8)).convert("P")
    assert (decode(encoded(palette, "GIF", transparency=0)) == 255).all()


@pytest.mark.parametrize("way_up", range(1, 9))
def test_every_orientation_is_turned_and_stays_so_when_it_is_shrunk(way_up: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = way_up
    inverse = {5: 5, 6: 8, 7: 7, 8: 6}.get(way_up, way_up)
    stored = Image.fromarray(PIXELS)
    stored.getexif()[0x0112] = inverse
    data = encoded(ImageOps.exif_transpose(stored), quality=95, exif=exif)
    assert orientation(data) == way_up
    assert close(decode_upright(data))
    for side in (0, 24, 100):
        small = shrink(data, side, 95)
        assert orientation(small) == 1
        height, width, _ = decode(small).shape
        assert (width, height) == ((32, 24) if side == 24 else (64, 48))
        assert (small == data) == (way_up == 1 and side != 24)


@pytest.mark.parametrize(
    "data",
    [b"", b"text", GOOD[: len(GOOD) // 2], GOOD[:20], encoded(Image.fromarray(PIXELS), "PNG")[:80]],
    ids=["empty", "text", "half", "head", "half a png"],
)
def test_what_is_damaged(data: bytes) -> None:
    for call in (decode, decode_upright, lambda data: shrink(data, 24, 95)):
        with pytest.raises(ValueError, match="can't be decoded"):
            call(data)


def test_what_would_fill_all_memory() -> None:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    size = GOOD.index(b"\xff\xc0") + 5
    large = GOOD[:size] + struct.pack(">HH", 60_000, 60_000) + GOOD[size + 4 :]
    for data in (bomb, large):
        with pytest.raises(ValueError, match=r"can't be decoded: .*(60000 x 60000|3600000000) pixels"):
            decode(data)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_any_damage_is_this_images_own(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF"]))
    content = bytearray(encoded(Image.fromarray(PIXELS), kind))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    try:
        pixels = decode(bytes(content), 16)
    except ValueError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3


@pytest.mark.parametrize("way_up", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_every_way_up_of_every_kind(kind: str, way_up: int) -> None:
    """Pillow turns a TIFF when it decodes it, and no other: each is turned once."""
    stored = Image.fromarray(PIXELS)
    for method in {2: [0], 3: [3], 4: [1], 5: [5], 6: [2], 7: [6], 8: [4]}.get(way_up, []):
        stored = stored.transpose(Image.Transpose(method))
    exif = Image.Exif()
    exif[0x0112] = way_up
    data = encoded(stored, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    assert np.array_equal(decode_upright(data), PIXELS)
    assert np.array_equal(decode_upright(shrink(data, 0, 100)), PIXELS) or close(decode_upright(shrink(data, 0, 100)))
    assert close(decode_upright(shrink(data, 24, 100)), np.asarray(Image.fromarray(PIXELS).resize((32, 24), 3)))


def test_a_download_that_left_zeros_is_damaged() -> None:
    """libjpeg decodes them to the last pixel; zeros behind the picture's end are none of it."""
    half = len(GOOD) // 2
    with pytest.raises(ValueError, match="its end is missing, zeros are there instead"):
        decode(GOOD[:half] + bytes(50_000))
    assert close(decode(GOOD + bytes(500)))
