"""Decode an image with Pillow; refuse what would take too much memory or run programs."""

import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import numpy as np
import PIL
from PIL import ExifTags, Image
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from googlenet_fast.data.foreign_formats import what_instead
from googlenet_fast.data.library_messages import caught
from googlenet_fast.data.tar_members import Location
from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.limits import MAX_PIXELS

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM", "TIFF")
"""Formats that both decoders read. Pillow's others are refused; EPS would start Ghostscript."""
PILLOW = f"Pillow {PIL.__version__}"
"""Name and version of this decoder."""
BITS, PLANES = 258, 284
"""TIFF's tags for bits of each channel and planar configuration."""
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what turns the image upright."""

_limit_lock = Lock()
"""For `Image.MAX_IMAGE_PIXELS`, which threads share."""

# What Pillow says while it reads a file does not name it; `data check` does, beside the message.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)


class DecodeError(GoogLeNetError):
    """A file that cannot be read as an image."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = " ".join(reason.split())

    def __str__(self) -> str:
        return f"{self.path}: cannot be read as an image; repair or remove it ({self.reason})"


def decode(image: Location, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an image to 8-bit RGB, turned upright.

    The first frame is read. Of 16 bits a channel the 8 high bits are kept. Transparency is ignored:
    a pixel has the colour that is stored.

    Args:
        image: Where its bytes are.
        max_pixels: A larger image is refused by its header.

    Raises:
        DecodeError: not a complete image in one of `FORMATS`, a too large one, or one that Pillow
            turns into 8 bits wrongly.
    """
    content = b"?"
    try:
        content = image.read()
        with caught(), opened(content) as file:
            return to_rgb(file, image.name, max_pixels)
    except DecodeError:
        raise
    except Exception as reason:  # Pillow's plugins raise many types on damaged files
        told = getattr(reason, "strerror", None) or str(reason)
        text = what_instead(content) or told.partition("<_io.BytesIO")[0]
        raise DecodeError(image.name, text or type(reason).__name__) from None


def to_rgb(image: Image.Image, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return an image of Pillow's in 8-bit RGB, turned upright; see `decode`.

    Raises:
        DecodeError: by its `name`: too large, or Pillow would turn it into 8 bits wrongly.
    """
    if image.width * image.height > max_pixels:
        raise DecodeError(name, f"{image.width}x{image.height} pixels, more than {max_pixels=}")
    if reason := _misread(image):
        raise DecodeError(name, f"{reason}; convert it to 8 bits")
    return upright(image)


@contextmanager
def opened(content: bytes) -> Iterator[ImageFile]:
    """Open an image with Pillow, which reads its header; many types of errors are raised.

    Pillow's own limit, which warns at half the pixels, is disabled; `max_pixels` replaces it.
    """
    with _limit_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            file = Image.open(io.BytesIO(content), formats=FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    with file:
        yield file


def upright(file: Image.Image) -> Image.Image:
    """Return the pixels of an open image in 8-bit RGB, turned upright; may raise many types."""
    file.load()
    pixels = (_with_8_bits(file) if _is_16_bit_grey(file) else file).convert("RGB")
    turn = UPRIGHT.get(_orientation(file))
    return pixels if turn is None else pixels.transpose(turn)


def range_of_16_bits(image: Location) -> tuple[int, int] | None:
    """Return the lowest and highest value of an image with 16 bits a channel, else None.

    Of colours Pillow keeps the 8 high bits, so their range is that of these bits.
    """
    with opened(image.read()) as file:
        if _is_16_bit_grey(file):
            values = np.asarray(file)
            return int(values.min()), int(values.max())
        if not re.search(r";16[BLNS]", str(file.tile)):
            return None
        values = np.asarray(file)
        return int(values.min()) << 8, int(values.max()) << 8 | 255


def _misread(file: Image.Image) -> str | None:
    """Return why Pillow would not turn the values of an image into the right 8 bits, or None."""
    if file.mode in ("I", "F") and not _is_16_bit_grey(file):
        return "its values are signed, floating-point or of 32 bits"
    if isinstance(file, TiffImageFile) and file.tile and file.tile[0].codec_name == "raw":
        bits, planes = file.tag_v2.get(BITS), file.tag_v2.get(PLANES)
        if planes == 2 and bits is not None and max(bits) > 8:  # read as if they had 8 bits
            return "its colours are uncompressed planes of 16 bits"
    return None


def _is_16_bit_grey(file: Image.Image) -> bool:
    """Return True for unsigned values of 16 bits; Pillow reads those of PGM as 32-bit integers."""
    return file.mode.startswith("I;16") or (file.mode, file.format) == ("I", "PPM")


def _with_8_bits(image: Image.Image) -> Image.Image:
    """Return the 8 high bits of 16-bit grey values; Pillow's own conversion clips them at 255."""
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


def _orientation(file: Image.Image) -> int:
    """Return the orientation in EXIF or XMP, 1 (upright) where the metadata is damaged."""
    try:
        return int(file.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow raises many types on damaged metadata
        return 1
