"""The frozen network: equal to the model in inference, whatever happens to the model later."""

import threading

import pytest
import torch
from torch import Tensor, nn

from googlenet_fast.errors import UserError
from googlenet_fast.model import GoogLeNet
from googlenet_fast.model.frozen import freeze
from googlenet_fast.model.presets import PRESETS


def randomized(preset: str, aux: bool = True) -> GoogLeNet:
    model = GoogLeNet(preset, 7, aux=aux)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None:
            norm.running_mean.uniform_(-0.5, 0.5)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
    return model


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_it_equals_the_model_in_inference(preset: str) -> None:
    model = randomized(preset)
    x = torch.randn(2, 3, 96, 80)
    for training in (True, False):
        frozen = freeze(model.train(training))
        assert model.training == training
        with torch.no_grad():
            expected = model.eval()(x)
        logits = frozen(x)
        assert torch.equal(logits, expected)
        assert not logits.requires_grad
    assert (frozen.num_classes, frozen.preset) == (7, model.preset)


def test_later_writes_and_modes_have_no_effect() -> None:
    model = randomized("torchvision", aux=False).eval()
    x = torch.randn(1, 3, 64, 64)
    frozen = freeze(model)
    before = frozen(x)
    for p in (*model.parameters(), *model.buffers()):
        p.data.mul_(3)
    model.train()
    model.dropout.p = 0.9
    assert torch.equal(frozen(x), before)
    assert not torch.equal(freeze(model)(x), before)


def test_images_of_several_sizes_from_several_threads() -> None:
    model = randomized("paper", aux=False)
    images = [torch.randn(1, 3, side, side) for side in (64, 96, 120)]
    expected = [freeze(model)(x) for x in images]
    fresh = freeze(model)
    wrong: list[str] = []

    def infer(i: int) -> None:
        for j in range(9):
            x = (i + j) % 3
            if not torch.equal(fresh(images[x]), expected[x]):
                wrong.append(f"thread {i}, call {j}")

    threads = [threading.Thread(target=infer, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_sizes_that_the_preset_refuses() -> None:
    frozen = freeze(randomized("paper", aux=False))
    with pytest.raises(UserError, match="63"):
        frozen(torch.randn(1, 3, 63, 64))


def test_autocast() -> None:
    model = randomized("paper", aux=False).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        found: Tensor = freeze(model, torch.bfloat16)(x)
        assert torch.equal(found, model(x))


def test_replaced_classifiers_and_containers() -> None:
    model = randomized("paper", aux=False)
    model.fc = nn.Linear(1024, 5, bias=False)
    model.register_module("dropout", nn.Sequential(nn.Dropout(0.5)))
    model.train()
    frozen = freeze(model)
    assert all(module.training for module in model.modules())
    assert frozen(torch.randn(1, 3, 64, 64)).shape == (1, frozen.num_classes) == (1, 5)
