"""Check that the CUDA kernels' ops work with torch, in a process with the emulated extension."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.library import opcheck

from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.ops import local_response_norm, use_impl
from tests.cuda_emulator.calls import CALLS, results

ops = torch.ops.googlenet_fast


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("op", CALLS)
def test_autocast(op: str, dtype: torch.dtype) -> None:
    function, tensors = CALLS[op]
    with use_impl("native"), torch.autocast("cpu", dtype=dtype):
        leaves = [tensor.detach().requires_grad_() for tensor in tensors]
        y = function(*leaves)
        grads = torch.autograd.grad(y.float().sum(), leaves)
    assert y.dtype == dtype
    assert [grad.dtype for grad in grads] == [torch.float32] * len(leaves)


def test_opcheck() -> None:
    x, bias = torch.randn(2, 12, 9, 8), torch.randn(12)
    for with_grad in (False, True):
        leaf = x.clone().requires_grad_(with_grad)
        opcheck(ops.max_pool.default, (leaf,))
        opcheck(ops.local_response_norm.default, (leaf, 5, 0.1, 0.75, 1.0))
        opcheck(ops.bias_relu_pool.default, (leaf, bias.clone().requires_grad_(), True, True))
        opcheck(ops.bias_relu_pool.default, (leaf, None, False, False))
    opcheck(ops.local_response_norm_backward.default, (torch.randn_like(x), x, 5, 0.1, 0.75, 1.0))
    y, index = ops.max_pool_training.default(x)
    for add_to in (None, torch.randn_like(x)):
        opcheck(ops.max_pool_backward.default, (y, index, add_to))
    y, index = ops.bias_relu_pool_training.default(x, bias, True, True)
    for need_bias in (True, False):
        opcheck(ops.bias_relu_pool_backward.default, (y, index, 9, 8, need_bias))


def test_opcheck_of_the_step() -> None:
    """What is written is what the schema says, with fake tensors too."""
    tensors = [torch.randn(3, 4), torch.randn(5)]
    lists = [[x.clone() for x in tensors] for _ in range(3)]
    copies = [x.half() for x in tensors]
    one = torch.ones(())
    rest = [one, one], [0.1, 0.0], 0.9, True, one, torch.zeros(()), one
    opcheck(ops.sgd_step.default, (tensors, lists[0], lists[1], copies, lists[2], *rest))
    opcheck(ops.find_nonfinite.default, (tensors, torch.zeros(())))


@pytest.mark.parametrize("op", CALLS)
def test_compiles_whole(op: str) -> None:
    function, tensors = CALLS[op]
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    with use_impl("native"):
        grad = torch.randn(function(*tensors).shape)
        actual, expected = (results(f, tensors, grad) for f in (compiled, function))
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.max_pool.default(torch.ones(3, 3)), "max_pool: x must be"),
        (
            lambda: ops.max_pool.default(torch.ones(1, 1, 2, 2).double()),
            "x must be of Half or BFloat16 or Float, not Double",
        ),
        (
            lambda: ops.max_pool.default(torch.ones(1, 1, 1, 1).expand(2**15, 1, 2**9, 2**7)),
            r"x must be of less than 2\^31 pixels",
        ),
        (
            lambda: ops.max_pool_backward.default(
                torch.ones(1, 2, 3, 3), torch.ones(1, 2, 3, 3), None
            ),
            "index must be of Byte, not Float",
        ),
        (
            lambda: ops.bias_relu_pool.default(torch.ones(1, 2, 3, 3), torch.ones(3), True, False),
            r"bias must be \(2\), not \(3\)",
        ),
        (
            lambda: ops.local_response_norm.default(torch.ones(1, 2, 3, 3), 4, 1.0, 1.0, 1.0),
            "size must be a window of 5 channels, not 4",
        ),
        (
            lambda: ops.local_response_norm_backward.default(
                torch.ones(1, 2, 3, 3), torch.ones(1, 3, 3, 3), 5, 1.0, 1.0, 1.0
            ),
            r"grad_y must be \(1, 3, 3, 3\), not \(1, 2, 3, 3\)",
        ),
    ],
)
def test_unsupported_arguments_are_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        call()


def test_other_windows_are_refused() -> None:
    x = torch.randn(1, 8, 3, 3)
    with use_impl("native"), pytest.raises(GoogLeNetError, match="windows of 5 channels, not 3"):
        local_response_norm(x, size=3)
