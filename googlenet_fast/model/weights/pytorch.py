"""PyTorch weights: `.pth` state dicts, googlenet_fast checkpoints, and `.safetensors`."""

import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from googlenet_fast.errors import UserError
from googlenet_fast.model.weights.archive import check_archive
from googlenet_fast.model.weights.weight_file import CHECKPOINT_FORMAT, Description

TORCHVISION_SHA256 = "1378be20"
"""First digits of the SHA-256 of torchvision's published googlenet-1378be20.pth."""
DIGEST = "sha256"
"""Key of the digest in the metadata of our `.safetensors` files."""


def read_torch(path: Path, content: bytes) -> tuple[dict[str, Tensor], Description]:
    """Read what `torch.save` wrote: a state dict, or a checkpoint that holds one as "model".

    From a googlenet_fast checkpoint the averaged weights are read, if it has any.

    Raises:
        UserError: the file is damaged, has no state dict, or holds other things than tensors and
            plain values.
    """
    try:
        if content.startswith(b"PK"):
            check_archive(io.BytesIO(content))
        saved = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (
        Exception
    ) as error:  # zipfile's and torch.load's errors on bad bytes have no common class
        asked = re.search(r"GLOBAL (\S+)", str(error))
        reason = (
            f"refused, it asks for {asked[1]}, not a tensor"
            if asked
            else f"cannot be read ({type(error).__name__}); it is damaged or not a file of weights"
        )
        raise UserError(f"weights {path}: {reason}") from None
    values: Any = {}
    if isinstance(saved, dict) and saved.get("format") == CHECKPOINT_FORMAT:
        values, saved = saved.get("meta"), saved.get("ema", saved.get("model"))
    elif isinstance(saved, dict) and isinstance(saved.get("model"), dict):
        saved = saved["model"]
    elif hashlib.sha256(content).hexdigest().startswith(TORCHVISION_SHA256):
        values = {"preset": "torchvision", "transform_input": True}
    if not isinstance(saved, dict) or not isinstance(values, dict):
        raise UserError(f"weights {path}: holds no state dict")
    state = {str(key): value for key, value in saved.items()}
    consume_prefix_in_state_dict_if_present(state, "module.")
    return state, Description.checked(path, values)


def write_torch(state: dict[str, Tensor]) -> bytes:
    """Return the `.pth` file of a state dict."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], Description]:
    """Read a `.safetensors` file with the description that `write_safetensors` adds.

    Raises:
        UserError: the file or its description is damaged.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise UserError(f"weights {path}: cannot be read as .safetensors ({error})") from None
    expected = metadata.pop(DIGEST, None)
    if expected is not None and expected != _digest(state, metadata):
        raise UserError(f"weights {path}: is damaged; its content is not what was written")
    try:
        values = {
            key: json.loads(value)
            for key, value in metadata.items()
            if key in Description.__dataclass_fields__ and key != "preset"
        }
    except ValueError:
        raise UserError(f"weights {path}: its metadata are not JSON values") from None
    return state, Description.checked(path, {**values, "preset": metadata.get("preset")})


def write_safetensors(state: dict[str, Tensor], metadata: dict[str, Any]) -> bytes:
    """Return the `.safetensors` file of a state dict.

    Metadata values are written as JSON, except for `preset`, a plain string. A digest is added.
    """
    texts = {
        key: value if key == "preset" else json.dumps(value)
        for key, value in metadata.items()
        if value is not None
    }
    return safetensors.torch.save(state, {**texts, DIGEST: _digest(state, texts)})


def _digest(state: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """Return the SHA-256 of tensors and metadata, names included, in hexadecimal."""
    digest = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for key, tensor in sorted(state.items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
