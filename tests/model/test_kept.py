"""Weights that inference prepared once are prepared again after any change."""

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from googlenet_fast import extension
from googlenet_fast.model import inception, layers
from googlenet_fast.model.inception import Inception, Widths
from googlenet_fast.model.layers import Conv
from googlenet_fast.model.presets import PRESETS
from googlenet_fast.ops import prepare_weight, use_impl

pytestmark = pytest.mark.skipif(
    extension.missing_part("cpu") is not None, reason="the extension has no CPU part"
)


AMX = extension.instruction_set() == "amx"
"""Whose convolutions have no tiles that depend on the size of images."""


@pytest.fixture(params=["conv", "block", "block with batch norm"])
def module(request: pytest.FixtureRequest) -> nn.Module:
    preset = PRESETS["torchvision" if request.param.endswith("norm") else "paper"]
    if request.param == "conv":
        return Conv(preset, 24, 9, 3).eval()
    return Inception(preset, 24, Widths(8, 6, 10, 4, 5, 7)).eval()


@pytest.fixture
def preparations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was prepared so far."""
    prepared: list[str] = []

    def spy(holder: ModuleType, name: str) -> None:
        prepare = getattr(holder, name)

        def prepare_and_note(*arguments: Any) -> object:
            prepared.append(name)
            return prepare(*arguments)

        monkeypatch.setattr(holder, name, prepare_and_note)

    spy(layers, "prepare_weight")
    spy(inception, "prepare_inception")
    return prepared


def check(module: nn.Module, height: int = 9, width: int = 9) -> None:
    x = torch.randn(2, 24, height, width)
    with torch.no_grad():
        found = module(x)
        with use_impl("reference"):
            expected = module(x)
    assert (found - expected).norm() < 1e-4 * expected.norm()


def test_once_and_again_after_a_change(module: nn.Module, preparations: list[str]) -> None:
    for _ in range(3):
        check(module)
    assert len(preparations) == 1
    parameter = next(module.parameters())
    with torch.no_grad():
        parameter.mul_(2)
    check(module)
    assert len(preparations) == 2
    parameter.data = torch.randn_like(parameter)
    check(module)
    module.load_state_dict({k: torch.rand_like(v.float()) for k, v in module.state_dict().items()})
    check(module)
    assert len(preparations) == 4


def test_once_for_all_images_of_the_same_tiles(module: nn.Module, preparations: list[str]) -> None:
    for _ in range(2):
        for height, width in [(14, 14), (28, 28), (24, 24), (18, 18)]:
            check(module, height, width)
    assert len(preparations) == (1 if AMX else 2)


@pytest.mark.parametrize("switch", [True, False])
def test_a_step_that_no_version_tells_of(module: nn.Module, switch: bool) -> None:
    """Fused optimizers leave versions as they are."""
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, fused=True)
    for _ in range(2):
        check(module)
        module.train(switch)
        module(torch.randn(2, 24, 9, 9)).square().mean().backward()
        optimizer.step()
        module.eval()
    check(module)


def test_weights_that_do_not_fit() -> None:
    x, weight = torch.randn(1, 3, 5, 5), torch.randn(4, 3, 3, 3)
    with torch.no_grad(), pytest.raises(RuntimeError, match="not what prepare_weight makes"):
        torch.ops.googlenet_fast.conv_bias_relu_prepared(x, weight, None, True, 1, torch.zeros(7))


@pytest.mark.skipif(AMX, reason="AMX prepares a weight alike for all sizes")
def test_weights_for_images_of_another_size() -> None:
    x, weight = torch.randn(1, 3, 14, 14), torch.randn(4, 3, 3, 3)
    prepared = prepare_weight(weight, 24, 24)
    with torch.no_grad(), pytest.raises(RuntimeError, match="for images of 14x14"):
        torch.ops.googlenet_fast.conv_bias_relu_prepared(x, weight, None, True, 1, prepared)
