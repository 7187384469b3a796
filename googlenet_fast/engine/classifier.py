"""A trained network with what it takes to feed it images and to name its answers."""

import torch
from torch import Tensor

from googlenet_fast.data import ImageDataset, Loader, LoaderOptions, build_loader, read_class_names
from googlenet_fast.data.imagenet import imagenet_classes
from googlenet_fast.engine.arguments import ClassifierOptions
from googlenet_fast.engine.build import amp_dtype
from googlenet_fast.engine.display_names import display_names
from googlenet_fast.engine.distributed import Process
from googlenet_fast.errors import UserError
from googlenet_fast.model.weights import ModelInfo, load_model

IMAGE_SIZE = 224
"""Side of the images, in pixels, for weights that do not say theirs (Szegedy et al. 2014)."""


class Classifier:
    """The network that the options name, ready to evaluate and predict.

    Args:
        options: weights, class names, image size, precision and loader.
        process: this process's place in the run; the network lies on its device.

    Raises:
        UserError: weights that cannot be loaded, class names that do not fit them, an image size
            that the network cannot take.
    """

    def __init__(self, options: ClassifierOptions, process: Process) -> None:
        self.options = options
        self.process = process
        model, info = load_model(options.weights, preset=options.preset)
        self.model = model.to(process.device)
        self.class_names = _class_names(options, info)
        """The classes as the weights call them, or None."""
        numbers = [str(i) for i in range(info.num_classes)]
        self.names = display_names(self.class_names or numbers)
        """What to call each class; its number where it has no name."""
        self.image_size = options.image_size or info.image_size or IMAGE_SIZE
        self.resize_size = options.resize_size
        if self.resize_size is None and self.image_size == info.image_size:
            self.resize_size = info.resize_size
        self.model.preset.check_input_size(self.image_size, aux=False)
        self.amp_dtype = amp_dtype(options.amp, process.device)

    @property
    def num_classes(self) -> int:
        """Length of the logits."""
        return self.model.num_classes

    @property
    def loader_options(self) -> LoaderOptions:
        """How to read images for this network in evaluation."""
        return LoaderOptions(
            train=False,
            kind=self.options.loader,
            batch_size=self.options.batch_size,
            image_size=self.image_size,
            resize_size=self.resize_size,
            normalization=self.model.preset.normalization,
            device=self.process.device,
            dtype=self.amp_dtype or torch.float32,
            rank=self.process.rank,
            world_size=self.process.world_size,
            num_workers=self.options.num_workers,
            max_pixels=self.options.max_pixels,
        )

    def loader(self, dataset: ImageDataset) -> Loader:
        """Return a loader of the dataset that yields each image once over all processes."""
        return build_loader(dataset, self.loader_options)

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """Softmax (N, num_classes) fp32 of images (N, 3, H, W)."""
        with torch.autocast(
            self.process.device.type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None
        ):
            logits = self.model(images)
        return logits.float().softmax(1)


def _class_names(options: ClassifierOptions, info: ModelInfo) -> tuple[str, ...] | None:
    """The names in the user's file, in the weights, or ImageNet's identifiers for 1000 classes."""
    if options.class_names is not None:
        names = read_class_names(options.class_names)
        if len(names) != info.num_classes:
            raise UserError(
                f"--class-names {options.class_names}: has {len(names)} names, but "
                f"{options.weights} has {info.num_classes} classes"
            )
        return names
    if info.class_names is None and info.num_classes == len(imagenet_classes()):
        return tuple(imagenet_classes())
    return info.class_names
