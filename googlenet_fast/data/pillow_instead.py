"""The images that Pillow decodes for DALI, so that both loaders give the same pictures."""

from collections import Counter
from concurrent.futures import Executor

import numpy as np
from numpy.typing import NDArray

from googlenet_fast.data.dataset import ImageDataset
from googlenet_fast.data.headers import Look, look
from googlenet_fast.data.reading import decode, opened


class PillowInstead:
    """Which images of a dataset DALI cannot be given, learnt as they are met, and why.

    Args:
        dataset: The images.
        max_pixels: Larger images are left to Pillow, which refuses them by their header.
    """

    def __init__(self, dataset: ImageDataset, max_pixels: int) -> None:
        self._dataset = dataset
        self._max_pixels = max_pixels
        self._seen = np.zeros(len(dataset), np.bool_)
        self._chosen = np.zeros(len(dataset), np.bool_)
        self.pixels = np.zeros(len(dataset), np.int64)
        """Width times height of each image that was looked at, 0 if unknown, (len(dataset),)."""
        self.kinds: Counter[str] = Counter()
        """What is unusual -> how many images."""

    def __contains__(self, index: int) -> bool:
        return bool(self._chosen[index])

    def look_at(self, indices: NDArray[np.int64], pool: Executor) -> None:
        """Look at the headers of images that were not met before."""
        unknown = indices[~self._seen[indices]]
        for index, found in zip(unknown, pool.map(self._look, unknown), strict=True):
            self.pixels[index] = found.pixels
            if found.kind is not None:
                self.add(index, found.kind)
        self._seen[unknown] = True

    def add(self, index: int, kind: str) -> None:
        """Let Pillow decode an image from now on."""
        if not self._chosen[index]:
            self._chosen[index] = True
            self.kinds[kind] += 1

    def content(self, index: int) -> NDArray[np.uint8]:
        """Return the bytes of an image's file; may raise OSError."""
        if self._dataset.tar_members is not None:
            return self._dataset.tar_members.view(index)
        return np.frombuffer(self._dataset.location(index).read(), np.uint8)

    def encoded(self, index: int) -> NDArray[np.uint8]:
        """Return Pillow's pixels as a file that DALI reads without loss.

        Raises:
            DecodeError: Pillow cannot read the image.
        """
        image = decode(self._dataset.location(index), self._max_pixels)
        header = b"P6 %d %d 255\n" % image.size
        return np.frombuffer(b"".join((header, image.tobytes())), np.uint8)

    def summary(self) -> str:
        """Return the number of images so far, by kind, in one line."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.kinds.most_common())
        return (
            f"{self.kinds.total()} of {int(self._seen.sum())} images were decoded by Pillow, since "
            f"DALI refuses or misreads such files: {kinds}"
        )

    def _look(self, index: int) -> Look:
        try:
            content = self.content(index)
        except OSError:
            return Look(0, "files that cannot be opened")
        found = look(content)
        if found.kind is not None and not found.pixels:
            return Look(_pixels(content), found.kind)
        return found if found.pixels <= self._max_pixels else Look(found.pixels, "too large images")


def _pixels(content: NDArray[np.uint8]) -> int:
    """Return Pillow's width times height, 0 if it cannot tell."""
    try:
        with opened(content.tobytes()) as file:
            return file.width * file.height
    except Exception:  # Pillow's plugins raise many types on damaged files
        return 0
