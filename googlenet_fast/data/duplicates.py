"""Find pictures that are in two parts of a dataset, also if they were stored or resized anew."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 9
"""Side of the thumbnails in pixels; one more than that of the grid of their differences."""
MOST_BITS = 7
"""Bits, of 128, in which the hashes of two pictures may differ. The eight parts of a hash have 16
bits; of two hashes that differ in seven bits, one part is the same, by which they are found."""
MOST_LEVELS = 8.0
"""Mean difference of two thumbnails, of 255, up to which they show the same picture."""
LEAST_CONTRAST = 24.0
"""Range of grey levels of a thumbnail below which its differences are noise."""
MOST_COMPARED = 500
"""Pictures with one part of the hash in common that a picture is compared with: among thousands
alike, such as frames of a film, each is soon found to be near another."""
PAIRS_AT_A_TIME = 1 << 20

Thumbnails = NDArray[np.uint8]


def thumbnail(image: Image.Image) -> bytes:
    """Return the picture in 9x9 pixels, RGB, as bytes."""
    small = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=4.0)
    return small.convert("RGB").tobytes()


def near_duplicates(thumbnails: Thumbnails, part: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield pairs of pictures that are nearly the same and in different parts.

    Each picture is paired at most once, with a similar one in an earlier part.

    The pictures are compared by a difference hash, which tells for each place of a thumbnail if the
    next one to the right and the next one below is brighter, and then by the thumbnails. Only
    pictures with a part of the hash in common are compared: 10**5 of them take a few seconds.

    Args:
        thumbnails: (N, 9, 9, 3).
        part: The number of the part that each is in, (N,).
    """
    grey = thumbnails.mean(-1, dtype=np.float32)
    clear = np.flatnonzero(np.ptp(grey, axis=(1, 2)) >= LEAST_CONTRAST)
    hashes = _hashes(grey[clear])
    for later in np.unique(part)[1:]:
        left, right = np.flatnonzero(part[clear] == later), np.flatnonzero(part[clear] < later)
        found: dict[int, int] = {}
        for column in hashes.T:
            left = left[~np.isin(left, list(found))]
            for a, b in _candidates(hashes, column, left, right):
                same = _levels(thumbnails, clear[a], clear[b]) <= MOST_LEVELS
                found.update(zip(a[same].tolist(), b[same].tolist(), strict=True))
        yield from ((int(clear[a]), int(clear[b])) for a, b in sorted(found.items()))


def _hashes(grey: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return the difference hashes (N, 8) of thumbnails (N, 9, 9)."""
    to_the_right = grey[:, :-1, 1:] > grey[:, :-1, :-1]
    below = grey[:, 1:, :-1] > grey[:, :-1, :-1]
    bits = np.stack([to_the_right, below], axis=1).reshape(len(grey), 2 * (SIDE - 1) ** 2)
    return np.packbits(bits, axis=1).view(np.uint16)


def _candidates(
    hashes: NDArray[np.uint16],
    column: NDArray[np.uint16],
    left: NDArray[np.int64],
    right: NDArray[np.int64],
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield indices of pairs, one of `left` and one of `right`, with the same value in a column.

    Only those whose hashes hardly differ.
    """
    right = right[np.argsort(column[right], kind="stable")]
    first = np.searchsorted(column[right], column[left], "left")
    counts = np.searchsorted(column[right], column[left], "right") - first
    counts = np.minimum(counts, MOST_COMPARED)
    ends = np.cumsum(counts)
    total = int(counts.sum())
    for start in range(0, total, PAIRS_AT_A_TIME):
        pairs = np.arange(start, min(start + PAIRS_AT_A_TIME, total))
        owner = np.searchsorted(ends, pairs, "right")
        a, b = left[owner], right[first[owner] + pairs - (ends - counts)[owner]]
        near = np.bitwise_count(hashes[a] ^ hashes[b]).sum(1) <= MOST_BITS
        yield a[near], b[near]


def _levels(
    thumbnails: Thumbnails, a: NDArray[np.int64], b: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the mean differences of thumbnails."""
    difference = np.abs(thumbnails[a].astype(np.int16) - thumbnails[b])
    return difference.mean(axis=(1, 2, 3))
