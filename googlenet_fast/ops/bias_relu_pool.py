"""Bias, ReLU and the 3x3/2 max pool that follows a stem convolution."""

import torch
import torch.nn.functional as F
from torch import Tensor

from googlenet_fast.ops.autocast import autocast
from googlenet_fast.ops.dispatch import always, choose, register


def bias_relu_pool(
    x: Tensor, bias: Tensor | None = None, relu: bool = True, ceil_mode: bool = False
) -> Tensor:
    """Return max_pool(relu(x + bias)), with windows of 3x3, stride 2 and no padding.

    Args:
        x: (N, C, H, W) with H and W of 3 or more; fp16, bf16, fp32 or fp64, cast under autocast.
        bias: (C,) of any of these dtypes, or None.
        relu: clip at zero.
        ceil_mode: keep the windows that are cut by the bottom and right edges.

    Returns:
        (N, C, H', W') in the dtype of `x`, channels_last; H' is (H - 3) / 2 + 1, rounded up if
        `ceil_mode` and down otherwise.
    """
    (x,) = autocast([x])
    choose("bias_relu_pool", x.device.type, (x, bias, relu, ceil_mode))
    return bias_relu_pool_reference(x, bias, relu, ceil_mode)


def bias_relu_pool_reference(x: Tensor, bias: Tensor | None, relu: bool, ceil_mode: bool) -> Tensor:
    """Compute it as relu(max_pool(x) + bias), which is equal and touches a quarter as much.

    Adding a constant and clipping are monotonic, also in floating point, so they commute with max.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    y = F.max_pool2d(x, 3, stride=2, ceil_mode=ceil_mode)
    if bias is not None:
        y = (y + bias.view(-1, 1, 1)).to(x.dtype)
    return (F.relu(y) if relu else y).contiguous(memory_format=torch.channels_last)


register("bias_relu_pool", {"cpu": {"reference": always}, "cuda": {"reference": always}})
