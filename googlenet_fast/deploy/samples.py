"""The images that an exported network is checked on, calibrated and measured with."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from googlenet_fast.classifier.sources import local_images
from googlenet_fast.data import ImageDataset
from googlenet_fast.data.tar_members import Location
from googlenet_fast.errors import GoogLeNetError

Sample = Location | NDArray[np.uint8]
"""A file of an image, possibly inside a tar file, or its pixels (H, W, 3) in RGB."""

RANDOM = 8
"""Random images that a network is checked on where there are no others."""


@dataclass(frozen=True)
class Samples:
    """Images, and what they are in words."""

    images: Sequence[Sample]
    which: str
    labels: NDArray[np.int64] | None = None
    """Class indices, (len(images),), if they are known."""

    def __len__(self) -> int:
        return len(self.images)

    def __str__(self) -> str:
        return f"{len(self)} {self.which}"

    def some(self, count: int) -> "Samples":
        """Return at most `count` images, evenly spread, without labels."""
        if len(self) <= count:
            return self
        chosen = np.linspace(0, len(self) - 1, count).round().astype(int).tolist()
        return Samples([self.images[i] for i in chosen], f"of {len(self)} {self.which}")


def random_samples(image_size: int) -> Samples:
    """Return random images, the same ones each time."""
    shape = (RANDOM, image_size, image_size, 3)
    pixels = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    return Samples(list(pixels), "random images")


def files(paths: Sequence[Path]) -> Samples:
    """Return the images in files and folders.

    Raises:
        GoogLeNetError: one of them is missing, or a folder has no image.
    """
    images: list[Location] = []
    for path in paths:
        found, problems = local_images(str(path))
        if problems:
            raise GoogLeNetError(f"--images {problems[0].reason}")
        images += found
    return Samples(images, f"images of {', '.join(map(str, paths))}")


def labelled(dataset: ImageDataset, which: str) -> Samples:
    """Return the images of a dataset, whose labels are the network's classes."""
    images = [dataset.location(i) for i in range(len(dataset))]
    return Samples(images, which, dataset.labels)
