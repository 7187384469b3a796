"""Content of a weight file, independent of its format."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from googlenet_fast.errors import UserError
from googlenet_fast.model.presets import PRESETS

CHECKPOINT_FORMAT = "googlenet_fast.checkpoint"
"""Value of the key "format" of a checkpoint of the trainer."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a file says about its network besides the tensors; None means not stated."""

    preset: str | None = None
    dropout: float | None = None
    lrn: bool | None = None
    transform_input: bool | None = None
    class_names: tuple[str, ...] | None = None
    image_size: int | None = None
    resize_size: int | None = None

    @classmethod
    def checked(cls, path: Path, values: dict[str, Any]) -> "Description":
        """Build a description from a file's fields; unknown fields are ignored.

        Raises:
            UserError: a field has an invalid value.
        """
        names = values.get("class_names")
        valid = {
            "preset": lambda value: isinstance(value, str) and value in PRESETS,
            "dropout": lambda value: isinstance(value, int | float) and 0 <= value <= 1,
            "lrn": lambda value: isinstance(value, bool),
            "transform_input": lambda value: isinstance(value, bool),
            "class_names": lambda value: (
                isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)
            ),
            "image_size": lambda value: isinstance(value, int) and value > 0,
            "resize_size": lambda value: isinstance(value, int) and value > 0,
        }
        for field, is_valid in valid.items():
            value = values.get(field)
            if value is not None and not is_valid(value):
                raise UserError(f"weights {path}: field {field} cannot be {value!r:.80}")
        known: dict[str, Any] = {field: values.get(field) for field in valid}
        return cls(**{**known, "class_names": None if names is None else tuple(names)})


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
        """Raise `UserError` for an entry that is not a complete dense tensor of numbers."""
        for key, value in self.state.items():
            if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta:
                raise UserError(f"weights {self.path}: {key} is not a tensor")
            if not value.is_floating_point() and value.ndim > 0:
                raise UserError(f"weights {self.path}: {key} has dtype {value.dtype}, not a float")
            if value.numel() * value.element_size() > value.untyped_storage().nbytes():
                raise UserError(
                    f"weights {self.path}: {key} declares shape {tuple(value.shape)} but holds less"
                )

    @property
    def num_classes(self) -> int:
        """Length of the logits; raise `UserError` if there is no classifier."""
        weight = self.state.get("fc.weight")
        if weight is None or weight.ndim != 2:
            raise UserError(f"weights {self.path}: no key fc.weight of shape (num_classes, 1024)")
        return weight.size(0)

    @property
    def preset(self) -> str:
        """Preset that the file names, or inferred from the parameters of its convolutions."""
        if self.description.preset is not None:
            return self.description.preset
        if any(".bn." in key for key in self.state):
            return "torchvision"
        return "paper" if any(key.endswith(".conv.bias") for key in self.state) else "paddleclas"
