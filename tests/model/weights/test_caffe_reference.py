"""The trained BVLC network gives the activations another implementation recorded."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from googlenet_fast.model import GoogLeNet
from googlenet_fast.model.weights import load_model, save_weights
from googlenet_fast.model.weights.caffe import net_parameter


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
def test_activations(name: str, activations: dict[str, tuple[Tensor, Tensor]]) -> None:
    ours, reference = activations[name]
    assert ours.shape == reference.shape
    assert (ours - reference).norm() / reference.norm() < 1e-5


def test_saved_again_it_is_the_same_network(folder: Path, tmp_path: Path) -> None:
    model, _ = load_model(folder / "bvlc_googlenet.caffemodel")
    save_weights(model, tmp_path / "again.caffemodel")
    layers = []
    for path in (folder / "bvlc_googlenet.caffemodel", tmp_path / "again.caffemodel"):
        net: Any = net_parameter()()
        net.ParseFromString(path.read_bytes())
        layers.append({layer.name: layer for layer in net.layer})
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
