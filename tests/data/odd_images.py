"""Odd and damaged image files, made by code."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo


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
    return {f"{name}.jpg": content for name, content in (files | misread_images()).items()}


def misread_images() -> dict[str, bytes]:
    """Name -> content of files that DALI by itself refuses or reads in another way than Pillow."""
    image = picture()
    pixels = np.asarray(image)
    planes = [(pixels[..., i].astype("<u2") * 257).tobytes() for i in range(3)]
    jpeg = encoded(image, quality=95)
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>'
    exif = b"Exif\0\0" + with_orientation(3).tobytes()[6:]
    itxt, ztxt = PngInfo(), PngInfo()
    itxt.add_itxt("XML:com.adobe.xmp", xmp.decode())
    ztxt.add_text("Raw profile type exif", f"\nexif\n{len(exif):8}\n{exif.hex()}\n", zip=True)
    lossless: dict[str, Any] = {"lossless": True}
    inverted = Image.fromarray(255 - pixels)
    transparent = image.copy()
    transparent.putalpha(Image.linear_gradient("L").resize(image.size))
    palette = image.quantize(16)
    return {
        "orientation in WebP": encoded(image, "WEBP", exif=exif, **lossless),
        "orientation in XMP": encoded(image, quality=95, xmp=xmp),
        "orientation in a PNG's XMP": encoded(image, "PNG", pnginfo=itxt),
        "orientation in a PNG's compressed profile": encoded(image, "PNG", pnginfo=ztxt),
        "orientation in a PNG's EXIF": encoded(image, "PNG", exif=with_orientation(8)),
        "animated PNG": encoded(
            image, "PNG", save_all=True, append_images=[inverted, image], default_image=True
        ),
        "animated WebP": encoded(
            image, "WEBP", save_all=True, append_images=[inverted], **lossless
        ),
        "LAB TIFF": encoded(Image.frombytes("LAB", image.size, image.tobytes()), "TIFF"),
        "PA TIFF": encoded(image.convert("PA"), "TIFF"),
        "YCbCr TIFF": encoded(image.convert("YCbCr"), "TIFF"),
        "planar 16-bit TIFF": tiff(pixels.shape[:2], 2, 16, planes, packed=True),
        "4-bit TIFF": four_bit_tiff(np.asarray(image.convert("L")) >> 4),
        "BMP of 16 bits": bmp16(pixels),
        "junk between markers": jpeg[:2] + b"\xff\0\xff\0" + jpeg[2:],
        "transparent PNG": encoded(transparent, "PNG"),
        "transparent WebP": encoded(transparent, "WEBP", exact=True, **lossless),
        "transparent palette": encoded(palette, "PNG", transparency=bytes(range(0, 256, 16))),
        "transparent colour": encoded(image, "PNG", transparency=tuple(pixels[0, 0].tolist())),
    }


def damaged_inside() -> dict[str, bytes]:
    """Name -> content of JPEGs whose markers are whole, unlike the data of their scan."""
    files = {}
    kinds: tuple[tuple[str, dict[str, Any]], ...] = (
        ("", {}),
        ("progressive ", {"progressive": True}),
    )
    for name, options in kinds:
        jpeg = encoded(picture(), quality=95, **options)
        middle = len(jpeg) // 2
        files[f"{name}half and an end"] = jpeg[:middle] + b"\xff\xd9"
        files[f"{name}zeros"] = jpeg[:middle] + bytes(400) + jpeg[middle + 400 :]
    return files


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
        "floating-point TIFF": encoded(picture().convert("F"), "TIFF"),
        "32-bit TIFF": encoded(picture().convert("I"), "TIFF"),
        "uncompressed planar 16-bit TIFF": tiff((4, 4), 2, 16, [bytes(32)] * 3, packed=False),
        "PNG with half of its data": png(picture(), 0.5),
    }
    return {f"{name}.jpg": content for name, content in files.items()}


def tiff(
    shape: tuple[int, int], photometric: int, bits: int, strips: list[bytes], *, packed: bool
) -> bytes:
    """A TIFF (H, W) with one strip for each channel, compressed or not."""
    strips = [zlib.compress(strip) for strip in strips] if packed else strips
    count = len(strips)
    sizes = [len(strip) for strip in strips]
    tags = {
        256: ("H", [shape[1]]), 257: ("H", [shape[0]]), 258: ("H", [bits] * count),
        259: ("H", [8 if packed else 1]), 262: ("H", [photometric]), 273: ("I", [0] * count),
        277: ("H", [count]), 278: ("H", [shape[0]]), 279: ("I", sizes),
        284: ("H", [2 if count > 1 else 1]),
    }  # fmt: skip
    after = 8 + 2 + 12 * len(tags) + 4
    start = after + (14 + 12 + 12 if count > 1 else 0)
    tags[273] = ("I", [start + sum(sizes[:i]) for i in range(count)])
    entries, extra = b"", b""
    for tag, (kind, numbers) in tags.items():
        value = struct.pack(f"<{len(numbers)}{kind}", *numbers)
        if len(value) > 4:
            value, extra = struct.pack("<I", after + len(extra)), extra + value
        entries += struct.pack("<HHI", tag, 3 if kind == "H" else 4, len(numbers))
        entries += value.ljust(4, b"\0")
    extra = extra.ljust(start - after, b"\0")
    header = b"II*\0" + struct.pack("<IH", 8, len(tags))
    return header + entries + bytes(4) + extra + b"".join(strips)


def four_bit_tiff(values: np.ndarray) -> bytes:
    """A grey TIFF with 4 bits a pixel of values (H, W) below 16; W is even."""
    data = (values[:, ::2] << 4 | values[:, 1::2]).astype(np.uint8).tobytes()
    return tiff(values.shape, 1, 4, [data], packed=False)


def bmp16(pixels: np.ndarray) -> bytes:
    """A BMP with 5, 6 and 5 bits of red, green and blue."""
    height, width, _ = pixels.shape
    r, g, b = np.moveaxis(pixels.astype(np.uint16), 2, 0)
    rows = (r >> 3 << 11 | g >> 2 << 5 | b >> 3)[::-1].astype("<u2")
    data = np.pad(rows, ((0, 0), (0, width % 2))).tobytes()
    masks = struct.pack("<3I", 0xF800, 0x07E0, 0x001F)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 16, 3, len(data), 0, 0, 0, 0)
    start = 14 + len(info) + len(masks)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + info + masks + data


def png(image: Image.Image, part: float) -> bytes:
    """An RGB PNG whose parts are whole but whose compressed data is cut off."""
    rows = b"".join(b"\0" + row.tobytes() for row in np.asarray(image))
    data = zlib.compress(rows)
    header = struct.pack(">IIBBBBB", *image.size, 8, 2, 0, 0, 0)
    return png_file((b"IHDR", header), (b"IDAT", data[: int(len(data) * part)]), (b"IEND", b""))


def png16(values: np.ndarray) -> bytes:
    """A grayscale PNG with 16 bits per pixel of values (H, W) uint16."""
    height, width = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)
    return png_file((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))


def png_file(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of these parts."""
    content = b"\x89PNG\r\n\x1a\n"
    for kind, payload in chunks:
        body = kind + payload
        content += struct.pack(">I", len(payload)) + body + struct.pack(">I", zlib.crc32(body))
    return content
