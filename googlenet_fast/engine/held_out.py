"""The images that a run held out for validation, as its checkpoints record them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from googlenet_fast.data import ImageDataset, Splits
from googlenet_fast.data.identity import digest, image_keys
from googlenet_fast.data.splits import HELD_OUT, hold_out, split_by
from googlenet_fast.engine.checkpoint import load_checkpoint
from googlenet_fast.errors import GoogLeNetError

ALIKE = 0.9
"""A dataset with this share of a run's validation images, by name, is taken for the run's."""


class RunSplit(NamedTuple):
    """A dataset as a run split it."""

    splits: Splits
    note: str | None
    """What has changed since, in words for the user."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """How a run split a dataset that has no validation images of its own."""

    source: str
    """Absolute path of the dataset."""
    images: int
    """Number of its images."""
    digest: str
    """Digest of their names and labels; "" if the split is not the one of `hold_out`."""
    fraction: float
    """Share held out."""
    seed: int
    """Seed of the choice."""
    keys: Tensor
    """Keys of the validation images, sorted, int64."""
    shared: Tensor
    """Those among the keys that a training image has too, sorted, int64."""

    @classmethod
    def of(cls, splits: Splits) -> "HeldOut | None":
        """Describe the split of a dataset; None if it has validation images of its own."""
        whole = splits.val.whole
        if whole is None:
            return None
        seed = 0
        usual = hold_out(whole, HELD_OUT, seed).val.files == splits.val.files
        keys = np.sort(image_keys(splits.val))
        shared = np.intersect1d(keys, image_keys(splits.train))
        return cls(
            _place(whole), len(whole), digest(whole) if usual else "", HELD_OUT, seed,
            torch.from_numpy(keys), torch.from_numpy(shared),
        )  # fmt: skip

    @classmethod
    def read(cls, weights: Path) -> "HeldOut | None":
        """Read the description in a checkpoint; None if the run had validation images.

        Raises:
            LookupError: the weights do not say, as no others than checkpoints do.
        """
        try:
            described = load_checkpoint(weights)["held_out"]
            return None if described is None else cls(**described)
        except (GoogLeNetError, KeyError, TypeError):
            raise LookupError(f"{weights}: does not say what it was trained on") from None

    def state(self) -> dict[str, Any]:
        """Return plain values and tensors, for a checkpoint."""
        return dict(vars(self))

    def split(self, dataset: ImageDataset) -> RunSplit | None:
        """Split a dataset as the run did; None if it is not the dataset of the run.

        It is the run's if it has the same names and labels, wherever it is, or is at the same
        place, or has nearly all of the run's validation images by name: a copy, or shards.
        `dataset` has the network's labels.
        """
        if digest(dataset) == self.digest:
            return RunSplit(hold_out(dataset, self.fraction, self.seed), None)
        keys = image_keys(dataset)
        if np.array_equal(np.sort(keys), self.keys):  # the validation images alone
            return RunSplit(split_by(dataset, np.ones(len(dataset), dtype=bool)), None)
        left = len(np.intersect1d(keys, self._distinct))
        at_its_place = dataset.split == "all" and _place(dataset) == self.source
        if not at_its_place and left < max(ALIKE * len(self._distinct), 1):
            return None
        changed = at_its_place or left < len(self._distinct) or len(dataset) != self.images
        return RunSplit(
            split_by(dataset, np.isin(keys, self._distinct)),
            self._change(dataset, left) if changed else self._left_out(dataset),
        )

    @property
    def _distinct(self) -> NDArray[np.int64]:
        """Keys of the validation images that no training image has."""
        return np.setdiff1d(self.keys, self.shared)

    def _change(self, dataset: ImageDataset, left: int) -> str:
        return (
            f"{dataset.source} has changed since the run held out its validation images: it had "
            f"{self.images} images, now {len(dataset)}; {left} of the {len(self.keys)} validation "
            "images are left"
        )

    def _left_out(self, dataset: ImageDataset) -> str | None:
        shared = int(np.isin(self.keys, self.shared).sum())
        if shared == 0:
            return None
        return (
            f"{dataset.source}: {shared} of the run's {len(self.keys)} validation images are named "
            "like training images, and are left out"
        )

    def warning(self, dataset: ImageDataset) -> str | None:
        """Return what to say about a dataset that may hold images of the run all the same."""
        left = len(np.intersect1d(image_keys(dataset), self._distinct))
        if left == 0:
            return None
        return (
            f"{dataset.source}: {left} of its images are named like validation images of the run, "
            f"so others may be images of {self.source} that the run trained on"
        )


def _place(dataset: ImageDataset) -> str:
    return str(dataset.source.absolute())
