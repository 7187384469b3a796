"""Caffe weights: `.caffemodel`, a NetParameter protocol buffer.

The few fields used are described here, so neither Caffe nor a protocol compiler is needed. Field
numbers are from BVLC Caffe's caffe.proto.
"""

import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message
from torch import Tensor

from googlenet_fast.errors import UserError
from googlenet_fast.model.weights.names import BLOCKS, BRANCHES, is_linear, key_of

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

_FIELDS = {
    "BlobShape": [("dim", 1, "repeated int64")],
    "BlobProto": [
        ("num", 1, "int32"),
        ("channels", 2, "int32"),
        ("height", 3, "int32"),
        ("width", 4, "int32"),
        ("shape", 7, "BlobShape"),
        # Packed floats are encoded like bytes; read as bytes, they need no Python object each.
        ("data", 5, "bytes"),
    ],
    "V1LayerParameter": [("name", 4, "string"), ("blobs", 6, "repeated BlobProto")],
    "LayerParameter": [
        ("name", 1, "string"),
        ("type", 2, "string"),
        ("blobs", 7, "repeated BlobProto"),
    ],
    "NetParameter": [
        ("name", 1, "string"),
        ("layers", 2, "repeated V1LayerParameter"),
        ("layer", 100, "repeated LayerParameter"),
    ],
}


@cache
def net_parameter() -> type[Message]:
    """Return the message class of a whole `.caffemodel`."""
    field_type = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="googlenet_fast/caffe.proto", package="googlenet_fast.caffe", syntax="proto2"
    )
    for message_name, fields in _FIELDS.items():
        message = file.message_type.add(name=message_name)
        for name, number, declaration in fields:
            repeated = declaration.startswith("repeated ")
            kind = declaration.removeprefix("repeated ")
            field = message.field.add(name=name, number=number)
            field.label = field_type.LABEL_REPEATED if repeated else field_type.LABEL_OPTIONAL
            if kind in _FIELDS:
                field.type = field_type.TYPE_MESSAGE
                field.type_name = f".{file.package}.{kind}"
            else:
                field.type = getattr(field_type, f"TYPE_{kind.upper()}")
                field.options.packed = repeated
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(
        pool.FindMessageTypeByName(f"{file.package}.NetParameter")
    )


def read_caffemodel(path: Path, content: bytes) -> dict[str, Tensor]:
    """Return the state dict, under our keys, of a BVLC GoogLeNet.

    Layers without weights are skipped. Both generations of the format are supported.

    Raises:
        UserError: not a `.caffemodel`, or a layer with weights that GoogLeNet does not have.
    """
    net: Any = net_parameter()()
    try:
        net.ParseFromString(content)
    except DecodeError:
        net.Clear()
    layers = [layer for layer in [*net.layer, *net.layers] if layer.blobs]
    if not layers:
        raise UserError(
            f"weights {path}: not a file of weights, or damaged; supported are PyTorch .pth,"
            " .safetensors, PaddleClas .pdparams and Caffe .caffemodel"
        )
    modules = {theirs: ours for ours, theirs in MODULES.items()}
    state = {}
    for layer in layers:
        if layer.name not in modules:
            raise UserError(f"weights {path}: layer {layer.name!r:.80} is not one of GoogLeNet's")
        module = modules[layer.name]
        for blob, kind in zip(layer.blobs, ("weight", "bias"), strict=False):
            ndim = 1 if kind == "bias" else 2 if is_linear(module) else 4
            state[key_of(module, kind)] = _to_tensor(path, f"{layer.name} {kind}", blob, ndim)
    return state


def write_caffemodel(state: dict[str, Tensor]) -> bytes:
    """Return the `.caffemodel` file of a `paper` network's state dict."""
    net: Any = net_parameter()(name="GoogleNet")
    for module, name in MODULES.items():
        if key_of(module, "weight") not in state:
            continue
        layer = net.layer.add(
            name=name, type="InnerProduct" if is_linear(module) else "Convolution"
        )
        for kind in ("weight", "bias"):
            tensor = state[key_of(module, kind)].float()
            blob = layer.blobs.add(data=tensor.numpy().astype("<f4").tobytes())
            blob.shape.dim.extend(tensor.shape)
    return net.SerializeToString()


def _to_tensor(path: Path, name: str, blob: Any, ndim: int) -> Tensor:
    """Return a blob as a tensor of `ndim` axes.

    The older format pads every shape to four axes with leading ones.
    """
    if blob.HasField("shape"):
        shape = list(blob.shape.dim)
    else:
        shape = [blob.num, blob.channels, blob.height, blob.width]
    while len(shape) > ndim and shape[0] == 1:
        del shape[0]
    if min(shape, default=1) < 0 or math.prod(shape) * 4 != len(blob.data):
        raise UserError(
            f"weights {path}: {name} declares shape {tuple(shape)} but holds"
            f" {len(blob.data) // 4} values"
        )
    return torch.from_numpy(np.frombuffer(blob.data, "<f4").astype(np.float32).reshape(shape))
