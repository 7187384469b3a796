"""Batch normalisation in inference, folded into the convolution before it.

It is then a constant scale and shift of each channel: conv(x, w) * s + (b - mean * s) with
s = gamma / sqrt(var + eps), which is a convolution with weight w * s and bias b - mean * s.
"""

import torch
from torch import Tensor, nn


def fold(weight: Tensor, bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the convolution that does `bn`, in inference, too.

    They have the weight's dtype; gradients flow through them.
    """
    gamma, beta, mean, variance, *_ = sources_of(bn)
    dtype = torch.promote_types(weight.dtype, torch.float32)
    scale = gamma.to(dtype) * (variance.to(dtype) + bn.eps).rsqrt()
    folded = (weight.to(dtype) * scale.view(-1, 1, 1, 1)).to(weight.dtype)
    return folded, (beta.to(dtype) - mean.to(dtype) * scale).to(weight.dtype)


def sources_of(bn: nn.BatchNorm2d) -> list[Tensor]:
    """Weight, bias, mean and variance, and what tells of changes of the running statistics."""
    assert bn.running_mean is not None
    assert bn.running_var is not None
    sources = [bn.weight, bn.bias, bn.running_mean, bn.running_var]
    return sources if bn.num_batches_tracked is None else [*sources, bn.num_batches_tracked]
