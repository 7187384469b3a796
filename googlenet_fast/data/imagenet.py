"""The 1,000 classes of ImageNet (ILSVRC 2012), in the order of their indices."""

import functools
from collections.abc import Sequence
from importlib import resources


@functools.cache
def imagenet_classes() -> dict[str, str]:
    """Return WordNet identifier -> class name, as in Caffe's synset_words.txt.

    The identifiers are also the names of ImageNet's class folders.
    """
    text = (resources.files("googlenet_fast.data") / "imagenet_classes.txt").read_text("utf-8")
    return dict(line.split(maxsplit=1) for line in text.splitlines())


def readable_names(class_names: Sequence[str]) -> tuple[str, ...]:
    """Replace WordNet identifiers among class names by their names."""
    names = imagenet_classes()
    return tuple(names.get(name, name) for name in class_names)
