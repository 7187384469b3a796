"""Decoding an image with Pillow, and what is refused before its pixels take memory."""

import io
from collections.abc import Iterator
from contextlib import contextmanager

import PIL
from PIL import Image, ImageOps

from googlenet_fast.data.tar_members import Location
from googlenet_fast.errors import UserError

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM", "TIFF")
"""What both decoders read. Pillow's others are refused: its EPS, for one, starts Ghostscript."""
PILLOW = f"Pillow {PIL.__version__}"
"""The decoder here."""
MAX_PIXELS = 178_956_970
"""Pixels of the largest image that is decoded: Pillow's own limit, 512 MB in RGB."""


class DecodeError(UserError):
    """A file that is not an image which can be read."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = " ".join(reason.split())

    def __str__(self) -> str:
        return f"{self.path}: cannot be read as an image; repair or remove it ({self.reason})"


def decode(image: Location, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image upright, in RGB.

    Args:
        image: Where it lies.
        max_pixels: Of an image that is decoded; the header tells.

    Raises:
        DecodeError: not a whole image in one of `FORMATS`, or too large a one.
    """
    try:
        with _no_limit(), Image.open(io.BytesIO(image.read()), formats=FORMATS) as file:
            if file.width * file.height > max_pixels:
                raise DecodeError(
                    image.name, f"{file.width}x{file.height} pixels, more than {max_pixels=}"
                )
            return ImageOps.exif_transpose(file).convert("RGB")
    except DecodeError:
        raise
    except Exception as reason:  # Pillow's plugins raise all kinds on damaged files
        text = str(reason).partition("<_io.BytesIO")[0]
        raise DecodeError(image.name, text or type(reason).__name__) from None


@contextmanager
def _no_limit() -> Iterator[None]:
    """Lift Pillow's own limit, which has half the pixels as a warning, for ours."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit
