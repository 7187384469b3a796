"""How images become a network's input: what a weight file must say besides its tensors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from googlenet_fast.model.presets import Normalization

Resize = Literal["antialias", "cv2", "pillow"]
"""Bilinear filters that resize images. antialias averages over the pixels that an output pixel
covers, as DALI and Pillow do. cv2 takes the four nearest pixels, without antialiasing, and rounds
sizes as PaddleClas does. pillow is antialias in two passes, each rounded to 8 bits as in Pillow, in
DALI too."""

IMAGE_SIZE = 224
"""Side of the images in pixels, for weights that do not say (Szegedy et al. 2014)."""

RESIZES: tuple[Resize, ...] = get_args(Resize)

_FILTERS: dict[Resize, str] = {
    "antialias": "with antialiasing",
    "cv2": "as cv2 does, without antialiasing",
    "pillow": "as Pillow does, with antialiasing",
}
LARGEST_SIDE = 1 << 14
"""Pixels of the largest side of an image that a network is given or that is cut from."""
_LARGEST_VALUE = 1e4
_LONGEST_NAME = 10_000


def default_resize_size(image_size: int) -> int:
    """Return the short side before the centre crop that goes with a network's input side."""
    return round(image_size * 256 / 224)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How the images of a network are made, and what its classes are called."""

    image_size: int
    """Side of the square that is cut from the centre, in pixels."""
    resize_size: int
    """Short side of the resized image before that, in pixels."""
    resize: Resize
    normalization: Normalization
    class_names: tuple[str, ...] | None = None

    def __str__(self) -> str:
        return f"{self.image_size} px, {describe(self.resize, self.resize_size)}"

    def values(self) -> dict[str, Any]:
        """Return the fields of a weight file, named as in FIELDS, as plain values."""
        names = self.class_names
        return {
            "image_size": self.image_size,
            "resize_size": self.resize_size,
            "resize": self.resize,
            "mean": list(self.normalization.mean),
            "std": list(self.normalization.std),
            "channel_order": self.normalization.channel_order,
            "class_names": None if names is None else list(names),
        }


def describe(resize: Resize, resize_size: int) -> str:
    """Return how images are resized, for the line that starts a command."""
    return f"short side resized to {resize_size} {_FILTERS[resize]} ({resize=!s})"


FIELDS: Mapping[str, Callable[[Any], bool]] = {
    "image_size": lambda value: _is_integer(value) and 1 <= value <= LARGEST_SIDE,
    "resize_size": lambda value: _is_integer(value) and 1 <= value <= LARGEST_SIDE,
    "resize": lambda value: isinstance(value, str) and value in RESIZES,
    "mean": lambda value: _is_triple(value, -_LARGEST_VALUE),
    "std": lambda value: _is_triple(value, 1e-4),
    "channel_order": lambda value: isinstance(value, str) and value in ("RGB", "BGR"),
    "class_names": lambda value: (
        isinstance(value, list | tuple)
        and all(isinstance(name, str) and len(name) <= _LONGEST_NAME for name in value)
    ),
}
"""Field of a weight file -> whether a value, of any type, is valid."""


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_triple(value: Any, least: float) -> bool:
    """Return True for three numbers, one per channel; NaN is out of every range."""
    return (
        isinstance(value, list | tuple)
        and len(value) == 3
        and all(isinstance(number, int | float) for number in value)
        and all(least <= number <= _LARGEST_VALUE for number in value)
    )
