"""Load images with Pillow, for machines without DALI. Crops and sizes are torchvision's."""

import gc
from collections import deque
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from googlenet_fast.data.bilinear import CenterCrop, cv2_bilinear
from googlenet_fast.data.central_square import central_square
from googlenet_fast.data.dataset import ImageDataset
from googlenet_fast.data.loader import LoaderOptions
from googlenet_fast.data.reading import PILLOW, decode
from googlenet_fast.data.sampling import FLIP, BatchSampler, crop_window
from googlenet_fast.data.tar_members import Location
from googlenet_fast.data.waiting import waiting_for
from googlenet_fast.errors import GoogLeNetError

Item = tuple[Location, int, NDArray[np.float64] | None]
"""Location, label and draws of an image: all that a worker gets, so none holds the file list."""


class PillowLoader:
    """Batches of a dataset, read by Pillow; see `googlenet_fast.data.Loader`.

    Workers live for one epoch and send uint8 pixels, which are normalised on the device.
    """

    def __init__(self, dataset: ImageDataset, options: LoaderOptions) -> None:
        self._sampler = options.sampler(len(dataset))
        self._device = options.device
        self._dtype = options.dtype
        normalization = options.normalization
        self._mean = torch.tensor(normalization.mean, device=options.device).view(3, 1, 1)
        self._std = torch.tensor(normalization.std, device=options.device).view(3, 1, 1)
        num_workers = options.num_workers
        self.description = (
            f"Pillow decodes: {num_workers} processes, {options.prefetch} batches ahead in each"
        )
        """What reads the images, in one line."""
        self.decoder = PILLOW
        """Name and version of the decoder."""
        self._items = _Items(dataset, self._sampler)
        self._batches = DataLoader(
            _Reader(options),
            batch_sampler=self._items,
            collate_fn=_unchanged,
            num_workers=num_workers,
            prefetch_factor=options.prefetch if num_workers else None,
            pin_memory=options.device.type == "cuda",
        )

    def __len__(self) -> int:
        return len(self._sampler)

    def set_epoch(self, epoch: int, images_seen: int = 0) -> None:
        """Choose the epoch of the next iteration; see `Loader.set_epoch`."""
        self._items.epoch, self._items.images_seen = epoch, images_seen

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self._batches.num_workers:
            # A forked worker must not inherit garbage: it would finalise another loader and stop
            # that one's workers, or a DALI pipeline, whose threads it does not have.
            gc.collect()
        batches = iter(self._batches)
        while True:
            with waiting_for(self._items.files_in_flight):
                batch = next(batches, None)
            if batch is None:
                return
            self._items.in_flight.popleft()
            if isinstance(batch, GoogLeNetError):
                raise batch
            pixels, labels = (part.to(self._device, non_blocking=True) for part in batch)
            images = (pixels.permute(0, 3, 1, 2) - self._mean) / self._std
            yield images.to(self._dtype), labels


class _Items:
    """Items of each batch; the DataLoader iterates over them once per epoch."""

    def __init__(self, dataset: ImageDataset, sampler: BatchSampler) -> None:
        self._dataset = dataset
        self._sampler = sampler
        self.epoch, self.images_seen = 0, 0
        self.in_flight: deque[list[Item]] = deque()
        """Batches that are being read."""

    def files_in_flight(self) -> list[str]:
        """Return the files of the images that are being read."""
        return [location.file for batch in list(self.in_flight) for location, _, _ in batch]

    def __iter__(self) -> Iterator[list[Item]]:
        self.in_flight.clear()
        for batch in self._sampler.batches(self.epoch, self.images_seen):
            draws = [None] * len(batch.indices) if batch.draws is None else batch.draws
            items = [
                (self._dataset.location(i), int(self._dataset.labels[i]), row)
                for i, row in zip(batch.indices, draws, strict=True)
            ]
            self.in_flight.append(items)
            yield items


class _Reader(Dataset):
    """Turn the items of a batch into uint8 pixels (N, H, W, 3) and labels (N,).

    A GoogLeNetError is returned, because one raised in a worker would arrive as a traceback.
    """

    def __init__(self, options: LoaderOptions) -> None:
        self._options = options
        is_bgr = options.normalization.channel_order == "BGR"
        self._channels = slice(None, None, -1) if is_bgr else slice(None)

    def __getitems__(self, items: list[Item]) -> tuple[Tensor, Tensor] | GoogLeNetError:
        try:
            pixels = [self._read(location, draws) for location, _, draws in items]
        except GoogLeNetError as error:
            return error
        labels = torch.tensor([label for _, label, _ in items])
        return torch.from_numpy(np.stack(pixels)), labels

    def _read(self, location: Location, draws: NDArray[np.float64] | None) -> NDArray[np.uint8]:
        image = decode(location, self._options.max_pixels)
        if draws is None:
            options = self._options
            size, short_side = options.image_size, options.short_side
            image = central_square(image, size, short_side, options.resize)
        else:
            image = self._crop_random(image, draws)
        return np.asarray(image)[:, :, self._channels]

    def _crop_random(self, image: Image.Image, draws: NDArray[np.float64]) -> Image.Image:
        options, size = self._options, self._options.image_size
        aspect_ratio = options.augmentation.aspect_ratio
        window = crop_window(draws, image.height, image.width, aspect_ratio)
        top, left, height, width = window
        image = image.crop((left, top, left + width, top + height))
        if options.resize == "cv2":
            pixels = np.asarray(image)
            axes = (CenterCrop(0, side / size) for side in pixels.shape[:2])
            image = Image.fromarray(cv2_bilinear(pixels, size, *axes))
        else:
            image = image.resize((size, size), Image.Resampling.BILINEAR)
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if draws[FLIP] else image


def _unchanged(batch: object) -> object:
    return batch
