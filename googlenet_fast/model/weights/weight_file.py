"""Content of a weight file, independent of its format."""

import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.model.preprocessing import (
    FIELDS,
    IMAGE_SIZE,
    Preprocessing,
    Resize,
    default_resize_size,
)
from googlenet_fast.model.presets import PRESETS, Normalization, Preset, get_preset

CHECKPOINT_FORMAT = "googlenet_fast.checkpoint"
"""Value of the key "format" of a checkpoint of the trainer."""
MOST_AXES = 8
"""Of a tensor in a file; a network has tensors of at most four."""


_FIELDS: dict[str, Callable[[Any], bool]] = {
    "preset": lambda value: isinstance(value, str) and value in PRESETS,
    "dropout": lambda value: isinstance(value, int | float) and 0 <= value <= 1,
    "lrn": lambda value: isinstance(value, bool),
    "transform_input": lambda value: isinstance(value, bool),
    **FIELDS,
}
"""Field of `Description` -> whether a value, of any type, is valid."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a file says about its network besides the tensors; None means not stated."""

    preset: str | None = None
    dropout: float | None = None
    lrn: bool | None = None
    transform_input: bool | None = None
    image_size: int | None = None
    resize_size: int | None = None
    resize: Resize | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    channel_order: Literal["RGB", "BGR"] | None = None
    class_names: tuple[str, ...] | None = None

    @classmethod
    def checked(cls, path: Path, values: Mapping[str, Any]) -> "Description":
        """Build a description from a file's fields; unknown fields are ignored.

        Raises:
            GoogLeNetError: a field has an invalid value.
        """
        known = {field: values.get(field) for field in _FIELDS}
        for field, value in known.items():
            if value is not None and not _FIELDS[field](value):
                raise GoogLeNetError(f"weights {path}: field {field} cannot be {shown(value)}")
        if known["class_names"] is not None:
            known["class_names"] = tuple(known["class_names"])
        described = cls(**known)
        image_size = described.image_size or IMAGE_SIZE
        if described.resize_size is not None and described.resize_size < image_size:
            raise GoogLeNetError(
                f"weights {path}: field resize_size cannot be {described.resize_size}, less than"
                f" image_size {image_size}"
            )
        return described

    def preprocessing(self, preset: Preset, resize: Resize) -> Preprocessing:
        """Return the preprocessing; what is not stated is the usual one of the preset.

        Args:
            preset: whose mean, deviation and channel order are the usual ones.
            resize: the usual filter.
        """
        image_size, usual = self.image_size or IMAGE_SIZE, preset.normalization
        return Preprocessing(
            image_size=image_size,
            resize_size=self.resize_size or default_resize_size(image_size),
            resize=self.resize or resize,
            normalization=Normalization(
                _triple(self.mean or usual.mean),
                _triple(self.std or usual.std),
                self.channel_order or usual.channel_order,
            ),
            class_names=self.class_names,
        )


def _triple(values: Sequence[float]) -> tuple[float, float, float]:
    first, second, third = values
    return float(first), float(second), float(third)


def shown(value: object) -> str:
    """Return a short text for messages; the value of a stranger may be huge or endless."""
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother = 1, 60, 60
    return short.repr(value)


@dataclass(frozen=True)
class WeightFile:
    """Tensors and description of a weight file.

    `state` has the keys of this project's state dicts; all tensors are on the CPU.
    """

    path: Path
    format: str
    state: dict[str, Tensor]
    description: Description

    def check_tensors(self) -> None:
        """Raise `GoogLeNetError` for an entry that is not a complete dense tensor of numbers."""
        for key, value in self.state.items():
            if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta:
                raise GoogLeNetError(f"weights {self.path}: {key} is not a tensor")
            if not value.is_floating_point() and value.ndim > 0:
                raise GoogLeNetError(
                    f"weights {self.path}: {key} has dtype {value.dtype}, not a float"
                )
            if value.numel() * value.element_size() > value.untyped_storage().nbytes():
                raise GoogLeNetError(
                    f"weights {self.path}: {key} declares shape {tuple(value.shape)} but holds less"
                )

    @property
    def num_classes(self) -> int:
        """Length of the logits; raise `GoogLeNetError` if there is no classifier."""
        weight = self.state.get("fc.weight")
        if weight is None or weight.ndim != 2:
            raise GoogLeNetError(
                f"weights {self.path}: no key fc.weight of shape (num_classes, 1024)"
            )
        return weight.size(0)

    @property
    def known_preset(self) -> str | None:
        """Preset that the file names, or to which its keys belong; None if they are no GoogLeNet's.

        The presets differ in the parameters of a convolution: with batch norm, bias or neither.
        """
        if self.description.preset is not None:
            return self.description.preset
        if "conv1.conv.weight" not in self.state:
            return None
        if any(".bn." in key for key in self.state):
            return "torchvision"
        return "paper" if any(key.endswith(".conv.bias") for key in self.state) else "paddleclas"

    @property
    def preset(self) -> str:
        """The same; for other networks any, whose missing keys are then named."""
        return self.known_preset or "torchvision"

    @property
    def states_preprocessing(self) -> bool:
        """True if the file, or the one beside it, says how images are made."""
        return self.description.image_size is not None or self.description.resize is not None

    @property
    def preprocessing(self) -> Preprocessing:
        """How images are made; what the file does not state is as its authors' tools do it.

        PaddleClas and Caffe resize with cv2, torchvision with Pillow. Files of this package that
        do not name the filter are older than the choice.
        """
        resize: Resize = "antialias"
        if self.format in ("PaddleClas", "Caffe"):
            resize = "cv2"
        elif not self.states_preprocessing and self.format == "PyTorch":
            resize = "pillow" if self.preset == "torchvision" else "antialias"
        return self.description.preprocessing(get_preset(self.preset), resize)
