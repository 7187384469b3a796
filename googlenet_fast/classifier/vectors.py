"""Write the vectors of images to a file, and pictures of what speaks for their classes."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import numpy as np

from googlenet_fast.classifier.classifier import EMBEDDING, Classifier
from googlenet_fast.classifier.prediction import FilePrediction
from googlenet_fast.classifier.sources import STDIN, Unreadable
from googlenet_fast.download import is_url
from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.files import csv_cell, write_atomically


class Vectors:
    """The vectors of the images so far, (1024,) fp32 each: what the last linear layer takes."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._rows: list[np.ndarray] = []

    def add(self, outcome: FilePrediction | Unreadable) -> None:
        """Add the vector of an image; one that cannot be read has none."""
        if isinstance(outcome, FilePrediction) and outcome.features is not None:
            self._names.append(outcome.image.name)
            self._rows.append(outcome.features.mean((1, 2)).numpy())

    def content(self, suffix: str) -> bytes:
        """Return a file: .npy of the vectors (N, 1024), .npz with names, or .csv with names."""
        vectors = np.stack(self._rows) if self._rows else np.empty((0, EMBEDDING), np.float32)
        if suffix == ".csv":
            return _csv(self._names, vectors)
        content = io.BytesIO()
        if suffix == ".npy":
            np.save(content, vectors)
        else:
            np.savez(content, images=np.array(self._names, dtype=np.str_), vectors=vectors)
        return content.getvalue()


@contextmanager
def vectors(path: Path) -> Iterator[Vectors]:
    """Collect vectors, and write them at the end.

    Raises:
        GoogLeNetError: the file cannot be written.
    """
    if not path.parent.is_dir():
        raise GoogLeNetError(f"--embed {path}: cannot be written: no folder {path.parent}")
    collected = Vectors()
    yield collected
    write_atomically(path, collected.content(path.suffix.lower()))


class Overlays:
    """A folder of pictures: each photo under the colours of Grad-CAM for its likeliest class.

    The picture of cat.jpg is cat.explained.png; with a number where several photos share a name.

    Raises:
        GoogLeNetError: the folder cannot be made.
    """

    def __init__(self, folder: Path, classifier: Classifier) -> None:
        self._folder, self._classifier = folder, classifier
        self._taken: set[str] = set()
        self.failed: list[Unreadable] = []
        """Photos that were predicted, but that Pillow cannot read."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise GoogLeNetError(f"--explain {folder}: cannot be made: {error.strerror}") from None

    def add(self, outcome: FilePrediction | Unreadable) -> None:
        """Write the picture of an image; one that cannot be read has none."""
        if isinstance(outcome, Unreadable) or outcome.features is None:
            return
        image = outcome.image
        try:
            found = self._classifier.explanation(outcome.features, outcome.index, image)
        except GoogLeNetError as error:
            self.failed.append(Unreadable(image.name, str(error)))
            return
        content = io.BytesIO()
        found.overlay.save(content, "PNG")
        write_atomically(self._folder / self._free_name(image.name), content.getbuffer())

    def _free_name(self, image: str) -> str:
        path = urlsplit(image).path if is_url(image) else image
        stem = "stdin" if image == STDIN else PurePosixPath(path).stem
        stem = re.sub(r"[^\w .-]", "_", stem)[:60] or "image"
        name, number = f"{stem}.explained.png", 2
        while name.lower() in self._taken:
            name, number = f"{stem}-{number}.explained.png", number + 1
        self._taken.add(name.lower())
        return name


def _csv(names: Sequence[str], rows: np.ndarray) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", *range(EMBEDDING)])
    for name, row in zip(names, rows.tolist(), strict=True):
        writer.writerow([csv_cell(name), *(f"{value:.9g}" for value in row)])
    return text.getvalue().encode(errors="surrogateescape")
