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
def test_bias_relu(dtype: torch.dtype) -> None:
    _, *slices = channels_last(2, 104, 28, 28, dtype=dtype).split((8, 64, 32), dim=1)
    biases = [torch.randn(64), torch.randn(32)]
    launches()
    outputs = ops.bias_relu.default(slices, biases, True)
    expect(("concat_bias_relu", size(*slices, *biases), size(*outputs)))
    grads = [channels_last(2, 8, 28, 28, dtype=dtype), *slices]
    partial = partial_sums(2 * 28 * 28, 104)
    loaded = size(*grads, *outputs) + partial
    y1 = torch.randn_like(grads[0])
    for concatenate in (True, False):
        results, sums = ops.bias_relu_backward.default(grads, [y1, *outputs], True, concatenate)
        stored = size(*results, sums) + partial
        expect(("concat_bias_relu_backward", loaded + size(y1), stored))


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
    grad_x = ops.max_pool_backward.default(torch.randn_like(y), index, None)
    expect(("max_pool_backward", size(y, index), size(grad_x)))
    grad_x = ops.max_pool_backward.default(torch.randn_like(y), index, torch.randn_like(x))
    expect(("max_pool_backward", size(y, index, x), size(grad_x)))


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


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sgd_step(dtype: torch.dtype) -> None:
    """Gradients are read once, in their own dtype; by a launch more if they are searched."""
    sizes = (30000, 5, 64, 20001)
    parameters, momenta, averages = ([torch.randn(n) for n in sizes] for _ in range(3))
    gradients = [torch.randn(n).to(dtype) for n in sizes]
    half = torch.float16 if dtype == torch.float32 else dtype
    copies = [gradient.to(half) for gradient in gradients]
    lr, flag = [torch.tensor(0.1)] * len(sizes), torch.tensor(0.0)
    rest = lr, [0.01] * len(sizes), 0.9, False, torch.tensor(8.0), flag
    launches()
    ops.find_nonfinite.default(gradients, flag)
    expect(("find_nonfinite", size(*gradients), 0))
    ops.sgd_step.default(parameters, gradients, momenta, copies, [], *rest, None)
    written = size(*parameters, *momenta)
    expect(("sgd_step", size(*gradients) + written, written + size(*copies)))
    ops.sgd_step.default(parameters, gradients, momenta, copies, averages, *rest, torch.tensor(0.1))
    written += size(*averages)
    expect(("sgd_step", size(*gradients) + written, written + size(*copies)))


@pytest.mark.parametrize(("count", "least"), [(133, 1), (160, 1), (161, 2)])
def test_the_tensors_of_a_network_are_one_launch(count: int, least: int) -> None:
    """Preset torchvision has the most, 133."""
    x, rate = torch.randn(count, 3), torch.tensor(0.1)
    launches()
    ops.find_nonfinite.default(list(x), torch.tensor(0.0))
    rest = [rate] * count, [0.0] * count, 0.0, False, None, None, None
    ops.sgd_step.default(list(x), list(x.clone()), [], [], [], *rest)
    names = [launch["kernel"] for launch in launches()]
    assert names == ["find_nonfinite"] * least + ["sgd_step"] * least


def test_a_skipped_step_reads_nothing_but_the_flag() -> None:
    x, flag = torch.randn(50000), torch.tensor(1.0)
    launches()
    ops.sgd_step.default(
        *([x], [x.half()], [x.clone()], [x.half()], [], [flag], [0.1], 0.9, False, None, flag, None)
    )
    expect(("sgd_step", 4, 0))
