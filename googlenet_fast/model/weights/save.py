"""Save a network's weights in any supported format."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.files import write_atomically
from googlenet_fast.model.googlenet import GoogLeNet
from googlenet_fast.model.preprocessing import Preprocessing
from googlenet_fast.model.weights.beside import beside, description_beside, remove_description
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
    preprocessing: Preprocessing | None = None,
    class_names: Sequence[str] | None = None,
    image_size: int | None = None,
) -> None:
    """Write a network's weights to `path`, all or nothing, in the format of its suffix.

    `.safetensors` also stores the options of the network and how its images are made. `.pth` is a
    state dict with torchvision's keys. PaddleClas reads `.pdparams` (preset `paddleclas`) and Caffe
    `.caffemodel` (preset `paper`). Beside these three `PATH.json` is written, which `load_model`
    reads, if it is known how images are made.

    Args:
        model: the network.
        path: the file.
        preprocessing: how images are made, and the names of the classes.
        class_names: the names alone, if no more is known.
        image_size: the side of the images alone.

    Raises:
        GoogLeNetError: the suffix is unknown or not for the preset, the network has no classifier,
            or writing fails.
    """
    path = Path(path)
    if model.num_classes == 0:
        raise GoogLeNetError(
            f"weights {path}: the network has no classifier (num_classes=0), which a file of"
            " weights needs; save its state dict with torch.save"
        )
    known: dict[str, Any] = {"class_names": None if class_names is None else list(class_names)}
    known |= {"image_size": image_size} if preprocessing is None else preprocessing.values()
    values = {"preset": model.preset.name, **_options(model), **known}
    state = {
        key: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, tensor in model.state_dict().items()
    }
    if path.suffix == ".safetensors":
        write_atomically(path, write_safetensors(state, values))
        return
    if path.suffix == ".pth":
        content = write_torch(state)
    elif path.suffix in _FOREIGN:
        preset, write = _FOREIGN[path.suffix]
        if model.preset.name != preset:
            raise GoogLeNetError(
                f"weights {path}: {path.suffix} files are for preset {preset}, not"
                f" {model.preset.name}; choose .safetensors or .pth"
            )
        content = write(state)
    else:
        suffixes = ", ".join([".safetensors", ".pth", *_FOREIGN])
        raise GoogLeNetError(f"weights {path}: unknown suffix; choose one of {suffixes}")
    write_atomically(path, content)
    if any(value is not None for value in known.values()):
        write_atomically(beside(path), description_beside(values, content))
    else:
        remove_description(path)  # of the file that was there before


def _options(model: GoogLeNet) -> dict[str, Any]:
    return {
        "num_classes": model.num_classes,
        "aux": model.aux,
        "dropout": model.preset.dropout,
        "lrn": model.preset.lrn,
        "transform_input": model.transform_input,
    }
