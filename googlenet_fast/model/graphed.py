"""A network for inference that replays CUDA graphs."""

from collections.abc import Callable

import torch
from torch import Tensor

from googlenet_fast.capture import Captured, Capturer


class GraphedNetwork:
    """A network for inference, captured for each size of images that comes several times.

    Batches of `batch_size` images replay the graph of their size. After the first of these, smaller
    ones are padded with zeros and their logits cut out, so that they replay it too. Where nothing
    captures, as on CPUs, a call is one of the network.

    Args:
        network: returns logits, (N, num_classes), of images, (N, 3, H, W); its weights stay.
        capturer: captures and replays, or None.
        batch_size: images in all batches but the last.
    """

    def __init__(
        self, network: Callable[[Tensor], Tensor], capturer: Capturer | None, batch_size: int
    ) -> None:
        self._captured = Captured(network, capturer)
        self._batch_size = None if capturer is None else batch_size
        self._full: set[tuple[torch.Size, torch.dtype]] = set()

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return logits, (N, num_classes), as the network does."""
        kind = images.shape[1:], images.dtype
        count = len(images)
        if count == self._batch_size:
            self._full.add(kind)
        elif kind in self._full and self._batch_size is not None and count < self._batch_size:
            padded = images.new_zeros(self._batch_size, *images.shape[1:])
            padded = padded.contiguous(memory_format=torch.channels_last)
            padded[:count] = images
            return self._captured(padded)[:count]
        return self._captured(images)
