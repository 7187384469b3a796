"""Save a network's weights in any supported format."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from googlenet_fast.errors import UserError
from googlenet_fast.files import write_atomically
from googlenet_fast.model.googlenet import GoogLeNet
from googlenet_fast.model.weights.caffe import write_caffemodel
from googlenet_fast.model.weights.paddle import write_pdparams
from googlenet_fast.model.weights.pytorch import write_safetensors, write_torch

_FOREIGN: dict[str, tuple[str, Callable[[dict[str, Tensor]], bytes]]] = {
    ".pdparams": ("paddleclas", write_pdparams),
    ".caffemodel": ("paper", write_caffemodel),
}
"""Suffix -> the preset that such files are for, and their writer."""


def save_weights(
    model: GoogLeNet,
    path: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    image_size: int | None = None,
) -> None:
    """Write a network's weights to `path`, all or nothing, in the format of its suffix.

    `.safetensors` also stores the options of the network, `class_names` and `image_size`. `.pth` is
    a state dict with torchvision's keys. PaddleClas reads `.pdparams` (preset `paddleclas`) and
    Caffe `.caffemodel` (preset `paper`).

    Raises:
        UserError: the suffix is unknown or not for the preset, or writing fails.
    """
    path = Path(path)
    state = {
        key: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, tensor in model.state_dict().items()
    }
    if path.suffix == ".safetensors":
        content = write_safetensors(state, _metadata(model, class_names, image_size))
    elif path.suffix == ".pth":
        content = write_torch(state)
    elif path.suffix in _FOREIGN:
        preset, write = _FOREIGN[path.suffix]
        if model.preset.name != preset:
            raise UserError(
                f"weights {path}: {path.suffix} files are for preset {preset}, not"
                f" {model.preset.name}; choose .safetensors or .pth"
            )
        content = write(state)
    else:
        suffixes = ", ".join([".safetensors", ".pth", *_FOREIGN])
        raise UserError(f"weights {path}: unknown suffix; choose one of {suffixes}")
    write_atomically(path, content)


def _metadata(
    model: GoogLeNet, class_names: Sequence[str] | None, image_size: int | None
) -> dict[str, Any]:
    return {
        "preset": model.preset.name,
        "num_classes": model.num_classes,
        "aux": model.aux,
        "dropout": model.preset.dropout,
        "lrn": model.preset.lrn,
        "transform_input": model.transform_input,
        "class_names": None if class_names is None else list(class_names),
        "image_size": image_size,
    }
