"""Bias, ReLU and the 3x3/2 max pool that follows a stem convolution.

Equivalent to `max_pool2d(relu(x + bias.view(-1, 1, 1)), 3, stride=2, ceil_mode=ceil_mode)`.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from googlenet_fast.ops.checks import MOST, Check
from googlenet_fast.ops.common import (
    CONVOLUTION_DTYPES,
    autocast,
    below_autograd,
    channels_last,
    define_kernels,
    empty_channels_last,
    gradients_or_empty,
    native_supports,
    needs_gradient,
    once_differentiable,
    triton_supports,
)
from googlenet_fast.registry import Backend, Call, Kernels, Op, Work


def bias_relu_pool(
    x: Tensor, bias: Tensor | None = None, relu: bool = True, ceil_mode: bool = False
) -> Tensor:
    """Return max_pool(relu(x + bias)), with windows of 3x3, stride 2 and no padding.

    Args:
        x: (N, C, H, W) with H and W of 3 or more (2, if `ceil_mode`); fp16, bf16, fp32 or fp64,
            cast under autocast.
        bias: (C,) of any of these dtypes, or None.
        relu: apply ReLU.
        ceil_mode: keep the windows that the bottom and right edges cut.

    Returns:
        (N, C, H', W') in the dtype of `x`, channels_last; H' is (H - 3) / 2 + 1, rounded up if
        `ceil_mode` and down otherwise.

    Raises:
        ValueError: `x` is too small for a window.
    """
    if 0 in pooled_size(x.size(2), x.size(3), ceil_mode):
        raise ValueError(
            f"bias_relu_pool: no window of 3x3 in an input of {tuple(x.shape)}; give a larger image"
        )
    (x,) = autocast([x])
    arguments = (x, bias, relu, ceil_mode)
    return BIAS_RELU_POOL.choose(*arguments).run(*arguments)


def bias_relu_pool_reference(x: Tensor, bias: Tensor | None, relu: bool, ceil_mode: bool) -> Tensor:
    """Compute it as relu(max_pool(x) + bias), which is equal and touches a quarter as much.

    Adding a constant and ReLU are monotonic, also in floating point, so they commute with max.
    """
    y = F.max_pool2d(channels_last(x), 3, stride=2, ceil_mode=ceil_mode)
    if bias is not None:
        y = (y + bias.view(-1, 1, 1)).to(x.dtype)
    return channels_last(F.relu(y) if relu else y)


class _BiasReluPool(torch.autograd.Function):
    """The fused pass with its gradient; saves one byte per output element and no activation."""

    @staticmethod
    def forward(
        ctx: Any, kernels: Kernels, x: Tensor, bias: Tensor | None, relu: bool, ceil_mode: bool
    ) -> Tensor:
        y, index = below_autograd(kernels.training, x, bias, relu, ceil_mode)
        ctx.kernels = kernels
        ctx.size = (x.size(2), x.size(3))
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.save_for_backward(index)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        _, need_x, need_bias, _, _ = ctx.needs_input_grad
        grad_x, grad_bias = ctx.kernels.backward(grad_y, *ctx.saved_tensors, *ctx.size, need_bias)
        return (
            None,
            grad_x if need_x else None,
            grad_bias.to(ctx.bias_dtype) if need_bias else None,
            None,
            None,
        )


def _autograd(
    kernels: Kernels, x: Tensor, bias: Tensor | None, relu: bool, ceil_mode: bool
) -> Tensor:
    if needs_gradient((x, bias)):
        return _BiasReluPool.apply(kernels, x, bias, relu, ceil_mode)
    return below_autograd(kernels.forward, x, bias, relu, ceil_mode)


def _triton_forward(x: Tensor, bias: Tensor | None, relu: bool, ceil_mode: bool) -> Tensor:
    from googlenet_fast.kernels import bias_relu_pool as kernels

    _check_triton("bias_relu_pool_triton", x, bias, ceil_mode)
    return kernels.forward(x, bias, relu, ceil_mode, training=False)[0]


def _triton_training(
    x: Tensor, bias: Tensor | None, relu: bool, ceil_mode: bool
) -> tuple[Tensor, Tensor | None]:
    from googlenet_fast.kernels import bias_relu_pool as kernels

    _check_triton("bias_relu_pool_triton_training", x, bias, ceil_mode)
    return kernels.forward(x, bias, relu, ceil_mode, training=True)


def _triton_backward(
    grad_y: Tensor, index: Tensor, height: int, width: int, bias: bool
) -> tuple[Tensor, Tensor]:
    from googlenet_fast.kernels import bias_relu_pool as kernels

    check = Check("bias_relu_pool_triton_backward", grad_y)
    check.image("grad_y")
    _, _, out_height, out_width = grad_y.shape
    fits = min(height, width, out_height, out_width) > 0 and (out_height, out_width) in [
        pooled_size(height, width, ceil_mode) for ceil_mode in (False, True)
    ]
    check.that(
        fits, "height and width", f"be of images that are pooled to {out_height}x{out_width}"
    )
    pixels = grad_y.size(0) * height * width
    check.that(pixels < MOST, "height and width", "be of fewer than 2^31 pixels")
    index = check.index("index", index, grad_y.shape)
    return gradients_or_empty(grad_y, *kernels.backward(grad_y, index, height, width, bias))


def _check_triton(op: str, x: Tensor, bias: Tensor | None, ceil_mode: bool) -> None:
    check = Check(op, x)
    check.image("x")
    check.bias("bias", bias, x.size(1))
    windows = pooled_size(x.size(2), x.size(3), ceil_mode)
    check.that(min(windows) > 0, "x", "be as large as a window")


def pooled_size(height: int, width: int, ceil_mode: bool) -> tuple[int, int]:
    """Return height and width of the output; in both modes every window starts inside."""
    cut = 0 if ceil_mode else 1
    return (height - cut) // 2, (width - cut) // 2


def _fake(x: Tensor, bias: Tensor | None, relu: bool, ceil_mode: bool) -> Tensor:
    return empty_channels_last(x, x.size(1), pooled_size(x.size(2), x.size(3), ceil_mode))


def _fake_training(
    x: Tensor, bias: Tensor | None, relu: bool, ceil_mode: bool
) -> tuple[Tensor, Tensor]:
    y = _fake(x, bias, relu, ceil_mode)
    return y, empty_channels_last(y, y.size(1), dtype=torch.uint8)


def _fake_backward(
    grad_y: Tensor, index: Tensor, height: int, width: int, bias: bool
) -> tuple[Tensor, Tensor]:
    channels = grad_y.size(1) if bias else 0
    grad_x = empty_channels_last(grad_y, grad_y.size(1), (height, width))
    return grad_x, grad_y.new_empty(channels, dtype=torch.float32)


def _native_supports(x: Tensor, *arguments: Any) -> str | None:
    return native_supports("bias_relu_pool", x, CONVOLUTION_DTYPES)


def _work(call: Call) -> Work:
    training, ((n, channels, height, width), dtype), *_ = call
    pixels = n * channels * height * width
    x, y, index = pixels * dtype.itemsize, pixels * dtype.itemsize / 4, pixels / 4
    return Work(0, 2 * (x + y + index) if training else x + y)


def _samples() -> Iterator[Call]:
    for shape, ceil_mode in (((2, 64, 28, 28), True), ((1, 5, 9, 8), False)):
        yield (
            *(True, (shape, torch.float32), (shape[1:2], torch.float32)),
            *(True, ceil_mode),
        )


_ARGUMENTS = "Tensor x, Tensor? bias, bool relu, bool ceil_mode"
_SCHEMAS: dict[str, Any] = {
    "forward": (f"({_ARGUMENTS}) -> Tensor", _fake),
    "training": (f"({_ARGUMENTS}) -> (Tensor, Tensor)", _fake_training),
    "backward": (
        "(Tensor grad_y, Tensor index, int height, int width, bool bias)"
        " -> (Tensor grad_x, Tensor grad_bias)",
        _fake_backward,
    ),
    "autograd": _autograd,
}
NATIVE = define_kernels("bias_relu_pool", **_SCHEMAS)
TRITON = define_kernels(
    "bias_relu_pool_triton",
    **_SCHEMAS,
    functions=(_triton_forward, _triton_training, _triton_backward),
)
BIAS_RELU_POOL = Op(
    "bias_relu_pool",
    bias_relu_pool_reference,
    (
        Backend("cuda", "cuda", NATIVE.run, _native_supports, NATIVE),
        Backend("triton", "cuda", TRITON.run, triton_supports, TRITON, check_first=True),
        Backend("native", "cpu", NATIVE.run, _native_supports, NATIVE),
        Backend("triton", "cpu", TRITON.run, triton_supports, TRITON, on_request=True),
    ),
    samples=_samples,
    work=_work,
)
