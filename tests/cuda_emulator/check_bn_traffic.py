"""Count the bytes that CUDA kernels of batch norm move, as check_traffic.py does."""

import pytest
import torch

from tests.cuda_emulator.check_traffic import channels_last, expect, launches, partial_sums, size

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
ops = torch.ops.googlenet_fast


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_each_pass_moves_the_least_bytes(dtype: torch.dtype) -> None:
    widths = (64, 32, 8)
    branches = [channels_last(2, width, 28, 28, dtype=dtype) for width in widths]
    grads = list(channels_last(2, sum(widths), 28, 28, dtype=dtype).split(widths, dim=1))
    weights, biases = torch.randn(sum(widths)).split(widths), torch.randn(sum(widths)).split(widths)
    partial = 2 * partial_sums(2 * 28 * 28, sum(widths))
    launches()
    statistics = ops.bn_relu_concat_statistics.default(branches)
    loaded, stored = size(*branches) + partial, size(statistics) + partial
    expect(("bn_relu_concat_statistics", loaded, stored))
    parts = statistics.split(widths, dim=1)
    norms = (branches, list(parts), list(weights), list(biases), 1e-3)
    constants = size(statistics, *weights, *biases)
    for concatenate in (True, False):
        results = ops.bn_relu_concat.default(*norms, concatenate)
        expect(("bn_relu_concat", size(*branches) + constants, size(*results)))
    sums = ops.bn_relu_concat_sums.default(grads, *norms)
    loaded, stored = size(*grads, *branches) + constants + partial, size(sums) + partial
    expect(("bn_relu_concat_sums", loaded, stored))
    each = list(sums.split(widths, dim=1))
    for concatenate in (True, False):
        results = ops.bn_relu_concat_backward.default(grads, *norms, each, 1568.0, concatenate)
        loaded = size(*grads, *branches, sums) + constants
        expect(("bn_relu_concat_backward", loaded, size(*results)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_normalised_activation_before_a_pool_is_never_moved(dtype: torch.dtype) -> None:
    x, weight, bias = channels_last(2, 64, 28, 28, dtype=dtype), torch.ones(64), torch.ones(64)
    statistics = ops.bn_relu_concat_statistics.default([x])
    launches()
    y, index = ops.bn_relu_pool.default(x, statistics, weight, bias, 1e-3, True)
    constants = size(statistics, weight)
    expect(("bn_relu_pool", size(x, bias) + constants, size(y, index)))
    partial = 2 * partial_sums(2 * 28 * 28, 64)
    sums = ops.bn_relu_pool_sums.default(y, index, x, statistics, 1e-3)
    loaded, stored = size(y, index, x, statistics) + partial, size(sums) + partial
    expect(("bn_relu_pool_sums", loaded, stored))
    grad = ops.bn_relu_pool_backward.default(y, index, x, statistics, weight, 1e-3, sums, 1568.0)
    expect(("bn_relu_pool_backward", size(y, index, x, sums) + constants, size(grad)))
