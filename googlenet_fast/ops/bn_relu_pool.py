"""Batch normalisation in training, ReLU and the 3x3/2 max pool that follows a stem convolution.

Equivalent to `max_pool2d(relu(norm(x)), 3, stride=2, ceil_mode=ceil_mode)`.

The full-size activation is read in four passes, statistics, result, the parameters' gradients and
the input's, and neither it nor its gradient is written. Between the passes processes may add up
their sums (`torch.nn.SyncBatchNorm`).
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn.modules.batchnorm import _BatchNorm

from googlenet_fast.ops.bias_relu_pool import pooled_size
from googlenet_fast.ops.bn_relu_concat import (
    bn_relu_concat_reference,
    check_norms,
    statistics_of,
    summed,
    update_running_statistics,
)
from googlenet_fast.ops.common import (
    POINTWISE_DTYPES,
    autocast,
    channels_last,
    empty_channels_last,
    native_supports,
    once_differentiable,
    sum_dtype,
)
from googlenet_fast.registry import Backend, Call, Op, Work, define


def bn_relu_pool(
    x: Tensor, norm: _BatchNorm, ceil_mode: bool = False, group: ProcessGroup | None = None
) -> Tensor:
    """Return max_pool(relu(norm(x))), windows of 3x3, stride 2; update running statistics.

    Args:
        x: (N, C, H, W) with H and W of 3 or more (2, if `ceil_mode`); fp16, bf16, fp32 or fp64,
            cast under autocast.
        norm: in training mode, with weight and bias.
        ceil_mode: keep the windows that the bottom and right edges cut.
        group: processes whose batches are normalised as one; None: this process alone.

    Returns:
        (N, C, H', W') in the dtype of `x`, channels_last; H' is (H - 3) / 2 + 1, rounded up if
        `ceil_mode` and down otherwise.

    Raises:
        ValueError: `x` is too small for a window, or the norm is not as said.
    """
    weights, biases = check_norms("bn_relu_pool", [x], [norm], group)
    if 0 in pooled_size(x.size(2), x.size(3), ceil_mode):
        raise ValueError(
            f"bn_relu_pool: no window of 3x3 in an input of {tuple(x.shape)}; give a larger image"
        )
    (x,) = autocast([x])
    arguments = (x, weights[0], biases[0], norm.eps, ceil_mode, group)
    y, statistics, total = BN_RELU_POOL.choose(*arguments).run(*arguments)
    update_running_statistics([norm], [statistics], total)
    return y


def bn_relu_pool_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    ceil_mode: bool,
    group: ProcessGroup | None,
) -> tuple[Tensor, Tensor, Tensor | float]:
    """Normalise, apply ReLU and pool, each on its own.

    Returns:
        The result; mean and biased variance of the batch, (2, C); values per channel.
    """
    y, statistics, total = bn_relu_concat_reference([x], [weight], [bias], eps, group)
    pooled = F.max_pool2d(y, 3, stride=2, ceil_mode=ceil_mode)
    return channels_last(pooled), statistics, total


def _run(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    ceil_mode: bool,
    group: ProcessGroup | None,
) -> tuple[Tensor, Tensor, Tensor | float]:
    statistics, total = statistics_of([x], group)
    y = _BnReluPool.apply(statistics, total, eps, ceil_mode, group, x, weight, bias)
    return y, statistics, total


class _BnReluPool(torch.autograd.Function):
    """Result and gradients; saves the input, two values per channel and a byte per pooled value."""

    @staticmethod
    def forward(
        ctx: Any,
        statistics: Tensor,
        total: Tensor | float,
        eps: float,
        ceil_mode: bool,
        group: ProcessGroup | None,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
    ) -> Tensor:
        y, index = _FORWARD(x, statistics, weight, bias, eps, ceil_mode)
        ctx.total, ctx.eps, ctx.group, ctx.bias_dtype = total, eps, group, bias.dtype
        ctx.save_for_backward(index, x, statistics, weight)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        index, x, statistics, weight = ctx.saved_tensors
        own = _SUMS(grad_y, index, x, statistics, ctx.eps)
        sums, total = summed(own, ctx.total, ctx.group)
        grad_x = None
        if ctx.needs_input_grad[5]:
            grad_x = _BACKWARD(grad_y, index, x, statistics, weight, ctx.eps, sums, total)
        grad_bias, grad_weight = own[0].to(ctx.bias_dtype), own[1].to(weight.dtype)
        return None, None, None, None, None, grad_x, grad_weight, grad_bias


def _fake(
    x: Tensor, statistics: Tensor, weight: Tensor, bias: Tensor, eps: float, ceil_mode: bool
) -> tuple[Tensor, Tensor]:
    y = empty_channels_last(x, x.size(1), pooled_size(x.size(2), x.size(3), ceil_mode))
    return y, empty_channels_last(y, y.size(1), dtype=torch.uint8)


def _fake_sums(grad_y: Tensor, index: Tensor, x: Tensor, statistics: Tensor, eps: float) -> Tensor:
    return x.new_empty(2, x.size(1), dtype=sum_dtype(x))


def _fake_backward(grad_y: Tensor, index: Tensor, x: Tensor, *_: Any) -> Tensor:
    return empty_channels_last(x, x.size(1))


def _supports(x: Tensor, *_: Any) -> str | None:
    return native_supports("bn_relu_pool", x, POINTWISE_DTYPES)


def _work(call: Call) -> Work:
    """Forward reads the input twice, backward twice and writes its gradient."""
    training, ((n, channels, height, width), dtype), *_ = call
    x = n * channels * height * width * dtype.itemsize
    pooled = x / 4 * (1 + 1 / dtype.itemsize)  # and an index
    return Work(0, 5 * x + 3 * pooled if training else 2 * x + pooled)


def _samples() -> Iterator[Call]:
    f32 = torch.float32
    for shape, ceil_mode in (((2, 64, 28, 28), True), ((1, 5, 9, 8), False)):
        parameter = (shape[1:2], f32)
        yield True, (shape, f32), parameter, parameter, 1e-3, ceil_mode, None


_FORWARD = define(
    "bn_relu_pool(Tensor x, Tensor statistics, Tensor weight, Tensor bias, float eps,"
    " bool ceil_mode) -> (Tensor, Tensor)",
    _fake,
)
_SUMS = define(
    "bn_relu_pool_sums(Tensor grad_y, Tensor index, Tensor x, Tensor statistics, float eps)"
    " -> Tensor",
    _fake_sums,
)
_BACKWARD = define(
    "bn_relu_pool_backward(Tensor grad_y, Tensor index, Tensor x, Tensor statistics,"
    " Tensor weight, float eps, Tensor sums, float total) -> Tensor",
    _fake_backward,
)
BN_RELU_POOL = Op(
    "bn_relu_pool",
    bn_relu_pool_reference,
    (Backend("cuda", "cuda", _run, _supports), Backend("native", "cpu", _run, _supports)),
    samples=_samples,
    work=_work,
)
