"""The one way from encoded bytes to pixels: JPEG, PNG, WebP, AVIF, TIFF, GIF, BMP, as a viewer shows them.

Whatever decoders raise comes out as a ValueError about this image; an ingest of millions must not end by one of them.
"""

import io
import warnings
from typing import cast

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

Pixels = NDArray[np.uint8]  # RGB (H, W, 3)

MOST_PIXELS = 2**26  # of an image: more is no photograph, and decoding it may take all memory
_ORIENTATION = 0x0112  # EXIF
_START, _END = b"\xff\xd8\xff", b"\xff\xd9"  # of a JPEG
_ZEROS = 64  # bytes at the end of a file that are what an interrupted download left, no picture
_DEEP = 255 / 65535  # from 16 bits to 8

# Of a damaged EXIF, or a palette with an odd transparency; the pictures are good.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def decode(encoded: bytes | memoryview, size: int = 0) -> Pixels:
    """RGB pixels as they are stored, whatever EXIF says; ValueError where they can't be decoded.

    A JPEG far larger than `size` is decoded at a fraction of its scale, its sides still `size` at least. What libjpeg
    only warns of is no damage; pixels that are missing are. Grey values of 16 bits are scaled to 8, and what is
    transparent lies on white.
    """
    data = bytes(encoded)
    try:
        if data.startswith(_START):
            return _jpeg(data, size)
        with _opened(data) as image:
            return _flat(image)
    except UnidentifiedImageError:
        raise ValueError("can't be decoded: it is no image of a known kind, or damaged from its beginning") from None
    except Exception as error:  # decoders fail in every way, also with SyntaxError, struct.error, MemoryError
        raise ValueError(f"can't be decoded: {error or type(error).__name__}") from None


def decode_upright(encoded: bytes | memoryview) -> Pixels:
    """Upright RGB pixels of encoded bytes; ValueError where they can't be decoded."""
    way_up, pixels = orientation(encoded), decode(encoded)
    return pixels if way_up == 1 else np.asarray(turned(Image.fromarray(pixels), way_up))


def orientation(encoded: bytes | memoryview) -> int:
    """EXIF orientation, 1 (upright) to 8; 1 where an image says none, or something that can't be read."""
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            if image.format == "TIFF":  # which Pillow turns itself
                return 1
            found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # of a damaged EXIF anything, and the picture may be good
        return 1
    return found if found in range(1, 9) else 1


def turned(image: Image.Image, way_up: int) -> Image.Image:
    """An image without EXIF made upright from the orientation that it has."""
    image.getexif()[_ORIENTATION] = way_up
    return ImageOps.exif_transpose(image)


def shrink(data: bytes, side: int, quality: int) -> bytes:
    """An encoded image as upright JPEG whose short side is `side` pixels.

    Its own bytes where it is upright and `side` is 0, or its short side not above `side`. ValueError where it can't be
    decoded.
    """
    image, way_up = Image.fromarray(decode(data, side)), orientation(data)
    with Image.open(io.BytesIO(data)) as whole:
        size = whole.size
    larger = 0 < side < min(size)
    if way_up == 1 and not larger:
        return data
    if larger:  # a JPEG may have been scaled already, its sides rounded
        width, height = (round(length * side / min(size)) for length in size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    encoded: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(turned(image, way_up)), quality, fastdct=False)
    return encoded


def _jpeg(data: bytes, size: int) -> Pixels:
    def strictly(data: bytes) -> Pixels:
        height, width = simplejpeg.decode_jpeg_header(data)[:2]
        _check_size(width, height)
        return cast(Pixels, simplejpeg.decode_jpeg(data, min_height=size, min_width=size))

    try:
        return strictly(data)
    except ValueError:
        pass
    whole = data.rstrip(b"\0")
    if len(data) - len(whole) >= _ZEROS and not whole.endswith(_END):
        raise ValueError("its end is missing, zeros are there instead")  # which libjpeg would decode, as grey
    try:
        return strictly(data + _END)  # where the mark of its end alone is missing, every pixel is there
    except ValueError:
        with _opened(data) as image:
            return _flat(image)  # Pillow refuses what is cut off, and shows what libjpeg warns of


def _opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    _check_size(*image.size)
    return image


def _check_size(width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise ValueError(f"it has {width} x {height} pixels, more than a photograph")


def _flat(image: Image.Image) -> Pixels:
    """8-bit RGB of any mode."""
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, whose white nobody says")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.float64)
        grey = np.rint(values * _DEEP if values.max(initial=0) > 255 or ";16" in image.mode else values)
        return np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))
