"""Class names for tables and images."""

from collections import Counter
from collections.abc import Sequence

from googlenet_fast.data.imagenet import readable_names
from googlenet_fast.errors import printable


def display_names(class_names: Sequence[str]) -> tuple[str, ...]:
    """Return readable, distinct names in one line, which are safe to print.

    A name of two classes, such as ImageNet's two cranes, is followed by the class number.
    """
    names = [printable(name) for name in readable_names(class_names)]
    count = Counter(names)
    return tuple(f"{name} ({i})" if count[name] > 1 else name for i, name in enumerate(names))
