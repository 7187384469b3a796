"""Inputs and expected results for check_kernels.py, by the pure-PyTorch reference in float64.

Activations are (N, H, W, C) and weights (outputs, taps, taps, inputs), as the kernels take them.
Values of activations are multiples of 1/8 that every dtype represents.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from googlenet_fast.ops import (
    bias_relu_pool,
    bn_relu_concat,
    bn_relu_pool,
    concat_bias_relu,
    conv_bias_relu,
    inception,
    local_response_norm,
    max_pool,
    use_impl,
)

SIZES = [
    *((2, 7, 9, 5), (3, 70, 6, 6), (1, 5, 14, 7), (1, 37, 2, 13), (2, 16, 3, 4)),
    *((1, 1, 1, 1), (0, 3, 4, 4)),
]
"""(N, C, H, W)"""

Arrays = dict[str, Any]


def eighths(*shape: int) -> Tensor:
    return ((torch.randn(shape) * 8).round() / 8).clamp(-8, 8).double()


def random(*shape: int) -> Tensor:
    """Values of float32."""
    return torch.randn(shape).double()


def rows(*tensors: Tensor) -> np.ndarray:
    """Weights' and biases' gradients, end to end."""
    return torch.cat([pixels_first(t).flatten() for t in tensors]).numpy()


def pixels_first(t: Tensor) -> Tensor:
    return t.permute(0, 2, 3, 1) if t.dim() == 4 else t


def differentiate(
    function: Callable[..., Tensor], *tensors: Tensor
) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
    """Return the output, a gradient of it, and the gradients of the tensors."""
    leaves = [t.clone().requires_grad_() for t in tensors]
    y = function(*leaves)
    grad_y = eighths(*y.shape)
    return y.detach(), grad_y, torch.autograd.grad(y, leaves, grad_y)


def conv(x: Tensor, outputs: int, taps: int, *, bias: bool, relu: bool) -> Arrays:
    weight = random(outputs, x.size(1), taps, taps)
    parameters = [weight, random(outputs)]
    used = parameters if bias else [weight]
    stride = 2 if taps == 7 else 1

    def function(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return conv_bias_relu(x, weight, bias, relu, stride)

    y, grad_y, (grad_x, *grads) = differentiate(function, x, *used)
    if not bias:
        grads.append(grad_y.sum((0, 2, 3)))
    arrays = {"weight": weight, "grads": rows(*grads), "y": y, "grad_y": grad_y, "grad_x": grad_x}
    return {**arrays, "relu": relu, **({"bias": parameters[1]} if bias else {})}


def block(x: Tensor) -> Arrays:
    c = x.size(1)
    shapes = [(24, c, 1, 1), (6, 5, 3, 3), (9, 6, 5, 5), (2, c, 1, 1)]
    weights, biases = [random(*s) for s in shapes], [random(s[0]) for s in shapes]
    pairs = [t for pair in zip(weights, biases, strict=True) for t in pair]
    y, grad_y, (grad_x, *grads) = differentiate(inception, x, *pairs)
    arrays = {f"weight{i}": w for i, w in enumerate(weights)}
    arrays |= {f"bias{i}": b for i, b in enumerate(biases)}
    return {**arrays, "y": y, "grad_y": grad_y, "grad_x": grad_x, "grads": rows(*grads)}


def strided_pool(x: Tensor, *, bias: bool) -> Arrays:
    def function(x: Tensor, bias: Tensor | None = None) -> Tensor:
        return bias_relu_pool(x, bias, bias is not None, True)

    values = [random(x.size(1))] if bias else []
    y, grad_y, (grad_x, *sums) = differentiate(function, x, *values)
    arrays = {"y": y, "grad_y": grad_y, "grad_x": grad_x}
    return {**arrays, "bias": values[0], "grad_bias": sums[0]} if bias else arrays


def pool(x: Tensor) -> Arrays:
    y, grad_y, (grad_x,) = differentiate(max_pool, x)
    add_to = eighths(*x.shape)
    return {"y": y, "grad_y": grad_y, "add_to": add_to, "grad_x": grad_x + add_to}


def response_norm(x: Tensor) -> Arrays:
    y, grad_y, (grad_x,) = differentiate(lambda x: local_response_norm(x, 5, 0.1, 0.75, 1.5), x)
    return {"y": y, "grad_y": grad_y, "grad_x": grad_x}


def concat(x: Tensor) -> Arrays:
    c = x.size(1)
    x2, biases = eighths(x.size(0), 3, *x.shape[2:]), random(c + 3)

    def function(x: Tensor, x2: Tensor, biases: Tensor) -> Tensor:
        return concat_bias_relu([x, x2], biases.split([c, 3]))

    y, grad_y, (grad_x, grad_x2, grad_bias) = differentiate(function, x, x2, biases)
    arrays = {"x2": x2, "bias": biases, "y": y, "grad_y": grad_y, "grad_bias": grad_bias}
    return {**arrays, "grad_x": grad_x, "grad_x2": grad_x2}


def norms(weight: Tensor, bias: Tensor, widths: Sequence[int]) -> list[nn.BatchNorm2d]:
    """Batch norms whose parameters are parts of given ones, still in their graph."""
    made = [nn.BatchNorm2d(width).double() for width in widths]
    for norm, w, b in zip(made, weight.split(widths), bias.split(widths), strict=True):
        del norm.weight, norm.bias
        norm.weight, norm.bias = w, b
    return made


def statistics(x: Tensor) -> Tensor:
    return torch.stack([x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)])


def norm_concat(x: Tensor) -> Arrays:
    widths = [x.size(1), 3]
    x2, weight, bias = eighths(x.size(0), 3, *x.shape[2:]), random(sum(widths)), random(sum(widths))

    def function(x: Tensor, x2: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return bn_relu_concat([x, x2], norms(weight, bias, widths))

    y, grad_y, (grad_x, grad_x2, *sums) = differentiate(function, x, x2, weight, bias)
    arrays = {"x2": x2, "weight": weight, "bias": bias, "y": y, "grad_y": grad_y}
    arrays |= {"statistics": statistics(torch.cat([x, x2], 1)), "sums": torch.stack(sums[::-1])}
    return {**arrays, "grad_x": grad_x, "grad_x2": grad_x2}


def norm_pool(x: Tensor) -> Arrays:
    weight, bias = random(x.size(1)), random(x.size(1))

    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return bn_relu_pool(x, norms(weight, bias, [x.size(1)])[0], True)

    y, grad_y, (grad_x, *sums) = differentiate(function, x, weight, bias)
    arrays = {"weight": weight, "bias": bias, "y": y, "grad_y": grad_y, "grad_x": grad_x}
    return {**arrays, "statistics": statistics(x), "sums": torch.stack(sums[::-1])}


CASES: dict[str, Callable[[Tensor], Arrays]] = {
    "inception": block,
    "conv_bias_relu 1x1": lambda x: conv(x, 50, 1, bias=False, relu=False),
    "conv_bias_relu 3x3": lambda x: conv(x, 35, 3, bias=True, relu=True),
    "conv_bias_relu 5x5": lambda x: conv(x, 5, 5, bias=True, relu=True),
    "conv_bias_relu 7x7": lambda x: conv(x, 5, 7, bias=True, relu=True),
    "bias_relu_pool": lambda x: strided_pool(x, bias=True),
    "bias_relu_pool plain": lambda x: strided_pool(x, bias=False),
    "max_pool": pool,
    "local_response_norm": response_norm,
    "concat_bias_relu": concat,
    "bn_relu_concat": norm_concat,
    "bn_relu_pool": norm_pool,
}


def write_cases(folder: Path) -> None:
    """Write a file for each op and size that the op takes."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    for op, case in CASES.items():
        for n, c, h, w in SIZES:
            no_windows = "_pool" in op and op != "max_pool" and min(h, w) < 2
            no_variance = op.startswith("bn_") and n * h * w < 2
            if no_windows or no_variance:
                continue
            x = eighths(n, c, h, w)
            with use_impl("reference"):
                arrays = {"x": x, **case(x)}
            values: Arrays = {
                name: pixels_first(value).numpy() if isinstance(value, Tensor) else value
                for name, value in arrays.items()
            }
            np.savez(folder / f"{op} {n}x{c}x{h}x{w}.npz", **values)
