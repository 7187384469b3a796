"""Tools that trace or watch a network: torch.fx, feature extractors, hooks, torch.export."""

import copy
import pickle
from collections import Counter
from typing import Any

import pytest
import torch
import torch.fx
from torch import Tensor, nn

from googlenet_fast import FeatureMaps
from googlenet_fast.model import PRESETS, GoogLeNet
from googlenet_fast.model.inception import Inception
from googlenet_fast.model.layers import Dropout

NAMES = sorted(PRESETS)


def close(actual: Any, expected: Any) -> None:
    """Winograd's rounding, relative to the largest value."""
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.detach().abs().max()))


@pytest.mark.parametrize("preset", NAMES)
@pytest.mark.parametrize("training", [False, True])
def test_a_symbolic_trace_computes_the_same(preset: str, training: bool) -> None:
    model = GoogLeNet(preset, 3, transform_input=True).train(training)
    for module in model.modules():
        if isinstance(module, Dropout):
            module.p = 0.0
    x = torch.randn(2, 3, 224, 224)
    traced = torch.fx.symbolic_trace(copy.deepcopy(model))
    expected, y = model(x), traced(x)
    close(y, expected) if training else close([y], [expected])
    assert type(y) is type(expected)
    statistics = dict(model.named_buffers())
    for name, of_trace in traced.named_buffers():
        torch.testing.assert_close(of_trace, statistics[name], rtol=1e-3, atol=1e-3)


def test_a_trace_is_a_graph_of_pytorchs_layers() -> None:
    """So that tools for quantisation and surgery find them; and it can be stored."""
    model = GoogLeNet("torchvision", 3, aux=False).eval()
    traced = torch.fx.symbolic_trace(model)
    layers = Counter(
        type(traced.get_submodule(str(node.target)))
        for node in traced.graph.nodes
        if node.op == "call_module"
    )
    assert layers[nn.Conv2d] == layers[nn.BatchNorm2d] == 3 + 4 * 9
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        close([pickle.loads(pickle.dumps(traced))(x)], [model(x)])


def test_torchvisions_feature_extractor() -> None:
    feature_extraction = pytest.importorskip("torchvision.models.feature_extraction")
    model = GoogLeNet("torchvision", 3, aux=False).eval()
    names = {"inception3b": "low", "inception5b": "high"}
    extract = feature_extraction.create_feature_extractor(model, names)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        found, expected = extract(x), FeatureMaps(model, (2, 4))(x)
        close(found.values(), expected)
        assert list(found) == ["low", "high"]
        model.train()
        extract.train()
        assert extract(x)["high"].shape == (2, 1024, 2, 2)


@pytest.mark.parametrize("preset", NAMES)
@pytest.mark.parametrize("training", [False, True])
def test_hooks_of_every_module_fire_once(preset: str, training: bool) -> None:
    model = GoogLeNet(preset, 3, lrn=False).train(training)
    x = torch.randn(2, 3, 224, 224)
    calls: Counter[str] = Counter()
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: calls.update([name]))
    with torch.no_grad():
        model(x)
    run = {n for n, _ in model.named_modules() if training or not n.startswith("aux")}
    assert calls == dict.fromkeys(run, 1)


def test_a_hook_replaces_a_blocks_output() -> None:
    model = GoogLeNet("paper", 3, aux=False).eval()
    x = torch.randn(1, 3, 64, 64)

    def clear(module: nn.Module, arguments: Any, y: Tensor) -> Tensor:
        assert isinstance(module, Inception)
        return torch.zeros_like(y)

    model.inception5b.register_forward_hook(clear)
    with torch.no_grad():
        assert torch.equal(model(x)[0], model.fc.bias)


@pytest.mark.slow
@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.filterwarnings("ignore")  # jit.trace warns of constants, and that it is deprecated
def test_exported_and_traced_networks_compute_the_same(classes: int) -> None:
    model = GoogLeNet("torchvision", classes, aux=False).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)
        close([torch.export.export(model, (x,)).module()(x)], [expected])
        close([torch.jit.trace(model, x)(x)], [expected])
