"""The Inception block: 4 launches forward, at most 9 backward.

The tensors in memory are the input x, the reductions r, the output y and, in training, the index of
the maximum of each window of x. Each branch writes its slice of y. ReLU masks are read off y and r.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from . import conv1x1, conv_spatial, pool_project
from .layout import empty_rows, rows
from .split_k import Sums, WeightShape


def forward(
    x: Tensor,
    w_in: Tensor,
    b_in: Tensor | None,
    w3: Tensor,
    b3: Tensor | None,
    w5: Tensor,
    b5: Tensor | None,
    wp: Tensor,
    bp: Tensor | None,
    reduce_relu: bool,
    *,
    training: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the block's output, its reductions and, if `training`, the pool's index.

    Args are those of `googlenet_fast.ops.inception`; weights are cast to the dtype of `x`.

    Returns:
        y (N, C1 + C3 + C5 + Cp, H, W) and r (N, C3r + C5r, H, W) in the dtype of `x`, index
        (N, C, H, W) in uint8 or None; all channels_last.
    """
    x = rows(x)
    w_in, w3, w5, wp = _cast([w_in, w3, w5, wp], x.dtype)
    branch_channels = _branch_channels(w_in, w3, w5, wp)
    y = empty_rows(x, sum(branch_channels))
    r = empty_rows(x, w3.size(1) + w5.size(1))
    index = empty_rows(x, x.size(1), torch.uint8) if training else None
    y1, y3, y5, yp = y.split(branch_channels, dim=1)
    r3, r5 = r.split([w3.size(1), w5.size(1)], dim=1)
    conv1x1.forward(x, w_in, b_in, y1, r, relu_y=True, relu_r=reduce_relu)
    conv_spatial.forward(r3, w3, b3, y3, relu=True)
    conv_spatial.forward(r5, w5, b5, y5, relu=True)
    pool_project.forward(x, wp, bp, yp, index)
    return y, r, index


def backward(
    grad_y: Tensor,
    x: Tensor,
    r: Tensor,
    y: Tensor,
    index: Tensor,
    w_in: Tensor,
    w3: Tensor,
    w5: Tensor,
    wp: Tensor,
    reduce_relu: bool,
    need_x: bool,
    need_parameters: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradient of x, and the gradients of the parameters as one fp32 vector.

    The vector has w_in, b_in, w3, b3, w5, b5, wp and bp; weights are in channels_last order.
    """
    x, grad_y, r, y = rows(x), rows(grad_y), rows(r), rows(y)
    w_in, w3, w5, wp = _cast([w_in, w3, w5, wp], x.dtype)
    branch_channels = _branch_channels(w_in, w3, w5, wp)
    g1, g3, g5, gp = grad_y.split(branch_channels, dim=1)
    y1, y3, y5, yp = y.split(branch_channels, dim=1)
    reductions = [w3.size(1), w5.size(1)]
    r3, r5 = r.split(reductions, dim=1)
    grad_r = torch.empty_like(r, memory_format=torch.channels_last)
    grad_r3, grad_r5 = grad_r.split(reductions, dim=1)
    conv_spatial.input_gradient(g3, y3, w3, r3 if reduce_relu else None, grad_r3)
    conv_spatial.input_gradient(g5, y5, w5, r5 if reduce_relu else None, grad_r5)

    grad_x = grad_parameters = None
    if need_x:
        grad_pooled, grad_x = empty_rows(x, x.size(1)), empty_rows(x, x.size(1))
        conv1x1.input_gradient(gp, yp, None, wp, grad_pooled)
        conv1x1.input_gradient(g1, y1, grad_r, w_in, grad_x, grad_pooled, index)
    if need_parameters:
        shapes = [WeightShape.of(w) for w in (w_in, w3, w5, wp)]
        sums = Sums(shapes, x.numel() // x.size(1), x.device)
        conv1x1.weight_gradient(g1, y1, grad_r, x, sums.partial[0])
        conv_spatial.weight_gradient(g3, y3, r3, sums.partial[1], w3.size(2))
        conv_spatial.weight_gradient(g5, y5, r5, sums.partial[2], w5.size(2))
        pool_project.weight_gradient(gp, yp, x, sums.partial[3])
        grad_parameters = sums.reduce()
    return grad_x, grad_parameters


def _branch_channels(w_in: Tensor, w3: Tensor, w5: Tensor, wp: Tensor) -> list[int]:
    """Return the output channels of the four branches."""
    return [w_in.size(0) - w3.size(1) - w5.size(1), w3.size(0), w5.size(0), wp.size(0)]


def _cast(weights: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Return the weights in `dtype`, channels_last, cast by a single launch."""
    weights = [w.contiguous(memory_format=torch.channels_last) for w in weights]
    if all(w.dtype == dtype for w in weights):
        return weights
    cast = [torch.empty_like(w, dtype=dtype) for w in weights]
    torch._foreach_copy_(cast, weights)
    return cast
