"""A trained network, the way it is fed images, and the names of its classes."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from googlenet_fast.capture import capturer_for
from googlenet_fast.classifier.display_names import known_names, labels
from googlenet_fast.classifier.explanation import Explanation, class_activation
from googlenet_fast.classifier.scores import ClassScore, Prediction
from googlenet_fast.classifier.transform import AnyImage, Transform, as_list
from googlenet_fast.cli import Amp, Graph
from googlenet_fast.data import ImageDataset, Loader, LoaderOptions, build_loader, read_class_names
from googlenet_fast.data.loader import Kind
from googlenet_fast.data.tar_members import Location
from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.limits import MAX_PIXELS
from googlenet_fast.model.frozen import freeze
from googlenet_fast.model.graphed import GraphedNetwork
from googlenet_fast.model.precision import amp_dtype
from googlenet_fast.model.preprocessing import Resize, default_resize_size
from googlenet_fast.model.weights import load_model

EMBEDDING = 1024
"""Length of an image's vector."""


class Classifier:
    """A network on its device, ready to evaluate and predict.

    `classifier(images)` names what images show; see `__call__`.

    Args:
        weights: as for `load`.
        device: where to compute.
        preset: whose GoogLeNet; default: the one of the weights.
        class_names: file with one class name per line; default: the names in the weights, or
            ImageNet's for 1000 classes.
        image_size: side of the network's input, in pixels; default: as in training, else 224.
        resize_size: short side before the centre crop, in pixels; default: as in training, or
            image_size * 256 / 224 for another image size.
        resize: filter of the resized images; default: as in training.
        amp: mixed precision.
        graph: replay the network as a CUDA graph.
        loader, batch_size, num_workers, max_pixels: how images are read, as in `LoaderOptions`.

    Raises:
        GoogLeNetError: weights that cannot be loaded, class names that do not fit them, an image
            size that the network cannot take, CUDA graphs on a CPU.
    """

    def __init__(
        self,
        weights: str | Path,
        device: torch.device,
        *,
        preset: str | None = None,
        class_names: Path | None = None,
        image_size: int | None = None,
        resize_size: int | None = None,
        resize: Resize | None = None,
        amp: Amp = "auto",
        graph: Graph = "auto",
        loader: Kind = "auto",
        batch_size: int = 64,
        num_workers: int = 2,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.weights = weights
        self.device = device
        capturer = capturer_for(graph, device)
        model, info = load_model(weights, preset=preset)
        self.amp_dtype = amp_dtype(amp, device)
        self.network = freeze(model.to(device), self.amp_dtype)
        self.compute: Callable[[Tensor], Tensor] = GraphedNetwork(
            self.network, capturer, batch_size
        )
        """Returns logits: the network, or a faster way to compute it that a command has found."""
        names = info.preprocessing.class_names
        if class_names is not None:
            names = _names_in(class_names, weights, info.num_classes)
        names = known_names(names, info.num_classes)
        size = image_size or info.preprocessing.image_size
        if size != info.preprocessing.image_size:
            resize_size = resize_size or default_resize_size(size)
        self.preprocessing = replace(
            info.preprocessing,
            image_size=size,
            resize_size=resize_size or info.preprocessing.resize_size,
            resize=resize or info.preprocessing.resize,
            class_names=names,
        )
        """How images are made. Names are the user's, the weights', or ImageNet's identifiers."""
        self.names = labels(names, info.num_classes)
        """What to call each class: its number if it has no name."""
        self.network.preset.check_input_size(size, aux=False)
        self.loader_options = LoaderOptions(
            train=False,
            kind=loader,
            batch_size=batch_size,
            image_size=size,
            resize_size=self.preprocessing.resize_size,
            resize=self.preprocessing.resize,
            normalization=self.preprocessing.normalization,
            device=device,
            dtype=self.amp_dtype or torch.float32,
            num_workers=num_workers,
            max_pixels=max_pixels,
        )
        self.transform = Transform(self.preprocessing, max_pixels)
        """What turns an image into the network's input."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names in the user's file or the weights, or ImageNet's identifiers; None if unknown."""
        return self.preprocessing.class_names

    @property
    def num_classes(self) -> int:
        """Length of the logits."""
        return self.network.num_classes

    @property
    def categories(self) -> Sequence[str]:
        """What to call each class, by index."""
        return self.names

    def __call__(self, images: AnyImage | Sequence[AnyImage], top: int = 5) -> list[Prediction]:
        """Return the most likely classes of each image, in order. Any number of threads may call.

        Args:
            images: one or several, see `AnyImage`; Pillow reads files.
            top: classes for each image, or all if there are fewer.

        Raises:
            GoogLeNetError: what is no image, or cannot be read.
        """
        top = min(top, self.num_classes)
        found: list[list[ClassScore]] = []
        for batch in self._batches(images):
            likely = self.probabilities(batch).topk(top)
            found += map(self.scores, likely.values.tolist(), likely.indices.tolist())
        return [Prediction(scores) for scores in found]

    def scores(self, probabilities: Sequence[float], classes: Sequence[int]) -> list[ClassScore]:
        """Return probabilities with the classes' names."""
        return [
            ClassScore(number, self.names[number], value)
            for number, value in zip(classes, probabilities, strict=True)
        ]

    def embed(self, images: AnyImage | Sequence[AnyImage]) -> Tensor:
        """Return a vector for each image, (N, 1024) fp32 on the CPU: the classifier's input."""
        vectors = [self.features(batch).mean((2, 3)).cpu() for batch in self._batches(images)]
        return torch.cat([torch.empty(0, EMBEDDING), *vectors])

    def explain(self, image: AnyImage, index: int | None = None) -> Explanation:
        """Return which parts of an image speak for a class.

        Args:
            image: see `AnyImage`.
            index: of the class; default: the most likely.

        Raises:
            GoogLeNetError: there is no such class.
        """
        if index is not None and not 0 <= index < self.num_classes:
            raise GoogLeNetError(f"class {index}: choose from 0 to {self.num_classes - 1}")
        features = self.features(self.transform(image)[None].to(self.device))
        if index is None:
            index = int(self.head(features).argmax())
        return self.explanation(features[0], index, image)

    def explanation(self, features: Tensor, index: int, image: AnyImage | Location) -> Explanation:
        """Return which parts of an image speak for a class, by its features, (1024, h, w)."""
        weight = self.network.classifier_weight[index].to(features.device)
        heat = class_activation(features, weight, self.preprocessing.image_size)
        return Explanation(index, self.names[index], heat.cpu(), self.transform.crop(image))

    def _batches(self, images: AnyImage | Sequence[AnyImage]) -> Iterator[Tensor]:
        """Yield batches on the device, decoded by threads."""
        several = as_list(images)
        options = self.loader_options
        with ThreadPoolExecutor(max(1, options.num_workers)) as pool:
            for start in range(0, len(several), options.batch_size):
                some = several[start : start + options.batch_size]
                batch = torch.stack(list(pool.map(self.transform, some)))
                batch = batch.contiguous(memory_format=torch.channels_last)
                yield batch.to(options.device, options.dtype)

    def features(self, images: Tensor) -> Tensor:
        """Return the last block's output, (N, 1024, h, w) fp32, of images (N, 3, H, W)."""
        with self._autocast():
            return self.network.features(images).float()

    def head(self, features: Tensor) -> Tensor:
        """Return the softmax (N, num_classes) fp32 of `features`."""
        with self._autocast():
            logits = self.network.head(features)
        return logits.float().softmax(1)

    def _autocast(self) -> torch.autocast:
        enabled = self.amp_dtype is not None
        return torch.autocast(self.device.type, dtype=self.amp_dtype, enabled=enabled)

    def loader(self, dataset: ImageDataset, rank: int = 0, world_size: int = 1) -> Loader:
        """Return a loader of this rank's share of a dataset; each image comes once over all."""
        options = replace(self.loader_options, rank=rank, world_size=world_size)
        return build_loader(dataset, options)

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """Return the softmax (N, num_classes) fp32 of images (N, 3, H, W)."""
        with self._autocast():
            logits = self.compute(images)
        return logits.float().softmax(1)


def load(weights: str | Path, device: str | torch.device | None = None) -> Classifier:
    """Return a classifier with frozen copies of trained weights.

    Args:
        weights: a file of any format; or what is downloaded once, to the cache: "caffe",
            "torchvision", "paddleclas", a URL, or "hf://owner/name" or "hf://owner/name/file".
        device: where to compute; default: the current GPU, else the CPU.

    Raises:
        GoogLeNetError: weights that cannot be loaded, or not be downloaded.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    return Classifier(weights, device)


def _names_in(file: Path, weights: str | Path, num_classes: int) -> tuple[str, ...]:
    names = read_class_names(file)
    if len(names) != num_classes:
        raise GoogLeNetError(
            f"--class-names {file}: has {len(names)} names, but {weights} has {num_classes} classes"
        )
    return names
