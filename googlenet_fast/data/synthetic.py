"""The loader that reads nothing, to measure everything else by."""

from collections.abc import Iterator

import torch
from torch import Tensor

from googlenet_fast.data.sampling import BatchSampler


class SyntheticLoader:
    """The same random batch at each step, on the device; see `googlenet_fast.data.Loader`."""

    def __init__(
        self,
        num_classes: int,
        sampler: BatchSampler,
        *,
        image_size: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._sampler = sampler
        self.description = "nothing is read: the same random batch at each step"
        """What reads the images, in a line."""
        self.decoder = "none"
        """What decodes them."""
        generator = torch.Generator().manual_seed(sampler.seed)
        shape = (sampler.batch_size, 3, image_size, image_size)
        images = torch.randn(shape, generator=generator)
        self._images = images.to(device, dtype, memory_format=torch.channels_last)
        labels = torch.randint(num_classes, shape[:1], generator=generator)
        self._labels = labels.to(device)
        self._epoch, self._start = 0, 0

    def __len__(self) -> int:
        return len(self._sampler)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Make the next iteration that of `epoch`, of which all ranks have had `start` images."""
        self._epoch, self._start = epoch, start

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self._sampler.batches(self._epoch, self._start):
            count = len(batch.indices)
            yield self._images[:count], self._labels[:count]
