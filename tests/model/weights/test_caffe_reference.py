"""A BVLC network in a `.caffemodel` gives the activations of other implementations."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from googlenet_fast.model import GoogLeNet
from googlenet_fast.model.weights import load_model, save_weights
from tests.model.weights.caffe_proto import net_parameter

BLOCKS = {
    "3a": (192, 64, 96, 128, 16, 32, 32),
    "3b": (256, 128, 128, 192, 32, 96, 64),
    "4a": (480, 192, 96, 208, 16, 48, 64),
    "4b": (512, 160, 112, 224, 24, 64, 64),
    "4c": (512, 128, 128, 256, 24, 64, 64),
    "4d": (512, 112, 144, 288, 32, 64, 64),
    "4e": (528, 256, 160, 320, 32, 128, 128),
    "5a": (832, 256, 160, 320, 32, 128, 128),
    "5b": (832, 384, 192, 384, 48, 128, 128),
}
"""Channels of each block: input, 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection."""

Layers = dict[str, tuple[np.ndarray, np.ndarray]]
"""Layer name of BVLC's deploy.prototxt -> weight and bias."""


def random_layers(num_classes: int) -> Layers:
    """Weights of every layer, scaled so that activations keep their size."""
    shapes: dict[str, tuple[int, ...]] = {
        "conv1/7x7_s2": (64, 3, 7, 7),
        "conv2/3x3_reduce": (64, 64, 1, 1),
        "conv2/3x3": (192, 64, 3, 3),
    }
    for block, (inputs, c1, c3_reduce, c3, c5_reduce, c5, pool) in BLOCKS.items():
        shapes |= {
            f"inception_{block}/1x1": (c1, inputs, 1, 1),
            f"inception_{block}/3x3_reduce": (c3_reduce, inputs, 1, 1),
            f"inception_{block}/3x3": (c3, c3_reduce, 3, 3),
            f"inception_{block}/5x5_reduce": (c5_reduce, inputs, 1, 1),
            f"inception_{block}/5x5": (c5, c5_reduce, 5, 5),
            f"inception_{block}/pool_proj": (pool, inputs, 1, 1),
        }
    shapes["loss3/classifier"] = (num_classes, 1024)
    random = np.random.default_rng(0)
    return {
        name: (
            (random.standard_normal(shape) * (2 / np.prod(shape[1:])) ** 0.5).astype("<f4"),
            (random.standard_normal(shape[0]) * 0.1).astype("<f4"),
        )
        for name, shape in shapes.items()
    }


def varint(value: int) -> bytes:
    low, high = value & 127, value >> 7
    return bytes([low | 128]) + varint(high) if high else bytes([low])


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited field of a protocol buffer."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def caffemodel(layers: Layers) -> bytes:
    """The file, encoded by hand with the field numbers of BVLC's caffe.proto."""
    net = field(1, b"GoogleNet")
    net += field(100, field(1, b"data") + field(2, b"Input"))
    for name, arrays in layers.items():
        kind = b"InnerProduct" if arrays[0].ndim == 2 else b"Convolution"
        layer = field(1, name.encode()) + field(2, kind)
        for array in arrays:
            shape = field(1, b"".join(varint(side) for side in array.shape))
            layer += field(7, field(5, array.tobytes()) + field(7, shape))
        net += field(100, layer)
    return net


def plain_forward(layers: Layers, x: Tensor) -> dict[str, Tensor]:
    """Activations of BVLC's deploy.prototxt, layer by layer in plain PyTorch."""

    def conv(name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight, bias = map(torch.from_numpy, layers[name])
        return F.relu(F.conv2d(x, weight, bias, stride, weight.size(-1) // 2))

    def pool(x: Tensor) -> Tensor:
        return F.max_pool2d(x, 3, 2, ceil_mode=True)

    def norm(x: Tensor) -> Tensor:
        return F.local_response_norm(x, 5, alpha=1e-4, beta=0.75)

    seen = {}
    x = norm(pool(conv("conv1/7x7_s2", x, 2)))
    x = pool(norm(conv("conv2/3x3", conv("conv2/3x3_reduce", x))))
    for block in BLOCKS:
        prefix = f"inception_{block}"
        branches = (
            conv(f"{prefix}/1x1", x),
            conv(f"{prefix}/3x3", conv(f"{prefix}/3x3_reduce", x)),
            conv(f"{prefix}/5x5", conv(f"{prefix}/5x5_reduce", x)),
            conv(f"{prefix}/pool_proj", F.max_pool2d(x, 3, 1, 1)),
        )
        seen[block] = x = torch.cat(branches, 1)
        if block in ("3b", "4e"):
            x = pool(x)
    weight, bias = map(torch.from_numpy, layers["loss3/classifier"])
    seen["logits"] = F.linear(x.mean((2, 3)), weight, bias)
    return seen


def test_activations_of_a_random_network(tmp_path: Path) -> None:
    layers, path = random_layers(7), tmp_path / "w.caffemodel"
    path.write_bytes(caffemodel(layers))
    model, info = load_model(path)
    assert (info.preset, info.num_classes) == ("paper", 7)
    seen: dict[str, Tensor] = {}
    for name in BLOCKS:
        model.get_submodule(f"inception{name}").register_forward_hook(
            lambda module, args, output, name=name: seen.update({name: output})
        )
    x = torch.randn(2, 3, 96, 107, generator=torch.Generator().manual_seed(0)) * 50
    with torch.inference_mode():
        seen["logits"] = model(x)
        expected = plain_forward(layers, x)
    assert seen.keys() == expected.keys()
    for name, value in expected.items():
        # Winograd's rounding grows to 1e-5 through nine blocks of random weights.
        assert (seen[name] - value).norm() / value.norm() < 5e-5, name


@pytest.fixture(scope="module")
def folder(shared_data: Path) -> Path:
    return shared_data / "bvlc_googlenet"


@pytest.fixture(scope="module")
def activations(folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Ours and the recorded activation of each recorded layer."""
    model, info = load_model(folder / "bvlc_googlenet.caffemodel")
    assert (info.preset, info.num_classes) == ("paper", 1000)
    normalization = model.preset.normalization
    with np.load(folder / "ref_activations_ort.npz") as file:
        reference = {name: torch.from_numpy(file[name]) for name in file.files}
    photos = reference["images_rgb_u8"].permute(0, 3, 1, 2).flip(1).float()
    photos -= torch.tensor(normalization.mean).view(3, 1, 1)
    assert normalization.channel_order == "BGR"
    seen: dict[str, Tensor] = {}
    for name in ("inception3a", "inception5b"):
        model.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: seen.update({name: output})
        )
    with torch.inference_mode():
        logits = model(torch.cat([photos, reference["input_seed0_normal_x50"]]))
    ours = {
        "inception_3a.output": seen["inception3a"][:1],
        "inception_5b.output": seen["inception5b"],
        "loss3.classifier": logits,
        "prob": logits.softmax(1),
    }
    return {name: (value, reference[name]) for name, value in ours.items()}


@pytest.mark.parametrize(
    "name", ["inception_3a.output", "inception_5b.output", "loss3.classifier", "prob"]
)
def test_recorded_activations(name: str, activations: dict[str, tuple[Tensor, Tensor]]) -> None:
    ours, reference = activations[name]
    assert ours.shape == reference.shape
    assert (ours - reference).norm() / reference.norm() < 1e-5


@pytest.mark.parametrize("source", ["made", "trained"])
def test_saved_again_it_is_the_same_network(
    source: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if source == "made":
        original = tmp_path / "w.caffemodel"
        original.write_bytes(caffemodel(random_layers(3)))
    else:
        original = request.getfixturevalue("folder") / "bvlc_googlenet.caffemodel"
    model, _ = load_model(original)
    save_weights(model, tmp_path / "again.caffemodel")
    layers = []
    for path in (original, tmp_path / "again.caffemodel"):
        net: Any = net_parameter()()
        net.ParseFromString(path.read_bytes())
        layers.append({layer.name: layer for layer in net.layer if layer.blobs})
    theirs, ours = layers
    assert ours.keys() == theirs.keys()
    assert all(ours[name] == theirs[name] for name in theirs)


def test_the_older_generation_of_the_format(tmp_path: Path) -> None:
    path = tmp_path / "w.caffemodel"
    model = GoogLeNet("paper", 3, aux=False)
    save_weights(model, path)
    net: Any = net_parameter()()
    net.ParseFromString(path.read_bytes())
    for layer in net.layer:
        old = net.layers.add(name=layer.name)
        for blob in layer.blobs:
            padded = [1] * (4 - len(blob.shape.dim)) + list(blob.shape.dim)
            sides = dict(zip(("num", "channels", "height", "width"), padded, strict=True))
            old.blobs.add(data=blob.data, **sides)
    net.ClearField("layer")
    path.write_bytes(net.SerializeToString())
    state = load_model(path)[0].state_dict()
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
