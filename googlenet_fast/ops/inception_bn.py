"""The Inception block with batch normalisation in training.

Equivalent to, with w_in = [w1; w3r; w5r] and norms[0] that of all their outputs:

    y1, r3, r5 = relu(norms[0](conv2d(x, w_in))).split([C1, C3r, C5r], 1)
    pooled = max_pool2d(x, 3, stride=1, padding=1)
    branches = [conv2d(r3, w3, padding=1), conv2d(r5, w5, padding=T // 2), conv2d(pooled, wp)]
    y = cat([y1, *(relu(norm(x)) for x, norm in zip(branches, norms[1:]))], 1)

It is one node of the graph, so that the gradients of the stacked 1x1 convolutions, of which two
come out of other convolutions' backward, are written into one tensor without a concatenation, and
the pool's backward adds to the gradient of `x`.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn.modules.batchnorm import _BatchNorm

from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.ops.bn_relu_concat import (
    Normalized,
    bn_relu_concat_reference,
    check_norms,
    input_gradients,
    normalize,
    parameter_gradients,
    statistics_of,
    summed,
    update_running_statistics,
)
from googlenet_fast.ops.common import (
    POINTWISE_DTYPES,
    autocast,
    below_autograd,
    channels_last,
    convolution_backward,
    convolution_work,
    native_supports,
    once_differentiable,
    weight_and_bias,
)
from googlenet_fast.ops.conv_bias_relu import CONV_BIAS_RELU
from googlenet_fast.ops.max_pool import pool, unpool
from googlenet_fast.registry import Backend, Call, Kernels, Op, Work


def inception_bn(
    x: Tensor,
    w_in: Tensor,
    w3: Tensor,
    w5: Tensor,
    wp: Tensor,
    norms: Sequence[_BatchNorm],
    group: ProcessGroup | None = None,
) -> Tensor:
    """Convolve, normalise, apply ReLU and concatenate; update running statistics.

    On CPUs the convolutions are those of `conv_bias_relu`, on GPUs the library's: at these layers
    cuDNN's backward is the fastest there.

    Args:
        x: (N, C, H, W); fp16, bf16, fp32 or fp64. Cast under autocast, as the weights are.
        w_in: (C1 + C3r + C5r, C, 1, 1), the weights of branch 1 and of both reductions, stacked.
        w3: (C3, C3r, 3, 3).
        w5: (C5, C5r, T, T) with odd T.
        wp: (Cp, C, 1, 1), applied to the 3x3 maxima of `x` at stride 1, padded.
        norms: of the outputs of `w_in`, `w3`, `w5` and `wp`, in training mode, with weight and
            bias; all of one `eps` and one momentum, and all or none with running statistics.
        group: processes whose batches are normalised as one; None: this process alone.

    Returns:
        (N, C1 + C3 + C5 + Cp, H, W), channels_last.

    Raises:
        ValueError: norms are not as said there, or there is one value per channel.
    """
    weights, biases = check_norms("inception_bn", [x] * 4, norms, group)
    x, w_in, w3, w5, wp = autocast([x, w_in, w3, w5, wp])
    arguments = (x, w_in, w3, w5, wp, weights, biases, norms[0].eps, group)
    y, statistics, total = INCEPTION_BN.choose(*arguments).run(*arguments)
    update_running_statistics(norms, statistics, total)
    return y


def inception_bn_reference(
    x: Tensor,
    w_in: Tensor,
    w3: Tensor,
    w5: Tensor,
    wp: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    eps: float,
    group: ProcessGroup | None,
) -> tuple[Tensor, list[Tensor], Tensor | float]:
    """Do one thing after the other.

    Returns:
        The result; mean and biased variance, (2, C), of the stacked convolutions and of the other
        branches; values per channel.
    """
    x = channels_last(x)
    stacked = F.conv2d(x, w_in)
    projected = F.conv2d(F.max_pool2d(x, 3, stride=1, padding=1), wp)
    first, statistics_in, _ = bn_relu_concat_reference(
        [stacked], weights[:1], biases[:1], eps, group
    )
    y1, r3, r5 = first.split(_stacked_channels(w_in, w3, w5), dim=1)
    convolved = [F.conv2d(r, w, padding=w.size(2) // 2) for r, w in ((r3, w3), (r5, w5))]
    others, statistics_out, total = bn_relu_concat_reference(
        [*convolved, projected], weights[1:], biases[1:], eps, group
    )
    return channels_last(torch.cat([y1, others], dim=1)), [statistics_in, statistics_out], total


def _run(
    x: Tensor,
    w_in: Tensor,
    w3: Tensor,
    w5: Tensor,
    wp: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    eps: float,
    group: ProcessGroup | None,
) -> tuple[Tensor, list[Tensor], Tensor | float]:
    y, *statistics, total = _InceptionBatchNorm.apply(
        *(eps, group, channels_last(x), w_in, w3, w5, wp, *weights, *biases)
    )
    return y, statistics, total


class _InceptionBatchNorm(torch.autograd.Function):
    """Result and gradients; saves the convolutions' inputs and outputs, and not the result."""

    @staticmethod
    def forward(
        ctx: Any,
        eps: float,
        group: ProcessGroup | None,
        x: Tensor,
        w_in: Tensor,
        w3: Tensor,
        w5: Tensor,
        wp: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | float]:
        channels = _stacked_channels(w_in, w3, w5)
        stacked = _convolve(x, w_in)
        pooled, index = pool(x)
        projected = _convolve(pooled, wp)
        statistics_in, total = statistics_of([stacked], group)
        first, *reductions = _first(stacked, statistics_in, channels, parameters)
        r3, r5 = normalize(reductions, eps, concatenate=False)
        branches = [_convolve(r3, w3), _convolve(r5, w5), projected]
        statistics_out, _ = statistics_of(branches, group)
        others = _others(branches, statistics_out, parameters)
        (y,) = normalize([first, *others], eps, concatenate=True)
        ctx.total, ctx.eps, ctx.group = total, eps, group
        ctx.save_for_backward(
            *(x, pooled, index, statistics_in, statistics_out, stacked, *branches, r3, r5),
            *(w_in, w3, w5, wp, *parameters),
        )
        # An output with a gradient that its own node keeps would be a cycle, freed late.
        counted = [total] if isinstance(total, Tensor) else []
        ctx.mark_non_differentiable(statistics_in, statistics_out, *counted)
        ctx.set_materialize_grads(False)  # zeros for the statistics
        return y, statistics_in, statistics_out, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        if grad_y is None:
            return (None,) * len(ctx.needs_input_grad)
        x, pooled, index, statistics_in, statistics_out, stacked, *saved = ctx.saved_tensors
        branches, (r3, r5, w_in, w3, w5, wp), parameters = saved[:3], saved[3:9], saved[9:]
        need_x, need_w_in, need_w3, need_w5, need_wp = ctx.needs_input_grad[2:7]
        channels = _stacked_channels(w_in, w3, w5)
        inner = _first(stacked, statistics_in, channels, parameters)
        others = _others(branches, statistics_out, parameters)
        sizes = [branch.x.size(1) for branch in others]

        grad_first, *grad_others = channels_last(grad_y).split([channels[0], *sizes], dim=1)
        own_others = parameter_gradients(grad_others, others, ctx.eps)
        sums, total = summed(own_others, ctx.total, ctx.group)
        grad3, grad5, grad_projected = input_gradients(
            grad_others, others, ctx.eps, sums.split(sizes, dim=1), total, concatenate=False
        )
        grad_r3, grad_w3 = _convolve_backward(grad3, r3, w3, True, need_w3)
        grad_r5, grad_w5 = _convolve_backward(grad5, r5, w5, True, need_w5)
        grad_pooled, grad_wp = _convolve_backward(grad_projected, pooled, wp, need_x, need_wp)

        grads: Any = [grad_first, grad_r3, grad_r5]
        own_inner = parameter_gradients(grads, inner, ctx.eps)
        sums, total = summed(own_inner, ctx.total, ctx.group)
        (grad_stacked,) = input_gradients(
            grads, inner, ctx.eps, sums.split(channels, dim=1), total, concatenate=True
        )
        grad_x, grad_w_in = _convolve_backward(grad_stacked, x, w_in, need_x, need_w_in)
        if grad_x is not None and grad_pooled is not None:
            grad_x = unpool(grad_pooled, index, x, grad_x)
        pairs = [own_inner, *own_others.split(sizes, dim=1)]
        grad_parameters = [
            gradient.to(parameter.dtype)
            for gradient, parameter in zip(
                [*(pair[1] for pair in pairs), *(pair[0] for pair in pairs)],
                parameters,
                strict=True,
            )
        ]
        return (
            *(None, None, grad_x, grad_w_in, grad_w3, grad_w5, grad_wp),
            *grad_parameters,
        )


def _stacked_channels(w_in: Tensor, w3: Tensor, w5: Tensor) -> list[int]:
    """Return the output channels of branch 1 and of the two reductions."""
    reductions = [w3.size(1), w5.size(1)]
    return [w_in.size(0) - sum(reductions), *reductions]


def _first(
    stacked: Tensor, statistics: Tensor, channels: list[int], parameters: Sequence[Tensor]
) -> list[Normalized]:
    """Branch 1 and the reductions; their parameters are one norm's."""
    weight, bias = parameters[0], parameters[4]
    parts = stacked.split(channels, 1), statistics.split(channels, 1)
    return list(map(Normalized, *parts, weight.split(channels), bias.split(channels)))


def _others(
    branches: Sequence[Tensor], statistics: Tensor, parameters: Sequence[Tensor]
) -> list[Normalized]:
    """Branches 2 to 4."""
    channels = (branches[0].size(1), branches[1].size(1), branches[2].size(1))
    parts = statistics.split(channels, 1)
    return list(map(Normalized, branches, parts, parameters[1:4], parameters[5:8]))


def _kernels(x: Tensor, weight: Tensor) -> Kernels | None:
    """Return the kernels of `conv_bias_relu` for a convolution; None: PyTorch's convolution."""
    if x.device.type != "cpu":
        return None
    try:
        return CONV_BIAS_RELU.choose(x, weight, None, False, 1, ()).kernels
    except GoogLeNetError:  # what was requested for this op cannot take the convolution
        return None


def _convolve(x: Tensor, weight: Tensor) -> Tensor:
    kernels = _kernels(x, weight)
    if kernels is None:
        return F.conv2d(x, weight, padding=weight.size(2) // 2)
    arguments: tuple[Any, ...] = (x, weight, None, False, 1, [])
    if torch.compiler.is_compiling():
        return kernels.forward(*arguments)
    return below_autograd(kernels.forward, *arguments)


def _convolve_backward(
    grad: Tensor, x: Tensor, weight: Tensor, need_x: bool, need_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    kernels = _kernels(x, weight)
    if kernels is None or not (need_x or need_weight):
        return convolution_backward(grad, x, weight, need_x, need_weight)
    grad_x, grads = kernels.backward(grad, x, None, weight, 1, need_x, need_weight)
    grad_weight = weight_and_bias(grads, 0, weight)[0] if need_weight else None
    return grad_x if need_x else None, grad_weight


def _supports(x: Tensor, *_: Any) -> str | None:
    return native_supports("bn_relu_concat", x, POINTWISE_DTYPES)


def _work(call: Call) -> Work:
    training, ((n, _, height, width), dtype), *others = call
    weights = [shape for shape, _ in others[:4]]
    outputs = sum(shape[0] for shape in weights)
    normalization = n * height * width * outputs * dtype.itemsize
    parts = [convolution_work(call, w) for w in weights]
    passes = 8 if training else 3
    return Work(
        sum(part.operations for part in parts),
        sum(part.bytes for part in parts) + passes * normalization,
    )


def _samples() -> Iterator[Call]:
    f32 = torch.float32
    for (n, h, w), (c, c1, c3r, c3, c5r, c5, cp), taps in (
        ((2, 14, 14), (192, 64, 96, 128, 16, 32, 32), 3),
        ((2, 5, 3), (7, 5, 3, 7, 2, 4, 1), 5),
    ):
        stacked = c1 + c3r + c5r
        parameters = tuple(((count,), f32) for count in (stacked, c3, c5, cp))
        yield (
            *(True, ((n, c, h, w), f32), ((stacked, c, 1, 1), f32)),
            *(((c3, c3r, 3, 3), f32), ((c5, c5r, taps, taps), f32), ((cp, c, 1, 1), f32)),
            *(parameters, parameters, 1e-3, None),
        )


INCEPTION_BN = Op(
    "inception_bn",
    inception_bn_reference,
    (Backend("cuda", "cuda", _run, _supports), Backend("native", "cpu", _run, _supports)),
    samples=_samples,
    work=_work,
)
