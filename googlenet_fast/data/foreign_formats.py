"""Name the format of a file that is no image of a supported kind, by its first bytes."""

import re

_SIGNATURES = (
    (rb"GIF8[79]a", "GIF"),
    (rb".{4}ftypavi[fs]", "AVIF"),
    (rb".{4}ftyp(hei[cxms]|hev[cxms]|mif1|msf1)", "HEIC"),
    (rb".{4}ftypcrx ", "CR3"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL"),
    (rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  ", "JPEG 2000"),
    (rb"8BPS", "Photoshop"),
    (rb"\0\0\x01\0", "ICO"),
    (rb"%PDF-", "PDF"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "PostScript"),
    (rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!DOCTYPE svg[^>]*>\s*)?<svg", "SVG"),
)
_PAGE = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype html|html)", re.IGNORECASE)
_START = 512
"""Bytes that are looked at."""


def what_instead(content: bytes) -> str | None:
    """Return why a file cannot be read as an image, or None if its kind is unknown."""
    if not content:
        return "the file is empty"
    start = content[:_START]
    for pattern, name in _SIGNATURES:
        if re.match(pattern, start, re.DOTALL):
            return f"{name} is not supported, convert it to JPEG or PNG"
    if _PAGE.match(start):
        return "it is a web page"
    return None
