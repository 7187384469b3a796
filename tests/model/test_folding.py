"""Batch norm in inference is folded into the convolutions, and follows every change."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from googlenet_fast.model import folding
from googlenet_fast.model.googlenet import GoogLeNet
from googlenet_fast.model.inception import Inception, Widths
from googlenet_fast.model.layers import Conv, Path, path_of
from googlenet_fast.model.presets import PRESETS
from tests.model.composition import composed_block, composed_layer

PRESET = PRESETS["torchvision"]


def randomize(module: nn.Module) -> None:
    """Give batch norms statistics and parameters that matter."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.uniform_(-0.5, 0.5)
            norm.running_var.uniform_(0.3, 2)
            nn.init.uniform_(norm.weight, -1.5, 1.5)
            nn.init.uniform_(norm.bias, -0.5, 0.5)


@pytest.fixture
def conv() -> Conv:
    layer = Conv(PRESET, 5, 7, 3)
    randomize(layer)
    return layer.eval()


@pytest.fixture
def folds(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The arguments of `fold` so far."""
    folded: list[Any] = []

    def spy(*arguments: Any, fold: Callable[..., object] = folding.fold) -> object:
        folded.append(arguments)
        return fold(*arguments)

    monkeypatch.setattr(folding, "fold", spy)
    return folded


@pytest.mark.parametrize("kind", ["block", "stem"])
def test_folding_is_exact_to_rounding(kind: str) -> None:
    x = torch.randn(2, 24, 9, 9)
    if kind == "block":
        module: Inception | Conv = Inception(PRESET, 24, Widths(8, 6, 10, 4, 5, 7))
    else:
        module = Conv(PRESET, 24, 9, 1)
    randomize(module)
    with torch.no_grad():
        exact = copy.deepcopy(module).double().eval()
        expected = (
            composed_block(exact, x.double())
            if isinstance(exact, Inception)
            else composed_layer(exact, x.double())
        )
        y = module.eval()(x)
    assert ((y - expected).norm() / expected.norm()).item() < 5e-6  # Winograd's and AMX's own


def test_it_is_folded_once_and_again_after_any_change(conv: Conv, folds: list[Any]) -> None:
    x = torch.randn(2, 5, 6, 6)

    def check(times: int) -> None:
        with torch.no_grad():
            for _ in range(2):
                torch.testing.assert_close(conv(x), composed_layer(conv, x), rtol=1e-3, atol=1e-3)
        assert len(folds) == times

    check(1)
    assert conv.bn is not None
    assert conv.bn.running_var is not None
    with torch.no_grad():
        conv.bn.weight.mul_(2)
    check(2)
    conv.bn.running_var.mul_(3)
    check(3)
    conv.load_state_dict({k: torch.rand_like(v.float()) for k, v in conv.state_dict().items()})
    check(4)
    conv.conv.weight.data = torch.randn(7, 5, 3, 3)
    check(5)
    optimizer = torch.optim.SGD(conv.parameters(), lr=0.1)
    conv.train()(x).sum().backward()
    optimizer.step()
    conv.eval()
    check(6)
    x = x.double()
    conv.double()
    check(8)  # nothing is kept in float64


def assert_folds_again(conv: Conv) -> None:
    x = torch.randn(2, 5, 6, 6)
    with torch.no_grad():
        expected = composed_layer(conv, x)
        assert (conv(x) - expected).norm() < 1e-4 * expected.norm()


@pytest.mark.parametrize("frozen", [False, True], ids=["training", "frozen batch norm"])
def test_changes_that_no_version_shows(conv: Conv, frozen: bool) -> None:
    """Fused optimizers and batch statistics leave versions unchanged."""
    optimizer = torch.optim.SGD(conv.parameters(), lr=0.1, fused=True)
    versions = [tensor._version for tensor in conv.parameters()]
    for _ in range(2):
        assert_folds_again(conv)
        if not frozen:
            conv.train()
        conv(torch.randn(2, 5, 6, 6)).square().mean().backward()
        optimizer.step()
        if not frozen:
            conv.eval()
    assert_folds_again(conv)
    assert versions == [tensor._version for tensor in conv.parameters()]


def test_statistics_updated_by_the_norm_alone(conv: Conv) -> None:
    assert_folds_again(conv)
    assert conv.bn is not None
    conv.bn.train()
    with torch.no_grad():
        conv(5 + torch.randn(2, 5, 6, 6))
    conv.bn.eval()
    assert_folds_again(conv)


def test_gradients_in_inference_are_those_of_batch_norm(conv: Conv) -> None:
    x = torch.randn(2, 5, 6, 6)
    grads = []
    for function in (conv, lambda x: composed_layer(conv, x)):
        conv.zero_grad()
        function(x).square().sum().backward()
        grads.append([p.grad for p in conv.parameters()])
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_frozen_batch_norm_in_training(conv: Conv) -> None:
    conv.train()
    assert conv.bn is not None
    assert path_of((conv,), torch.empty(0)) is Path.BATCH_STATS
    conv.bn.eval()
    assert path_of((conv,), torch.empty(0)) is Path.WEIGHTS
    before = conv.bn.running_mean
    assert before is not None
    before = before.clone()
    torch.testing.assert_close(
        conv(x := torch.randn(2, 5, 6, 6)), composed_layer(conv, x), rtol=1e-3, atol=1e-3
    )
    assert conv.bn.running_mean is not None
    assert torch.equal(before, conv.bn.running_mean)


def test_compiled_code_sees_changes(conv: Conv) -> None:
    x = torch.randn(2, 5, 6, 6)
    compiled = torch.compile(conv, fullgraph=True, backend="eager")
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(compiled(x), composed_layer(conv, x), rtol=1e-3, atol=1e-3)
            nn.init.normal_(conv.conv.weight)


def test_a_model_made_in_inference_mode(folds: list[Any]) -> None:
    with torch.inference_mode():
        conv = Conv(PRESET, 5, 7, 3).eval()
        randomize(conv)
        x = torch.randn(2, 5, 6, 6)
        for _ in range(2):
            torch.testing.assert_close(conv(x), composed_layer(conv, x), rtol=1e-3, atol=1e-3)
    assert len(folds) == 1


def test_the_network_uses_no_batch_norm_in_inference(monkeypatch: pytest.MonkeyPatch) -> None:
    model = GoogLeNet("torchvision", 4).eval()

    def fail(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(nn.BatchNorm2d, "forward", fail)
    with torch.no_grad():
        assert model(torch.randn(1, 3, 64, 64)).shape == (1, 4)
