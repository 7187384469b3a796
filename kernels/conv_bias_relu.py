"""One convolution with bias and ReLU, 1x1 or spatial: 1 launch forward, at most 3 backward."""

import torch
from torch import Tensor

from . import conv1x1, conv_spatial
from .layout import empty_rows, rows
from .split_k import Sums, WeightShape


def forward(x: Tensor, w: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    """Return relu(conv(x, w) + bias), channels_last in the dtype of `x`.

    Args:
        x: (N, C, H, W).
        w: (K, C, T, T), T odd, cast to the dtype of `x`.
        bias: (K,), any floating dtype, or None.
        relu: clip at zero.
    """
    x, w = rows(x), _filter(w, x.dtype)
    y = empty_rows(x, w.size(0))
    if w.size(2) == 1:
        conv1x1.forward(x, w, bias, y, relu_y=relu)
    else:
        conv_spatial.forward(x, w, bias, y, relu=relu)
    return y


def backward(
    grad_y: Tensor, x: Tensor, y: Tensor | None, w: Tensor, need_x: bool, need_parameters: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradient of x, and those of weight (K, T, T, C) and bias (K,) as one fp32 vector.

    `y` is the output of ReLU; None: there was no ReLU.
    """
    x, grad_y, w = rows(x), rows(grad_y), _filter(w, x.dtype)
    y = None if y is None else rows(y)
    taps = w.size(2)
    grad_x = empty_rows(x, x.size(1)) if need_x else None
    both = need_x and need_parameters and taps == 1
    one_pass = both and conv1x1.fits_one_tile(w.size(0), w.size(1))
    if grad_x is not None and not one_pass:
        if taps == 1:
            conv1x1.input_gradient(grad_y, y, None, w, grad_x)
        else:
            conv_spatial.input_gradient(grad_y, y, w, None, grad_x)
    if not need_parameters:
        return grad_x, None
    sums = Sums([WeightShape.of(w)], x.numel() // x.size(1), x.device)
    if one_pass:
        conv1x1.weight_gradient(grad_y, y, None, x, sums.partial[0], w, grad_x)
    elif taps == 1:
        conv1x1.weight_gradient(grad_y, y, None, x, sums.partial[0])
    else:
        conv_spatial.weight_gradient(grad_y, y, x, sums.partial[0], taps)
    return grad_x, sums.reduce()


def _filter(w: Tensor, dtype: torch.dtype) -> Tensor:
    return w.to(dtype).contiguous(memory_format=torch.channels_last)
