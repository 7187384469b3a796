"""Follow the markers of a JPEG to find damage that a decoder may ignore."""

import numpy as np
from numpy.typing import NDArray

START, END, SCAN = 0xD8, 0xD9, 0xDA
"""Marker codes, ISO/IEC 10918-1, table B.1."""


def looks_damaged(encoded: NDArray[np.uint8]) -> bool:
    """Return True for a JPEG whose segments do not lead from its start to its end.

    Damage inside a scan's data is not found, and other formats are not checked. The cost is about
    that of copying the bytes.

    Args:
        encoded: Content of a file, (bytes,).
    """
    if encoded[:2].tobytes() != bytes((0xFF, START)):
        return False
    after_scans: NDArray[np.int64] | None = None
    at = 2
    while at + 4 <= len(encoded) and encoded[at] == 0xFF:
        if (code := encoded[at + 1]) == END:
            return False
        if code == 0xFF:  # a fill byte
            at += 1
            continue
        at += 2 + (int(encoded[at + 2]) << 8) + int(encoded[at + 3])
        if code == SCAN:
            if after_scans is None:
                after_scans = at + _markers(encoded[at:])
            if (i := np.searchsorted(after_scans, at)) == len(after_scans):
                return True
            at = int(after_scans[i])
    return encoded[at : at + 2].tobytes() != bytes((0xFF, END))


def _markers(encoded: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return offsets of possible markers except restarts, sorted; 0xFF00 is a data byte."""
    at = np.flatnonzero(encoded[:-1] == 0xFF)
    code = encoded[at + 1]
    return at[(code != 0) & (code != 0xFF) & ((code < 0xD0) | (code > 0xD7))]
