"""What a checkpoint and the run that goes on from it must have in common."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from googlenet_fast.errors import GoogLeNetError

NETWORK = ("preset", "num_classes", "aux", "lrn")
"""Settings that decide which tensors a network has, and what they mean."""

Order = Sequence[int | str]
"""What determines an epoch's images: the seed of their order, their number, their digest."""


def check_same_network(path: Path, saved: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Compare what describes the networks of a checkpoint and of this run.

    Raises:
        GoogLeNetError: names the first setting that differs.
    """
    for key in NETWORK:
        if saved[key] != own[key]:
            raise GoogLeNetError(
                f"--resume {path}: that run has {key} {saved[key]}, this one {own[key]}; "
                f"set --model.{key} {saved[key]}, or start a run with --model.weights"
            )


def check_same_classes(path: Path, saved: Sequence[str] | None, own: Sequence[str]) -> None:
    """Compare the names of the classes, whose order is that of the labels.

    Args:
        path: of the checkpoint.
        saved: its names; None if its network has more classes than its images had.
        own: those of this run's images.

    Raises:
        GoogLeNetError: names the first class that differs.
    """
    for i, (old, new) in enumerate(zip(saved or (), own, strict=False)):
        if old != new:
            raise GoogLeNetError(
                f"--resume {path}: class {i} of that run is {old}, of this one {new}; give the "
                f"classes their names back, or start a run with --model.weights {path}"
            )


def changed_images(saved: Order, own: Order) -> str | None:
    """Return how the images of an epoch differ from the saved ones, None if they do not."""
    own = own[: len(saved)]  # older checkpoints have no digest
    if list(own) == list(saved):
        return None
    if own[1] != saved[1]:
        return f"the training images have changed: {saved[1]} before, {own[1]} now"
    if own[2:] != saved[2:]:
        return f"the names or labels of the {own[1]} training images have changed"
    return "the order of the images has changed (--seed, --data.shuffle)"
