"""Follow the markers of a JPEG through its file."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

START, END, SCAN = 0xD8, 0xD9, 0xDA
"""Marker codes, ISO/IEC 10918-1, table B.1."""


class DamagedMarkers(Exception):  # noqa: N818 (a result, not a failure)
    """The segments of a JPEG do not lead from its start to its end."""


def segments(encoded: NDArray[np.uint8]) -> Iterator[tuple[int, bytes]]:
    """Yield marker code and content of each segment from a JPEG's start to its end.

    Damage inside a scan's data is not found. The cost is about that of copying the bytes.

    Args:
        encoded: Content of a file that begins with the marker of a JPEG's start, (bytes,).

    Raises:
        DamagedMarkers: no marker where one should be, or no end.
    """
    after_scans: NDArray[np.int64] | None = None
    at = 2
    while at + 4 <= len(encoded) and encoded[at] == 0xFF:
        if (code := int(encoded[at + 1])) == END:
            return
        if code == 0xFF:  # a fill byte
            at += 1
            continue
        if code == 0:
            raise DamagedMarkers
        end = at + 2 + (int(encoded[at + 2]) << 8) + int(encoded[at + 3])
        yield code, encoded[at + 4 : end].tobytes()
        at = end
        if code == SCAN:
            if after_scans is None:
                after_scans = at + _markers(encoded[at:])
            if (i := np.searchsorted(after_scans, at)) == len(after_scans):
                raise DamagedMarkers
            at = int(after_scans[i])
    if encoded[at : at + 2].tobytes() != bytes((0xFF, END)):
        raise DamagedMarkers


def _markers(encoded: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return offsets of possible markers except restarts, sorted; 0xFF00 is a data byte."""
    at = np.flatnonzero(encoded[:-1] == 0xFF)
    code = encoded[at + 1]
    return at[(code != 0) & (code != 0xFF) & ((code < 0xD0) | (code > 0xD7))]
