"""Predict the classes of image files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from googlenet_fast.classifier.classifier import Classifier
from googlenet_fast.classifier.scores import Prediction
from googlenet_fast.classifier.sources import Unreadable
from googlenet_fast.data import ImageDataset
from googlenet_fast.data.loader import readable_batches
from googlenet_fast.data.reading import DecodeError
from googlenet_fast.data.tar_members import Location


@dataclass(frozen=True)
class FilePrediction(Prediction):
    """The most likely classes of an image file."""

    image: Location
    """Its name as the user gave it, and its file."""
    features: Tensor | None = None
    """Output of the last block, (1024, h, w) fp32 on the CPU, if wanted."""


def predict(
    classifier: Classifier, images: Sequence[Location], top: int, *, features: bool = False
) -> Iterator[FilePrediction | Unreadable]:
    """Yield the `top` most likely classes of each image, in order, or why it cannot be read.

    With `features` the network runs outside CUDA graphs, and predictions have its features.
    """
    names = [image.name for image in images]
    local = {image.name: image.file for image in images}
    files = _Files(Path(), names, np.zeros(len(images), int), (), Path(), local=local)
    for indices, batch in readable_batches(files, classifier.loader_options):
        if isinstance(batch, DecodeError):
            yield Unreadable(names[int(indices[0])], str(batch))
            continue
        maps = classifier.features(batch) if features else None
        likely = classifier.probabilities(batch) if maps is None else classifier.head(maps)
        probabilities, classes = likely.topk(top)
        each = [None] * len(indices) if maps is None else list(maps.cpu())
        for image, values, numbers, own in zip(
            indices.tolist(), probabilities.tolist(), classes.tolist(), each, strict=True
        ):
            yield FilePrediction(classifier.scores(values, numbers), images[image], own)


@dataclass(frozen=True, eq=False)
class _Files(ImageDataset):
    """Images in any folders, without labels."""

    local: dict[str, str] = field(default_factory=dict)
    """Name of an image -> its file."""

    def path(self, index: int) -> str:
        """Return the name of an image as the user gave it."""
        return self.files[index]

    def location(self, index: int) -> Location:
        """Return the image's name and its file."""
        return Location(self.files[index], self.local[self.files[index]])
