"""Gradients of weights as the kernels lay them out."""

from torch import Tensor


def as_weight(row: Tensor, weight: Tensor) -> Tensor:
    """View a weight's gradient, a row of (outputs, T, T, inputs), with the weight's shape.

    The strides are those of a channels_last parameter, which DDP and optimizers prefer.
    """
    outputs, inputs, height, width = weight.shape
    if height == width == 1:
        return row.view(outputs, inputs, 1, 1)
    return row.view(outputs, height, width, inputs).permute(0, 3, 1, 2)
