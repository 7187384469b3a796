"""Kernels for CPUs at awkward shapes and strides. Runs where the extension is sanitized."""

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from googlenet_fast.ops import (
    bias_relu_pool,
    concat_bias_relu,
    conv_bias_relu,
    extension,
    inception,
    local_response_norm,
    max_pool,
    use_impl,
)

SIZES = [(2, 7, 9, 5), (1, 1, 1, 1), (0, 3, 4, 4), (1, 37, 2, 13), (3, 70, 6, 6)]
"""(N, C, H, W)"""


def inside_wider(x: Tensor, before: int, after: int) -> Tensor:
    """The same values as the first or last channels, or others, of a wider tensor."""
    n, channels, height, width = x.shape
    wide = x.new_full((n, height, width, before + channels + after), float("nan"))
    view = wide.permute(0, 3, 1, 2)[:, before : before + channels]
    return view.copy_(x)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "dense": lambda x: x.contiguous(memory_format=torch.channels_last),
    "last channels": lambda x: inside_wider(x, 3, 0),
    "huge stride": lambda x: inside_wider(x, 1, 30000),
    "NCHW": lambda x: x.contiguous(),
}


def block(x: Tensor) -> Tensor:
    c = x.size(1)
    shapes = [(13, c, 1, 1), (6, 5, 3, 3), (9, 1, 5, 5), (2, c, 1, 1)]
    parameters: list[Any] = []
    for shape in shapes:
        parameters += [filters(*shape), filters(shape[0])]
    return inception(x, *parameters)


def filters(*shape: int) -> Tensor:
    return torch.randn(shape, requires_grad=True)


OPS: dict[str, Callable[[Tensor], Tensor]] = {
    "inception": block,
    "1x1": lambda x: conv_bias_relu(x, filters(50, x.size(1), 1, 1), None, False),
    "3x3": lambda x: conv_bias_relu(x, filters(35, x.size(1), 3, 3), filters(35), True),
    "5x5": lambda x: conv_bias_relu(x, filters(5, x.size(1), 5, 5), filters(5), True),
    "bias_relu_pool": lambda x: bias_relu_pool(x, filters(x.size(1)), True, True),
    "max_pool": max_pool,
    "local_response_norm": local_response_norm,
    "concat_bias_relu": lambda x: concat_bias_relu([x, x], [filters(x.size(1))] * 2),
}


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def run(
    op: str, implementation: str, x: Tensor, layout: Callable[[Tensor], Tensor]
) -> list[Tensor]:
    torch.manual_seed(1)
    leaf = x.detach().requires_grad_()
    with use_impl(implementation):
        y = OPS[op](leaf)
        gradient = torch.autograd.grad(y, leaf, layout(torch.randn(y.shape)))
        with torch.no_grad():
            return [y, OPS[op](leaf), *gradient]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("op", OPS)
def test_equals_the_reference(op: str, size: tuple[int, ...], layout: str) -> None:
    if op == "bias_relu_pool" and size[2] < 2:
        return
    arrange = LAYOUTS[layout]
    x = arrange(torch.randn(size))
    actual, expected = (run(op, name, x, arrange) for name in ("native", "reference"))
    for ours, theirs in zip(actual[2:], expected[2:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * scale(theirs))
    torch.testing.assert_close(actual[0], expected[0], rtol=1e-4, atol=1e-4 * scale(expected[0]))


def scale(x: Tensor) -> float:
    return x.abs().max().item() if x.numel() else 1.0


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
