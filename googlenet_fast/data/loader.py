"""What every loader does, and the choice between them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor

from googlenet_fast.data.dataset import ImageDataset
from googlenet_fast.data.reading import MAX_PIXELS
from googlenet_fast.data.sampling import Augmentation, BatchSampler
from googlenet_fast.data.synthetic import SyntheticLoader
from googlenet_fast.errors import UserError
from googlenet_fast.model.presets import Normalization

if TYPE_CHECKING:
    from googlenet_fast.data.dali import DaliLoader
    from googlenet_fast.data.torchvision_loader import TorchvisionLoader

Kind = Literal["auto", "dali", "torchvision", "synthetic"]


class Loader(Protocol):
    """Batches of one rank, epoch by epoch.

    Iterating yields (images, labels): normalised images (N, 3, H, W), channels_last, on the device
    and in the dtype asked for, and int64 labels (N,) on the device. In training every rank has the
    same number of batches, of the same sizes; in evaluation each image comes once over all ranks,
    in order.
    """

    description: str
    """What reads the images and how, in a line."""
    decoder: str
    """What decodes them, with its version."""

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        ...

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch that the next iterations yield, after its first `start` images.

        `start` counts the images of all ranks together. The order is a function of seed and epoch
        alone: an epoch resumed in the middle goes on as an uninterrupted one does, and another
        number of ranks, or another batch size, still hands out the rest of it, each image once.
        """
        ...

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches.

        Raises:
            DecodeError: a file that cannot be decoded, named.
        """
        ...


def build_loader(
    dataset: ImageDataset,
    *,
    train: bool,
    batch_size: int,
    image_size: int,
    normalization: Normalization,
    kind: Kind = "auto",
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 2,
    prefetch: int = 2,
    hw_decoder_load: float | None = None,
    max_pixels: int = MAX_PIXELS,
    seed: int = 0,
    resize_size: int | None = None,
    augmentation: Augmentation | None = None,
    shuffle: bool = True,
    drop_last: bool = True,
) -> Loader:
    """Make a loader.

    Args:
        dataset: The images.
        train: Crop at random and flip; else evaluate: short side to `resize_size`
            (bilinear, antialiased), central square of `image_size`.
        batch_size: Images a batch of this rank.
        image_size: Side of the square images, in pixels.
        normalization: Mean and standard deviation in units of 0..255, and channel order.
        kind: What reads the images; auto takes DALI where it is installed, else torchvision.
            synthetic yields fixed random batches, for measurements.
        device: Where the batches go; default: the CPU. DALI also decodes there.
        dtype: Of the images: float32, float16 or bfloat16.
        rank: Of this process among `world_size`.
        world_size: Number of processes that share the images.
        num_workers: Threads (DALI) or processes (torchvision; 0 reads in this one) that decode.
        prefetch: Batches made ahead (torchvision: by each process): more even out uneven times and
            take more memory.
        hw_decoder_load: Share of the JPEGs that a GPU's decoder engine takes (DALI); default: what
            suits the card.
        max_pixels: Of an image that is decoded: a larger one is refused by its header.
        seed: Of order and augmentation, >= 0.
        resize_size: Of evaluation, in pixels; default: image_size * 256 / 224.
        augmentation: Of training; default: `Augmentation()`.
        shuffle: Training images anew each epoch; else they keep the dataset's order.
        drop_last: Leave out the training images that do not fill an epoch's last batch; else it is
            smaller, and shared out evenly, for which fewer than `world_size` images come twice.

    Raises:
        UserError: too few images for one training batch, a resize_size below image_size, a loader
            that is not installed.
    """
    device = device or torch.device("cpu")
    resize_size = resize_size or round(image_size * 256 / 224)
    if resize_size < image_size:
        raise UserError(f"resize_size {resize_size}: must be image_size, {image_size}, or more")
    sampler = BatchSampler(
        num_images=len(dataset),
        batch_size=batch_size,
        augmentation=(augmentation or Augmentation()) if train else None,
        seed=seed,
        rank=rank,
        world_size=world_size,
        shuffle=shuffle,
        drop_last=drop_last,
    )
    if kind == "synthetic":
        return SyntheticLoader(
            dataset.num_classes, sampler, image_size=image_size, device=device, dtype=dtype
        )
    return _reading_loader(kind)(
        dataset,
        sampler,
        image_size=image_size,
        resize_size=resize_size,
        normalization=normalization,
        device=device,
        dtype=dtype,
        num_workers=num_workers,
        prefetch=prefetch,
        hw_decoder_load=hw_decoder_load,
        max_pixels=max_pixels,
    )


def _reading_loader(kind: Kind) -> "type[DaliLoader] | type[TorchvisionLoader]":
    """The class of a loader that is installed."""
    if kind != "torchvision":
        try:
            from googlenet_fast.data.dali import DaliLoader
        except ImportError as reason:
            if kind == "dali":
                raise UserError(
                    f"loader dali: cannot be used ({reason}); pip install nvidia-dali-cuda130"
                ) from None
        else:
            return DaliLoader
    try:
        from googlenet_fast.data.torchvision_loader import TorchvisionLoader
    except ImportError as reason:
        raise UserError(
            f"loader {kind}: cannot be used ({reason}); pip install torchvision"
        ) from None
    return TorchvisionLoader
