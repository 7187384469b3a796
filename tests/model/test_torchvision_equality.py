"""The `torchvision` preset equals torchvision's own network with the same weights.

In float64, so that equality is not blurred by the order of fp32 sums, which batch normalisation
over few values amplifies.
"""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from googlenet_fast.model import GoogLeNet
from googlenet_fast.model.layers import Dropout

torchvision = pytest.importorskip("torchvision")

FRONT = ("conv", "inception3")
"""Where the names of the stem's and the first two blocks' parameters start."""

Gradients = Callable[[nn.Module], dict[str, Tensor]]


def pair(*, aux: bool = True, transform_input: bool = False) -> tuple[nn.Module, GoogLeNet]:
    """torchvision's network and ours, float64, same random weights and statistics."""
    theirs = torchvision.models.GoogLeNet(
        num_classes=7, aux_logits=aux, transform_input=transform_input, init_weights=False
    ).double()
    for key, value in theirs.state_dict().items():
        if key.endswith(("bn.weight", "running_var")):
            value.uniform_(0.5, 1.5)
        elif key.endswith(("bn.bias", "running_mean")):
            value.uniform_(-0.3, 0.3)
    ours = GoogLeNet("torchvision", 7, aux=aux, transform_input=transform_input).double()
    ours.load_state_dict(theirs.state_dict())
    for module in [*theirs.modules(), *ours.modules()]:
        if isinstance(module, nn.Dropout | Dropout):
            module.p = 0.0
    return theirs, ours


def assert_close(actual: Tensor, expected: Tensor) -> None:
    floor = 1e-11 * expected.abs().max().item()
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=floor)


@pytest.mark.parametrize("transform_input", [False, True])
@pytest.mark.parametrize("size", [(96, 80), (64, 107)])
def test_inference(size: tuple[int, int], transform_input: bool) -> None:
    theirs, ours = pair(transform_input=transform_input)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        assert_close(ours.eval()(x), theirs.eval()(x))


def test_training_step(gradients: Gradients) -> None:
    theirs, ours = pair()
    x = torch.randn(3, 3, 96, 80, dtype=torch.float64)
    x_theirs, x_ours = (x.clone().requires_grad_() for _ in range(2))
    expected, actual = theirs.train()(x_theirs), ours.train()(x_ours)
    assert_close(actual.logits, expected.logits)
    assert_close(actual.aux1, expected.aux_logits1)
    assert_close(actual.aux2, expected.aux_logits2)

    weights = torch.randn(3, 3, 7, dtype=torch.float64)
    outputs = (expected.logits, expected.aux_logits1, expected.aux_logits2)
    sum((y * w).sum() for y, w in zip(outputs, weights, strict=True)).backward()
    sum((y * w).sum() for y, w in zip(actual, weights, strict=True)).backward()
    ours_gradients, theirs_gradients = gradients(ours), gradients(theirs)
    assert ours_gradients.keys() == theirs_gradients.keys()
    for key, gradient in theirs_gradients.items():
        assert_close(ours_gradients[key], gradient)
    assert x_ours.grad is not None
    assert x_theirs.grad is not None
    assert_close(x_ours.grad, x_theirs.grad)

    for (key, buffer), tensor in zip(
        theirs.state_dict().items(), ours.state_dict().values(), strict=True
    ):
        if "running" in key or "num_batches" in key:
            assert_close(tensor, buffer)


def front(net: Any, x: Tensor) -> Tensor:
    """Means (N, 480) after the stem and the first two blocks of either network."""
    if isinstance(net, GoogLeNet):
        x = net._stem(x, (), {})
    else:
        x = net.maxpool2(net.conv3(net.conv2(net.maxpool1(net.conv1(x)))))
    return net.inception3b(net.inception3a(x)).mean((2, 3))


def train_twenty_steps(net: nn.Module, dtype: torch.dtype) -> Tensor:
    """The losses of 20 steps of SGD, then all parameters and running statistics."""
    net = copy.deepcopy(net).to(dtype).train()
    parameters = [p for name, p in net.named_parameters() if name.startswith(FRONT)]
    optimizer = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, weight_decay=1e-4)
    generator = torch.Generator().manual_seed(5)
    losses = []
    for _ in range(20):
        x = torch.randn(8, 3, 32, 32, generator=generator).to(dtype)
        labels = torch.randint(480, (8,), generator=generator)
        loss = F.cross_entropy(front(net, x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    state = [v for key, v in net.state_dict().items() if key.startswith(FRONT)]
    return torch.cat([v.double().flatten() for v in [torch.stack(losses), *state]])


def test_twenty_steps() -> None:
    theirs, ours = pair(aux=False)
    truth = train_twenty_steps(theirs, torch.float64)
    error = (train_twenty_steps(ours, torch.float64) - truth).norm() / truth.norm()
    assert error < 1e-11
    # In fp32 a value that moves across zero, or to another place in a pool, is a step of 1e-4.
    plain = (train_twenty_steps(theirs, torch.float32) - truth).norm() / truth.norm()
    error = (train_twenty_steps(ours, torch.float32) - truth).norm() / truth.norm()
    assert error < 2 * plain + 1e-3


def test_without_auxiliary_heads() -> None:
    theirs, ours = pair(aux=False)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    assert_close(ours.train()(x), theirs.train()(x))


def test_state_dicts_are_interchangeable() -> None:
    theirs = torchvision.models.GoogLeNet(num_classes=7, init_weights=False)
    ours = GoogLeNet("torchvision", 7)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    again = torchvision.models.GoogLeNet(num_classes=7, init_weights=False)
    again.load_state_dict(ours.state_dict(), strict=True)
    for key, tensor in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key
