from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.library import opcheck

from googlenet_fast.ops import conv_bias_relu, use_impl
from tests.helpers import TRITON

Check = Callable[[Tensor, Tensor, Tensor], None]

IMPLEMENTATIONS = ("reference", "aten", TRITON)
SHAPES = {
    "stem 1x1": (2, 64, 8, 8, 64, 1),
    "stem 3x3": (1, 64, 7, 7, 192, 3),
    "head": (2, 512, 4, 4, 128, 1),
    "5x5": (2, 24, 5, 9, 48, 5),
    "odd": (3, 7, 13, 5, 11, 3),
    "small": (2, 3, 3, 4, 5, 3),
    "one pixel": (1, 3, 1, 1, 5, 3),
}
"""N, C, H, W, outputs, kernel."""


def make_arguments(name: str, dtype: torch.dtype = torch.float32) -> list[Any]:
    n, c, h, w, k, taps = SHAPES[name]
    weight = torch.randn(k, c, taps, taps) / (c * taps * taps) ** 0.5
    weight = weight.to(dtype, memory_format=torch.channels_last)
    return [torch.randn(n, c, h, w).to(dtype), weight, torch.randn(k) + 8]


def plain(x: Tensor, weight: Tensor, bias: Tensor | None = None, relu: bool = True) -> Tensor:
    """The op in plain PyTorch, the bias added to the rounded convolution as on a GPU."""
    y = F.conv2d(x, weight, padding=weight.size(2) // 2)
    y = y if bias is None else (y + bias.view(-1, 1, 1)).to(y.dtype)
    return y.relu() if relu else y


def gradients(
    op: Callable[..., Tensor], arguments: list[Any], grad: Tensor, *rest: bool
) -> list[Tensor]:
    leaves = [a.detach().requires_grad_() for a in arguments]
    y = op(*leaves, *rest)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad.to(y.device, y.dtype))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("implementation", ["aten", TRITON])
def test_is_as_accurate_as_plain_pytorch(
    implementation: str, name: str, dtype: torch.dtype, device: str, check_accuracy: Check
) -> None:
    arguments = make_arguments(name, dtype)
    grad = torch.randn_like(plain(*arguments))
    exact = gradients(plain, [a.double() for a in arguments], grad)
    expected = gradients(plain, arguments, grad)
    with use_impl(implementation):
        actual = gradients(conv_bias_relu, [a.to(device) for a in arguments], grad)
    for ours, theirs, truth in zip(actual, expected, exact, strict=True):
        check_accuracy(ours.cpu(), theirs, truth)


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", ["stem 1x1", "odd"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_every_flag(implementation: str, name: str, bias: bool, relu: bool, device: str) -> None:
    # Small integers: all sums are exact, so ReLU's masks cannot differ.
    x, weight, b = ((4 * t).round().clamp(-2, 2).to(device) for t in make_arguments(name))
    leaves = [x.requires_grad_(), weight.requires_grad_(), *([b.requires_grad_()] if bias else [])]
    with use_impl(implementation):
        y = conv_bias_relu(x, weight, b if bias else None, relu)
    expected = plain(x, weight, b if bias else None, relu)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y, expected)
    grad = torch.randint(-3, 4, y.shape, device=device).float()
    for ours, theirs in zip(
        torch.autograd.grad(y, leaves, grad),
        torch.autograd.grad(expected, leaves, grad),
        strict=True,
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.triton
@pytest.mark.parametrize("frozen", [0, 1])
def test_triton_computes_only_the_gradients_asked_for(frozen: int, device: str) -> None:
    arguments = [a.to(device) for a in make_arguments("stem 1x1")]
    grad = torch.randn(2, 64, 8, 8, device=device)
    with use_impl("triton"):
        expected = gradients(conv_bias_relu, arguments, grad)[1:]
        leaves = [a.detach().requires_grad_(i != frozen) for i, a in enumerate(arguments)]
        kept = [leaf for leaf in leaves if leaf.requires_grad]
        actual = torch.autograd.grad(conv_bias_relu(*leaves), kept, grad)
    del expected[frozen]
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.triton
def test_triton_takes_slices_and_empty_batches(device: str) -> None:
    x, weight, bias = (a.to(device) for a in make_arguments("odd"))
    wide = torch.cat([x, x], dim=1).contiguous(memory_format=torch.channels_last)[:, :7]
    with use_impl("triton"):
        torch.testing.assert_close(conv_bias_relu(wide, weight, bias), plain(x, weight, bias))
        empty = gradients(conv_bias_relu, [x[:0], weight, bias], x.new_empty(0, 11, 13, 5))
    assert empty[0].shape == (0, 11, 13, 5)
    assert not empty[2].any()
    assert not empty[3].any()


@pytest.mark.triton
@pytest.mark.usefixtures("fast_interpreter")
def test_triton_passes_opcheck(device: str) -> None:
    arguments = [a.to(device) for a in make_arguments("small")]
    opcheck(torch.ops.googlenet_fast.conv_bias_relu_triton, (*arguments, True, 1, []))
    leaves = [a.requires_grad_() for a in arguments]
    opcheck(torch.ops.googlenet_fast.conv_bias_relu_triton, (*leaves, True, 1, []))
    x, weight, _ = (a.detach() for a in arguments)
    y = torch.randn(2, 5, 3, 4, device=device).to(memory_format=torch.channels_last)
    for need_x, need_parameters in ((True, True), (False, True), (True, False)):
        opcheck(
            torch.ops.googlenet_fast.conv_bias_relu_triton_backward,
            (torch.randn_like(y), x, y, weight, 1, need_x, need_parameters),
        )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_compiles_whole_and_under_autocast(implementation: str, device: str) -> None:
    arguments = [a.to(device).requires_grad_() for a in make_arguments("5x5")]
    compiled = torch.compile(conv_bias_relu, fullgraph=True, backend="aot_eager")
    with use_impl(implementation), torch.autocast(device, dtype=torch.float16):
        y = compiled(*arguments)
    assert y.dtype == torch.float16
    torch.testing.assert_close(y.float(), plain(*arguments), rtol=1e-2, atol=1e-2)
    for leaf, grad in zip(arguments, torch.autograd.grad(y.float().sum(), arguments), strict=True):
        assert grad.dtype == leaf.dtype == torch.float32


@pytest.mark.skipif(torch.version.cuda is None, reason="needs a CUDA build of torch")
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_fake_cuda_tensors_need_no_gpu(implementation: str) -> None:
    with FakeTensorMode(), use_impl(implementation):
        arguments: list[Any] = [torch.empty(a.shape, device="cuda") for a in make_arguments("odd")]
        y = conv_bias_relu(*arguments)
    assert (y.device.type, tuple(y.shape)) == ("cuda", (3, 11, 13, 5))


def test_a_weight_for_other_channels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(4, 3, 2, 2\) for 3 channels.*odd"):
        conv_bias_relu(torch.randn(1, 3, 4, 4), torch.randn(4, 3, 2, 2))
