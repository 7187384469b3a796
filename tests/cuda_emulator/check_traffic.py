"""Count the bytes that CUDA kernels move, in a process whose extension is the traced emulator.

Each byte counts once as loaded and once as stored: a GPU's caches serve repeated accesses.
"""

import ctypes
import json
from typing import Any

import pytest
import torch
from torch import Tensor

from googlenet_fast import extension

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SHAPE = (2, 64, 28, 28)
ops = torch.ops.googlenet_fast


def launches() -> list[dict[str, Any]]:
    """Launches since the last call."""
    report = ctypes.CDLL(str(extension.PATH)).cuda_emulator_launches
    report.restype = ctypes.c_char_p
    return json.loads(report())


def size(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def channels_last(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape).to(dtype, memory_format=torch.channels_last)


def expect(*expected: tuple[str, int, int]) -> None:
    """Assert the launches' names and, within 2 %, the bytes that they load and store."""
    found = launches()
    assert [launch["kernel"] for launch in found] == [kernel for kernel, _, _ in expected]
    for launch, (_, loaded, stored) in zip(found, expected, strict=True):
        assert launch["loaded"] == pytest.approx(loaded, rel=0.02)
        assert launch["stored"] == pytest.approx(stored, rel=0.02)


def partial_sums(pixels: int, channels: int) -> int:
    """Bytes of sums over 32 pixels each."""
    return -(-pixels // 32) * channels * 4


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_concat_bias_relu(dtype: torch.dtype) -> None:
    widths = (64, 32, 8)
    branches = [channels_last(2, width, 28, 28, dtype=dtype) for width in widths]
    biases = [torch.randn(width) for width in widths]
    launches()
    y = ops.concat_bias_relu.default(branches, biases, True)
    expect(("concat_bias_relu", size(*branches, *biases), size(y)))

    grad = torch.randn_like(y)
    grads, grad_bias = ops.concat_bias_relu_backward.default(grad, y, list(widths), True)
    partial = partial_sums(2 * 28 * 28, sum(widths))
    loaded, stored = size(grad, y) + partial, size(*grads, grad_bias) + partial
    expect(("concat_bias_relu_backward", loaded, stored))
    ops.concat_bias_relu_backward.default(grad, None, list(widths), False)
    expect(("concat_bias_relu_backward", size(grad), size(*grads)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bias_relu_pool(dtype: torch.dtype) -> None:
    x, bias = channels_last(*SHAPE, dtype=dtype), torch.randn(SHAPE[1])
    launches()
    y = ops.bias_relu_pool.default(x, bias, True, True)
    expect(("bias_relu_pool", size(x, bias), size(y)))
    y, index = ops.bias_relu_pool_training.default(x, bias, True, True)
    expect(("bias_relu_pool", size(x, bias), size(y, index)))

    grad = torch.randn_like(y)
    grad_x, grad_bias = ops.bias_relu_pool_backward.default(grad, index, 28, 28, True)
    partial = partial_sums(2 * 28 * 28, SHAPE[1])
    loaded, stored = size(grad, index) + partial, size(grad_x, grad_bias) + partial
    expect(("bias_relu_pool_backward", loaded, stored))
    ops.bias_relu_pool_backward.default(grad, index, 28, 28, False)
    expect(("bias_relu_pool_backward", size(grad, index), size(grad_x)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_max_pool(dtype: torch.dtype) -> None:
    x = channels_last(*SHAPE, dtype=dtype)
    launches()
    y = ops.max_pool.default(x)
    expect(("max_pool", size(x), size(y)))
    y, index = ops.max_pool_training.default(x)
    expect(("max_pool", size(x), size(y, index)))
    grad_x = ops.max_pool_backward.default(torch.randn_like(y), index)
    expect(("max_pool_backward", size(y, index), size(grad_x)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_local_response_norm(dtype: torch.dtype) -> None:
    x, parameters = channels_last(*SHAPE, dtype=dtype), (5, 1e-4, 0.75, 1.0)
    launches()
    y = ops.local_response_norm.default(x, *parameters)
    expect(("local_response_norm", size(x), size(y)))
    grad_x = ops.local_response_norm_backward.default(torch.randn_like(x), x, *parameters)
    expect(("local_response_norm_backward", size(x, x), size(grad_x)))


def test_only_the_slice_of_channels_is_read() -> None:
    wide = channels_last(2, 96, 14, 14, dtype=torch.float32)
    launches()
    for view in (wide[:, 16:48], wide[:, 3:35]):
        y = ops.max_pool.default(view)
        expect(("max_pool", size(view), size(y)))
