"""Tell from an image's header and structure whether DALI reads it exactly as Pillow does.

Ordinary files are listed here: 8-bit JPEGs, PNGs and WebPs whose structure is whole and whose
metadata both decoders understand alike. Whatever is not listed is left to Pillow.
"""

import re
import struct
import zlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from googlenet_fast.data.jpeg_markers import SCAN, DamagedMarkers, segments

FRAMES = {0xC0, 0xC1, 0xC2}
"""JPEG frames that both read: baseline, sequential and progressive, coded by Huffman."""
OTHER_FRAMES = set(range(0xC3, 0xD0)) - {0xC4, 0xC8, 0xCC}
XMP = b"http://ns.adobe.com/xap/1.0/\0"
TURNED = re.compile(rb"tiff:Orientation(?:=\"|>)[^1]")
"""An XMP orientation other than upright; Pillow looks for it where EXIF has none."""
LONGEST_PACKED = 1000
"""Bytes of a compressed text or profile in a PNG; Pillow refuses one that expands to 1 MB."""
PLAIN_CHUNKS = {
    *(b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"bKGD"),
    *(b"tIME", b"sBIT", b"hIST", b"oFFs"),
}
"""PNG chunks without influence on the pixels that are read, and those that hold them."""
XMP_IN_PNG = b"XML:com.adobe.xmp"
PACKED_CHUNKS = {b"iCCP", b"zTXt"}
WEBP_ANIMATION, WEBP_XMP, WEBP_EXIF = 0x02, 0x04, 0x08


class Look(NamedTuple):
    """What a file's header and structure say."""

    pixels: int
    """Width times height; 0 if unknown."""
    kind: str | None
    """None: DALI reads the file as Pillow does. Else what is unusual in it, in plural."""


def look(encoded: NDArray[np.uint8]) -> Look:
    """Look at the content of a file, (bytes,)."""
    start = encoded[:16].tobytes()
    if start.startswith(b"\xff\xd8"):
        return _jpeg(encoded)
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png(encoded.tobytes())
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return _webp(encoded)
    names = {b"II": "TIFFs", b"MM": "TIFFs", b"BM": "BMPs"}
    return Look(0, names.get(start[:2], "PNMs" if start[:1] == b"P" else "files of another kind"))


def _jpeg(encoded: NDArray[np.uint8]) -> Look:
    pixels, unusual = 0, None
    exif, xmp = [], []
    transform = None
    frame: bytes | None = None
    try:
        for code, content in segments(encoded):
            if code in OTHER_FRAMES or (code in FRAMES and (frame or len(content) < 6)):
                return Look(pixels, "JPEGs that are lossless, arithmetic or otherwise rare")
            if code in FRAMES:
                frame = content
                height, width = struct.unpack_from(">HH", content, 1)
                pixels = width * height
            elif (code == SCAN and frame is None) or (
                code == 0xE0 and content.startswith(b"JFIF") and len(content) < 14
            ):
                return Look(0, "damaged JPEGs")
            elif code == 0xE1 and content.startswith(b"Exif\0\0"):
                exif.append(content[6:])
            elif code == 0xE1 and content.startswith(XMP):
                xmp.append(content)
            elif code == 0xEE and content.startswith(b"Adobe"):
                transform = content[11] if len(content) > 11 else 255
    except DamagedMarkers:
        return Look(pixels, "JPEGs with junk or without an end")
    if frame is None or pixels == 0:
        return Look(0, "damaged JPEGs")
    components = frame[5]
    if frame[0] != 8 or components not in (1, 3) or len(frame) < 6 + 3 * components:
        unusual = "JPEGs in CMYK or with 12 bits"
    elif components == 3 and (transform not in (None, 1) or frame[6:15:3] == b"RGB"):
        unusual = "JPEGs in RGB"
    elif transform not in (None, 0, 1):
        unusual = "damaged JPEGs"
    elif len(exif) > 1 or (exif and _orientation(exif[0]) is None):
        unusual = "JPEGs with damaged EXIF"
    elif any(TURNED.search(text) for text in xmp) and not (exif and _orientation(exif[0])):
        unusual = "JPEGs turned by XMP"
    return Look(pixels, unusual)


def _orientation(exif: bytes) -> int | None:
    """Return the orientation of whole, ordinary EXIF, 0 if it has none; None for other EXIF."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None or len(exif) < 8:
        return None
    (at,) = struct.unpack_from(f"{order}I", exif, 4)
    if at < 8 or at + 2 > len(exif):
        return None
    (count,) = struct.unpack_from(f"{order}H", exif, at)
    entries = exif[at + 2 : at + 2 + 12 * count]
    if len(entries) < 12 * count:
        return None
    found = [
        (kind, number, value)
        for tag, kind, number, value in struct.iter_unpack(f"{order}HHIH2x", entries)
        if tag == 0x0112
    ]
    if not found:
        return 0
    kind, number, value = found[0]
    return value if found[1:] == [] and (kind, number) == (3, 1) and 1 <= value <= 8 else None


def _png(encoded: bytes) -> Look:
    if len(encoded) < 33 or encoded[12:16] != b"IHDR":
        return Look(0, "damaged PNGs")
    width, height, depth, _, method, filtering, _ = struct.unpack_from(">IIBBBBB", encoded, 16)
    pixels = width * height
    if depth == 16:
        return Look(pixels, "PNGs of 16 bits")
    if method or filtering:
        return Look(pixels, "damaged PNGs")
    at = 8
    while at + 12 <= len(encoded):
        (size,) = struct.unpack_from(">I", encoded, at)
        kind, content = encoded[at + 4 : at + 8], encoded[at + 8 : at + 8 + size]
        at += 12 + size
        if at > len(encoded) or zlib.crc32(content, zlib.crc32(kind)) != int.from_bytes(
            encoded[at - 4 : at], "big"
        ):
            return Look(pixels, "damaged PNGs")
        if kind == b"IEND":
            return Look(pixels, None)
        if not _is_plain(kind, content):
            return Look(pixels, "PNGs with animation, EXIF, XMP or other rare parts")
    return Look(pixels, "damaged PNGs")


def _is_plain(kind: bytes, content: bytes) -> bool:
    """Return True for a PNG chunk that Pillow and DALI understand alike."""
    if kind == b"tEXt":
        return not content.startswith((b"Raw profile", XMP_IN_PNG))
    if kind == b"iTXt":  # keyword, 0, is it compressed?
        keyword, _, rest = content.partition(b"\0")
        return rest[:1] == b"\0" and not (keyword == XMP_IN_PNG and TURNED.search(content))
    if kind in PACKED_CHUNKS:
        return len(content) <= LONGEST_PACKED and not content.startswith(b"Raw profile")
    return kind in PLAIN_CHUNKS


def _webp(encoded: NDArray[np.uint8]) -> Look:
    start = encoded[:30].tobytes()
    if len(start) < 30 or int.from_bytes(start[4:8], "little") + 8 != len(encoded):
        return Look(0, "damaged WebPs")
    kind = start[12:16]
    if kind == b"VP8 " and start[23:26] == b"\x9d\x01\x2a":  # the start of a key frame
        width, height = (size & 0x3FFF for size in struct.unpack_from("<HH", start, 26))
    elif kind == b"VP8L" and start[20] == 0x2F:
        (bits,) = struct.unpack_from("<I", start, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8X":
        width, height = (int.from_bytes(start[i : i + 3], "little") + 1 for i in (24, 27))
        if start[20] & (WEBP_ANIMATION | WEBP_XMP | WEBP_EXIF):
            return Look(width * height, "WebPs with animation, EXIF or XMP")
    else:
        return Look(0, "damaged WebPs")
    return Look(width * height, None)
