"""Which image sizes each preset says it takes, against the sizes it does take."""

import pytest
import torch

from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.model import PRESETS, GoogLeNet
from googlenet_fast.model.presets import get_preset


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size", [(64, 64), (65, 130), (100, 67)])
def test_any_size_from_64_without_auxiliary_heads(preset: str, size: tuple[int, int]) -> None:
    get_preset(preset).check_input_size(size, aux=False)
    model = GoogLeNet(preset, 3, aux=False).train()
    with torch.no_grad():
        assert model(torch.randn(2, 3, *size)).shape == (2, 3)


@pytest.mark.parametrize("preset", PRESETS)
def test_too_small(preset: str) -> None:
    with pytest.raises(GoogLeNetError, match=r"63x64: preset \w+ takes 64 pixels a side or more"):
        get_preset(preset).check_input_size((63, 64), aux=False)
    with pytest.raises(GoogLeNetError, match="32x32"):
        GoogLeNet(preset, 3).eval()(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize(
    ("preset", "first", "last"), [("paper", 223, 270), ("paddleclas", 189, 236)]
)
def test_sizes_with_auxiliary_heads_of_fixed_width(preset: str, first: int, last: int) -> None:
    chosen = get_preset(preset)
    for side in (first - 1, last + 1):
        with pytest.raises(GoogLeNetError, match=f"takes {first} to {last} pixels a side"):
            chosen.check_input_size((224, side), aux=True)
        with pytest.raises(GoogLeNetError, match=f"takes {first} to {last} pixels a side"):
            chosen.check_input_size((side, 224), aux=True)
    chosen.check_input_size((first, last), aux=True)
    model = GoogLeNet(preset, 3).train()
    with torch.no_grad():
        assert all(y.shape == (1, 3) for y in model(torch.randn(1, 3, first, last)))
        with pytest.raises(GoogLeNetError, match="auxiliary heads"):
            model(torch.randn(1, 3, first - 1, last))
        assert model.eval()(torch.randn(1, 3, first - 1, 64)).shape == (1, 3)


def test_torchvision_auxiliary_heads_take_any_size() -> None:
    model = GoogLeNet("torchvision", 3).train()
    with torch.no_grad():
        assert all(y.shape == (2, 3) for y in model(torch.randn(2, 3, 64, 101)))


def test_unknown_preset() -> None:
    with pytest.raises(GoogLeNetError, match=r"'papr'.*paper, paddleclas, torchvision"):
        GoogLeNet("papr")
