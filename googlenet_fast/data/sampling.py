"""Choose the images of each batch and their crops from (seed, epoch, place in the epoch).

Order and augmentation depend on nothing else: not on the loader, the number of workers, the batch
size or the number of ranks. So a resumed epoch continues with the same images without replaying
its start, two ranks together see the images of one, and both loaders cut the same windows.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from googlenet_fast.errors import GoogLeNetError

ATTEMPTS = 10
"""Windows tried before the fallback, as in torchvision's RandomResizedCrop."""
AREA = slice(0, ATTEMPTS)
RATIO = slice(ATTEMPTS, 2 * ATTEMPTS)
TOP, LEFT, FLIP = 2 * ATTEMPTS, 2 * ATTEMPTS + 1, 2 * ATTEMPTS + 2
DRAWS = FLIP + 2
"""Length of a row of draws: areas (share of the image) and aspect ratios (width / height) of the
attempts, the window's relative top and left in [0, 1), flip (0 or 1), and one unused. A step of the
Philox counter gives four numbers, and a row takes whole steps."""


@dataclass(frozen=True)
class Augmentation:
    """Random-area crop and horizontal flip of training images."""

    area: tuple[float, float] = (0.08, 1.0)
    """Least and greatest share of the image that a crop covers."""
    aspect_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Least and greatest width / height of a crop."""
    flip: float = 0.5
    """Probability of a horizontal flip."""

    def __post_init__(self) -> None:
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise GoogLeNetError(f"area {self.area}: must be 0 < least <= greatest <= 1")
        if not 0 < self.aspect_ratio[0] <= self.aspect_ratio[1]:
            raise GoogLeNetError(f"aspect_ratio {self.aspect_ratio}: must be 0 < least <= greatest")
        if not 0 <= self.flip <= 1:
            raise GoogLeNetError(f"flip {self.flip}: must be between 0 and 1")

    def draw(self, seed: int, epoch: int, first: int, count: int) -> NDArray[np.float64]:
        """Return draws (count, DRAWS) for the images first .. first + count - 1 of an epoch."""
        generator = np.random.Philox(key=[seed, epoch])
        generator.advance(first * DRAWS // 4)
        uniform = np.random.Generator(generator).random((count, DRAWS))
        low, high = self.area
        uniform[:, AREA] = low + uniform[:, AREA] * (high - low)
        low, high = np.log(self.aspect_ratio)
        uniform[:, RATIO] = np.exp(low + uniform[:, RATIO] * (high - low))
        uniform[:, FLIP] = uniform[:, FLIP] < self.flip
        return uniform


class Window(NamedTuple):
    """A rectangle of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def crop_window(
    draws: NDArray[np.float64], height: int, width: int, aspect_ratio: tuple[float, float]
) -> Window:
    """Return the first window of a row of draws that fits into an image.

    As in torchvision's RandomResizedCrop, if no attempt fits, the window is the largest one within
    the range of aspect ratios.
    """
    area = height * width * draws[AREA]
    widths = np.floor(np.sqrt(area * draws[RATIO]) + 0.5)
    heights = np.floor(np.sqrt(area / draws[RATIO]) + 0.5)
    fits = (widths >= 1) & (heights >= 1) & (widths <= width) & (heights <= height)
    if fits.any():
        first = int(fits.argmax())
        w, h = int(widths[first]), int(heights[first])
    else:
        w = min(width, math.floor(height * aspect_ratio[1] + 0.5))
        h = min(height, math.floor(width / aspect_ratio[0] + 0.5))
    top = math.floor(draws[TOP] * (height - h + 1))
    left = math.floor(draws[LEFT] * (width - w + 1))
    return Window(top, left, h, w)


class Batch(NamedTuple):
    """Images of one batch of one rank."""

    indices: NDArray[np.int64]
    """Indices into the dataset, (N,)."""
    draws: NDArray[np.float64] | None
    """Draws of the augmentation, (N, DRAWS); None in evaluation."""


@dataclass(frozen=True)
class BatchSampler:
    """The batches of one rank.

    Training shuffles all images in each epoch and cuts the order into global batches; rank r gets
    the r-th part of each. An incomplete last batch is dropped or shared evenly; then fewer than
    world_size images are repeated. Evaluation (no augmentation) gives rank r the images r,
    r + world_size, ... in order; ranks may differ by one batch.

    The order does not depend on the number of ranks or the batch size, so both may change when an
    epoch is resumed.
    """

    num_images: int
    batch_size: int
    augmentation: Augmentation | None
    seed: int
    rank: int
    world_size: int
    shuffle: bool = True
    """False keeps the order of the dataset in training."""
    drop_last: bool = True

    def __post_init__(self) -> None:
        if self.augmentation is not None and len(self) == 0:
            raise GoogLeNetError(
                f"{self.num_images} training images do not fill one batch of {self.batch_size} in "
                f"each of {self.world_size} processes: choose a smaller batch_size"
            )

    def __len__(self) -> int:
        if self.augmentation is not None:
            return self._count(self.num_images)
        return math.ceil(len(range(self.rank, self.num_images, self.world_size)) / self.batch_size)

    def batches(self, epoch: int, images_seen: int = 0) -> Iterator[Batch]:
        """Yield this rank's batches of an epoch, after the first `images_seen` images."""
        if self.augmentation is None:
            order = np.arange(images_seen + self.rank, self.num_images, self.world_size)
            for first in range(0, len(order), self.batch_size):
                yield Batch(order[first : first + self.batch_size], None)
            return
        order = np.arange(self.num_images)
        if self.shuffle:
            np.random.default_rng([self.seed, epoch]).shuffle(order)
        left = self.num_images - images_seen
        for _ in range(self._count(left)):
            size = min(self.batch_size, math.ceil(left / self.world_size))
            first = self.num_images - left + self.rank * size
            draws = self.augmentation.draw(self.seed, epoch, first, size)
            yield Batch(order.take(range(first, first + size), mode="wrap"), draws)
            left -= size * self.world_size

    def _count(self, images: int) -> int:
        """Return the number of training batches in so many images."""
        whole = self.batch_size * self.world_size
        return images // whole if self.drop_last else math.ceil(images / whole)
