"""A convolution with its bias and ReLU, and "same" padding."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from googlenet_fast.ops.autocast import autocast
from googlenet_fast.ops.compiled import why_not_compiled
from googlenet_fast.ops.concat_bias_relu import concat_bias_relu
from googlenet_fast.ops.dispatch import always, choose, register
from googlenet_fast.ops.library import define, overload_of
from googlenet_fast.ops.parameter_gradients import weight_and_bias
from googlenet_fast.ops.triton_support import why_not_triton


def conv_bias_relu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    relu: bool = True,
    stride: int = 1,
    prepared: Callable[[], Tensor] | None = None,
) -> Tensor:
    """Return relu(conv(x, weight) + bias), padded by (T - 1) / 2 on each side.

    Activations and weights are cast under autocast; the bias may be fp32 beside halves.

    Args:
        x: (N, C, H, W); fastest in channels_last.
        weight: (K, C, T, T), T odd.
        bias: (K,), or None.
        relu: clip at zero.
        stride: of the filter; the kernels take 1 or, of 7x7 on CPUs, 2.
        prepared: gives `prepare_weight` of the weight for such images; called where the compiled
            kernels for CPUs run without gradients.

    Returns:
        (N, K, H / stride, W / stride), rounded up, in the dtype of `x`, channels_last.

    Raises:
        ValueError: the weight is not square and odd, or not for the channels of `x`.
    """
    if weight.size(1) != x.size(1) or weight.size(2) != weight.size(3) or weight.size(2) % 2 == 0:
        raise ValueError(
            f"conv_bias_relu: weight {tuple(weight.shape)} for {x.size(1)} channels; it must be"
            " (outputs, channels, T, T) with odd T"
        )
    (x,) = autocast([x])
    arguments = (x, weight, bias, relu, stride)
    if stride != 1 and x.device.type != "cpu":
        return _conv_bias_relu_aten(*arguments)  # only CPUs have kernels to choose from
    name = "conv_bias_relu" if stride == 1 else "strided_conv_bias_relu"
    implementation = choose(name, x.device.type, arguments)
    if implementation == "triton":
        return torch.ops.googlenet_fast.conv_bias_relu.triton(*arguments, [])
    if implementation == "native":
        packed = [] if prepared is None or torch.is_grad_enabled() else [prepared()]
        return torch.ops.googlenet_fast.conv_bias_relu.default(*arguments, packed)
    if implementation == "aten":
        return _conv_bias_relu_aten(*arguments)
    return conv_bias_relu_reference(*arguments)


def conv_bias_relu_reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool, stride: int = 1
) -> Tensor:
    """Convolve with PyTorch, then clip."""
    x = x.contiguous(memory_format=torch.channels_last)
    bias = None if bias is None else bias.to(x.dtype)
    y = F.conv2d(x, weight, bias, stride, weight.size(2) // 2)
    return (F.relu_(y) if relu else y).contiguous(memory_format=torch.channels_last)


def _conv_bias_relu_aten(
    x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool, stride: int
) -> Tensor:
    """Convolve with the library; bias and ReLU are one pass over its output."""
    y = conv_bias_relu_reference(x, weight, None, False, stride)
    if bias is None and not relu:
        return y
    return concat_bias_relu([y], None if bias is None else [bias], relu)


class _ConvBiasRelu(torch.autograd.Function):
    """The op with its gradient; saves the input and, as ReLU's mask, the output."""

    @staticmethod
    def forward(
        ctx: Any,
        overload: str,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        relu: bool,
        stride: int,
    ) -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            y = overload_of("conv_bias_relu", overload)(x, weight, bias, relu, stride, [])
        ctx.overload, ctx.stride = overload, stride
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.save_for_backward(x, weight, *([y] if relu else []))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *rest = ctx.saved_tensors
        need_x, *need_parameters = ctx.needs_input_grad[1:4]
        grad_x, grads = overload_of("conv_bias_relu_backward", ctx.overload)(
            grad_y, x, rest[0] if rest else None, weight, ctx.stride, need_x, any(need_parameters)
        )
        if not any(need_parameters):
            return None, grad_x, None, None, None, None
        grad_weight, grad_bias = weight_and_bias(grads, 0, weight)
        return (
            None,
            grad_x if need_x else None,
            grad_weight.to(weight.dtype),
            None if ctx.bias_dtype is None else grad_bias.to(ctx.bias_dtype),
            None,
            None,
        )


def _autograd(
    overload: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    relu: bool,
    stride: int,
    packed: list[Tensor],
) -> Tensor:
    if torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (x, weight, bias)
    ):
        return _ConvBiasRelu.apply(overload, x, weight, bias, relu, stride)
    with torch._C._AutoDispatchBelowAutograd():
        return overload_of("conv_bias_relu", overload)(x, weight, bias, relu, stride, packed)


def _forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool, stride: int, packed: list[Tensor]
) -> Tensor:
    from googlenet_fast.kernels import conv_bias_relu as kernels

    _check_triton(stride)
    return kernels.forward(x, weight, bias, relu)


def _backward(
    grad_y: Tensor,
    x: Tensor,
    y: Tensor | None,
    weight: Tensor,
    stride: int,
    need_x: bool,
    need_parameters: bool,
) -> tuple[Tensor, Tensor]:
    from googlenet_fast.kernels import conv_bias_relu as kernels

    _check_triton(stride)
    grad_x, grads = kernels.backward(grad_y, x, y, weight, need_x, need_parameters)
    return (
        grad_y.new_empty(0) if grad_x is None else grad_x,
        grad_y.new_empty(0, dtype=torch.float32) if grads is None else grads,
    )


def _check_triton(stride: int) -> None:
    if stride != 1:
        raise ValueError(f"conv_bias_relu: the Triton kernel has stride 1, not {stride}")


def _fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    relu: bool,
    stride: int,
    packed: list[Tensor],
) -> Tensor:
    height, width = ((side + stride - 1) // stride for side in x.shape[2:])
    size = (x.size(0), weight.size(0), height, width)
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _fake_backward(
    grad_y: Tensor,
    x: Tensor,
    y: Tensor | None,
    w: Tensor,
    stride: int,
    need_x: bool,
    need_parameters: bool,
) -> tuple[Tensor, Tensor]:
    numel = w.numel() + w.size(0) if need_parameters else 0
    grad_x = torch.empty_like(x, memory_format=torch.channels_last)
    return grad_x if need_x else grad_y.new_empty(0), grad_y.new_empty(numel, dtype=torch.float32)


def _why_not_triton(
    x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool, stride: int = 1
) -> str | None:
    return why_not_triton(x) if stride == 1 else f"a stride of {stride}"


def _why_not_native(
    x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool, stride: int = 1
) -> str | None:
    reason = why_not_compiled("conv_bias_relu", x)
    if reason is not None:
        return reason
    taps = weight.size(2)
    if (taps, stride) in ((1, 1), (3, 1), (5, 1), (7, 2)):
        return None
    return f"a filter of {taps}x{taps} with stride {stride}"


define(
    "conv_bias_relu",
    "(Tensor x, Tensor weight, Tensor? bias, bool relu, int stride, Tensor[] packed) -> Tensor",
    _fake,
    _forward,
    _autograd,
)
define(
    "conv_bias_relu_backward",
    "(Tensor grad_y, Tensor x, Tensor? y, Tensor weight, int stride, bool need_x,"
    " bool need_parameters) -> (Tensor, Tensor)",
    _fake_backward,
    _backward,
)
register(
    "conv_bias_relu",
    {
        "cpu": {
            "native": _why_not_native,
            "reference": always,
            "aten": always,
            "triton": _why_not_triton,
        },
        "cuda": {"triton": _why_not_triton, "aten": always, "reference": always},
    },
)
register(
    "strided_conv_bias_relu",
    {"cpu": {"native": _why_not_native, "reference": always, "aten": always}},
)
