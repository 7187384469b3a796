"""The network without its classifier: pooled features, and the maps of several blocks."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from googlenet_fast import FeatureMaps
from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.model import PRESETS, GoogLeNet
from googlenet_fast.model.feature_maps import FEATURES
from googlenet_fast.model.frozen import freeze
from googlenet_fast.model.plain import Plain
from googlenet_fast.model.weights import load_weights, save_weights

NAMES = sorted(PRESETS)


def close(actual: Tensor, expected: Tensor) -> None:
    """Rounding differs where hooks have layers called; batch norm of few pixels magnifies it."""
    largest = float(expected.detach().abs().max())
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=2e-3 * largest)


@pytest.mark.parametrize("preset", NAMES)
def test_without_classes_it_returns_the_pooled_features(preset: str, tmp_path: Path) -> None:
    whole = GoogLeNet(preset, 5).eval()
    save_weights(whole, tmp_path / "w.safetensors")
    model = GoogLeNet(preset, 0)
    report = load_weights(model, tmp_path / "w.safetensors")
    assert (set(report.ignored), report.reinitialised) == ({"fc", "aux1", "aux2"}, ())
    assert not any(key.startswith(("fc", "aux")) for key in model.state_dict())
    assert model.classifiers() == {}
    x = torch.randn(2, 3, 64, 80)
    with torch.no_grad():
        expected = whole.forward_features(x).mean((2, 3))
        close(model.eval()(x), expected)
    assert model.train()(x).shape == (2, 1024)


def test_features_are_the_same_by_every_way() -> None:
    """Of the preset whose dropout scales in inference too."""
    model, x = GoogLeNet("paddleclas", 0).eval(), torch.randn(2, 3, 64, 80)
    frozen = freeze(model)
    assert frozen.num_classes == 0
    with torch.no_grad():
        expected = model.forward_features(x).mean((2, 3))
        for network in (model, model.train(), frozen, Plain(model)):
            close(network(x), expected)


def test_files_of_weights_have_a_classifier(tmp_path: Path) -> None:
    with pytest.raises(GoogLeNetError, match="has no classifier"):
        save_weights(GoogLeNet("paper", 0), tmp_path / "w.safetensors")


@pytest.mark.parametrize("preset", NAMES)
@pytest.mark.parametrize("training", [False, True])
def test_maps_are_the_outputs_of_the_layers(preset: str, training: bool) -> None:
    network = GoogLeNet(preset, 0).train(training)
    maps = FeatureMaps(network)
    assert maps.feature_info == FEATURES
    seen: dict[str, Tensor] = {}
    x = torch.randn(2, 3, 96, 64)
    found = maps(x)
    handles = [
        network.get_submodule(info.module).register_forward_hook(
            lambda module, _, y, name=info.module: seen.update({name: y})
        )
        for info in FEATURES
    ]
    expected = network.forward_features(x)
    for handle in handles:
        handle.remove()
    close(found[-1], expected)
    for y, info in zip(found, FEATURES, strict=True):
        close(y, seen[info.module])
        assert y.size(1) == info.num_chs
        for side, of_map in zip((96, 64), y.shape[2:], strict=True):
            assert abs(side / info.reduction - of_map) <= 1
        assert y.is_contiguous(memory_format=torch.channels_last)


def test_some_maps_and_their_gradients() -> None:
    network = GoogLeNet("torchvision", 0)
    maps = FeatureMaps(network, out_indices=(-1, 2))
    assert [info.reduction for info in maps.feature_info] == [32, 8]
    last, middle = maps(torch.randn(2, 3, 64, 64))
    assert (last.size(1), middle.size(1)) == (1024, 480)
    (last.sum() + middle.sum()).backward()
    assert all(p.grad is not None for p in network.parameters())
    assert isinstance(maps.network, nn.Module)
    for index in (5, -6):
        with pytest.raises(GoogLeNetError, match=f"out_indices {index}: choose from 0 to 4"):
            FeatureMaps(network, (index,))
