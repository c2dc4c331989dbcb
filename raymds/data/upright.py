"""Images the way up that their EXIF says."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from raymds.data.loader import decode

_ORIENTATION = 0x0112  # EXIF


def orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 (upright) to 8; 1 where an image says none, or something that can't be read."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # of a damaged EXIF anything, and the picture may be good
        return 1
    return found if found in range(1, 9) else 1


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """An image without EXIF, upright."""
    image.getexif()[_ORIENTATION] = orientation
    return ImageOps.exif_transpose(image)


def decode_upright(encoded: bytes | memoryview, *, turn: bool = True) -> NDArray[np.uint8]:
    """Upright RGB pixels (H, W, 3) of encoded bytes; ValueError where they can't be decoded.

    With `turn` false as they are stored: those of a data set are upright, whatever EXIF they kept.
    """
    try:
        found = orientation(Image.open(io.BytesIO(encoded))) if turn else 1
        pixels = decode(encoded)
    except UnidentifiedImageError:
        raise ValueError("is no image of a known kind, or damaged from its beginning") from None
    except (ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"can't be decoded: {error}") from None
    return pixels if found == 1 else np.asarray(turned(Image.fromarray(pixels), found))
