"""cv2's bilinear filter without cv2, and the places where each filter cuts the centre."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from googlenet_fast.model.preprocessing import Resize

_ONE = 1 << 11
"""Weights are multiples of 1 / 2048, as in OpenCV (INTER_RESIZE_COEF_BITS)."""


class CenterCrop(NamedTuple):
    """An axis of an image that is resized and cut, in pixels."""

    start: int
    """First pixel of the square in the resized image."""
    scale: float
    """Pixels of the image per pixel of the resized image."""


def center_crop(side: int, short: int, resize_size: int, crop: int, resize: Resize) -> CenterCrop:
    """Return where the central `crop` pixels of an axis lie, if `short` becomes `resize_size`.

    PaddleClas rounds the resized side to the nearest and the margin down. torchvision does the
    reverse.
    """
    if resize == "cv2":
        resized = round(side * (resize_size / short))
        return CenterCrop((resized - crop) // 2, side / resized)
    resized = side * resize_size // short
    return CenterCrop(round((resized - crop) / 2), side / resized)


def cv2_bilinear(
    pixels: NDArray[np.uint8], size: int, rows: CenterCrop, columns: CenterCrop
) -> NDArray[np.uint8]:
    """Return a square of cv2.resize(pixels, ..., interpolation=cv2.INTER_LINEAR), bit for bit.

    Args:
        pixels: (H, W, 3).
        size: side of the square.
        rows: where it lies, from above.
        columns: and from the left.
    """
    top, bottom, down = _taps(pixels.shape[0], size, rows)
    left, right, across = _taps(pixels.shape[1], size, columns)
    across, down = across[None, :, None], down[:, None, None]

    def blended(y: NDArray[np.int64]) -> NDArray[np.int32]:
        row = pixels[y]
        return row[:, left] * (_ONE - across) + row[:, right] * across

    upper, lower = blended(top) >> 4, blended(bottom) >> 4
    total = ((_ONE - down) * upper >> 16) + (down * lower >> 16)
    return (total + 2 >> 2).astype(np.uint8)


def _taps(
    side: int, size: int, crop: CenterCrop
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]:
    """Return the two pixels that each output pixel lies between, and the weight of the second."""
    place = (np.arange(size) + crop.start + 0.5) * crop.scale - 0.5
    first = np.floor(place)
    weight = np.rint((place - first) * _ONE).astype(np.int32)
    first = first.astype(np.int64)
    return first.clip(0, side - 1), (first + 1).clip(0, side - 1), weight
