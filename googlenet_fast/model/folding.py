"""Batch normalisation in inference, folded into the convolution before it.

It is then a constant scale and shift of each channel: conv(x, w) * s + (b - mean * s) with
s = gamma / sqrt(var + eps), which is a convolution with weight w * s and bias b - mean * s.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def fold(tensors: Sequence[Tensor], eps: float) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the convolution that includes batch normalisation in inference.

    They have the weight's dtype; gradients flow through them.

    Args:
        tensors: the convolution's weight, (K, C, T, T); the norm's weight, bias, running mean and
            running variance, (K,) each.
        eps: the norm's.
    """
    weight, gamma, beta, mean, variance = tensors
    dtype = torch.promote_types(weight.dtype, torch.float32)
    scale = gamma.to(dtype) * (variance.to(dtype) + eps).rsqrt()
    folded = (weight.to(dtype) * scale.view(-1, 1, 1, 1)).to(weight.dtype)
    return folded, (beta.to(dtype) - mean.to(dtype) * scale).to(weight.dtype)


def sources(bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return weight, bias, running mean and running variance, for `fold`."""
    mean, variance = bn.running_mean, bn.running_var
    if mean is None or variance is None:
        raise ValueError("a norm without running statistics cannot be folded")
    return bn.weight, bn.bias, mean, variance
