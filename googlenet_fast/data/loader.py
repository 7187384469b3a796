"""Build loaders, which turn a dataset into batches."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from googlenet_fast.data.dataset import ImageDataset
from googlenet_fast.data.reading import DecodeError
from googlenet_fast.data.sampling import Augmentation, BatchSampler
from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.limits import MAX_PIXELS
from googlenet_fast.model.preprocessing import LARGEST_SIDE, Resize, default_resize_size
from googlenet_fast.model.presets import Normalization
from googlenet_fast.vendors import is_other_vendors

Kind = Literal["auto", "dali", "pillow", "torchvision", "synthetic"]
"""What reads images. `torchvision` is the old name of `pillow`, found in old runs."""

PIXELS_TOGETHER = 100_000_000
"""Pixels of the images that DALI decodes together, 300 MB; a batch with more is decoded in parts,
each with an image for every thread."""

_CPU = torch.device("cpu")
_DEFAULT_AUGMENTATION = Augmentation()


@dataclass(frozen=True, kw_only=True)
class LoaderOptions:
    """Which batches a loader makes and how it reads the images.

    Raises:
        GoogLeNetError: `resize_size` is below `image_size`, or above `LARGEST_SIDE`.
    """

    train: bool
    """True: crop at random and flip. False: resize the short side to `resize_size` and crop the
    central square of `image_size`."""
    batch_size: int
    """Images per batch of this rank."""
    image_size: int
    """Side of the square images in pixels."""
    normalization: Normalization
    """Mean and standard deviation in units of 0..255, and channel order."""
    kind: Kind = "auto"
    """What reads the images: auto takes DALI if it is installed, else Pillow, with the crops and
    sizes of torchvision. synthetic yields fixed random batches, for measurements."""
    device: torch.device = _CPU
    """Device of the batches; DALI also decodes there."""
    dtype: torch.dtype = torch.float32
    """Dtype of the images: float32, float16 or bfloat16."""
    rank: int = 0
    """Rank of this process."""
    world_size: int = 1
    """Number of processes that share the images."""
    num_workers: int = 2
    """Threads (DALI) or processes (Pillow; 0 reads in this process) that decode."""
    prefetch: int = 2
    """Batches made ahead (Pillow: by each process). More batches smooth out uneven decoding
    times and take more memory."""
    hw_decoder_load: float | None = None
    """Share of the JPEGs that a GPU's decoder engine takes (DALI); None chooses by the card."""
    max_pixels: int = MAX_PIXELS
    """A larger image is refused by its header, before it is decoded."""
    seed: int = 0
    """Seed of order and augmentation, >= 0."""
    resize_size: int | None = None
    """Short side in evaluation, in pixels; None means image_size * 256 / 224."""
    resize: Resize = "antialias"
    """Bilinear filter of resized images and crops, see `Resize`."""
    augmentation: Augmentation = _DEFAULT_AUGMENTATION
    """Augmentation of training images."""
    shuffle: bool = True
    """Shuffle the training images in each epoch; False keeps the order of the dataset."""
    drop_last: bool = True
    """Drop the training images that do not fill an epoch's last batch. False makes that batch
    smaller and shares it evenly, so fewer than `world_size` images are repeated."""

    def __post_init__(self) -> None:
        if self.short_side < self.image_size:
            raise GoogLeNetError(
                f"resize_size {self.resize_size}: must be image_size, {self.image_size}, or more"
            )
        if self.short_side > LARGEST_SIDE:
            raise GoogLeNetError(
                f"image_size {self.image_size}, resize_size {self.short_side}: must be "
                f"{LARGEST_SIDE} or less"
            )

    @property
    def short_side(self) -> int:
        """Short side in evaluation before the central crop, in pixels."""
        return self.resize_size or default_resize_size(self.image_size)

    def sampler(self, num_images: int) -> BatchSampler:
        """Return the sampler of this rank's batches.

        Raises:
            GoogLeNetError: too few images for one training batch.
        """
        return BatchSampler(
            num_images=num_images,
            batch_size=self.batch_size,
            augmentation=self.augmentation if self.train else None,
            seed=self.seed,
            rank=self.rank,
            world_size=self.world_size,
            shuffle=self.shuffle,
            drop_last=self.drop_last,
        )


class Loader(Protocol):
    """Batches of one rank, epoch by epoch.

    Iterating yields (images, labels): normalised images (N, 3, H, W), channels_last, in the
    requested dtype, and int64 labels (N,), both on the requested device. In training all ranks
    have the same number of batches, of the same sizes. In evaluation the ranks together yield each
    image once, each rank in order.
    """

    description: str
    """What reads the images and how, in one line."""
    decoder: str
    """Name and version of the decoder."""

    def __len__(self) -> int:
        """Return the number of batches in a whole epoch."""
        ...

    def set_epoch(self, epoch: int, images_seen: int = 0) -> None:
        """Choose the epoch of the next iterations; skip its first `images_seen` images.

        `images_seen` is summed over all ranks. The order of images depends on seed and epoch
        alone. So a resumed epoch continues like an uninterrupted one, and with another number of
        ranks or another batch size the rest of it still has each image once.
        """
        ...

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches.

        Raises:
            DecodeError: names a file that cannot be decoded.
        """
        ...


def build_loader(dataset: ImageDataset, options: LoaderOptions) -> Loader:
    """Build the loader of a dataset.

    Raises:
        GoogLeNetError: too few images for one training batch, or the loader is not installed.
    """
    return _loader_class(options.kind)(dataset, options)


def readable_batches(
    dataset: ImageDataset, options: LoaderOptions
) -> Iterator[tuple[NDArray[np.int64], Tensor | DecodeError]]:
    """Read all images for evaluation, also past those that cannot be decoded.

    Images that share a batch with an unreadable one are read again without it, so they may come
    after it.

    Args:
        dataset: The images.
        options: An evaluation loader of one process.

    Yields:
        Indices (N,) and images (N, 3, H, W) of a batch, or one index and why it cannot be read.
    """
    left = np.arange(len(dataset))
    while len(left):
        done = 0
        try:
            for images, _ in build_loader(dataset.subset(left), options):
                yield left[done : done + len(images)], images
                done += len(images)
            return
        except DecodeError as error:
            left = left[done:]
            at = next(
                i for i, index in enumerate(left.tolist()) if dataset.path(index) == error.path
            )
            yield left[at : at + 1], error
            left = np.delete(left, at)


def describe_decoding() -> dict[str, str]:
    """Describe what decodes images here, and its memory."""
    try:
        loader = _loader_class("auto").__name__
    except GoogLeNetError as error:
        loader = str(error)
    return {
        "loader": loader,
        "memory": (
            f"DALI: {3 * PIXELS_TOGETHER / 1e9:.1f} GB or an image per thread, up to twice that "
            "with what is ahead; Pillow: one image per process; 36 MB for 12 megapixels"
        ),
    }


def _loader_class(kind: Kind) -> Callable[[ImageDataset, LoaderOptions], Loader]:
    """Return the class of an installed loader."""
    if kind == "synthetic":
        from googlenet_fast.data.synthetic import SyntheticLoader

        return SyntheticLoader
    if kind not in ("pillow", "torchvision"):
        try:
            return _dali_loader()
        except ImportError as reason:
            if kind == "dali":
                raise GoogLeNetError(f"loader dali: cannot be used ({reason})") from None
    from googlenet_fast.data.pillow_loader import PillowLoader

    return PillowLoader


def _dali_loader() -> Callable[[ImageDataset, LoaderOptions], Loader]:
    """Return DALI's loader; raise ImportError with what to do if DALI cannot be used."""
    if is_other_vendors(torch.__version__):  # where DALI may be importable, and fail when it runs
        raise ImportError(f"torch {torch.__version__} is not for NVIDIA's GPUs, and DALI is")
    try:
        from googlenet_fast.data.dali import DaliLoader
    except ImportError as reason:
        extra = f"dali{(torch.version.cuda or '13').partition('.')[0]}"
        raise ImportError(f"{reason}; pip install 'googlenet-fast[{extra}]'") from None
    return DaliLoader
