"""PaddleClas weights: `.pdparams`, a pickle of a dict from names to NumPy arrays.

Each global that such a pickle needs is replaced by a stand-in of this module, so no constructor of
NumPy or anything else is called with a file's arguments. Linear weights are stored as (in, out),
the transpose of torch's.
"""

import io
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.model.weights.names import BLOCKS, BRANCHES, is_linear, key_of
from googlenet_fast.model.weights.unpickler import (
    Foreign,
    Globals,
    RefusedError,
    StandIn,
    Unpickler,
)
from googlenet_fast.model.weights.weight_file import shown

NAME_TABLE = "StructuredToParameterName@@"
"""Entry with Paddle's internal parameter names, which its loader needs."""

_BRANCH_NAMES = ("_conv1", "_conv3r", "_conv3", "_conv5r", "_conv5", "_convprj")

MODULES = {
    "conv1": "_conv",
    "conv2": "_conv_1",
    "conv3": "_conv_2",
    **{
        f"inception{block}.{ours}": f"_ince{block}.{theirs}"
        for block in BLOCKS
        for ours, theirs in zip(BRANCHES, _BRANCH_NAMES, strict=True)
    },
    "fc": "_fc_out",
    **{f"aux{i}.conv": f"_conv_o{i}" for i in (1, 2)},
    **{f"aux{i}.fc1": f"_fc_o{i}" for i in (1, 2)},
    **{f"aux{i}.fc2": f"_out{i}" for i in (1, 2)},
}
"""Our module name -> PaddleClas's."""


def paddle_names() -> dict[str, str]:
    """Return PaddleClas's name for each of our state-dict keys, in PaddleClas's order."""
    names = {}
    for ours, theirs in MODULES.items():
        if is_linear(ours):
            names[key_of(ours, "weight")] = f"{theirs}.weight"
            names[key_of(ours, "bias")] = f"{theirs}.bias"
        else:
            names[key_of(ours, "weight")] = f"{theirs}._conv.weight"
    return names


def read_pdparams(path: Path, content: bytes) -> dict[str, Tensor]:
    """Return the state dict, under our keys, of a PaddleClas GoogLeNet.

    Raises:
        GoogLeNetError: not a dict of float arrays, or a name that GoogLeNet does not have.
    """
    try:
        entries = Unpickler(io.BytesIO(content), _globals(len(content))).load()
    except RefusedError as refused:
        raise GoogLeNetError(f"weights {path}: refused, {refused}") from None
    except Exception as error:  # a damaged pickle can raise anything
        raise GoogLeNetError(
            f"weights {path}: cannot be read as .pdparams ({type(error).__name__}); it is damaged"
            " or not a file of weights"
        ) from None
    if isinstance(entries, Foreign):
        raise GoogLeNetError(f"weights {path}: refused, it asks for {entries.name}, not an array")
    if not isinstance(entries, dict):
        raise GoogLeNetError(f"weights {path}: holds no dict of arrays")
    keys = {theirs: ours for ours, theirs in paddle_names().items()}
    state = {}
    left = len(content)
    for name, entry in _student(entries).items():
        if name == NAME_TABLE:
            continue
        if name not in keys:
            raise GoogLeNetError(f"weights {path}: {shown(name)} is not a parameter of GoogLeNet")
        tensor = _to_tensor(path, name, entry, transpose=is_linear(_module(keys[name])))
        left -= len(entry.data)
        if left < 0:
            raise GoogLeNetError(f"weights {path}: refused, its arrays overlap")
        state[keys[name]] = tensor
    return state


def _student(entries: dict[Any, Any]) -> dict[Any, Any]:
    """Return the parameters of the student, if these are of a distillation with a teacher."""
    prefix = "Student."
    student = {
        name.removeprefix(prefix): entry
        for name, entry in entries.items()
        if isinstance(name, str) and name.startswith(prefix)
    }
    return student or entries


def write_pdparams(state: dict[str, Tensor]) -> bytes:
    """Return the `.pdparams` file of a `paddleclas` network's state dict."""
    arrays: dict[str, Any] = {}
    for key, name in paddle_names().items():
        if key in state:
            array = state[key].float().numpy()
            transposed = is_linear(_module(key)) and array.ndim == 2
            arrays[name] = np.ascontiguousarray(array.T if transposed else array)
    arrays[NAME_TABLE] = {name: name for name in arrays}
    # NumPy 2 pickles arrays as `numpy._core`, which NumPy 1 cannot import; both know `numpy.core`.
    # Protocol 3 writes that name once, as text, before any array.
    return pickle.dumps(arrays, protocol=3).replace(
        b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n", 1
    )


def _module(key: str) -> str:
    return key.rpartition(".")[0]


class _Dtype(StandIn):
    """Stands for `numpy.dtype`: type code and byte order."""

    def __init__(self, code: Any = None, *_: Any) -> None:
        self.code, self.order = code, "<"

    def set_state(self, state: Any) -> None:
        self.order = ">" if state[1] == ">" else "<"


class _Array(StandIn):
    """Stands for `numpy.ndarray`: unchecked shape, dtype, memory order and bytes."""

    def set_state(self, state: Any) -> None:
        _, self.shape, self.dtype, self.is_fortran, self.data = state


class _Encoder:
    """Stands for `_codecs.encode`, which protocol 2 needs for bytes.

    All bytes together are no more than the file, so none are made again and again.
    """

    def __init__(self, file_size: int) -> None:
        self._left = file_size

    def __call__(self, text: Any, encoding: Any = None) -> bytes:
        if not isinstance(text, str) or encoding != "latin1":
            raise RefusedError(f"it asks for encoding {shown(encoding)}, not an array")
        self._left -= len(text)
        if self._left < 0:
            raise RefusedError("its arrays overlap")
        return text.encode(encoding)


def _globals(file_size: int) -> Globals:
    return {
        ("numpy", "dtype"): _Dtype,
        ("numpy", "ndarray"): _Array,
        ("numpy.core.multiarray", "_reconstruct"): lambda *_: _Array(),
        ("numpy._core.multiarray", "_reconstruct"): lambda *_: _Array(),
        ("_codecs", "encode"): _Encoder(file_size),
    }


_FLOATS = ("f2", "f4", "f8")


def _to_tensor(path: Path, name: str, entry: Any, *, transpose: bool) -> Tensor:
    """Check every part of an unpickled stand-in and return it as a float32 tensor."""
    if isinstance(entry, Foreign):
        raise GoogLeNetError(f"weights {path}: refused, it asks for {entry.name}, not an array")
    try:
        if entry.dtype.code not in _FLOATS:
            raise TypeError
        dtype = entry.dtype.order + entry.dtype.code
        shape = entry.shape
        if not isinstance(entry.data, bytes) or not isinstance(shape, tuple) or len(shape) > 4:
            raise TypeError
        if not all(type(side) is int and side >= 0 for side in shape):
            raise TypeError
        if math.prod(shape) * int(dtype[-1]) != len(entry.data):
            raise ValueError
        array = np.frombuffer(entry.data, dtype)
        array = array.reshape(shape, order="F" if entry.is_fortran else "C")
    except (AttributeError, TypeError, ValueError):
        raise GoogLeNetError(f"weights {path}: {name} is not a whole array of floats") from None
    if transpose and array.ndim == 2:
        array = array.T
    return torch.from_numpy(array.astype(np.float32, order="C"))
