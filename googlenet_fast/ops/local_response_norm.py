"""Local response normalisation across channels, Krizhevsky et al. 2012, section 3.3."""

import torch
from torch import Tensor

from googlenet_fast.ops.autocast import autocast, no_autocast
from googlenet_fast.ops.dispatch import always, choose, register


def local_response_norm(
    x: Tensor, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """Return x / (k + alpha / size * (sum of squares of the `size` channels around))^beta.

    Channels beyond the first and last count as zero. Defaults and the division by `size` are
    those of Caffe and PyTorch.

    Args:
        x: (N, C, H, W); fp16, bf16, fp32 or fp64, cast under autocast. Squares of halves are
            computed and summed in fp32.
        size: channels in the window; of an even number, one more lies before than after.
        alpha: weight of the mean square.
        beta: exponent.
        k: constant that keeps the divisor from zero.

    Returns:
        (N, C, H, W) in the dtype of `x`, channels_last.
    """
    (x,) = autocast([x])
    choose("local_response_norm", x.device.type, (x, size, alpha, beta, k))
    return local_response_norm_reference(x, size, alpha, beta, k)


def local_response_norm_reference(
    x: Tensor, size: int, alpha: float, beta: float, k: float
) -> Tensor:
    """Sum the windows as one product with a band matrix, which no autocast may round."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    channel = torch.arange(x.size(1), device=x.device)
    offset = channel[:, None] - channel
    band = ((offset >= -(size // 2)) & (offset <= (size - 1) // 2)).to(dtype) * (alpha / size)
    with no_autocast(x):
        square = x.permute(0, 2, 3, 1).to(dtype).square()
        scale = (square @ band + k) ** -beta
        return (x * scale.permute(0, 3, 1, 2)).to(x.dtype, memory_format=torch.channels_last)


register("local_response_norm", {"cpu": {"reference": always}, "cuda": {"reference": always}})
