"""Odd and damaged image files, made by code."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def picture(size: tuple[int, int] = (150, 113)) -> Image.Image:
    """A smooth picture without symmetry; decoders agree about it to a grey level or two."""
    coarse = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, file_format: str = "JPEG", **options: Any) -> bytes:
    """The bytes of a file in a format."""
    output = io.BytesIO()
    image.save(output, file_format, **options)
    return output.getvalue()


def segment(marker: int, payload: bytes) -> bytes:
    """A JPEG segment."""
    return bytes((0xFF, marker)) + struct.pack(">H", len(payload) + 2) + payload


def with_orientation(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def readable_images() -> dict[str, bytes]:
    """Name -> content of files that show the picture, all named .jpg."""
    image = picture()
    jpeg = encoded(image, quality=95)
    kinds: dict[str, dict[str, Any]] = {
        "baseline": {},
        "progressive": {"progressive": True},
        "optimized": {"optimize": True},
        "restart markers": {"restart_marker_blocks": 3},
    }
    files = {
        f"{mode} {name}": encoded(image.convert(mode), quality=95, **options)
        for mode in ("RGB", "L", "CMYK")
        for name, options in kinds.items()
    }
    for name in ("4:4:4", "4:2:2", "4:2:0"):
        files[f"subsampled {name}"] = encoded(image, quality=95, subsampling=name)
    for orientation in range(1, 9):
        files[f"orientation {orientation}"] = encoded(
            image, quality=95, exif=with_orientation(orientation)
        )
    files |= {
        "large colour profile": encoded(image, quality=95, icc_profile=bytes(range(256)) * 600),
        "large comment": encoded(image, quality=95, comment=b"\xff" * 60_000),
        "two EXIF segments": jpeg[:2] + segment(0xE1, b"Exif\0\0") * 2 + jpeg[2:],
        "damaged EXIF": encoded(image, quality=95, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"),
        "fill bytes before a marker": jpeg[:2] + b"\xff" * 5 + jpeg[2:],
        "trailing bytes": jpeg + b"\xff\xd8 and more" * 100,
        "1 pixel": encoded(picture((1, 1))),
        "a column": encoded(picture((3, 1000))),
    }
    for mode in ("RGB", "L", "P", "1", "RGBA", "LA"):
        files[f"{mode} PNG"] = encoded(image.convert(mode), "PNG")
    for other in ("BMP", "WEBP", "PPM", "TIFF"):
        files[other] = encoded(image, other, **({"lossless": True} if other == "WEBP" else {}))
    values = np.asarray(image.convert("L"), np.uint16) * 257
    files["16-bit PNG"] = png16(values)
    files["16-bit PGM"] = b"P5 %d %d 65535\n" % image.size + values.astype(">u2").tobytes()
    files["16-bit TIFF"] = encoded(Image.fromarray(values), "TIFF")
    return {f"{name}.jpg": content for name, content in files.items()}


def unreadable_images() -> dict[str, bytes]:
    """Name -> content of files that hold no whole image, all named .jpg."""
    baseline, progressive = (encoded(picture(), progressive=p) for p in (False, True))
    files = {
        "empty": b"",
        "one byte": b"\xff",
        "start only": b"\xff\xd8",
        "start and end only": b"\xff\xd8\xff\xd9",
        "text": b"hello " * 50,
        "header only": baseline[: baseline.index(b"\xff\xda")],
        "half": baseline[: len(baseline) // 2],
        "half progressive": progressive[: len(progressive) // 2],
        "without its end": baseline[:-2],
        "half a PNG": encoded(picture(), "PNG")[:2000],
        "segment longer than the file": baseline[:2] + b"\xff\xe1\xff\xff" + baseline[2:],
        "PostScript": encoded(picture(), "EPS"),
        "GIF": encoded(picture(), "GIF"),
    }
    return {f"{name}.jpg": content for name, content in files.items()}


def png16(values: np.ndarray) -> bytes:
    """A grayscale PNG with 16 bits per pixel of values (H, W) uint16."""

    def chunk(kind: bytes, payload: bytes) -> bytes:
        body = kind + payload
        return struct.pack(">I", len(payload)) + body + struct.pack(">I", zlib.crc32(body))

    height, width = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*parts) for parts in chunks)
