"""The loader on Pillow and torchvision transforms, for machines without DALI."""

import gc
from collections.abc import Iterator

import numpy as np
import torch
import torchvision.transforms.v2.functional as tf
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from googlenet_fast.data.dataset import ImageDataset
from googlenet_fast.data.members import Location
from googlenet_fast.data.reading import PILLOW, decode
from googlenet_fast.data.sampling import FLIP, Augmentation, BatchSampler, crop_window
from googlenet_fast.errors import UserError
from googlenet_fast.model.presets import Normalization

Item = tuple[Location, int, NDArray[np.float64] | None]
"""Place, label and draws of an image: all a worker is told, so none holds the list of files."""


class TorchvisionLoader:
    """Batches of a dataset, read by Pillow; see `googlenet_fast.data.Loader`.

    Workers send uint8 pixels; they are normalised on the device. They live for an epoch.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        sampler: BatchSampler,
        *,
        image_size: int,
        resize_size: int,
        normalization: Normalization,
        device: torch.device,
        dtype: torch.dtype,
        num_workers: int,
        prefetch: int,
        hw_decoder_load: float | None,  # a GPU's: not for Pillow
        max_pixels: int,
    ) -> None:
        self._sampler = sampler
        self._device = device
        self._dtype = dtype
        self._mean = torch.tensor(normalization.mean, device=device).view(3, 1, 1)
        self._std = torch.tensor(normalization.std, device=device).view(3, 1, 1)
        self.description = (
            f"Pillow decodes: {num_workers} processes, {prefetch} batches ahead in each"
        )
        """What reads the images, in a line."""
        self.decoder = PILLOW
        """What decodes them."""
        self._items = _Items(dataset, sampler)
        self._batches = DataLoader(
            _Reader(
                image_size,
                resize_size,
                normalization.channel_order,
                sampler.augmentation,
                max_pixels,
            ),
            batch_sampler=self._items,
            collate_fn=_as_is,
            num_workers=num_workers,
            prefetch_factor=prefetch if num_workers else None,
            pin_memory=device.type == "cuda",
        )

    def __len__(self) -> int:
        return len(self._sampler)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Make the next iteration that of `epoch`, of which all ranks have had `start` images."""
        self._items.epoch, self._items.start = epoch, start

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self._batches.num_workers:
            # Or a forked worker may come to finalise what lies about here, such as another loader
            # whose workers it would stop, or DALI's pipeline, whose threads it does not have.
            gc.collect()
        for batch in self._batches:
            if isinstance(batch, UserError):
                raise batch
            pixels, labels = (part.to(self._device, non_blocking=True) for part in batch)
            images = (pixels.permute(0, 3, 1, 2) - self._mean) / self._std
            yield images.to(self._dtype), labels


class _Items:
    """The items of each batch, which the DataLoader asks for anew each epoch."""

    def __init__(self, dataset: ImageDataset, sampler: BatchSampler) -> None:
        self._dataset = dataset
        self._sampler = sampler
        self.epoch, self.start = 0, 0

    def __iter__(self) -> Iterator[list[Item]]:
        for batch in self._sampler.batches(self.epoch, self.start):
            draws = [None] * len(batch.indices) if batch.draws is None else batch.draws
            yield [
                (self._dataset.location(i), int(self._dataset.labels[i]), row)
                for i, row in zip(batch.indices, draws, strict=True)
            ]


class _Reader(Dataset):
    """Turns the items of a batch into uint8 pixels (N, H, W, 3) and labels (N,).

    It returns a UserError instead of raising it: a worker's exception would arrive as a traceback.
    """

    def __init__(
        self,
        image_size: int,
        resize_size: int,
        channel_order: str,
        augmentation: Augmentation | None,
        max_pixels: int,
    ) -> None:
        self._image_size = image_size
        self._resize_size = resize_size
        self._channels = slice(None, None, -1) if channel_order == "BGR" else slice(None)
        self._augmentation = augmentation
        self._max_pixels = max_pixels

    def __getitems__(self, items: list[Item]) -> tuple[Tensor, Tensor] | UserError:
        try:
            pixels = [self._read(location, draws) for location, _, draws in items]
        except UserError as error:
            return error
        labels = torch.tensor([label for _, label, _ in items])
        return torch.from_numpy(np.stack(pixels)), labels

    def _read(self, location: Location, draws: NDArray[np.float64] | None) -> NDArray[np.uint8]:
        image = decode(location, self._max_pixels)
        image = self._crop_center(image) if draws is None else self._crop_random(image, draws)
        return np.asarray(image)[:, :, self._channels]

    def _crop_center(self, image: Image.Image) -> Image.Image:
        """The central square of the resized image; no more of it is made: it may be very long."""
        short, crop = min(image.size), self._image_size
        box = []
        for side in image.size:
            resized = side * self._resize_size // short
            start = round((resized - crop) / 2)
            box.append((start * side / resized, (start + crop) * side / resized))
        (left, right), (top, bottom) = box
        return image.resize((crop, crop), Image.Resampling.BILINEAR, (left, top, right, bottom))

    def _crop_random(self, image: Image.Image, draws: NDArray[np.float64]) -> Image.Image:
        assert self._augmentation is not None
        window = crop_window(draws, image.height, image.width, self._augmentation.aspect_ratio)
        image = tf.resized_crop(image, *window, size=[self._image_size, self._image_size])
        return tf.horizontal_flip(image) if draws[FLIP] else image


def _as_is(batch: object) -> object:
    return batch
