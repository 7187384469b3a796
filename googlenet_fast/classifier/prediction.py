"""Prediction of image files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from googlenet_fast.classifier.classifier import Classifier
from googlenet_fast.data import ImageDataset
from googlenet_fast.data.folders import EXTENSIONS
from googlenet_fast.errors import UserError


@dataclass(frozen=True)
class Guess:
    """A class that an image may show."""

    index: int
    name: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of an image, likeliest first."""

    path: Path
    guesses: list[Guess]


@dataclass(frozen=True)
class Unreadable:
    """An image that has no prediction."""

    path: Path
    reason: str
    """One line that names the file."""


def find_images(paths: Sequence[Path]) -> tuple[list[Path], list[Unreadable]]:
    """The files among `paths` and, in order, the images below the folders; and what is missing."""
    found: list[Path] = []
    missing = []
    for path in paths:
        if path.is_dir():
            images = sorted(
                file
                for file in path.rglob("*")
                if file.name.lower().endswith(EXTENSIONS) and not file.name.startswith(".")
            )
            found += images
            if not images:
                missing.append(Unreadable(path, f"{path}: no image in this folder or below it"))
        elif path.exists():
            found.append(path)
        else:
            missing.append(Unreadable(path, f"{path}: no such file or folder"))
    return found, missing


def predict(
    classifier: Classifier, images: Sequence[Path], top: int
) -> Iterator[Prediction | Unreadable]:
    """Yield the `top` likeliest classes of every image, in order, or why there are none.

    A loader gives up at a file that it cannot decode without saying where it stood, so what is
    left is halved until that file is alone.
    """
    batches = classifier.loader(_Files(images))
    done = 0
    try:
        for batch, _ in batches:
            probabilities, indices = classifier.probabilities(batch).topk(top)
            for values, classes in zip(probabilities.tolist(), indices.tolist(), strict=True):
                guesses = [
                    Guess(index, classifier.names[index], value)
                    for index, value in zip(classes, values, strict=True)
                ]
                yield Prediction(images[done], guesses)
                done += 1
        return
    except UserError as error:
        reason = str(error)
    del batches  # and with it the loader's processes, before the next ones start
    left = images[done:]
    if len(left) == 1:
        yield Unreadable(left[0], reason)
        return
    half = len(left) // 2
    yield from predict(classifier, left[:half], top)
    yield from predict(classifier, left[half:], top)


class _Files(ImageDataset):
    """Images that lie anywhere and have no labels."""

    def __init__(self, paths: Sequence[Path]) -> None:
        files = [str(path) for path in paths]
        super().__init__(Path(), files, np.zeros(len(files), dtype=np.int64), (), Path())

    def path(self, index: int) -> str:
        """Path of an image, as it was given."""
        return self.files[index]


def printable(path: Path | str) -> str:
    """The path, with bytes that are no text, which a file name may have, spelled out."""
    return str(path).encode(errors="backslashreplace").decode()
