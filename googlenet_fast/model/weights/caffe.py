"""Caffe weights: `.caffemodel`, a NetParameter protocol buffer.

The few fields used are read and written here, so neither Caffe nor protobuf is needed. Field
numbers are from BVLC Caffe's caffe.proto. protobuf would read a stranger's file unsafely: it builds
an object for each message, and a file of 2-byte messages takes 50 times its size.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.model.weights.names import BLOCKS, BRANCHES, is_linear, key_of
from googlenet_fast.model.weights.weight_file import MOST_AXES, shown

_BRANCH_NAMES = ("1x1", "3x3_reduce", "3x3", "5x5_reduce", "5x5", "pool_proj")

MODULES = {
    "conv1": "conv1/7x7_s2",
    "conv2": "conv2/3x3_reduce",
    "conv3": "conv2/3x3",
    **{
        f"inception{block}.{ours}": f"inception_{block}/{theirs}"
        for block in BLOCKS
        for ours, theirs in zip(BRANCHES, _BRANCH_NAMES, strict=True)
    },
    **{f"aux{i}.conv": f"loss{i}/conv" for i in (1, 2)},
    **{f"aux{i}.fc1": f"loss{i}/fc" for i in (1, 2)},
    **{f"aux{i}.fc2": f"loss{i}/classifier" for i in (1, 2)},
    "fc": "loss3/classifier",
}
"""Our module name -> layer name in BVLC's bvlc_googlenet."""


def read_caffemodel(path: Path, content: bytes) -> dict[str, Tensor]:
    """Return the state dict, under our keys, of a BVLC GoogLeNet.

    Layers without weights are skipped. Both generations of the format are supported. Classifiers
    may have other names, as in networks that were fine-tuned.

    Raises:
        GoogLeNetError: not a `.caffemodel`, or a layer with weights that GoogLeNet does not have.
    """
    try:
        layers = [layer for layer in _read_layers(content) if layer.blobs]
    except (ValueError, IndexError):
        layers = []
    if not layers:
        raise GoogLeNetError(
            f"weights {path}: not a file of weights, or damaged; supported are PyTorch .pth,"
            " .safetensors, PaddleClas .pdparams and Caffe .caffemodel"
        )
    modules = {theirs: ours for ours, theirs in MODULES.items()}
    modules |= _renamed_classifiers(layers, modules)
    state = {}
    for layer in layers:
        if layer.name not in modules:
            raise GoogLeNetError(
                f"weights {path}: layer {shown(layer.name)} is not one of GoogLeNet's"
            )
        module = modules[layer.name]
        for blob, kind in zip(layer.blobs, ("weight", "bias"), strict=False):
            ndim = 1 if kind == "bias" else 2 if is_linear(module) else 4
            state[key_of(module, kind)] = _to_tensor(path, f"{layer.name} {kind}", blob, ndim)
    return state


@dataclass
class _Blob:
    shape: list[int]
    data: memoryview


@dataclass
class _Layer:
    name: str
    blobs: list[_Blob]


def _renamed_classifiers(layers: list[_Layer], modules: Mapping[str, str]) -> dict[str, str]:
    """Return the names of classifiers that have new names in this file -> our modules.

    Caffe keeps a layer's weights only under its old name, so the documented way to fine-tune is to
    rename the last layers: loss3/classifier_retrain, or a name of the user's own. Layers come in
    the order of the network: the classifiers of the heads, then the last one.
    """
    names = [layer.name for layer in layers]
    missing = [
        ours
        for ours in ("aux1.fc2", "aux2.fc2", "fc")
        if MODULES[ours] not in names
        and (ours == "fc" or MODULES[f"{ours.partition('.')[0]}.fc1"] in names)
    ]
    unknown = [name for name in names if name not in modules]
    found = {name: ours for name in unknown for ours in missing if name.startswith(MODULES[ours])}
    missing = [ours for ours in missing if ours not in found.values()]
    unknown = [name for name in unknown if name not in found]
    if len(unknown) == len(missing) and MODULES["conv1"] in names:
        found |= dict(zip(unknown, missing, strict=True))
    return found


def write_caffemodel(state: dict[str, Tensor]) -> bytes:
    """Return the `.caffemodel` file of a `paper` network's state dict."""
    net = [_field(1, b"GoogleNet")]
    for module, name in MODULES.items():
        if key_of(module, "weight") not in state:
            continue
        kind = b"InnerProduct" if is_linear(module) else b"Convolution"
        layer = _field(1, name.encode()) + _field(2, kind)
        for part in ("weight", "bias"):
            tensor = state[key_of(module, part)].float()
            shape = _field(1, b"".join(map(_encoded, tensor.shape)))
            values = tensor.numpy().astype("<f4").tobytes()
            layer += _field(7, _field(5, values) + _field(7, shape))
        net.append(_field(100, layer))
    return b"".join(net)


def _to_tensor(path: Path, name: str, blob: _Blob, ndim: int) -> Tensor:
    """Return a blob as a tensor of `ndim` axes.

    The older format pads every shape to four axes with leading ones.
    """
    shape = list(blob.shape)
    while len(shape) > ndim and shape[0] == 1:
        del shape[0]
    if min(shape, default=1) < 0 or math.prod(shape) * 4 != len(blob.data):
        raise GoogLeNetError(
            f"weights {path}: {name} declares shape {tuple(shape)} but holds"
            f" {len(blob.data) // 4} values"
        )
    return torch.from_numpy(np.frombuffer(blob.data, "<f4").astype(np.float32).reshape(shape))


# The wire format of protocol buffers, https://protobuf.dev/programming-guides/encoding.

_MOST_FIELDS = 200_000
"""Fields that are read in a file; GoogLeNet's with its layers' settings has about 3,000."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def _read_layers(content: bytes) -> list[_Layer]:
    """Return the layers of a NetParameter of either generation.

    Raises:
        ValueError, IndexError: not a NetParameter, or one with too many fields.
    """
    budget = iter(range(_MOST_FIELDS))
    layers = []
    for number, value in _fields(memoryview(content), budget):
        if number in (2, 100) and isinstance(value, memoryview):
            name_field, blob_field = (4, 6) if number == 2 else (1, 7)
            name, blobs = "", []
            for inner, part in _fields(value, budget):
                if inner == name_field and isinstance(part, memoryview):
                    name = bytes(part).decode()
                elif inner == blob_field and isinstance(part, memoryview):
                    blobs.append(_read_blob(part, budget))
            layers.append(_Layer(name, blobs))
    return layers


def _read_blob(content: memoryview, budget: Iterator[int]) -> _Blob:
    """Read a BlobProto: its shape, or four sides in the older generation, and its values."""
    sides, shape, data = [0] * 4, None, memoryview(b"")
    for number, value in _fields(content, budget):
        if number in (1, 2, 3, 4) and isinstance(value, int):
            sides[number - 1] = value
        elif number == 7 and isinstance(value, memoryview):
            shape = _read_shape(value, budget)
        elif number == 5 and isinstance(value, memoryview):
            data = value
    return _Blob(sides if shape is None else shape, data)


def _read_shape(content: memoryview, budget: Iterator[int]) -> list[int]:
    shape = []
    for number, value in _fields(content, budget):
        if number == 1 and isinstance(value, int):
            shape.append(value)
        elif number == 1 and isinstance(value, memoryview):
            at = 0
            while at < len(value) and len(shape) <= MOST_AXES:
                side, at = _varint(value, at)
                shape.append(side)
    if len(shape) > MOST_AXES:
        raise ValueError("too many axes")
    return shape


def _fields(content: memoryview, budget: Iterator[int]) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of each field: an integer, or the bytes of anything else."""
    at = 0
    while at < len(content):
        if next(budget, None) is None:
            raise ValueError("too many fields")
        key, at = _varint(content, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(content, at)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            length, at = _varint(content, at)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError("no field")
        if not 0 <= length <= len(content) - at:
            raise ValueError("ends early")
        yield key >> 3, content[at : at + length]
        at += length


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    """Return the signed 64-bit integer at `at`, and where it ends."""
    value = 0
    for place in range(10):
        byte = content[at + place]
        value |= (byte & 127) << 7 * place
        if byte < 128:
            value &= (1 << 64) - 1
            return value - (value >> 63 << 64), at + place + 1
    raise ValueError("no integer")


def _field(number: int, content: bytes) -> bytes:
    """Return a field of any number of bytes."""
    return _encoded(number << 3 | _BYTES) + _encoded(len(content)) + content


def _encoded(value: int) -> bytes:
    """Return an integer >= 0 in groups of 7 bits, the lowest first."""
    groups = bytearray()
    while value > 127:
        groups.append(value & 127 | 128)
        value >>= 7
    return bytes([*groups, value])
