"""PaddleClas weights: `.pdparams`, a pickle of a dict from names to NumPy arrays.

The unpickler admits arrays only. Each global that such a pickle needs is replaced by a stand-in of
this module, so no constructor of NumPy or anything else is called with a file's arguments. Linear
weights are stored as (in, out), the transpose of torch's.
"""

import io
import math
import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from googlenet_fast.errors import UserError
from googlenet_fast.model.weights.names import BLOCKS, BRANCHES, is_linear, key_of

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
        UserError: not a dict of float arrays, or a name that GoogLeNet does not have.
    """
    try:
        entries = _ArraysOnlyUnpickler(io.BytesIO(content)).load()
    except _RefusedError as refused:
        raise UserError(f"weights {path}: refused, it asks for {refused}, not an array") from None
    except Exception as error:  # a damaged pickle can raise anything
        raise UserError(
            f"weights {path}: cannot be read as .pdparams ({type(error).__name__}); it is damaged"
            " or not a file of weights"
        ) from None
    if not isinstance(entries, dict):
        raise UserError(f"weights {path}: holds no dict of arrays")
    keys = {theirs: ours for ours, theirs in paddle_names().items()}
    state = {}
    for name, entry in entries.items():
        if name == NAME_TABLE:
            continue
        if name not in keys:
            raise UserError(f"weights {path}: {name!r:.80} is not a parameter of GoogLeNet")
        state[keys[name]] = _to_tensor(path, name, entry, transpose=is_linear(_module(keys[name])))
    return state


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


class _RefusedError(Exception):
    """A pickle needs something other than an array; the message names it."""


class _Dtype:
    """Stand-in for `numpy.dtype`: type code and byte order."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code = code

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.code = (">" if state[1] == ">" else "<") + self.code


class _Array:
    """Stand-in for `numpy.ndarray`: unchecked shape, dtype, memory order and bytes."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self.shape, self.dtype, self.is_fortran, self.data = state


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _encode(text: str, encoding: str) -> bytes:
    """Stand-in for `_codecs.encode`, which protocol 2 needs for bytes."""
    if encoding != "latin1":
        raise _RefusedError(f"encoding {encoding}")
    return text.encode(encoding)


_GLOBALS = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("_codecs", "encode"): _encode,
}

_FLOATS = {f"{order}f{size}" for order in "<>" for size in (2, 4, 8)}


class _ArraysOnlyUnpickler(pickle._Unpickler):
    """Python's unpickler, whose memo is a dict; the C one allocates up to any index in the file."""

    dispatch: ClassVar = {
        opcode: load
        for opcode, load in pickle._Unpickler.dispatch.items()
        if opcode
        != pickle.BYTEARRAY8[0]  # allocates as much as the file says, and no array needs it
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _GLOBALS:
            raise _RefusedError(f"{module}.{name}")
        return _GLOBALS[module, name]


def _to_tensor(path: Path, name: str, entry: Any, *, transpose: bool) -> Tensor:
    """Check every part of an unpickled stand-in and return it as a float32 tensor."""
    try:
        if entry.dtype.code not in _FLOATS:
            raise TypeError
        shape = tuple(entry.shape)
        is_bytes = isinstance(entry.data, bytes)
        if not is_bytes or not all(isinstance(side, int) and side >= 0 for side in shape):
            raise TypeError
        if math.prod(shape) * int(entry.dtype.code[-1]) != len(entry.data):
            raise ValueError
        array = np.frombuffer(entry.data, entry.dtype.code)
        array = array.reshape(shape, order="F" if entry.is_fortran else "C")
    except (AttributeError, TypeError, ValueError):
        raise UserError(f"weights {path}: {name} is not a whole array of floats") from None
    if transpose and array.ndim == 2:
        array = array.T
    return torch.from_numpy(array.astype(np.float32, order="C"))
