"""Files as other programs' trainers write them: tensors are read, the rest is passed over."""

import argparse
import io
import logging
import os
import pickle
import types
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.model import GoogLeNet
from googlenet_fast.model.weights import load_model, load_weights, save_weights
from googlenet_fast.model.weights.load import read_weights
from tests.model.weights.caffe_proto import net_parameter

State = dict[str, Tensor]


class Payload:
    """Unpickles to a command that leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.trace}",)


@pytest.fixture(scope="module")
def model() -> GoogLeNet:
    return GoogLeNet("torchvision", 3, aux=False)


@pytest.fixture(scope="module")
def state(model: GoogLeNet) -> State:
    return model.state_dict()


@pytest.fixture(scope="module")
def other(state: State) -> State:
    """Other weights, which must not be read."""
    return {key: torch.zeros_like(value) for key, value in state.items()}


def prefixed(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {f"{prefix}{key}": value for key, value in state.items()}


def trainer_state(model: nn.Module) -> dict[str, Any]:
    """What trainers store beside the weights: with tensors, arrays, objects and functions."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for parameter in list(model.parameters())[:3]:
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return {
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 30).state_dict(),
        "scaler": {"scale": 65536.0, "_growth_tracker": 0},
        "epoch": 89,
    }


def checkpoints(model: GoogLeNet, state: State, other: State) -> dict[str, Any]:
    namespace = argparse.Namespace(
        model="googlenet", data_path=Path("/data"), lr=0.1, device=torch.device("cpu"),
        betas=(0.9, 0.99), classes={1, 2}, dtype=torch.float16, amp=np.float64(1.0),
    )  # fmt: skip
    rest = {**trainer_state(model), "args": namespace}
    averaged = AveragedModel(model).state_dict()
    return {
        "torchvision": {"model": state, **rest},
        "torchvision with averages": {"model": other, "model_ema": averaged, **rest},
        "timm": {"arch": "googlenet", "state_dict": state, "version": 2, **rest},
        "timm with averages": {
            "state_dict": other,
            "state_dict_ema": state,
            "metric": 70.1,
            **rest,
        },
        "pytorch/examples": {
            "arch": "googlenet",
            "state_dict": prefixed(state, "module."),
            "best_acc1": torch.tensor(70.0),
            **rest,
        },
        "NumPy's scalar": {"state_dict": state, "best_acc1": np.float32(70)},
        "model_state_dict": {"model_state_dict": state, "loss": np.zeros(3)},
        "module._orig_mod.": prefixed(state, "module._orig_mod."),
        "_orig_mod.module.": {"state_dict": prefixed(state, "_orig_mod.module.")},
        "compiled blocks": {
            key.replace("inception3a.", "inception3a._orig_mod."): value
            for key, value in state.items()
        },
        "Lightning": {
            "state_dict": {**prefixed(state, "model."), "criterion.weight": torch.ones(3)},
            "pytorch-lightning_version": "2.5.0",
            "callbacks": {"ModelCheckpoint": {"best_model_path": Path("x.ckpt")}},
            "hyper_parameters": namespace,
            "loops": {},
        },
        "Lightning, compiled": {"state_dict": prefixed(state, "model._orig_mod.")},
        "a dict in order": OrderedDict(state),
        "parameters": {
            key: nn.Parameter(value) if value.is_floating_point() else value
            for key, value in state.items()
        },
        "without num_batches_tracked": {
            key: value for key, value in state.items() if not key.endswith("batches_tracked")
        },
    }


KINDS = list(checkpoints(GoogLeNet("torchvision", 3, aux=False), {}, {}))


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints(
    kind: str, model: GoogLeNet, state: State, other: State, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.INFO, "googlenet_fast")
    trace = tmp_path / "trace"
    saved = checkpoints(model, state, other)[kind]
    if "epoch" in saved:
        saved["hook"] = Payload(trace)
    for archive in (True, False):
        torch.save(saved, tmp_path / "c.pth", _use_new_zipfile_serialization=archive)
        read = read_weights(tmp_path / "c.pth").state
        expected = {key: state[key] for key in state if key in read}
        assert len(expected) == len(read) >= 171
        assert all(torch.equal(read[key], value) for key, value in expected.items())
    assert not trace.exists()
    said = "the averaged weights are taken" in caplog.text
    assert said == ("averages" in kind)


def test_batches_are_counted_from_zero_if_the_file_does_not(
    model: GoogLeNet, state: State, tmp_path: Path
) -> None:
    kept = {key: value for key, value in state.items() if not key.endswith("batches_tracked")}
    torch.save(kept, tmp_path / "w.pth")
    twin = GoogLeNet("torchvision", 3, aux=False)
    twin.conv1.bn.num_batches_tracked.fill_(7)  # type: ignore[union-attr]
    load_weights(twin, tmp_path / "w.pth")
    assert all(torch.equal(twin.state_dict()[key], value) for key, value in kept.items())
    assert twin.state_dict()["conv1.bn.num_batches_tracked"] == 0
    load_model(tmp_path / "w.pth")


def test_a_whole_network_is_named(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "w.pth")
    message = r"holds a torch\.nn\.modules\.linear\.Linear; save its state_dict\(\) instead"
    with pytest.raises(GoogLeNetError, match=message):
        load_model(tmp_path / "w.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "w.pt")
    with pytest.raises(GoogLeNetError, match="is a TorchScript archive"):
        load_model(tmp_path / "w.pt")


@pytest.mark.parametrize("holds", ["paper", "paddleclas", "torchvision"])
def test_weights_of_another_preset(holds: str, tmp_path: Path) -> None:
    """Also where the file says nothing: the keys tell."""
    path = tmp_path / "w.pth"
    save_weights(GoogLeNet(holds, 2, aux=False), path)
    for preset in {"paper", "paddleclas", "torchvision"} - {holds}:
        message = f"of preset {holds}, the model's is {preset}; choose preset {holds} "
        with pytest.raises(GoogLeNetError, match=message):
            load_weights(GoogLeNet(preset, 2, aux=False), path)
        with pytest.raises(GoogLeNetError, match=message):
            load_model(path, preset=preset)


def caffe_layers(model: GoogLeNet, path: Path, rename: Callable[[str], str]) -> None:
    """Save a network with other names of some layers."""
    save_weights(model, path)
    net: Any = net_parameter()()
    net.ParseFromString(path.read_bytes())
    layers = sorted(net.layer, key=lambda layer: _place(layer.name))
    renamed = net_parameter()(name="GoogleNet")
    for layer in layers:
        layer.name = rename(layer.name)
        renamed.layer.add().CopyFrom(layer)  # type: ignore[attr-defined]
    path.write_bytes(renamed.SerializeToString())


def _place(name: str) -> str:
    """Where a layer comes in train_val.prototxt: heads after blocks 4a and 4d."""
    return name.replace("loss1", "inception_4a~").replace("loss2", "inception_4d~")


@pytest.mark.parametrize("aux", [True, False])
@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name.replace("/classifier", "/classifier_retrain"),
        lambda name: "loss3/classifier-food" if name == "loss3/classifier" else name,
        lambda name: f"my_{name[4]}" if name.endswith("/classifier") else name,
        lambda name: "fc8_flickr" if name == "loss3/classifier" else name,
    ],
)
def test_fine_tuned_caffe_networks(rename: Callable[[str], str], aux: bool, tmp_path: Path) -> None:
    model, path = GoogLeNet("paper", 3, aux=aux), tmp_path / "w.caffemodel"
    caffe_layers(model, path, rename)
    state = read_weights(path).state
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


def test_an_unknown_layer_beside_all_known_ones(tmp_path: Path) -> None:
    model, path = GoogLeNet("paper", 3, aux=False), tmp_path / "w.caffemodel"
    caffe_layers(model, path, lambda name: "extra" if name == "conv2/3x3" else name)
    with pytest.raises(GoogLeNetError, match="layer 'extra' is not one of GoogLeNet's"):
        load_model(path)


def test_distilled_paddleclas_weights(tmp_path: Path) -> None:
    model, path = GoogLeNet("paddleclas", 3, aux=False), tmp_path / "w.pdparams"
    save_weights(model, path)
    student = pickle.loads(path.read_bytes())
    teacher = {"Teacher.conv1.weight": np.zeros((2, 2), "f4"), "Teacher.bn.scale": [1, 2]}
    path.write_bytes(pickle.dumps({**prefixed(student, "Student."), **teacher}, protocol=4))
    read = load_model(path)[0].state_dict()
    assert all(torch.equal(read[key], value) for key, value in model.state_dict().items())


def test_nothing_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of the file is not even looked for."""
    module = types.ModuleType("a_trainers_module")
    thing = type("Thing", (), {"__module__": "a_trainers_module"})
    module.Thing = thing  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "a_trainers_module", module)
    buffer = io.BytesIO()
    torch.save({"state_dict": {"fc.weight": torch.ones(2, 1024)}, "config": thing()}, buffer)
    monkeypatch.undo()
    (tmp_path / "w.pth").write_bytes(buffer.getvalue())
    assert read_weights(tmp_path / "w.pth").num_classes == 2
