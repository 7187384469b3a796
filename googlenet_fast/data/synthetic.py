"""A loader that reads nothing: the upper limit that the others are measured against."""

from collections.abc import Iterator

import torch
from torch import Tensor

from googlenet_fast.data.dataset import ImageDataset
from googlenet_fast.data.loader import LoaderOptions


class SyntheticLoader:
    """The same random batch at each step, on the device; see `googlenet_fast.data.Loader`."""

    def __init__(self, dataset: ImageDataset, options: LoaderOptions) -> None:
        self._sampler = options.sampler(len(dataset))
        self.description = "nothing is read: the same random batch at each step"
        """What reads the images, in one line."""
        self.decoder = "none"
        """Name of the decoder."""
        generator = torch.Generator().manual_seed(options.seed)
        shape = (options.batch_size, 3, options.image_size, options.image_size)
        images = torch.randn(shape, generator=generator)
        self._images = images.to(options.device, options.dtype, memory_format=torch.channels_last)
        labels = torch.randint(dataset.num_classes, shape[:1], generator=generator)
        self._labels = labels.to(options.device)
        self._epoch, self._images_seen = 0, 0

    def __len__(self) -> int:
        return len(self._sampler)

    def set_epoch(self, epoch: int, images_seen: int = 0) -> None:
        """Choose the epoch of the next iteration; see `Loader.set_epoch`."""
        self._epoch, self._images_seen = epoch, images_seen

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self._sampler.batches(self._epoch, self._images_seen):
            count = len(batch.indices)
            yield self._images[:count], self._labels[:count]
