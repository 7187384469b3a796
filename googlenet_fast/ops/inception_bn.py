"""An Inception block with batch normalisation in training, from its 1x1 convolutions on.

Equivalent to:

    y1, r3, r5 = relu(norms[0](stacked)).split([C1, C3r, C5r], 1)
    branches = [conv2d(r3, w3, padding=1), conv2d(r5, w5, padding=T // 2), projected]
    y = cat([y1, *(relu(norm(x)) for x, norm in zip(branches, norms[1:]))], 1)

It is one node of the graph, so that the gradients of the stacked 1x1 convolutions, of which two
come out of other convolutions' backward, are written into one tensor without a concatenation.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn.modules.batchnorm import _BatchNorm

from googlenet_fast.errors import UserError
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
    channels_last,
    convolution_work,
    native_supports,
    once_differentiable,
    weight_and_bias,
)
from googlenet_fast.ops.conv_bias_relu import CONV_BIAS_RELU
from googlenet_fast.registry import Backend, Call, Kernels, Op, Work


def inception_bn(
    stacked: Tensor,
    projected: Tensor,
    w3: Tensor,
    w5: Tensor,
    norms: Sequence[_BatchNorm],
    group: ProcessGroup | None = None,
) -> Tensor:
    """Normalise, apply ReLU, convolve and concatenate; update running statistics.

    On CPUs the convolutions are those of `conv_bias_relu`, on GPUs the library's: at these layers
    cuDNN's backward is the fastest there.

    Args:
        stacked: (N, C1 + C3r + C5r, H, W), the 1x1 convolutions that read the block's input:
            branch 1 and the reductions of branches 2 and 3. Like `projected` fp16, bf16, fp32 or
            fp64, cast under autocast with the weights; fastest in channels_last.
        projected: (N, Cp, H, W), the 1x1 convolution after the block's max pool.
        w3: (C3, C3r, 3, 3), branch 2.
        w5: (C5, C5r, T, T), T odd, branch 3.
        norms: of the stacked convolutions, of branches 2 and 3 and of the projection; see
            `bn_relu_concat`.
        group: processes whose batches are normalised as one; None: this process alone.

    Returns:
        (N, C1 + C3 + C5 + Cp, H, W), channels_last.

    Raises:
        ValueError: norms are not as said there, or there is one value per channel.
    """
    stacked, projected, w3, w5 = autocast([stacked, projected, w3, w5])
    weights, biases = check_norms(
        "inception_bn", [stacked, projected, projected, projected], norms, group
    )
    arguments = (stacked, projected, w3, w5, weights, biases, norms[0].eps, group)
    y, statistics, total = INCEPTION_BN.choose(*arguments).run(*arguments)
    update_running_statistics(norms, statistics, total)
    return y


def inception_bn_reference(
    stacked: Tensor,
    projected: Tensor,
    w3: Tensor,
    w5: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    eps: float,
    group: ProcessGroup | None,
) -> tuple[Tensor, list[Tensor], Tensor | float]:
    """Do one thing after the other.

    Returns:
        The result; mean and biased variance, (2, C), of `stacked` and of the other branches; values
        per channel.
    """
    first, statistics_in, _ = bn_relu_concat_reference(
        [stacked], weights[:1], biases[:1], eps, group
    )
    y1, r3, r5 = first.split(_stacked_channels(stacked, w3, w5), dim=1)
    convolved = [F.conv2d(r, w, padding=w.size(2) // 2) for r, w in ((r3, w3), (r5, w5))]
    others, statistics_out, total = bn_relu_concat_reference(
        [*convolved, projected], weights[1:], biases[1:], eps, group
    )
    return channels_last(torch.cat([y1, others], dim=1)), [statistics_in, statistics_out], total


def _run(
    stacked: Tensor,
    projected: Tensor,
    w3: Tensor,
    w5: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    eps: float,
    group: ProcessGroup | None,
) -> tuple[Tensor, list[Tensor], Tensor | float]:
    statistics_in, total = statistics_of([stacked], group)
    y, statistics_out = _InceptionBatchNorm.apply(
        *(statistics_in, total, eps, group, stacked, projected, w3, w5, *weights, *biases)
    )
    return y, [statistics_in, statistics_out], total


class _InceptionBatchNorm(torch.autograd.Function):
    """Result and gradients; saves the convolutions' inputs and outputs, and not the result."""

    @staticmethod
    def forward(
        ctx: Any,
        statistics_in: Tensor,
        total: Tensor | float,
        eps: float,
        group: ProcessGroup | None,
        stacked: Tensor,
        projected: Tensor,
        w3: Tensor,
        w5: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        channels = _stacked_channels(stacked, w3, w5)
        first, *reductions = _first(stacked, statistics_in, channels, parameters)
        r3, r5 = normalize(reductions, eps, concatenate=False)
        branches = [_convolve(r3, w3), _convolve(r5, w5), projected]
        statistics_out, _ = statistics_of(branches, group)
        others = _others(branches, statistics_out, parameters)
        (y,) = normalize([first, *others], eps, concatenate=True)
        ctx.total, ctx.eps, ctx.group = total, eps, group
        ctx.save_for_backward(
            *(statistics_in, statistics_out, stacked, *branches, r3, r5, w3, w5, *parameters)
        )
        ctx.mark_non_differentiable(statistics_out)
        return y, statistics_out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        statistics_in, statistics_out, stacked, *saved = ctx.saved_tensors
        branches, (r3, r5, w3, w5), parameters = saved[:3], saved[3:7], saved[7:]
        channels = _stacked_channels(stacked, w3, w5)
        first, *reductions = _first(stacked, statistics_in, channels, parameters)
        others = _others(branches, statistics_out, parameters)
        sizes = [channels[0], *(branch.x.size(1) for branch in others)]

        grad_first, *grad_others = grad_y.split(sizes, dim=1)
        own = parameter_gradients([grad_first, *grad_others], [first, *others], ctx.eps)
        sums, total = summed(own, ctx.total, ctx.group)
        sums_first, *sums_others = sums.split(sizes, dim=1)
        grad3, grad5, grad_projected = input_gradients(
            grad_others, others, ctx.eps, sums_others, total, concatenate=False
        )
        needed = ctx.needs_input_grad[6:8]
        grad_r3, grad_w3 = _convolve_backward(grad3, r3, w3, needed[0])
        grad_r5, grad_w5 = _convolve_backward(grad5, r5, w5, needed[1])

        own_reductions = parameter_gradients([grad_r3, grad_r5], reductions, ctx.eps)
        sums, total = summed(own_reductions, ctx.total, ctx.group)
        (grad_stacked,) = input_gradients(
            [grad_first, grad_r3, grad_r5],
            [first, *reductions],
            ctx.eps,
            [sums_first, *sums.split(channels[1:], dim=1)],
            total,
            concatenate=True,
        )
        own_first, *own_others = own.split(sizes, dim=1)
        pairs = [torch.cat([own_first, own_reductions], dim=1), *own_others]
        grad_parameters = [
            gradient.to(parameter.dtype)
            for gradient, parameter in zip(
                [*(pair[1] for pair in pairs), *(pair[0] for pair in pairs)],
                parameters,
                strict=True,
            )
        ]
        return (
            *(None, None, None, None, grad_stacked, grad_projected, grad_w3, grad_w5),
            *grad_parameters,
        )


def _stacked_channels(stacked: Tensor, w3: Tensor, w5: Tensor) -> list[int]:
    """Channels of each sibling convolution."""
    reductions = [w3.size(1), w5.size(1)]
    return [stacked.size(1) - sum(reductions), *reductions]


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
    except UserError:  # what was requested for this op cannot take the convolution
        return None


def _convolve(x: Tensor, weight: Tensor) -> Tensor:
    kernels = _kernels(x, weight)
    if kernels is None:
        return F.conv2d(x, weight, padding=weight.size(2) // 2)
    return kernels.forward(x, weight, None, False, 1, [])


def _convolve_backward(
    grad: Tensor, x: Tensor, weight: Tensor, needs_weight: bool
) -> tuple[Tensor, Tensor | None]:
    kernels = _kernels(x, weight)
    if kernels is not None:
        grad_x, grads = kernels.backward(grad, x, None, weight, 1, True, needs_weight)
        return grad_x, weight_and_bias(grads, 0, weight)[0] if needs_weight else None
    padding = [weight.size(2) // 2] * 2
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward.default(
        *(grad, x, weight, None, [1, 1], padding, [1, 1], False, [0, 0], 1),
        [True, needs_weight, False],
    )
    return grad_x, grad_weight


def _supports(stacked: Tensor, *_: Any) -> str | None:
    return native_supports("bn_relu_concat", stacked, POINTWISE_DTYPES)


def _work(call: Call) -> Work:
    training, (shape, dtype), (projected, _), (w3, _), (w5, _), *_ = call
    outputs = w3[0] + w5[0] + projected[1] + shape[1]
    normalization = shape[0] * shape[2] * shape[3] * outputs * dtype.itemsize
    parts = [convolution_work(call, w) for w in (w3, w5)]
    passes = 8 if training else 3
    return Work(
        sum(part.operations for part in parts),
        sum(part.bytes for part in parts) + passes * normalization,
    )


def _samples() -> Iterator[Call]:
    f32 = torch.float32
    for (n, h, w), (c1, c3r, c3, c5r, c5, cp), taps in (
        ((2, 14, 14), (64, 96, 128, 16, 32, 32), 3),
        ((2, 5, 3), (5, 3, 7, 2, 4, 1), 5),
    ):
        stacked = c1 + c3r + c5r
        parameters = tuple(((c,), f32) for c in (stacked, c3, c5, cp))
        yield (
            *(True, ((n, stacked, h, w), f32), ((n, cp, h, w), f32)),
            *(((c3, c3r, 3, 3), f32), ((c5, c5r, taps, taps), f32)),
            *(parameters, parameters, 1e-3, None),
        )


INCEPTION_BN = Op(
    "inception_bn",
    inception_bn_reference,
    (Backend("cuda", "cuda", _run, _supports), Backend("native", "cpu", _run, _supports)),
    samples=_samples,
    work=_work,
)
