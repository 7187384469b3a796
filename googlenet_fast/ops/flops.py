"""FLOP formulas of the registered ops that multiply matrices, for `FlopCounterMode`.

A convolution counts as in PyTorch: two operations per product, whatever algorithm computes it.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

from googlenet_fast.registry import NAMESPACE

Shape = Sequence[int]


def register() -> None:
    """Enter the formulas in PyTorch's table; ops must be defined."""
    ops = getattr(torch.ops, NAMESPACE)
    for backend in ("", "_triton"):
        inception, conv = f"inception{backend}", f"conv_bias_relu{backend}"
        register_flop_formula([getattr(ops, inception), getattr(ops, f"{inception}_training")])(
            _inception
        )
        register_flop_formula(getattr(ops, f"{inception}_backward"))(_inception_backward)
        register_flop_formula(getattr(ops, conv))(_conv)
        register_flop_formula(getattr(ops, f"{conv}_backward"))(_conv_backward)


def _products(y: Shape, *weights: Shape) -> int:
    """Count the products of convolutions whose outputs have the pixels of `y`, (N, C, H, W)."""
    return 2 * y[0] * y[2] * y[3] * sum(prod(weight) for weight in weights)


def _conv(x: Shape, weight: Shape, *arguments: Any, out_shape: Shape, **_: Any) -> int:
    return _products(out_shape, weight)


def _conv_backward(
    grad_y: Shape,
    x: Shape,
    y: Shape | None,
    weight: Shape,
    stride: int,
    need_x: bool,
    need_parameters: bool,
    **_: Any,
) -> int:
    return (need_x + need_parameters) * _products(grad_y, weight)


def _inception(x: Shape, *parameters: Any, **_: Any) -> int:
    w_in, w3, w5, wp = parameters[:8:2]
    return _products(x, w_in, w3, w5, wp)


def _inception_backward(
    grad_y: Shape,
    x: Shape,
    r: Shape,
    y: Shape,
    index: Shape,
    w_in: Shape,
    w3: Shape,
    w5: Shape,
    wp: Shape,
    reduce_relu: bool,
    need_x: bool,
    need_parameters: bool,
    **_: Any,
) -> int:
    """The gradient of the reductions is needed for that of the weights too."""
    of_inputs = _products(x, w3, w5) + need_x * _products(x, w_in, wp)
    return of_inputs + need_parameters * _products(x, w_in, w3, w5, wp)
