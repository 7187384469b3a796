"""Resize an image and cut its central square, for evaluation and prediction."""

import numpy as np
from PIL import Image

from googlenet_fast.data.bilinear import center_crop, cv2_bilinear
from googlenet_fast.model.preprocessing import Resize


def central_square(
    image: Image.Image, image_size: int, resize_size: int, resize: Resize
) -> Image.Image:
    """Return the central square of the resized image, 8-bit RGB.

    Only the square is computed, because the resized image may be very long.

    Args:
        image: 8-bit RGB.
        image_size: side of the square, in pixels.
        resize_size: short side of the resized image, in pixels.
        resize: bilinear filter.
    """
    columns, rows = (
        center_crop(side, min(image.size), resize_size, image_size, resize) for side in image.size
    )
    if resize == "cv2":
        return Image.fromarray(cv2_bilinear(np.asarray(image), image_size, rows, columns))
    left, top = columns.start * columns.scale, rows.start * rows.scale
    box = (left, top, left + image_size * columns.scale, top + image_size * rows.scale)
    return image.resize((image_size, image_size), Image.Resampling.BILINEAR, box)
