"""Class names as tables and pictures show them."""

from collections import Counter
from collections.abc import Sequence

from googlenet_fast.data.imagenet import readable_names


def display_names(class_names: Sequence[str]) -> tuple[str, ...]:
    """Readable and distinct names: a name that two classes share, as ImageNet's cranes do, is
    followed by the number of its class."""
    names = readable_names(class_names)
    count = Counter(names)
    return tuple(f"{name} ({i})" if count[name] > 1 else name for i, name in enumerate(names))


def shortened(name: str, length: int) -> str:
    """The name in at most `length` characters, cut between its synonyms if it has any."""
    if len(name) <= length:
        return name
    start = name[: length - 1]
    return (start.rpartition(",")[0] or start).rstrip() + "…"
