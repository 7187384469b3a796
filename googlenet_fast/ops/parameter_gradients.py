"""Gradients of parameters as the kernels lay them out."""

from torch import Tensor


def weight_and_bias(row: Tensor, start: int, weight: Tensor) -> tuple[Tensor, Tensor]:
    """View a convolution's gradients in the row that holds all of them.

    Args:
        row: from `start` on a weight's gradient, (outputs, T, T, inputs), and then its bias's.
        start: where they begin.
        weight: (outputs, inputs, T, T).

    Returns:
        The weight's gradient with its shape and the strides of a channels_last parameter, which
        DDP and optimizers prefer, and the bias's.
    """
    outputs, inputs, taps, _ = shape = weight.shape
    strides = (taps * taps * inputs, 1, taps * inputs, inputs)
    if taps == 1:
        strides = (inputs, 1, 1, 1)
    end = start + weight.numel()
    return row.as_strided(shape, strides, start), row.as_strided((outputs,), (1,), end)
