"""Bias, ReLU and the 3x3/2 max pool that follows a stem convolution."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from googlenet_fast.ops.autocast import autocast
from googlenet_fast.ops.compiled import why_not_compiled
from googlenet_fast.ops.dispatch import always, choose, register
from googlenet_fast.ops.library import define, overload_of
from googlenet_fast.ops.triton_support import why_not_triton


def bias_relu_pool(
    x: Tensor, bias: Tensor | None = None, relu: bool = True, ceil_mode: bool = False
) -> Tensor:
    """Return max_pool(relu(x + bias)), with windows of 3x3, stride 2 and no padding.

    Args:
        x: (N, C, H, W) with H and W of 3 or more (2, if `ceil_mode`); fp16, bf16, fp32 or fp64,
            cast under autocast.
        bias: (C,) of any of these dtypes, or None.
        relu: clip at zero.
        ceil_mode: keep the windows that are cut by the bottom and right edges.

    Returns:
        (N, C, H', W') in the dtype of `x`, channels_last; H' is (H - 3) / 2 + 1, rounded up if
        `ceil_mode` and down otherwise.

    Raises:
        ValueError: `x` is too small for a window.
    """
    if 0 in _pooled_size(x, ceil_mode):
        raise ValueError(
            f"bias_relu_pool: no window of 3x3 in an input of {tuple(x.shape)}; give a larger image"
        )
    (x,) = autocast([x])
    arguments = (x, bias, relu, ceil_mode)
    implementation = choose("bias_relu_pool", x.device.type, arguments)
    if implementation == "reference":
        return bias_relu_pool_reference(*arguments)
    if implementation == "triton":
        return torch.ops.googlenet_fast.bias_relu_pool.triton(*arguments)
    return torch.ops.googlenet_fast.bias_relu_pool.default(*arguments)


def bias_relu_pool_reference(x: Tensor, bias: Tensor | None, relu: bool, ceil_mode: bool) -> Tensor:
    """Compute it as relu(max_pool(x) + bias), which is equal and touches a quarter as much.

    Adding a constant and clipping are monotonic, also in floating point, so they commute with max.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    y = F.max_pool2d(x, 3, stride=2, ceil_mode=ceil_mode)
    if bias is not None:
        y = (y + bias.view(-1, 1, 1)).to(x.dtype)
    return (F.relu(y) if relu else y).contiguous(memory_format=torch.channels_last)


class _BiasReluPool(torch.autograd.Function):
    """The fused pass with its gradient; saves one byte for each output and no activation."""

    @staticmethod
    def forward(
        ctx: Any, overload: str, x: Tensor, bias: Tensor | None, relu: bool, ceil_mode: bool
    ) -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            op = overload_of("bias_relu_pool_training", overload)
            y, index = op(x, bias, relu, ceil_mode)
        ctx.overload = overload
        ctx.size = (x.size(2), x.size(3))
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.save_for_backward(index)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        _, need_x, need_bias, _, _ = ctx.needs_input_grad
        grad_x, grad_bias = overload_of("bias_relu_pool_backward", ctx.overload)(
            grad_y, *ctx.saved_tensors, *ctx.size, need_bias
        )
        return (
            None,
            grad_x if need_x else None,
            grad_bias.to(ctx.bias_dtype) if need_bias else None,
            None,
            None,
        )


def _autograd(overload: str, x: Tensor, bias: Tensor | None, relu: bool, ceil_mode: bool) -> Tensor:
    needed = x.requires_grad or (bias is not None and bias.requires_grad)
    if torch.is_grad_enabled() and needed:
        return _BiasReluPool.apply(overload, x, bias, relu, ceil_mode)
    with torch._C._AutoDispatchBelowAutograd():
        return overload_of("bias_relu_pool", overload)(x, bias, relu, ceil_mode)


def _forward(x: Tensor, bias: Tensor | None, relu: bool, ceil_mode: bool) -> Tensor:
    from googlenet_fast.kernels import bias_relu_pool as kernels

    return kernels.forward(x, bias, relu, ceil_mode, training=False)[0]


def _forward_training(
    x: Tensor, bias: Tensor | None, relu: bool, ceil_mode: bool
) -> tuple[Tensor, Tensor | None]:
    from googlenet_fast.kernels import bias_relu_pool as kernels

    return kernels.forward(x, bias, relu, ceil_mode, training=True)


def _backward(
    grad_y: Tensor, index: Tensor, height: int, width: int, bias: bool
) -> tuple[Tensor, Tensor]:
    from googlenet_fast.kernels import bias_relu_pool as kernels

    grad_x, grad_bias = kernels.backward(grad_y, index, height, width, bias)
    return grad_x, grad_y.new_empty(0, dtype=torch.float32) if grad_bias is None else grad_bias


def _pooled_size(x: Tensor, ceil_mode: bool) -> tuple[int, int]:
    """Height and width of the output; ceiling or not, all windows start inside the input."""
    cut = 0 if ceil_mode else 1
    return (x.size(2) - cut) // 2, (x.size(3) - cut) // 2


def _fake(x: Tensor, bias: Tensor | None, relu: bool, ceil_mode: bool) -> Tensor:
    return _empty(x, *_pooled_size(x, ceil_mode))


def _fake_training(
    x: Tensor, bias: Tensor | None, relu: bool, ceil_mode: bool
) -> tuple[Tensor, Tensor]:
    y = _fake(x, bias, relu, ceil_mode)
    return y, y.to(torch.uint8)


def _fake_backward(
    grad_y: Tensor, index: Tensor, height: int, width: int, bias: bool
) -> tuple[Tensor, Tensor]:
    channels = grad_y.size(1) if bias else 0
    return _empty(grad_y, height, width), grad_y.new_empty(channels, dtype=torch.float32)


def _empty(x: Tensor, height: int, width: int) -> Tensor:
    size = (x.size(0), x.size(1), height, width)
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _why_not_triton(x: Tensor, *arguments: Any) -> str | None:
    return why_not_triton(x)


def _why_not_compiled(x: Tensor, *arguments: Any) -> str | None:
    return why_not_compiled("bias_relu_pool", x)


_ARGUMENTS = "Tensor x, Tensor? bias, bool relu, bool ceil_mode"
define("bias_relu_pool", f"({_ARGUMENTS}) -> Tensor", _fake, _forward, _autograd)
define(
    "bias_relu_pool_training",
    f"({_ARGUMENTS}) -> (Tensor, Tensor)",
    _fake_training,
    _forward_training,
)
define(
    "bias_relu_pool_backward",
    "(Tensor grad_y, Tensor index, int height, int width, bool bias)"
    " -> (Tensor grad_x, Tensor grad_bias)",
    _fake_backward,
    _backward,
)
register(
    "bias_relu_pool",
    {
        "cpu": {"native": _why_not_compiled, "reference": always, "triton": _why_not_triton},
        "cuda": {"cuda": _why_not_compiled, "triton": _why_not_triton, "reference": always},
    },
)
