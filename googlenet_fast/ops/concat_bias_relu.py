"""Concatenation of branch outputs along the channels, with bias and ReLU, in one pass.

Equivalent to `relu(cat([x + b.view(-1, 1, 1) for x, b in zip(branches, biases)], 1))`.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from googlenet_fast.ops.common import (
    POINTWISE_DTYPES,
    autocast,
    below_autograd,
    channels_last,
    define_kernels,
    empty_channels_last,
    native_supports,
    needs_gradient,
    sum_dtype,
)
from googlenet_fast.registry import LIBRARY, Backend, Call, Kernels, Op, Work, define

MAX_BRANCHES = 4
"""Branches that the C++ and CUDA kernels take."""


def concat_bias_relu(
    branches: Sequence[Tensor], biases: Sequence[Tensor] | None = None, relu: bool = True
) -> Tensor:
    """Return relu(concatenate(branch + bias for each branch)).

    Args:
        branches: each (N, C_i, H, W), all of one dtype: fp16, bf16, fp32 or fp64, cast under
            autocast. Fastest in channels_last, slices of channels included.
        biases: each (C_i,), of any of these dtypes, or None.
        relu: apply ReLU.

    Returns:
        (N, sum of C_i, H, W) in the dtype of the branches, channels_last.

    Raises:
        ValueError: there are no branches, or not as many biases as branches.
    """
    if not branches or (biases is not None and len(biases) != len(branches)):
        raise ValueError(
            f"concat_bias_relu: {len(branches)} branches and {len(biases or ())} biases; give one"
            " branch or more, and a bias for each or for none"
        )
    arguments = (autocast(branches), [] if biases is None else list(biases), relu)
    return CONCAT_BIAS_RELU.choose(*arguments).run(*arguments)


def concat_bias_relu_reference(
    branches: Sequence[Tensor], biases: Sequence[Tensor], relu: bool
) -> Tensor:
    """Add, concatenate and apply ReLU, each on its own; no biases are an empty sequence."""
    if biases:
        branches = [
            (branch + bias.view(-1, 1, 1)).to(branch.dtype)
            for branch, bias in zip(branches, biases, strict=True)
        ]
    y = torch.cat(list(branches), dim=1)
    return channels_last(F.relu(y) if relu else y)


def bias_relu(branches: Sequence[Tensor], biases: Sequence[Tensor], relu: bool) -> list[Tensor]:
    """Return relu(branch + bias) of each branch, dense, in one pass; without autograd.

    For ops that are one node of the graph, where the extension has kernels. Arguments as above;
    branches may be slices of channels.
    """
    return _BIAS_RELU(list(branches), list(biases), relu)


def bias_relu_backward(
    grads: Sequence[Tensor], outputs: Sequence[Tensor], bias: bool, concatenate: bool
) -> tuple[list[Tensor], Tensor]:
    """Return the gradients of branches and of their biases, in one pass.

    Args:
        grads: (N, C_i, H, W) of each branch after bias and ReLU.
        outputs: of the first branches, those that ReLU clipped.
        bias: compute the gradients of the biases.
        concatenate: into one tensor.

    Returns:
        The gradient of each branch, or one of all; the biases', (sum of C_i,) of fp32 or fp64,
        empty without `bias`.
    """
    return _BIAS_RELU_BACKWARD(list(grads), list(outputs), bias, concatenate)


class _ConcatBiasRelu(torch.autograd.Function):
    """The op with its gradient; saves the output where ReLU needs a mask, and nothing else."""

    @staticmethod
    def forward(ctx: Any, kernels: Kernels, count: int, relu: bool, *tensors: Tensor) -> Tensor:
        branches, biases = list(tensors[:count]), list(tensors[count:])
        y = below_autograd(kernels.training, branches, biases, relu)
        ctx.kernels = kernels
        ctx.channels = [branch.size(1) for branch in branches]
        ctx.bias_dtypes = [bias.dtype for bias in biases]
        ctx.save_for_backward(*([y] if relu else []))
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        y = ctx.saved_tensors[0] if ctx.saved_tensors else None
        grads, grad_bias = ctx.kernels.backward(grad_y, y, ctx.channels, bool(ctx.bias_dtypes))
        parts = grad_bias.split(ctx.channels) if ctx.bias_dtypes else ()
        grad_biases = [part.to(dtype) for part, dtype in zip(parts, ctx.bias_dtypes, strict=True)]
        return (None, None, None, *grads, *grad_biases)


class _ConcatBiasReluBackward(torch.autograd.Function):
    """The gradient op with its own gradient: it is linear in `grad_y`."""

    @staticmethod
    def forward(
        ctx: Any, grad_y: Tensor, y: Tensor | None, channels: list[int], bias: bool
    ) -> tuple[Tensor, ...]:
        ctx.channels, ctx.bias = channels, bias
        ctx.save_for_backward(*([] if y is None else [y]))
        grads, grad_bias = below_autograd(KERNELS.backward, grad_y, y, channels, bias)
        return (*grads, grad_bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        biases = grads[-1].split(ctx.channels) if ctx.bias else ()
        grad = concat_bias_relu_reference(grads[:-1], biases, relu=False)
        if ctx.saved_tensors:
            grad = torch.where(ctx.saved_tensors[0] <= 0, 0, grad)
        return grad, None, None, None


def _autograd(kernels: Kernels, branches: list[Tensor], biases: list[Tensor], relu: bool) -> Tensor:
    if needs_gradient((*branches, *biases)):
        return _ConcatBiasRelu.apply(kernels, len(branches), relu, *branches, *biases)
    return below_autograd(kernels.forward, branches, biases, relu)


def _backward_autograd(
    grad_y: Tensor, y: Tensor | None, channels: list[int], bias: bool
) -> tuple[list[Tensor], Tensor]:
    if needs_gradient((grad_y,)):
        *grads, grad_bias = _ConcatBiasReluBackward.apply(grad_y, y, channels, bias)
        return grads, grad_bias
    return below_autograd(KERNELS.backward, grad_y, y, channels, bias)


def _fake(branches: list[Tensor], biases: list[Tensor], relu: bool) -> Tensor:
    return empty_channels_last(branches[0], sum(branch.size(1) for branch in branches))


def _backward_fake(
    grad_y: Tensor, y: Tensor | None, channels: list[int], bias: bool
) -> tuple[list[Tensor], Tensor]:
    grad_bias = grad_y.new_empty(sum(channels) if bias else 0, dtype=sum_dtype(grad_y))
    return [empty_channels_last(grad_y, count) for count in channels], grad_bias


def _bias_relu_fake(branches: list[Tensor], biases: list[Tensor], relu: bool) -> list[Tensor]:
    return [empty_channels_last(branch, branch.size(1)) for branch in branches]


def _bias_relu_backward_fake(
    grads: list[Tensor], outputs: list[Tensor], bias: bool, concatenate: bool
) -> tuple[list[Tensor], Tensor]:
    channels = [grad.size(1) for grad in grads]
    grad_bias = grads[0].new_empty(sum(channels) if bias else 0, dtype=sum_dtype(grads[0]))
    sizes = [sum(channels)] if concatenate else channels
    return [empty_channels_last(grads[0], count) for count in sizes], grad_bias


def _supports(branches: Sequence[Tensor], *_: Any) -> str | None:
    if len(branches) > MAX_BRANCHES:
        return f"{len(branches)} branches; it takes up to {MAX_BRANCHES}"
    return native_supports("concat_bias_relu", branches[0], POINTWISE_DTYPES)


def _work(call: Call) -> Work:
    training, branches, _, relu = call
    y = sum(n * c * h * w * dtype.itemsize for (n, c, h, w), dtype in branches)
    return Work(0, (5 if relu else 4) * y if training else 2 * y)


def _samples() -> Iterator[Call]:
    f32 = torch.float32
    for (n, h, w), channels, with_bias in (
        ((2, 14, 14), (112, 288, 64, 64), True),
        ((1, 5, 3), (3, 1), False),
    ):
        branches = tuple(((n, c, h, w), f32) for c in channels)
        yield True, branches, tuple(((c,), f32) for c in channels if with_bias), True


KERNELS = define_kernels(
    "concat_bias_relu",
    forward=("(Tensor[] branches, Tensor[] biases, bool relu) -> Tensor", _fake),
    backward=(
        "(Tensor grad_y, Tensor? y, int[] channels, bool bias) -> (Tensor[], Tensor)",
        _backward_fake,
    ),
    autograd=_autograd,
)
LIBRARY.impl("concat_bias_relu_backward", _backward_autograd, "Autograd")
_BIAS_RELU = define(
    "bias_relu(Tensor[] branches, Tensor[] biases, bool relu) -> Tensor[]", _bias_relu_fake
)
_BIAS_RELU_BACKWARD = define(
    "bias_relu_backward(Tensor[] grads, Tensor[] outputs, bool bias, bool concatenate)"
    " -> (Tensor[], Tensor)",
    _bias_relu_backward_fake,
)
CONCAT_BIAS_RELU = Op(
    "concat_bias_relu",
    concat_bias_relu_reference,
    (
        Backend("cuda", "cuda", KERNELS.run, _supports, KERNELS),
        Backend("native", "cpu", KERNELS.run, _supports, KERNELS),
    ),
    samples=_samples,
    work=_work,
)
