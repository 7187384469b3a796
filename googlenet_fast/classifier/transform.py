"""Turn any image into what a network takes."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from googlenet_fast.classifier.sources import fetch_image
from googlenet_fast.data.central_square import central_square
from googlenet_fast.data.reading import decode, to_rgb
from googlenet_fast.data.tar_members import Location
from googlenet_fast.download import is_url
from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.limits import MAX_PIXELS
from googlenet_fast.model.preprocessing import Preprocessing

AnyImage = str | Path | Image.Image | NDArray[np.uint8] | Tensor
"""A file, the URL of an image, an image of Pillow's, an array (H, W, 3) or (H, W), or a tensor
(3, H, W), the last three of 8-bit values from 0 to 255, colours in the order red, green, blue."""


def as_list(images: AnyImage | Sequence[AnyImage]) -> Sequence[AnyImage]:
    """Return several images as they are, and one as a list of one."""
    if isinstance(images, np.ndarray | Tensor):
        return [images] if images.ndim < 4 else list(images)
    return [images] if isinstance(images, str | Path | Image.Image) else images


class Transform:
    """Resizes, crops and normalises images as a network was trained to see them.

    Args:
        preprocessing: how.
        max_pixels: a larger image is refused.
    """

    def __init__(self, preprocessing: Preprocessing, max_pixels: int = MAX_PIXELS) -> None:
        self.preprocessing = preprocessing
        self._max_pixels = max_pixels
        normalization = preprocessing.normalization
        self._mean = torch.tensor(normalization.mean).view(3, 1, 1)
        self._std = torch.tensor(normalization.std).view(3, 1, 1)

    def __repr__(self) -> str:
        return f"Transform({self.preprocessing})"

    def __call__(self, image: AnyImage) -> Tensor:
        """Return the network's input, (3, S, S) fp32.

        Raises:
            DecodeError: a file that is not an image, or a too large one.
            GoogLeNetError: what is no image.
        """
        square = np.asarray(self.crop(image))
        if self.preprocessing.normalization.channel_order == "BGR":
            square = square[:, :, ::-1]
        pixels = torch.from_numpy(square.transpose(2, 0, 1).astype(np.float32))
        return (pixels - self._mean) / self._std

    def crop(self, image: AnyImage | Location) -> Image.Image:
        """Return the square that the network sees, 8-bit RGB, before normalisation."""
        how = self.preprocessing
        return central_square(self._rgb(image), how.image_size, how.resize_size, how.resize)

    def _rgb(self, image: AnyImage | Location) -> Image.Image:
        if isinstance(image, str) and is_url(image):
            with TemporaryDirectory() as folder:
                return decode(fetch_image(image, Path(folder) / "image"), self._max_pixels)
        if isinstance(image, Location):
            return decode(image, self._max_pixels)
        if isinstance(image, str | Path):
            return decode(Location(str(image), str(image)), self._max_pixels)
        if isinstance(image, Tensor):
            values = image.detach().cpu().numpy()
            image = values.transpose(1, 2, 0) if values.ndim == 3 else values
        if isinstance(image, np.ndarray):
            if (
                image.dtype != np.uint8
                or image.ndim not in (2, 3)
                or image.shape[2:] not in (*((), (3,)),)
            ):
                raise GoogLeNetError(
                    f"an array of {image.dtype} {image.shape} is no image: give uint8 (H, W, 3) or "
                    "(H, W), a tensor as uint8 (3, H, W)"
                )
            if not image.size:
                raise GoogLeNetError(f"an array of {image.shape} has no pixels")
            image = Image.fromarray(np.ascontiguousarray(image))
        if not isinstance(image, Image.Image):
            raise GoogLeNetError(
                f"a {type(image).__name__} is no image: give a path, an image of Pillow's, an "
                "array or a tensor"
            )
        if not image.width * image.height:
            raise GoogLeNetError(f"an image of {image.width}x{image.height} has no pixels")
        name = str(getattr(image, "filename", "") or f"an image of {image.width}x{image.height}")
        return to_rgb(image, name, self._max_pixels)
