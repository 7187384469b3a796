"""Labels of a dataset in terms of the network's classes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from googlenet_fast.data import ImageDataset
from googlenet_fast.data.imagenet import readable_names
from googlenet_fast.errors import UserError


def match_classes(
    dataset: ImageDataset, num_classes: int, class_names: Sequence[str] | None
) -> tuple[ImageDataset, str | None]:
    """Give the images the labels that the network knows their classes by.

    Class folders are numbered in sorted order, so a dataset with a part of the network's classes
    has other numbers than the network. Where all its classes have names that the network knows,
    the names decide; otherwise the numbers are taken as they are.

    Args:
        dataset: Images with labels of their own.
        num_classes: Length of the network's logits.
        class_names: The network's classes, if known; WordNet identifiers also match by name.

    Returns:
        The images with the network's labels, and what the user should know about them, if anything.

    Raises:
        UserError: a label beyond the network's classes, or class folders that differ from the
            network's classes in both names and number.
    """
    present = np.unique(dataset.labels)
    names = [dataset.class_names[label] for label in present]
    known = tuple(class_names or ())
    for candidates in (known, readable_names(known)):
        once = [name for name, count in Counter(candidates).items() if count == 1]
        if set(names) <= set(once):
            return _relabel(dataset, present, [candidates.index(name) for name in names], known)

    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    numbered = dataset.tar_members is not None or dataset.source.is_file()
    if not numbered and dataset.num_classes != num_classes:
        reason = "are not among them" if known else "cannot be matched: the weights name none"
        raise UserError(
            f"{dataset.source}: the network has {num_classes} classes and the {len(names)} class "
            f"folders ({shown}) {reason}; give the network's names with --class-names, or labels "
            "in a list with --list"
        )
    dataset.check_labels(num_classes)
    if not known or names == [str(label) for label in present]:
        return dataset, None
    return dataset, (
        f"the classes of {dataset.source} ({shown}) do not have the names that the network knows; "
        "their numbers are taken as they are"
    )


def _relabel(
    dataset: ImageDataset, present: NDArray[np.int64], labels: list[int], names: tuple[str, ...]
) -> tuple[ImageDataset, str | None]:
    """Replace the labels `present` by `labels`, which are indices into `names`."""
    numbers = np.array(labels)
    changed = int((numbers != present).sum())
    matched = replace(
        dataset, labels=numbers[np.searchsorted(present, dataset.labels)], class_names=names
    )
    if not changed:
        return matched, None
    return matched, (
        f"the classes of {dataset.source} are matched with the network's by name "
        f"({changed} have another number there)"
    )
