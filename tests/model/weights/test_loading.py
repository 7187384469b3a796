"""Loading into a network: transfer, missing heads, and errors that do not change it."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.model import GoogLeNet
from googlenet_fast.model.weights import load_model, load_weights, save_weights


def snapshot(model: GoogLeNet) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


@pytest.fixture(scope="module")
def source() -> GoogLeNet:
    return GoogLeNet("torchvision", 5)


@pytest.fixture(scope="module")
def path(source: GoogLeNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "w.pth"
    save_weights(source, path)
    return path


def test_transfer_reinitialises_just_the_classifiers(source: GoogLeNet, path: Path) -> None:
    model = GoogLeNet("torchvision", 3)
    with torch.no_grad():
        for classifier in model.classifiers().values():
            classifier.weight.fill_(9.0)
    report = load_weights(model, path)
    assert report.reinitialised == ("aux1.fc2", "aux2.fc2", "fc")
    assert "freshly initialised: aux1.fc2, aux2.fc2, fc" in str(report)
    expected = source.state_dict()
    for key, value in model.state_dict().items():
        if key.rpartition(".")[0] in report.reinitialised:
            assert value.abs().max() < 1, key
        else:
            assert torch.equal(value, expected[key]), key


def test_heads_that_the_file_lacks_are_initialised(tmp_path: Path) -> None:
    path = tmp_path / "w.caffemodel"
    deployed = GoogLeNet("paper", 5, aux=False)
    save_weights(deployed, path)
    model = GoogLeNet("paper", 5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(9.0)
    report = load_weights(model, path)
    assert report.reinitialised == ("aux1", "aux2")
    for key, value in model.state_dict().items():
        if key.startswith("aux"):
            assert value.abs().max() < 1, key
        else:
            assert torch.equal(value, deployed.state_dict()[key]), key

    other_classes = load_weights(GoogLeNet("paper", 3), path)
    assert other_classes.reinitialised == ("aux1", "aux2", "fc")


def test_heads_that_the_network_lacks_are_ignored(source: GoogLeNet, path: Path) -> None:
    model = GoogLeNet("torchvision", 5, aux=False)
    report = load_weights(model, path)
    assert report.ignored == ("aux1", "aux2")
    assert "ignored: aux1, aux2" in str(report)
    assert torch.equal(model.fc.weight, source.fc.weight)


@pytest.fixture(scope="module")
def target() -> GoogLeNet:
    """A network for loads that fail and must not change it."""
    return GoogLeNet("torchvision", 5)


def spoiled(state: dict[str, Tensor], fault: str, key: str) -> dict[str, Tensor]:
    if fault == "missing":
        return {name: value for name, value in state.items() if name != key}
    replacement = {
        "extra": torch.zeros(2),
        "shape": state.get(key, torch.zeros(1)).unsqueeze(0),
        "dtype": torch.zeros(state[key].shape, dtype=torch.int32) if key in state else None,
        "type": "text",
    }[fault]
    return {**state, key: replacement}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("fault", "key", "message"),
    [
        ("missing", "inception4c.branch2.0.conv.weight", "is missing"),
        ("missing", "conv2.bn.running_var", "is missing"),
        ("missing", "aux1.fc1.bias", "is missing"),
        ("missing", "fc.weight", "no key"),
        ("extra", "inception4c.branch5.conv.weight", "is not one of the model's"),
        ("extra", "aux3.fc.weight", "is not one of the model's"),
        ("shape", "inception3a.branch3.0.bn.bias", r"has shape \(1, 16\), the model's is \(16,\)"),
        ("shape", "inception5b.branch2.1.conv.weight", "has shape"),
        ("shape", "fc.bias", r"has shape \(1, 5\)"),
        ("dtype", "conv1.conv.weight", "dtype torch.int32, not a float"),
        ("type", "conv1.conv.weight", "is not a tensor"),
    ],
)
def test_a_wrong_key_is_named_and_nothing_changes(
    fault: str, key: str, message: str, source: GoogLeNet, target: GoogLeNet, tmp_path: Path
) -> None:
    path = tmp_path / "spoiled.pth"
    torch.save(spoiled(source.state_dict(), fault, key), path)
    before = snapshot(target)
    with pytest.raises(GoogLeNetError, match=message) as caught:
        load_weights(target, path)
    assert key in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


@pytest.mark.parametrize(
    ("preset", "suffix", "holds"),
    [
        ("torchvision", ".safetensors", "paper"),
        ("torchvision", ".caffemodel", "paper"),
        ("paper", ".pdparams", "paddleclas"),
    ],
)
def test_another_preset(preset: str, suffix: str, holds: str, tmp_path: Path) -> None:
    path = tmp_path / f"w{suffix}"
    save_weights(GoogLeNet(holds, 2, aux=False), path)
    with pytest.raises(GoogLeNetError, match=f"of preset {holds}, the model's is {preset}"):
        load_weights(GoogLeNet(preset, 2), path)
    with pytest.raises(GoogLeNetError, match=f"of preset {holds}"):
        load_model(path, preset=preset)


def test_another_number_of_classes_than_expected(path: Path) -> None:
    assert load_model(path, num_classes=5)[1].num_classes == 5
    with pytest.raises(GoogLeNetError, match="for 5 classes, not 1000"):
        load_model(path, num_classes=1000)


def test_the_folder_of_a_run_is_its_best_checkpoint(path: Path, tmp_path: Path) -> None:
    (tmp_path / "best.pt").write_bytes(path.read_bytes())
    ours, theirs = (load_model(weights)[0].state_dict() for weights in (tmp_path, path))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_another_network_altogether(tmp_path: Path) -> None:
    path = tmp_path / "resnet.pth"
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7), "fc.weight": torch.zeros(2, 512)}, path)
    with pytest.raises(GoogLeNetError, match=r"key conv1\.conv\.weight is missing"):
        load_weights(GoogLeNet("torchvision", 2), path)
