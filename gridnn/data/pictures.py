"""One picture of a file: bounded before it is decoded, scaled, upright, in 8 bits a colour."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from gridnn.data.files import open_regular
from gridnn.data.resized import scaled_size

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # others of Pillow's run programs
EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV")
SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
SCALED_BY_PILLOW = ("PNG", "PPM")  # their numbers of 32 bits are 0 to 65535
MOST_PIXELS = 2 * 89_478_485  # what Pillow refuses, too
MOST_ASPECT = 100
SILENT = logging.NullHandler()
BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF
WHITE_IS_ZERO, SIGNED = 0, 2


def decode(path: str | Path, shorter: int) -> Any:
    """The picture in a file, in colour, its shorter side ``shorter`` pixels, turned as its EXIF orientation says.

    A picture of 16 bits (or 12) is scaled to 8.

    Raises
    ------
    ValueError
        If its sides are too long or too unlike, or its numbers have no known range.
    Exception
        Decoders raise anything where a file is damaged.
    """
    from PIL import Image, ImageOps

    with open_regular(path) as file, _no_warnings(), Image.open(file, formats=FORMATS) as image:
        size = _bounded(*image.size, shorter)
        image.draft("RGB", (2 * size[0], 2 * size[1]))  # a large JPEG is decoded to 1/2, 1/4 or 1/8 of its size
        image.load()
        with suppress(Exception):  # a damaged EXIF block says nothing of the picture
            ImageOps.exif_transpose(image, in_place=True)
        if (image.width > image.height) != (size[0] > size[1]):
            size = size[::-1]
        return _eight_bits(image).convert("RGB").resize(size, Image.Resampling.BILINEAR)


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Inside, Pillow says nothing of damage that it gets over (nor in other threads)."""
    logging.getLogger("PIL").addHandler(SILENT)  # without any Python prints errors
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _bounded(width: int, height: int, shorter: int) -> tuple[int, int]:
    """Width and height when the shorter one is made ``shorter``."""
    short, long = sorted((width, height))
    if not 0 < long <= MOST_ASPECT * short:
        raise ValueError(f"{width} x {height} pixels: one side is more than {MOST_ASPECT} times the other")
    scaled = scaled_size(height, width, shorter)[::-1]
    if max(width * height, scaled[0] * scaled[1]) > MOST_PIXELS:
        raise ValueError(f"{width} x {height} pixels, {scaled[0]} x {scaled[1]} scaled: more than {MOST_PIXELS} pixels")
    return scaled


def _eight_bits(image: Any) -> Any:
    """The picture in 8 bits a colour: Pillow's own conversion cuts all off that is above 255."""
    from PIL import Image

    mode, tags = image.mode, getattr(image, "tag_v2", {})
    deep = mode in SIXTEEN_BITS or (mode == "I" and image.format in SCALED_BY_PILLOW)
    signed = SIGNED in tags.get(SAMPLE_FORMAT, ())
    if signed or not (deep or mode in EIGHT_BITS):
        kind = f"Pillow's mode {mode}{', signed' * signed}"
        raise ValueError(f"the range of its numbers is not known ({kind}): save it with 8 or 16 bits, unsigned")
    if not deep:
        return image
    top = 2 ** tags.get(BITS, (16,))[0] - 1
    values = (np.asarray(image).astype(np.uint32) * 255 + top // 2) // top
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        values = 255 - values
    return Image.fromarray(values.astype(np.uint8))
