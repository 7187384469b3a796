"""Options, initialization and forward pass of the network."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.model import PRESETS, GoogLeNet, GoogLeNetOutputs
from googlenet_fast.model.layers import Dropout
from tests.helpers import relative_error

PARAMETERS = {"paper": 13_378_280, "torchvision": 13_004_888}
"""With auxiliary heads and 1000 classes; published for both networks."""

SMALLEST = {"paper": 223, "paddleclas": 189, "torchvision": 64}
"""Image sides that auxiliary heads take."""


@pytest.mark.parametrize("preset", PARAMETERS)
def test_number_of_parameters(preset: str) -> None:
    with torch.device("meta"):
        model = GoogLeNet(preset)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[preset]


@pytest.mark.parametrize(("preset", "size"), SMALLEST.items())
def test_training_gives_three_logits_and_every_parameter_learns(preset: str, size: int) -> None:
    model = GoogLeNet(preset, 4).train()
    outputs = model(torch.randn(2, 3, size, size))
    assert isinstance(outputs, GoogLeNetOutputs)
    assert [y.shape for y in outputs] == [(2, 4)] * 3
    torch.stack(outputs).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("preset", PRESETS)
def test_inference_gives_logits_alone(preset: str) -> None:
    with torch.no_grad():
        assert GoogLeNet(preset, 4).eval()(torch.randn(2, 3, 64, 64)).shape == (2, 4)


@pytest.mark.parametrize("preset", PRESETS)
def test_memory_format_of_the_input_does_not_matter(preset: str) -> None:
    model = GoogLeNet(preset, 4).eval()
    x = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        expected = model(x)
        assert torch.equal(model(x.contiguous(memory_format=torch.channels_last)), expected)
        wide = torch.zeros(2, 3, 96, 80)
        wide[..., 7:71] = x
        assert torch.equal(model(wide[..., 7:71]), expected)


def test_best_published_recipe() -> None:
    model = GoogLeNet("paper", 4, aux=False, lrn=False, dropout=0.2)
    assert (model.preset.lrn, model.preset.dropout, model.aux) == (False, 0.2, False)
    assert not any(key.startswith("aux") for key in model.state_dict())
    with_lrn = GoogLeNet("paper", 4, aux=False)
    with_lrn.load_state_dict(model.state_dict())
    x = 50 * torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert not torch.allclose(model.eval()(x), with_lrn.eval()(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": -1}, "num_classes -1"),
        ({"dropout": 1.5}, "dropout 1.5"),
        ({"dropout": math.nan}, "dropout nan"),
    ],
)
def test_options_out_of_range(options: dict, message: str) -> None:
    with pytest.raises(GoogLeNetError, match=message):
        GoogLeNet("paper", **options)


@pytest.mark.parametrize("shape", [(3, 224, 224), (1, 1, 224, 224), (1, 224, 224, 3)])
def test_inputs_of_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(GoogLeNetError, match=r"expected \(N, 3, H, W\)"):
        GoogLeNet("paper", 2).eval()(torch.zeros(shape))


def test_transform_input() -> None:
    plain = GoogLeNet("torchvision", 2).eval()
    transforming = copy.deepcopy(plain)
    transforming.transform_input = True
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406),
                                                         (0.229, 0.224, 0.225)))  # fmt: skip
    pixels = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            transforming((pixels - mean) / std), plain((pixels - 0.5) / 0.5), rtol=1e-4, atol=1e-6
        )


def test_dropout_upscales_in_training() -> None:
    x = torch.ones(200, 500)
    layer = Dropout(0.7, downscale_in_infer=False)
    kept = layer.train()(x)
    assert kept.unique().tolist() == pytest.approx([0, 1 / 0.3])
    assert kept.count_nonzero().item() / kept.numel() == pytest.approx(0.3, abs=0.02)
    assert torch.equal(layer.eval()(x), x)


def test_dropout_downscales_in_inference() -> None:
    x = torch.ones(200, 500)
    layer = Dropout(0.7, downscale_in_infer=True)
    kept = layer.train()(x)
    torch.testing.assert_close(kept, (kept > 0).float())
    assert kept.mean().item() == pytest.approx(0.3, abs=0.02)
    torch.testing.assert_close(layer.eval()(x), 0.3 * x)


def layers(model: GoogLeNet, *kinds: type[nn.Module]) -> list[tuple[str, Any]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, kinds)]


def test_torchvision_initialization() -> None:
    model = GoogLeNet("torchvision")
    for name, layer in layers(model, nn.Conv2d, nn.Linear):
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.1), name
    for _, layer in layers(model, nn.BatchNorm2d):
        assert (layer.weight == 1).all()
        assert (layer.bias == 0).all()


def test_caffe_initialization() -> None:
    model = GoogLeNet("paper")
    for name, layer in layers(model, nn.Conv2d, nn.Linear):
        bound = math.sqrt(3 / layer.weight[0].numel())
        assert 0.95 * bound < layer.weight.abs().max().item() < 1.0001 * bound, name
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1), name
        assert (layer.bias == (0 if name in model.classifiers() else 0.2)).all(), name


def test_paddle_initialization() -> None:
    model = GoogLeNet("paddleclas")
    for name, layer in layers(model, nn.Conv2d):
        expected = math.sqrt(2 / layer.weight[0].numel())
        assert layer.weight.std().item() == pytest.approx(expected, rel=0.1), name
    for name, layer in layers(model, nn.Linear):
        assert layer.weight.abs().max().item() < 1.0001 * math.sqrt(3 / layer.in_features), name
        assert (layer.bias == 0).all(), name


def test_another_initialization_than_the_presets() -> None:
    model = GoogLeNet("torchvision", 3, init="he")
    for name, layer in layers(model, nn.Conv2d):
        expected = math.sqrt(2 / layer.weight[0].numel())
        assert layer.weight.std().item() == pytest.approx(expected, rel=0.1), name
    with torch.no_grad():
        model.fc.weight.zero_()
    model.initialize("fc")
    with pytest.raises(GoogLeNetError, match="choose from caffe, he, torchvision"):
        GoogLeNet("torchvision", 3, init="xavier")  # type: ignore[arg-type]
    assert model.fc.weight.abs().max().item() == pytest.approx(math.sqrt(3 / 1024), rel=0.05)


def test_a_seed_fixes_the_initialization() -> None:
    def build(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return GoogLeNet("paper", 2).fc.weight

    assert torch.equal(build(5), build(5))
    assert not torch.equal(build(5), build(6))


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_compiles_as_one_graph(preset: str) -> None:
    model = GoogLeNet(preset, 4, aux=False, dropout=0.0).train()
    twin = copy.deepcopy(model)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 3, 64, 64)
    expected, actual = model(x), compiled(x)
    torch.testing.assert_close(actual, expected)
    expected.square().sum().backward()
    actual.square().sum().backward()
    for ours, theirs in zip(twin.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("preset", PRESETS)
def test_runs_under_autocast(preset: str) -> None:
    model = GoogLeNet(preset, 4, aux=False)
    x = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        expected = model.eval()(x)
    with torch.autocast("cpu", torch.bfloat16):
        actual = model(x)
        logits = model.train()(x)
    assert relative_error(actual, expected) < 0.05
    assert actual.dtype == logits.dtype == torch.bfloat16
    logits.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())
    assert all(b.dtype in (torch.float32, torch.int64) for b in model.buffers())


@pytest.mark.skipif(torch.version.cuda is None, reason="needs a CUDA build of torch")
@pytest.mark.parametrize(("preset", "size"), SMALLEST.items())
def test_forward_on_fake_cuda_tensors(preset: str, size: int) -> None:
    with FakeTensorMode(), torch.device("cuda"):
        model = GoogLeNet(preset, 4).train()
        outputs = model(torch.empty(8, 3, size, size))
    for y in outputs:
        assert (y.shape, y.dtype, y.device.type) == ((8, 4), torch.float32, "cuda")
