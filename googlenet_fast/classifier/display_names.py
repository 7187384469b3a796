"""Class names for tables and images."""

from collections import Counter
from collections.abc import Sequence

from googlenet_fast.data.imagenet import imagenet_classes, readable_names
from googlenet_fast.errors import printable


def known_names(class_names: tuple[str, ...] | None, num_classes: int) -> tuple[str, ...] | None:
    """Return the names, or ImageNet's identifiers for as many classes; None if unknown."""
    if class_names is None and num_classes == len(imagenet_classes()):
        return tuple(imagenet_classes())
    return class_names


def labels(class_names: Sequence[str] | None, num_classes: int) -> tuple[str, ...]:
    """Return what to call each class: its number if it has no name."""
    return display_names(class_names or [str(i) for i in range(num_classes)])


def display_names(class_names: Sequence[str]) -> tuple[str, ...]:
    """Return readable, distinct names in one line, which are safe to print.

    A name of two classes, such as ImageNet's two cranes, is followed by the class number.
    """
    names = [printable(name) for name in readable_names(class_names)]
    count = Counter(names)
    return tuple(f"{name} ({i})" if count[name] > 1 else name for i, name in enumerate(names))
