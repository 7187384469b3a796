"""The 3x3/1 max pool of an Inception block.

Equivalent to `max_pool2d(x, 3, stride=1, padding=1)`.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from googlenet_fast.ops.common import (
    CONVOLUTION_DTYPES,
    autocast,
    below_autograd,
    channels_last,
    define_kernels,
    empty_channels_last,
    native_supports,
    needs_gradient,
    once_differentiable,
)
from googlenet_fast.registry import Backend, Call, Kernels, Op, Work

_WINDOW = ([3, 3], [1, 1], [1, 1])
"""Sides, strides and padding, as PyTorch's ops take them."""


def max_pool(x: Tensor) -> Tensor:
    """Return the maxima of the 3x3 pixels around each pixel, of those that lie in the image.

    Args:
        x: (N, C, H, W); fp16, bf16, fp32 or fp64, cast under autocast.

    Returns:
        (N, C, H, W) in the dtype of `x`, channels_last.
    """
    (x,) = autocast([x])
    return MAX_POOL.choose(x).run(x)


def max_pool_reference(x: Tensor) -> Tensor:
    """Pool by PyTorch, which saves the input and an int64 index for backward."""
    return channels_last(F.max_pool2d(channels_last(x), 3, stride=1, padding=1))


class _MaxPool(torch.autograd.Function):
    """The pool with its gradient; saves one byte per output element."""

    @staticmethod
    def forward(ctx: Any, kernels: Kernels, x: Tensor) -> Tensor:
        y, index = below_autograd(kernels.training, x)
        ctx.kernels = kernels
        ctx.save_for_backward(index)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[None, Tensor]:
        return None, ctx.kernels.backward(grad_y, *ctx.saved_tensors, None)


def pool(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pool of `x`, cast already, and the index that `unpool` takes; without autograd.

    For ops that are one node of the graph.
    """
    if _supports(x) is None:
        return KERNELS.training(x)
    return torch.ops.aten.max_pool2d_with_indices.default(x, *_WINDOW)


def unpool(grad_y: Tensor, index: Tensor, x: Tensor, add_to: Tensor) -> Tensor:
    """Return the gradient of a pooled `x`, plus `add_to`, in one pass where there is a kernel."""
    if index.dtype == torch.uint8:
        return KERNELS.backward(grad_y, index, add_to)
    backward = torch.ops.aten.max_pool2d_with_indices_backward.default
    return add_to + backward(grad_y, x, *_WINDOW, [1, 1], False, index)


def _autograd(kernels: Kernels, x: Tensor) -> Tensor:
    if needs_gradient((x,)):
        return _MaxPool.apply(kernels, x)
    return below_autograd(kernels.forward, x)


def _fake(x: Tensor, *_: Any) -> Tensor:
    """Return the output, or the gradient, which is like it."""
    return empty_channels_last(x, x.size(1))


def _fake_training(x: Tensor) -> tuple[Tensor, Tensor]:
    return _fake(x), empty_channels_last(x, x.size(1), dtype=torch.uint8)


def _supports(x: Tensor) -> str | None:
    return native_supports("max_pool", x, CONVOLUTION_DTYPES)


def _work(call: Call) -> Work:
    training, ((n, channels, height, width), dtype) = call
    index = n * channels * height * width
    x = index * dtype.itemsize
    return Work(0, 4 * x + 2 * index if training else 2 * x)


def _samples() -> Iterator[Call]:
    for shape in ((2, 64, 14, 14), (1, 5, 7, 9)):
        yield True, (shape, torch.float32)


KERNELS = define_kernels(
    "max_pool",
    forward=("(Tensor x) -> Tensor", _fake),
    training=("(Tensor x) -> (Tensor, Tensor)", _fake_training),
    backward=("(Tensor grad_y, Tensor index, Tensor? add_to) -> Tensor", _fake),
    autograd=_autograd,
)
MAX_POOL = Op(
    "max_pool",
    max_pool_reference,
    (
        Backend("cuda", "cuda", KERNELS.run, _supports, KERNELS),
        Backend("native", "cpu", KERNELS.run, _supports, KERNELS),
    ),
    samples=_samples,
    work=_work,
)
