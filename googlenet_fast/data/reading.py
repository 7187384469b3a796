"""Decode an image with Pillow; refuse what would take too much memory or run programs."""

import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import PIL
from PIL import Image, ImageOps

from googlenet_fast.data.foreign_formats import what_instead
from googlenet_fast.data.tar_members import Location
from googlenet_fast.errors import UserError

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM", "TIFF")
"""Formats that both decoders read. Pillow's others are refused; EPS would start Ghostscript."""
PILLOW = f"Pillow {PIL.__version__}"
"""Name and version of this decoder."""
MAX_PIXELS = 178_956_970
"""Pixels of the largest image that is decoded; Pillow's own limit, 512 MB in RGB."""


class DecodeError(UserError):
    """A file that cannot be read as an image."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = " ".join(reason.split())

    def __str__(self) -> str:
        return f"{self.path}: cannot be read as an image; repair or remove it ({self.reason})"


def decode(image: Location, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an image to 8-bit RGB, turned upright.

    Args:
        image: Where its bytes are.
        max_pixels: A larger image is refused by its header.

    Raises:
        DecodeError: not a complete image in one of `FORMATS`, or a too large one.
    """
    content = b"?"
    try:
        content = image.read()
        with _no_limit(), Image.open(io.BytesIO(content), formats=FORMATS) as file:
            if file.width * file.height > max_pixels:
                raise DecodeError(
                    image.name, f"{file.width}x{file.height} pixels, more than {max_pixels=}"
                )
            # Pillow reads 16-bit PGM as 32-bit integers.
            is_16_bit = file.mode.startswith("I;16") or (file.mode, file.format) == ("I", "PPM")
            upright = ImageOps.exif_transpose(file)
            return (_with_8_bits(upright) if is_16_bit else upright).convert("RGB")
    except DecodeError:
        raise
    except Exception as reason:  # Pillow's plugins raise many types on damaged files
        told = getattr(reason, "strerror", None) or str(reason)
        text = what_instead(content) or told.partition("<_io.BytesIO")[0]
        raise DecodeError(image.name, text or type(reason).__name__) from None


def _with_8_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey values to 0..255; Pillow's own conversion would clip them at 255."""
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


@contextmanager
def _no_limit() -> Iterator[None]:
    """Disable Pillow's own limit, which warns at half the pixels; `max_pixels` replaces it."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit
