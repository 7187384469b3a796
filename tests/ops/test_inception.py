from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import gradcheck

from googlenet_fast.ops import inception, use_impl

Check = Callable[[Tensor, Tensor, Tensor], None]

# In channels, size, C1, C3r, C3, C5r, C5, Cp
BLOCKS = {
    "3a": (192, 28, 64, 96, 128, 16, 32, 32),
    "5b": (832, 7, 384, 192, 384, 48, 128, 128),
    "odd": (7, 13, 3, 5, 9, 1, 2, 1),
}
IMPLEMENTATIONS = ("reference", "aten")


def make_arguments(
    block: str, kernel: int = 5, bias: bool = True, dtype: torch.dtype = torch.float32
) -> list[Any]:
    """Random input, weights and biases, each output of order 1; biases in fp32 or wider."""
    c, size, c1, c3_reduce, c3, c5_reduce, c5, cp = BLOCKS[block]
    arguments: list[Any] = [torch.randn(2, c, size, size, dtype=dtype)]
    for out, fan, k in (
        (c1 + c3_reduce + c5_reduce, c, 1),
        (c3, c3_reduce, 3),
        (c5, c5_reduce, kernel),
        (cp, c, 1),
    ):
        weight = torch.randn(out, fan, k, k, dtype=torch.float64) / (fan * k * k) ** 0.5
        arguments.append(weight.to(dtype, memory_format=torch.channels_last))
        wide = torch.promote_types(dtype, torch.float32)
        arguments.append(torch.randn(out, dtype=wide) if bias else None)
    return arguments


def gradients(block: Callable[..., Tensor], arguments: list[Any], grad: Tensor) -> list[Tensor]:
    """Output and the gradients of all tensor arguments."""
    leaves = [a.detach().requires_grad_() for a in arguments]
    y = block(leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad.to(y.dtype))]


def plain_block(arguments: list[Any], reduce_relu: bool) -> Tensor:
    """The block in plain PyTorch, biases added to the rounded convolutions as on a GPU."""
    x, w_in, b_in, w3, b3, w5, b5, wp, bp = arguments

    def conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y = F.conv2d(x, weight, padding=weight.size(2) // 2)
        return y if bias is None else (y + bias.view(-1, 1, 1)).to(y.dtype)

    c1 = w_in.size(0) - w3.size(1) - w5.size(1)
    y1, r3, r5 = conv(x, w_in, b_in).split([c1, w3.size(1), w5.size(1)], dim=1)
    if reduce_relu:
        r3, r5 = r3.relu(), r5.relu()
    yp = conv(F.max_pool2d(x, 3, 1, 1), wp, bp)
    return torch.cat([y1, conv(r3, w3, b3), conv(r5, w5, b5), yp], dim=1).relu()


def in_float64(arguments: list[Any]) -> list[Any]:
    return [None if a is None else a.detach().double() for a in arguments]


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("reduce_relu", [True, False])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_equals_the_four_branches(
    implementation: str, reduce_relu: bool, bias: bool, kernel: int
) -> None:
    arguments = make_arguments("odd", kernel, bias, torch.float64)
    with use_impl(implementation):
        y = inception(*[*arguments, reduce_relu])
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, plain_block(arguments, reduce_relu))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("block", BLOCKS)
def test_aten_is_as_accurate_as_plain_pytorch(
    block: str, dtype: torch.dtype, check_accuracy: Check
) -> None:
    arguments = make_arguments(block, dtype=dtype)
    # Far from zero: where rounding moves a value across it, ReLU's gradient changes altogether.
    arguments[2::2] = [bias + 6 for bias in arguments[2::2]]
    grad = torch.randn_like(plain_block(arguments, True))
    exact = gradients(lambda tensors: plain_block(tensors, True), in_float64(arguments), grad)
    plain = gradients(lambda tensors: plain_block(tensors, True), arguments, grad)
    with use_impl("aten"):
        actual = gradients(lambda tensors: inception(*tensors), arguments, grad)
    for ours, theirs, truth in zip(actual, plain, exact, strict=True):
        check_accuracy(ours, theirs, truth)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_gradcheck(implementation: str) -> None:
    tensors = make_arguments("odd", dtype=torch.float64)
    small = [tensors[0][:1, :, :4, :5], *tensors[1:]]
    leaves = [t.detach().requires_grad_() for t in small if t is not None]
    with use_impl(implementation):
        assert gradcheck(inception, leaves, fast_mode=True)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_fp16_activations_with_fp32_biases(implementation: str) -> None:
    arguments = make_arguments("odd", dtype=torch.float16)
    with use_impl(implementation):
        y = inception(*arguments)
    assert y.dtype == torch.float16
    torch.testing.assert_close(
        y.double(), plain_block(in_float64(arguments), True), rtol=1e-2, atol=1e-2
    )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    "layout",
    [
        lambda x: x.contiguous(),
        lambda x: torch.cat([x, x], dim=1).to(memory_format=torch.channels_last)[:, :7],
        lambda x: x[:0],
        lambda x: x[:1, :, :1, :1],
    ],
    ids=["NCHW", "slice of channels", "empty batch", "one pixel"],
)
def test_any_layout(implementation: str, layout: Callable[[Tensor], Tensor]) -> None:
    x, *parameters = make_arguments("odd", dtype=torch.float64)
    assert x is not None
    odd = layout(x)
    with use_impl(implementation):
        y = inception(odd, *parameters)
    torch.testing.assert_close(y, plain_block([odd, *parameters], True))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_compiles_whole(implementation: str) -> None:
    arguments = [a.requires_grad_() for a in make_arguments("odd") if a is not None]
    compiled = torch.compile(inception, fullgraph=True, backend="aot_eager")
    with use_impl(implementation):
        y, expected = compiled(*arguments), inception(*arguments)
        torch.testing.assert_close(y, expected)
        grad = torch.randn_like(y)
        torch.testing.assert_close(
            torch.autograd.grad(y, arguments, grad), torch.autograd.grad(expected, arguments, grad)
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_autocast(implementation: str, dtype: torch.dtype) -> None:
    arguments = [a.requires_grad_() for a in make_arguments("odd") if a is not None]
    with torch.autocast("cpu", dtype=dtype), use_impl(implementation):
        y = inception(*arguments)
    assert y.dtype == dtype
    torch.testing.assert_close(
        y.double(), plain_block(in_float64(arguments), True), rtol=5e-2, atol=5e-2
    )
    for leaf, grad in zip(arguments, torch.autograd.grad(y.float().sum(), arguments), strict=True):
        assert grad.dtype == leaf.dtype == torch.float32


@pytest.mark.skipif(torch.version.cuda is None, reason="needs a CUDA build of torch")
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_fake_cuda_tensors_need_no_gpu(implementation: str) -> None:
    with FakeTensorMode(), use_impl(implementation):
        arguments: list[Any] = [
            torch.empty(a.shape, device="cuda") for a in make_arguments("odd") if a is not None
        ]
        y = inception(*arguments)
    assert (y.device.type, tuple(y.shape)) == ("cuda", (2, 15, 13, 13))
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_some_biases_are_refused() -> None:
    arguments = make_arguments("odd")
    arguments[4] = None
    with pytest.raises(ValueError, match="all four biases or none"):
        inception(*arguments)


def test_weights_that_do_not_fit_are_refused() -> None:
    arguments = make_arguments("odd")
    arguments[1] = torch.randn(6, 7, 1, 1)
    with pytest.raises(ValueError, match=r"\(6, 7, 1, 1\).*do not fit together"):
        inception(*arguments)
