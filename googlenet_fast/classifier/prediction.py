"""Predict the classes of image files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from googlenet_fast.classifier.classifier import Classifier
from googlenet_fast.classifier.scores import Prediction
from googlenet_fast.data import ImageDataset
from googlenet_fast.data.folders import list_images
from googlenet_fast.data.loader import readable_batches
from googlenet_fast.data.reading import DecodeError


@dataclass(frozen=True)
class FilePrediction(Prediction):
    """The most likely classes of an image file."""

    path: Path


@dataclass(frozen=True)
class Unreadable:
    """An image or folder without predictions."""

    path: Path
    reason: str
    """One line that names the file."""


def find_images(paths: Sequence[Path]) -> tuple[list[Path], list[Unreadable]]:
    """Return the files in `paths` and the sorted images below its folders; and what is missing."""
    found: list[Path] = []
    missing = []
    for path in paths:
        if path.is_dir():
            images, problems = list_images(path)
            found += images
            missing += [Unreadable(path, problem) for problem in problems]
            if not images and not problems:
                missing.append(Unreadable(path, f"{path}: no image in this folder or below it"))
        elif path.is_file():
            found.append(path)
        elif path.exists():
            missing.append(Unreadable(path, f"{path}: is not a regular file"))
        else:
            missing.append(Unreadable(path, f"{path}: no such file or folder"))
    return found, missing


def predict(
    classifier: Classifier, images: Sequence[Path], top: int
) -> Iterator[FilePrediction | Unreadable]:
    """Yield the `top` most likely classes of each image, in order, or why it cannot be read."""
    files = _Files(Path(), [str(path) for path in images], np.zeros(len(images), int), (), Path())
    for indices, batch in readable_batches(files, classifier.loader_options):
        if isinstance(batch, DecodeError):
            yield Unreadable(images[int(indices[0])], str(batch))
            continue
        probabilities, classes = classifier.probabilities(batch).topk(top)
        for image, values, numbers in zip(
            indices.tolist(), probabilities.tolist(), classes.tolist(), strict=True
        ):
            yield FilePrediction(classifier.scores(values, numbers), images[image])


class _Files(ImageDataset):
    """Images in any folders, without labels."""

    def path(self, index: int) -> str:
        """Return the path of an image as the user gave it."""
        return self.files[index]
