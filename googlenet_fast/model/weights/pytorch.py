"""PyTorch weights: `.pth` state dicts, checkpoints that hold one, and `.safetensors`."""

import hashlib
import io
import json
import logging
import struct
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.model.weights.archive import check_archive
from googlenet_fast.model.weights.torch_file import SavedFile, SavedTensor
from googlenet_fast.model.weights.unpickler import Foreign, RefusedError
from googlenet_fast.model.weights.weight_file import (
    CHECKPOINT_FORMAT,
    MOST_AXES,
    Description,
    shown,
)

TORCHVISION_SHA256 = "1378be20"
"""First digits of the SHA-256 of torchvision's published googlenet-1378be20.pth."""
DIGEST = "sha256"
"""Key of the digest in the metadata of our `.safetensors` files."""
_TORCHVISION = {
    "preset": "torchvision",
    "transform_input": True,
    "image_size": 224,
    "resize_size": 256,
    "resize": "pillow",
}

_AVERAGED = ("state_dict_ema", "model_ema")
_STATE_DICTS = (*_AVERAGED, "state_dict", "model", "model_state_dict")
"""Keys of checkpoints that hold a state dict, the preferred ones first, as timm reads them: of
timm, torchvision's references, PyTorch's examples, Lightning and others."""

_LONGEST_HEADER = 1 << 24

_log = logging.getLogger("googlenet_fast")


def read_torch(path: Path, content: bytes) -> tuple[dict[str, Tensor], Description]:
    """Read what `torch.save` wrote: a state dict, or a checkpoint that holds one.

    Averaged weights are preferred. What is no part of the state dict is not read, whatever it is;
    nothing in the file runs.

    Raises:
        GoogLeNetError: the file is damaged, or has no state dict of tensors.
    """
    try:
        file = SavedFile(content)
        if content.startswith(b"PK"):
            check_archive(io.BytesIO(content))
    except RefusedError as refused:
        raise GoogLeNetError(f"weights {path}: refused, {refused}") from None
    except Exception as error:  # damaged zip archives and pickles raise errors of any class
        raise GoogLeNetError(
            f"weights {path}: cannot be read ({type(error).__name__}); it is damaged or not a file"
            " of weights"
        ) from None
    values, state = _find_state_dict(path, file.saved, content)
    if not isinstance(state, dict) or not isinstance(values, dict):
        if isinstance(state, Foreign):
            raise GoogLeNetError(
                f"weights {path}: holds a {state.name}; save its state_dict() instead"
            )
        raise GoogLeNetError(f"weights {path}: holds no state dict")
    tensors = {
        key: _read_tensor(path, file, key, value) for key, value in _network_keys(state).items()
    }
    return tensors, Description.checked(path, values)


def _find_state_dict(path: Path, saved: Any, content: bytes) -> tuple[Any, Any]:
    """Return the fields that describe the network, and the state dict."""
    if not isinstance(saved, dict):
        return {}, saved
    if saved.get("format") == CHECKPOINT_FORMAT:
        return saved.get("meta"), saved.get("ema", saved.get("model"))
    for name in _STATE_DICTS:
        if isinstance(saved.get(name), dict):
            if name in _AVERAGED:
                _log.info("weights %s: the averaged weights are taken (%s)", path, name)
            return {}, saved[name]
    if hashlib.sha256(content).hexdigest().startswith(TORCHVISION_SHA256):
        return _TORCHVISION, saved
    return {}, saved


def _network_keys(state: dict[Any, Any]) -> dict[str, Any]:
    """Return a state dict without the prefixes of wrappers, in any order, and their own entries.

    `module` is of DataParallel and averaged models, `_orig_mod` of torch.compile, `model` of
    Lightning; other parts of a Lightning module are passed over.
    """
    state = {
        ".".join(part for part in str(key).split(".") if part not in ("module", "_orig_mod")): value
        for key, value in state.items()
        if key != "n_averaged"
    }
    if any(key.startswith("model.") for key in state):
        return {key[6:]: value for key, value in state.items() if key.startswith("model.")}
    return state


def _read_tensor(path: Path, file: SavedFile, key: str, value: Any) -> Tensor:
    if isinstance(value, Foreign):
        raise GoogLeNetError(
            f"weights {path}: refused, {key:.80} asks for {value.name}, not a tensor"
        )
    if not isinstance(value, SavedTensor):
        raise GoogLeNetError(f"weights {path}: {key:.80} is not a tensor but {shown(value)}")
    try:
        return file.tensor(value)
    except RefusedError as refused:
        raise GoogLeNetError(f"weights {path}: refused, {refused}") from None
    except Exception as error:  # a damaged zip archive raises errors of any class
        reason = str(error) if isinstance(error, ValueError) else "is damaged or missing"
        raise GoogLeNetError(f"weights {path}: {key:.80} {reason}") from None


def write_torch(state: dict[str, Tensor]) -> bytes:
    """Return the `.pth` file of a state dict."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def read_safetensors(path: Path, content: bytes) -> tuple[dict[str, Tensor], Description]:
    """Read a `.safetensors` file with the description that `write_safetensors` adds.

    Raises:
        GoogLeNetError: the file or its description is damaged.
    """
    try:
        metadata = _checked_header(content).get("__metadata__") or {}
        saved = safetensors.torch.load(content)
    except (safetensors.SafetensorError, ValueError, RecursionError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise GoogLeNetError(
            f"weights {path}: cannot be read as .safetensors, it is damaged ({reason})"
        ) from None
    expected = metadata.pop(DIGEST, None)
    if expected is not None and expected != _digest(saved, metadata):
        raise GoogLeNetError(f"weights {path}: is damaged; its content is not what was written")
    state = _network_keys(saved)
    try:
        values = {
            key: json.loads(value)
            for key, value in metadata.items()
            if key in Description.__dataclass_fields__ and key != "preset"
        }
    except (ValueError, RecursionError, TypeError):
        raise GoogLeNetError(f"weights {path}: its metadata are not JSON values") from None
    return state, Description.checked(path, {**values, "preset": metadata.get("preset")})


def _checked_header(content: bytes) -> dict[str, Any]:
    """Return the header; the library checks sizes and offsets, but not the number of axes.

    Raises:
        ValueError: it is too long, is no JSON object, or has a tensor with too many axes.
    """
    (length,) = struct.unpack("<Q", content[:8])
    if length > _LONGEST_HEADER:
        raise ValueError(f"a header of {length} bytes")
    header = json.loads(content[8 : 8 + length])
    if not isinstance(header, dict):
        raise ValueError("no header")
    for name, entry in header.items():
        shape = entry.get("shape", ()) if isinstance(entry, dict) else ()
        if name != "__metadata__" and (not isinstance(shape, list) or len(shape) > MOST_AXES):
            raise ValueError(f"{name:.80} has no shape of at most {MOST_AXES} axes")
    if not isinstance(header.get("__metadata__") or {}, dict):
        raise ValueError("no metadata")
    return header


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
