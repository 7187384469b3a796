"""Check CPU kernels at awkward shapes and strides, in a process whose extension is sanitized."""

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from googlenet_fast import extension
from googlenet_fast.ops import (
    bias_relu_pool,
    bn_relu_concat,
    bn_relu_pool,
    concat_bias_relu,
    conv_bias_relu,
    inception,
    local_response_norm,
    max_pool,
    use_impl,
)
from tests.helpers import sparse_tensor

Layout = Callable[[Tensor], Tensor]
"""Arranges (N, C, H, W) in memory."""


def far_apart(x: Tensor) -> Tensor:
    """The same values with pixels so far apart that offsets take more than 32 bits."""
    n, channels, height, width = x.shape
    pixels = max(1, n * height * width)
    stride = 2**32 // pixels + channels
    wide = sparse_tensor(pixels * stride, x.dtype)
    shape = (n, height, width, channels)
    strides = (height * width * stride, width * stride, stride, 1)
    return wide.as_strided(shape, strides).permute(0, 3, 1, 2).copy_(x)


def last_channels(x: Tensor) -> Tensor:
    """The same values as the last channels of a wider tensor of NaN."""
    n, channels, height, width = x.shape
    wide = x.new_full((n, height, width, 3 + channels), float("nan"))
    return wide.permute(0, 3, 1, 2)[:, 3:].copy_(x)


LAYOUTS: dict[str, Layout] = {
    "dense": lambda x: x.contiguous(memory_format=torch.channels_last),
    "last channels": last_channels,
    "far apart": far_apart,
    "NCHW": lambda x: x.contiguous(),
}

CASES = [
    *(((2, 7, 9, 5), layout, torch.float32) for layout in LAYOUTS),
    ((3, 70, 6, 6), "last channels", torch.float32),
    ((1, 5, 14, 7), "last channels", torch.float32),
    ((1, 37, 2, 13), "last channels", torch.bfloat16),
    ((2, 5, 3, 4), "far apart", torch.bfloat16),
    ((1, 1, 1, 1), "dense", torch.float32),
    ((0, 3, 4, 4), "dense", torch.float32),
]
"""(N, C, H, W), layout, dtype"""

TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 2e-2}
"""Of the relative error, in norm. A wrong read or write exceeds it by far."""


def block(x: Tensor) -> Tensor:
    c = x.size(1)
    shapes = [(13, c, 1, 1), (6, 5, 3, 3), (9, 1, 5, 5), (2, c, 1, 1)]
    parameters: list[Any] = []
    for shape in shapes:
        parameters += [filters(*shape), filters(shape[0])]
    return inception(x, *parameters)


def filters(*shape: int) -> Tensor:
    return torch.randn(shape, requires_grad=True)


def normalized(x: Tensor) -> Tensor:
    return bn_relu_concat([x, x], norms(x, 2))


def norms(x: Tensor, count: int) -> list[nn.BatchNorm2d]:
    torch.manual_seed(2)
    made = [nn.BatchNorm2d(x.size(1)) for _ in range(count)]
    for norm in made:
        nn.init.normal_(norm.weight)
    return made


OPS: dict[str, Callable[[Tensor], Tensor]] = {
    "inception": block,
    "1x1": lambda x: conv_bias_relu(x, filters(50, x.size(1), 1, 1), None, False),
    "3x3": lambda x: conv_bias_relu(x, filters(35, x.size(1), 3, 3), filters(35), True),
    "5x5": lambda x: conv_bias_relu(x, filters(5, x.size(1), 5, 5), filters(5), True),
    "7x7/2": lambda x: conv_bias_relu(x, filters(5, x.size(1), 7, 7), filters(5), True, 2),
    "bias_relu_pool": lambda x: bias_relu_pool(x, filters(x.size(1)), True, True),
    "max_pool": max_pool,
    "local_response_norm": local_response_norm,
    "concat_bias_relu": lambda x: concat_bias_relu([x, x], [filters(x.size(1))] * 2),
    "bn_relu_concat": normalized,
    "bn_relu_pool": lambda x: bn_relu_pool(x, norms(x, 1)[0], True),
}


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def run(
    op: str, implementation: str, x: Tensor, grad_y: Callable[[Tensor], Tensor]
) -> list[Tensor]:
    """Output in training and in inference, and the input's gradient."""
    torch.manual_seed(1)
    leaf = x.detach().requires_grad_()
    with use_impl(implementation):
        y = OPS[op](leaf)
        (gradient,) = torch.autograd.grad(y, leaf, grad_y(y))
        torch.manual_seed(1)
        with torch.no_grad():
            return [y.detach(), OPS[op](leaf), gradient]


@pytest.mark.parametrize(("size", "layout", "dtype"), CASES, ids=str)
@pytest.mark.parametrize("op", OPS)
def test_equals_the_reference(
    op: str, size: tuple[int, ...], layout: str, dtype: torch.dtype
) -> None:
    x = torch.randn(size).to(dtype)
    if op == "bias_relu_pool" and size[2] < 2:
        with pytest.raises(ValueError, match="no window"):
            bias_relu_pool(x, None, True, True)
        return
    if op.startswith("bn_") and size[0] * size[2] * size[3] < 2:
        with pytest.raises(ValueError, match="no variance"):
            OPS[op](x)
        return
    grad = torch.randn(run(op, "reference", x.float(), torch.zeros_like)[0].shape).to(dtype)
    expected = run(op, "reference", x.float(), lambda _: grad.float())
    arranged, arranged_grad = (LAYOUTS[layout](t) for t in (x, grad))
    actual = run(op, "native", arranged, lambda _: arranged_grad)
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.dtype == dtype
        assert (ours.float() - theirs).norm() <= TOLERANCES[dtype] * theirs.norm()


@pytest.mark.parametrize("op", OPS)
def test_no_channels(op: str) -> None:
    x = torch.randn(2, 0, 5, 4)
    actual = run(op, "native", x, torch.ones_like)
    assert actual[2].shape == x.shape
    assert torch.equal(actual[0], actual[1])
    assert actual[0].isfinite().all()


def test_no_channels_to_no_channels() -> None:
    x = torch.randn(2, 0, 5, 4, requires_grad=True)
    with use_impl("native"):
        y = conv_bias_relu(x, filters(0, 0, 3, 3), filters(0))
    assert y.shape == x.shape
    assert torch.autograd.grad(y, x, torch.ones_like(y))[0].shape == x.shape


@pytest.mark.parametrize("op", ["bias_relu_pool", "max_pool"])
def test_more_than_2_31_pixels_are_refused(op: str) -> None:
    x = torch.zeros(1, 1, 2, 2).expand(2**30, -1, -1, -1)
    with use_impl("native"), pytest.raises(RuntimeError, match=r"less than 2\^31 pixels"):
        OPS[op](x)


@pytest.mark.parametrize("width", [1, 40])
def test_max_pool_into_a_slice(width: int) -> None:
    x, y = torch.randn(2, 3, 5, width), torch.full((2, 3, 5, width + 3), 7.0)
    pool_into(x, y[..., 3:], width)
    with use_impl("reference"):
        assert torch.equal(y[..., 3:].permute(0, 3, 1, 2), max_pool(x.permute(0, 3, 1, 2)))
    assert (y[..., :3] == 7).all()


def pool_into(x: Tensor, y: Tensor, channels: int) -> None:
    """Run the kernel on (N, H, W, C)."""
    pointers = [value for t in (x, y) for value in (t.data_ptr(), t.stride(2))]
    function = ctypes.CDLL(str(extension.PATH)).pool_into
    function(*x.shape[:3], *map(ctypes.c_int64, (channels, *pointers)))
