"""The frozen network: equal to the model in inference, whatever happens to the model later."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.model import GoogLeNet
from googlenet_fast.model.frozen import freeze
from googlenet_fast.model.presets import PRESETS
from googlenet_fast.ops import use_impl
from tests.helpers import TRITON


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
    with pytest.raises(GoogLeNetError, match="63"):
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


class Casts(TorchDispatchMode):
    """Notes the shapes of fp32 tensors that are cast."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[torch.Size] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default and args[0].dtype == torch.float32:
            self.shapes.append(args[0].shape)
        return func(*args, **(kwargs or {}))


@contextmanager
def autocast_without_gpu() -> Iterator[None]:
    """Autocast of CUDA tensors to fp16, which `torch.autocast` declines without a GPU."""
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.float16)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])
        torch.clear_autocast_cache()


@pytest.mark.skipif(torch.version.cuda is None, reason="needs a CUDA build of torch")
@pytest.mark.filterwarnings("ignore:.* skips backend:RuntimeWarning")
@pytest.mark.parametrize("implementation", ["aten", TRITON])
@pytest.mark.parametrize("preset", ["paper", "torchvision"])
def test_a_call_on_a_gpu_casts_no_weight(preset: str, implementation: str) -> None:
    """They are half precision once and for all; each call of the model casts them."""
    with FakeTensorMode(), torch.device("cuda"), torch.no_grad():
        model = GoogLeNet(preset, 4, aux=False).eval()
        frozen = freeze(model, torch.float16)
        images = torch.empty(2, 3, 64, 64)
        found = {}
        for network in (frozen, model):
            with autocast_without_gpu(), use_impl(implementation), Casts() as casts:
                assert network(images).dtype == torch.float16
            found[network] = set(casts.shapes)
    weights = {p.shape for p in model.parameters() if p.ndim > 1} | {model.fc.bias.shape}
    assert not found[frozen] & weights
    assert found[model] & weights


@pytest.mark.triton
def test_triton_launchers_take_half_precision_weights_as_they_are() -> None:
    from googlenet_fast.kernels import conv_bias_relu, inception  # imports triton

    for taps in (1, 3):
        w = torch.randn(4, 3, taps, taps, dtype=torch.float16)
        w = w.contiguous(memory_format=torch.channels_last)
        assert conv_bias_relu._filter(w, torch.float16) is w
        assert inception._cast([w], torch.float16)[0] is w
