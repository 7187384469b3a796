"""Match the classes of a dataset with those of a network."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from googlenet_fast.data import ImageDataset
from googlenet_fast.data.imagenet import readable_names
from googlenet_fast.errors import GoogLeNetError


def match_classes(
    dataset: ImageDataset, num_classes: int, class_names: Sequence[str] | None
) -> tuple[ImageDataset, str | None]:
    """Replace the labels of a dataset by the network's.

    Class folders are numbered in sorted order, so a dataset with only some of the network's classes
    has other numbers. If the network has all its class names, names are matched; otherwise the
    numbers are unchanged, unless one that is known shows that they are wrong.

    Args:
        dataset: Images with labels of their own.
        num_classes: Length of the network's logits.
        class_names: Class names of the network, if known; WordNet identifiers also match by name.

    Returns:
        The images with the network's labels, and a note for the user or None.

    Raises:
        GoogLeNetError: a label that the network does not have, class folders that differ from the
            network's classes in both names and number, or some unknown names among known ones
            that have other numbers.
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
        reason = (
            "are not among them" if known else "cannot be matched: the weights have no class names"
        )
        raise GoogLeNetError(
            f"{dataset.source}: the network has {num_classes} classes and the {len(names)} class "
            f"folders ({shown}) {reason}; give the network's names with --class-names, or labels "
            "in a list with --list"
        )
    dataset.check_labels(num_classes)
    if numbered and present.tolist() == list(range(1, len(present) + 1)):
        return dataset, (
            f"{dataset.source}: its labels start at 1, the network's at 0; if they count from 1, "
            "renumber them with --relabel"
        )
    if not known or names == [str(label) for label in present]:
        return dataset, None
    for label, name in zip(present.tolist(), names, strict=True):
        if known.count(name) == 1 and known[label] != name:
            unknown = next(other for other in names if known.count(other) != 1)
            raise GoogLeNetError(
                f"{dataset.source}: class {name} is number {label} here, {known.index(name)} in "
                f"the network, because {unknown} is not one of its classes; give that the "
                "network's name or remove it, or give labels in a list with --list"
            )
    return dataset, (
        f"the classes of {dataset.source} ({shown}) are not named as in the network; "
        "their numbers are used unchanged"
    )


def _relabel(
    dataset: ImageDataset, present: NDArray[np.int64], labels: list[int], names: tuple[str, ...]
) -> tuple[ImageDataset, str | None]:
    """Replace the labels `present` by `labels`, indices into `names`."""
    numbers = np.array(labels)
    changed = int((numbers != present).sum())
    matched = replace(
        dataset, labels=numbers[np.searchsorted(present, dataset.labels)], class_names=names
    )
    if not changed:
        return matched, None
    return matched, (
        f"the classes of {dataset.source} are matched with the network's by name "
        f"({changed} of their numbers change)"
    )
