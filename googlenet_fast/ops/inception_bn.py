"""An Inception block with batch normalisation in training, from its 1x1 convolutions on.

One node of the graph, so that the gradients of the sibling 1x1 convolutions, of which two come out
of other convolutions' backward, are written into one tensor: they need no concatenation.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed import ProcessGroup
from torch.nn.modules.batchnorm import _BatchNorm

from googlenet_fast.ops.autocast import autocast
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
from googlenet_fast.ops.compiled import why_not_compiled
from googlenet_fast.ops.dispatch import choose
from googlenet_fast.ops.parameter_gradients import weight_and_bias


def inception_bn(
    siblings: Tensor,
    projected: Tensor,
    w3: Tensor,
    w5: Tensor,
    norms: Sequence[_BatchNorm],
    group: ProcessGroup | None = None,
) -> Tensor:
    """Normalise, clip, convolve and concatenate; update running statistics.

    It runs as `bn_relu_concat` does, with the compiled convolutions on CPUs and the library's
    elsewhere.

    Args:
        siblings: (N, C1 + C3r + C5r, H, W), the 1x1 convolutions that read the block's input:
            branch 1 and the reductions of branches 2 and 3. Like `projected` fp16, bf16, fp32 or
            fp64, cast under autocast with the weights; fastest in channels_last.
        projected: (N, Cp, H, W), the 1x1 convolution after the block's max pool.
        w3: (C3, C3r, 3, 3), branch 2.
        w5: (C5, C5r, K, K), K odd, branch 3.
        norms: of the siblings, of branches 2 and 3 and of the projection; see `bn_relu_concat`.
        group: processes whose batches are normalised as one; None: this process alone.

    Returns:
        (N, C1 + C3 + C5 + Cp, H, W), channels_last.

    Raises:
        ValueError: norms are not as said there, or there is one value per channel.
    """
    siblings, projected, w3, w5 = autocast([siblings, projected, w3, w5])
    outputs = [siblings, projected, projected, projected]
    check_norms("inception_bn", outputs, norms, group)
    arguments = (siblings, projected, w3, w5, norms, group)
    if choose("bn_relu_concat", siblings.device.type, (outputs, norms, group)) == "reference":
        return inception_bn_reference(*arguments)
    statistics_in, total = statistics_of([siblings], group)
    parameters = [norm.weight for norm in norms] + [norm.bias for norm in norms]
    y, statistics_out = _InceptionBatchNorm.apply(
        statistics_in, total, norms[0].eps, group, siblings, projected, w3, w5, *parameters
    )
    update_running_statistics(norms, [statistics_in, statistics_out], total)
    return y


def inception_bn_reference(
    siblings: Tensor,
    projected: Tensor,
    w3: Tensor,
    w5: Tensor,
    norms: Sequence[_BatchNorm],
    group: ProcessGroup | None = None,
) -> Tensor:
    """Do one thing after the other."""
    first = bn_relu_concat_reference([siblings], norms[:1], group)
    y1, r3, r5 = first.split(_widths(siblings, w3, w5), dim=1)
    branches = [_convolve(r3, w3), _convolve(r5, w5), projected]
    y = torch.cat([y1, bn_relu_concat_reference(branches, norms[1:], group)], dim=1)
    return y.contiguous(memory_format=torch.channels_last)


class _InceptionBatchNorm(torch.autograd.Function):
    """Result and gradients; saves the convolutions' inputs and outputs, and not the result."""

    @staticmethod
    def forward(
        ctx: Any,
        statistics_in: Tensor,
        total: Tensor | float,
        eps: float,
        group: ProcessGroup | None,
        siblings: Tensor,
        projected: Tensor,
        w3: Tensor,
        w5: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        widths = _widths(siblings, w3, w5)
        first, *reductions = _siblings(siblings, statistics_in, widths, parameters)
        r3, r5 = normalize(reductions, eps, concatenate=False)
        branches = [_convolve(r3, w3), _convolve(r5, w5), projected]
        statistics_out, _ = statistics_of(branches, group)
        others = _others(branches, statistics_out, parameters)
        (y,) = normalize([first, *others], eps, concatenate=True)
        ctx.total, ctx.eps, ctx.group = total, eps, group
        ctx.save_for_backward(
            *(statistics_in, statistics_out, siblings, *branches, r3, r5, w3, w5, *parameters)
        )
        ctx.mark_non_differentiable(statistics_out)
        return y, statistics_out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        statistics_in, statistics_out, siblings, *saved = ctx.saved_tensors
        branches, (r3, r5, w3, w5), parameters = saved[:3], saved[3:7], saved[7:]
        widths = _widths(siblings, w3, w5)
        first, *reductions = _siblings(siblings, statistics_in, widths, parameters)
        others = _others(branches, statistics_out, parameters)
        sizes = [widths[0], *(branch.x.size(1) for branch in others)]

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
        (grad_siblings,) = input_gradients(
            [grad_first, grad_r3, grad_r5],
            [first, *reductions],
            ctx.eps,
            [sums_first, *sums.split(widths[1:], dim=1)],
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
            *(None, None, None, None, grad_siblings, grad_projected, grad_w3, grad_w5),
            *grad_parameters,
        )


def _widths(siblings: Tensor, w3: Tensor, w5: Tensor) -> list[int]:
    """Channels of each sibling convolution."""
    reductions = [w3.size(1), w5.size(1)]
    return [siblings.size(1) - sum(reductions), *reductions]


def _siblings(
    siblings: Tensor, statistics: Tensor, widths: list[int], parameters: Sequence[Tensor]
) -> list[Normalized]:
    """Branch 1 and the reductions; their parameters are one norm's."""
    weight, bias = parameters[0], parameters[4]
    parts = siblings.split(widths, 1), statistics.split(widths, 1)
    columns = (*parts, weight.split(widths), bias.split(widths))
    return [Normalized(*each) for each in zip(*columns, strict=True)]


def _others(
    branches: Sequence[Tensor], statistics: Tensor, parameters: Sequence[Tensor]
) -> list[Normalized]:
    """Branches 2 to 4."""
    parts = statistics.split([x.size(1) for x in branches], 1)
    columns = (branches, parts, parameters[1:4], parameters[5:8])
    return [Normalized(*each) for each in zip(*columns, strict=True)]


def _compiled(x: Tensor, weight: Tensor) -> bool:
    """Whether op conv_bias_relu has a compiled kernel for a convolution."""
    return weight.size(2) in (3, 5) and why_not_compiled("conv_bias_relu", x) is None


def _convolve(x: Tensor, weight: Tensor) -> Tensor:
    if _compiled(x, weight):
        return torch.ops.googlenet_fast.conv_bias_relu.default(x, weight, None, False, 1, [])
    return F.conv2d(x, weight, padding=weight.size(2) // 2)


def _convolve_backward(
    grad: Tensor, x: Tensor, weight: Tensor, needs_weight: bool
) -> tuple[Tensor, Tensor | None]:
    if _compiled(x, weight):
        grad_x, grads = torch.ops.googlenet_fast.conv_bias_relu_backward.default(
            grad, x, None, weight, 1, True, needs_weight
        )
        return grad_x, weight_and_bias(grads, 0, weight)[0] if needs_weight else None
    padding = [weight.size(2) // 2] * 2
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward.default(
        *(grad, x, weight, None, [1, 1], padding, [1, 1], False, [0, 0], 1),
        [True, needs_weight, False],
    )
    return grad_x, grad_weight
