"""The Inception block: 1x1, 3x3, 5x5 and pool-project branches, concatenated, then ReLU."""

import torch
import torch.nn.functional as F
from torch import Tensor

from googlenet_fast.ops.autocast import autocast
from googlenet_fast.ops.concat_bias_relu import concat_bias_relu
from googlenet_fast.ops.dispatch import always, choose, register


def inception(
    x: Tensor,
    w_in: Tensor,
    b_in: Tensor | None,
    w3: Tensor,
    b3: Tensor | None,
    w5: Tensor,
    b5: Tensor | None,
    wp: Tensor,
    bp: Tensor | None,
    reduce_relu: bool = True,
) -> Tensor:
    """Return relu([conv1(x), conv3(reduce3(x)), conv5(reduce5(x)), project(max_pool(x))]).

    Weights are in (out, in, kernel, kernel) order, their convolutions "same" padded with stride 1.
    Activations and weights are cast under autocast; biases may be fp32 beside halves.

    Args:
        x: (N, C, H, W); fastest in channels_last.
        w_in: (C1 + C3r + C5r, C, 1, 1), the weights of branch 1 and of both reductions, stacked.
        b_in: (C1 + C3r + C5r,).
        w3: (C3, C3r, 3, 3).
        b3: (C3,).
        w5: (C5, C5r, 5, 5), or 3x3 as torchvision has it.
        b5: (C5,).
        wp: (Cp, C, 1, 1), applied to the 3x3 maxima of `x` at stride 1, padded.
        bp: (Cp,).
        reduce_relu: clip the reductions too.

    Returns:
        (N, C1 + C3 + C5 + Cp, H, W) in the dtype of `x`, channels_last.

    Raises:
        ValueError: some biases are given and others are not, or the weights do not fit together.
    """
    biases = (b_in, b3, b5, bp)
    if len({bias is None for bias in biases}) > 1:
        raise ValueError("inception: give all four biases or none")
    if w_in.size(0) <= w3.size(1) + w5.size(1) or w_in.size(1) != wp.size(1):
        raise ValueError(
            f"inception: weights {', '.join(str(tuple(w.shape)) for w in (w_in, w3, w5, wp))}"
            " do not fit together"
        )
    (x,) = autocast([x])
    arguments = (x, w_in, b_in, w3, b3, w5, b5, wp, bp, reduce_relu)
    if choose("inception", x.device.type, arguments) == "aten":
        return _inception_aten(*arguments)
    return inception_reference(*arguments)


def inception_reference(
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
) -> Tensor:
    """Compute each convolution on its own, then concatenate, then clip."""
    x = x.contiguous(memory_format=torch.channels_last)
    widths = _sibling_widths(w_in, w3, w5)
    w1, w3_reduce, w5_reduce = w_in.split(widths)
    b1, b3_reduce, b5_reduce = (None,) * 3 if b_in is None else b_in.split(widths)
    r3, r5 = _conv(x, w3_reduce, b3_reduce), _conv(x, w5_reduce, b5_reduce)
    if reduce_relu:
        r3, r5 = F.relu(r3), F.relu(r5)
    pooled = F.max_pool2d(x, 3, stride=1, padding=1)
    branches = [_conv(x, w1, b1), _conv(r3, w3, b3), _conv(r5, w5, b5), _conv(pooled, wp, bp)]
    return F.relu(torch.cat(branches, dim=1)).contiguous(memory_format=torch.channels_last)


def _inception_aten(
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
) -> Tensor:
    """Run the siblings as one convolution, and bias, ReLU and concatenation as one pass."""
    x = x.contiguous(memory_format=torch.channels_last)
    widths = _sibling_widths(w_in, w3, w5)
    y1, r3, r5 = _conv(x, w_in, None).split(widths, dim=1)
    b1, b3_reduce, b5_reduce = (None,) * 3 if b_in is None else b_in.split(widths)
    if b_in is not None or reduce_relu:
        r3 = concat_bias_relu([r3], _given(b3_reduce), reduce_relu)
        r5 = concat_bias_relu([r5], _given(b5_reduce), reduce_relu)
    pooled = F.max_pool2d(x, 3, stride=1, padding=1)
    branches = [y1, _conv(r3, w3, None), _conv(r5, w5, None), _conv(pooled, wp, None)]
    return concat_bias_relu(branches, _given(b1, b3, b5, bp))


def _given(*biases: Tensor | None) -> list[Tensor] | None:
    """The biases as a list, or None where there are none."""
    return [bias for bias in biases if bias is not None] or None


def _sibling_widths(w_in: Tensor, w3: Tensor, w5: Tensor) -> tuple[int, int, int]:
    """Output channels of branch 1 and of the two reductions."""
    return w_in.size(0) - w3.size(1) - w5.size(1), w3.size(1), w5.size(1)


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve with "same" padding; a bias of another dtype is cast to that of `x`."""
    bias = None if bias is None else bias.to(x.dtype)
    return F.conv2d(x, weight, bias, padding=weight.size(-1) // 2)


_IMPLEMENTATIONS = {"aten": always, "reference": always}
register("inception", {"cpu": _IMPLEMENTATIONS, "cuda": _IMPLEMENTATIONS})
