"""Recognise images by their names and labels, wherever they are stored."""

import hashlib
import re

import numpy as np
from numpy.typing import NDArray

from googlenet_fast.data.dataset import ImageDataset

_KEY = re.compile(r"(?:\d{8}_)?([^.]*)")
"""What is left of a file's name: no suffix, and no number that `data shard` put in front."""


def digest(dataset: ImageDataset) -> str:
    """Return a digest of the images' names below the root and of their labels, in order."""
    names = "\0".join(dataset.files).encode(errors="surrogateescape")
    return hashlib.sha256(names + b"\0" + dataset.labels.tobytes()).hexdigest()


def image_keys(dataset: ImageDataset) -> NDArray[np.int64]:
    """Return a digest of each image's label and name, (N,).

    The name is the file's without folders and suffix, so an image has the same key in a folder and
    in shards made from it. Images of one label with the same name have the same key.
    """
    return np.array(
        [_key(file, label) for file, label in zip(dataset.files, dataset.labels, strict=True)],
        np.int64,
    )


def _key(file: str, label: int) -> int:
    match = _KEY.match(file.rpartition("/")[2])
    assert match is not None
    text = f"{label} {match[1]}".encode(errors="surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big", signed=True)
