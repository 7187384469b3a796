"""References are pure PyTorch, and what transforms of functions and gradients run."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, jvp, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from googlenet_fast import ops
from googlenet_fast.model import GoogLeNet
from googlenet_fast.model.presets import PRESETS
from googlenet_fast.ops import use_impl
from googlenet_fast.registry import NAMESPACE, OPS, Op
from googlenet_fast.selfcheck.cases import OpCall


class OnlyPyTorch(TorchDispatchMode):
    """Fails on a registered op of this package."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        assert func.namespace != NAMESPACE, func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", sorted(OPS))
def test_a_reference_calls_no_op_of_this_package(name: str) -> None:
    op: Op = OPS[name]
    for call in op.samples():
        with OnlyPyTorch():
            OpCall.of(op, call, "cpu").run(op.fallback)


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_nor_does_the_network_under_use_impl(preset: str) -> None:
    model = GoogLeNet(preset, 5)
    size = 64 if preset == "torchvision" else 224
    with OnlyPyTorch(), use_impl("reference"):
        outputs = model(torch.randn(2, 3, size, size))
        sum(x.sum() for x in outputs).backward()
        with torch.no_grad():
            model.eval()(torch.randn(1, 3, 64, 64))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_check_would_notice(device: str) -> None:
    x = torch.randn(1, 4, 5, 5, device=device)
    with pytest.raises(AssertionError, match=NAMESPACE), OnlyPyTorch():
        torch.ops.googlenet_fast.max_pool(x)


def assert_near(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """In norm: single values of sums that cancel may be further off."""
    assert (actual - expected).norm() <= tolerance * expected.norm()


def tensor(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


NORM = nn.BatchNorm2d(3, track_running_stats=False).double()

FUNCTIONS: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
    "inception": (
        ops.inception,
        (
            *(tensor(2, 3, 5, 5), tensor(6, 3, 1, 1), tensor(6)),
            *(tensor(2, 2, 3, 3), tensor(2), tensor(1, 3, 5, 5), tensor(1)),
            *(tensor(2, 3, 1, 1), tensor(2)),
        ),
    ),
    "conv_bias_relu": (ops.conv_bias_relu, (tensor(2, 3, 5, 5), tensor(2, 3, 3, 3), tensor(2))),
    "bias_relu_pool": (ops.bias_relu_pool, (tensor(2, 3, 5, 5), tensor(3))),
    "max_pool": (ops.max_pool, (tensor(2, 3, 5, 5),)),
    "local_response_norm": (ops.local_response_norm, (tensor(2, 7, 3, 3),)),
    "concat_bias_relu": (
        lambda *t: ops.concat_bias_relu(t[:2], t[2:]),
        (tensor(2, 2, 3, 3), tensor(2, 3, 3, 3), tensor(2), tensor(3)),
    ),
    "bn_relu_concat": (
        lambda x: ops.bn_relu_concat([x], [NORM]),
        (tensor(2, 3, 3, 3),),
    ),
}
"""In float64 for finite differences; `x` is the first argument."""


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_jvp_equals_finite_differences(name: str) -> None:
    function, arguments = FUNCTIONS[name]
    arguments = tuple(a.float() for a in arguments) if name != "bn_relu_concat" else arguments
    tangents = tuple(torch.randn_like(a) for a in arguments)
    y, tangent = jvp(function, arguments, tangents)[:2]
    exact = [a.double() for a in arguments]
    step = 1e-6
    with use_impl("reference"):
        ahead, behind = (
            function(*(a + s * step * t for a, t in zip(exact, tangents, strict=True)))
            for s in (1, -1)
        )
    expected = (ahead - behind) / (2 * step)
    assert expected.norm() > 0
    assert (tangent.double() - expected).norm() < 1e-3 * expected.norm()
    assert_near(y, function(*arguments), 1e-4)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_grad_jacrev_and_vmap(name: str) -> None:
    function, (x, *rest) = FUNCTIONS[name]
    x, *rest = (a.float() for a in (x, *rest)) if name != "bn_relu_concat" else (x, *rest)

    def loss(x: Tensor) -> Tensor:
        return function(x, *rest).square().sum()

    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf), leaf)
    assert_near(grad(loss)(x), expected, 1e-3)
    assert_near(jacrev(loss)(x), expected, 1e-3)
    batch = torch.stack([x, 2 * x])
    batched = vmap(lambda x: function(x, *rest))(batch)
    for one, each in zip(batch, batched, strict=True):
        assert_near(each, function(one, *rest), 1e-4)


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_jvp_of_the_network(preset: str) -> None:
    torch.manual_seed(0)
    model = GoogLeNet(preset, 3, aux=False).eval().double()
    for p in model.parameters():
        if p.ndim > 1:
            nn.init.kaiming_normal_(p)
    x, direction = tensor(1, 3, 64, 64), tensor(1, 3, 64, 64)
    parameters: dict[str, Tensor] = dict(model.named_parameters())

    def function(x: Tensor) -> Tensor:
        return functional_call(model, parameters, (x,))

    tangent = jvp(function, (x,), (direction,))[1]
    with torch.no_grad():
        expected = (model(x + 1e-6 * direction) - model(x - 1e-6 * direction)) / 2e-6
    # The step crosses a few kinks of ReLUs and maxima; a lost tangent would be 100 % off.
    assert (tangent - expected).norm() <= 2e-2 * expected.norm()
    with torch.autograd.forward_ad.dual_level():
        dual = model(torch.autograd.forward_ad.make_dual(x, direction))
        found = torch.autograd.forward_ad.unpack_dual(dual).tangent
    torch.testing.assert_close(found, tangent)


def test_registered_ops_refuse_tangents() -> None:
    """Exported graphs call them without the functions above."""
    x = torch.randn(1, 4, 5, 5)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        with pytest.raises(NotImplementedError, match=r"use_impl\('reference'\)"):
            torch.ops.googlenet_fast.max_pool(dual)
        torch.ops.googlenet_fast.max_pool(x)


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - {"concat_bias_relu"}))
def test_a_second_derivative_is_refused_and_the_reference_has_it(name: str) -> None:
    function, arguments = FUNCTIONS[name]
    if name != "bn_relu_concat":
        arguments = tuple(a.float() for a in arguments)
    leaves = [a.clone().requires_grad_() for a in arguments]

    def penalty() -> Tensor:
        (gradient,) = torch.autograd.grad(
            function(*leaves).square().sum(), leaves[0], create_graph=True
        )
        return gradient.square().sum()

    with pytest.raises(RuntimeError, match=r"use_impl\('reference'\)"):
        penalty()
    with use_impl("reference"):
        penalty().backward()
    assert all(leaf.grad is not None for leaf in leaves)


def test_gradients_of_each_image_of_the_network() -> None:
    model = GoogLeNet("torchvision", 3, aux=False).eval()
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    images = torch.randn(2, 3, 64, 64)

    def loss(parameters: dict[str, Tensor], image: Tensor) -> Tensor:
        return functional_call(model, parameters, (image[None],)).sum()

    each = vmap(grad(loss), (None, 0))(parameters, images)
    model(images).sum().backward()
    torch.testing.assert_close(each["fc.weight"].sum(0), model.fc.weight.grad, rtol=1e-3, atol=1e-3)
