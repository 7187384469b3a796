from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import gradcheck

from googlenet_fast.ops import bias_relu_pool


def definition(x: Tensor, bias: Tensor | None, relu: bool, ceil_mode: bool) -> Tensor:
    if bias is not None:
        x = x + bias.view(-1, 1, 1)
    return F.max_pool2d(F.relu(x) if relu else x, 3, stride=2, ceil_mode=ceil_mode)


@pytest.mark.parametrize("size", [(56, 56), (13, 27), (4, 3)], ids=str)
@pytest.mark.parametrize("ceil_mode", [True, False])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("with_bias", [True, False])
def test_equals_its_definition(
    with_bias: bool, relu: bool, ceil_mode: bool, size: tuple[int, int]
) -> None:
    x = torch.randn(2, 5, *size, requires_grad=True)
    bias = torch.randn(5, requires_grad=True) if with_bias else None
    y, expected = bias_relu_pool(x, bias, relu, ceil_mode), definition(x, bias, relu, ceil_mode)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y, expected)
    leaves = [x] if bias is None else [x, bias]
    grad = torch.randn_like(y)
    torch.testing.assert_close(
        torch.autograd.grad(y, leaves, grad), torch.autograd.grad(expected, leaves, grad)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_halves_with_a_bias_in_fp32(dtype: torch.dtype) -> None:
    x, bias = torch.randn(2, 8, 9, 9, dtype=dtype), torch.randn(8)
    y = bias_relu_pool(x, bias)
    assert y.dtype == dtype
    assert torch.equal(y, definition(x.float(), bias, True, False).to(dtype))
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(bias_relu_pool(x.float(), bias), y)


@pytest.mark.parametrize(
    "layout",
    [
        lambda x: x.contiguous(),
        lambda x: torch.cat([x, x], 1).to(memory_format=torch.channels_last)[:, 3:9],
        lambda x: x[:0],
    ],
    ids=["NCHW", "slice of channels", "empty batch"],
)
def test_any_layout(layout: Callable[[Tensor], Tensor]) -> None:
    x, bias = layout(torch.randn(2, 6, 9, 11)), torch.randn(6)
    y = bias_relu_pool(x, bias, ceil_mode=True)
    assert torch.equal(y, definition(x, bias, True, True))
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_gradcheck() -> None:
    x = torch.randn(1, 3, 7, 6, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x, bias: bias_relu_pool(x, bias, ceil_mode=True), (x, bias))


def test_compiles_whole() -> None:
    x, bias = torch.randn(2, 5, 9, 9, requires_grad=True), torch.randn(5)
    compiled = torch.compile(bias_relu_pool, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, bias), bias_relu_pool(x, bias))


@pytest.mark.skipif(torch.version.cuda is None, reason="needs a CUDA build of torch")
def test_fake_cuda_tensors_need_no_gpu() -> None:
    with FakeTensorMode():
        y = bias_relu_pool(torch.empty(2, 8, 9, 9, device="cuda"), torch.empty(8, device="cuda"))
    assert (y.device.type, tuple(y.shape)) == ("cuda", (2, 8, 4, 4))
