"""A convolution with its bias and ReLU, and "same" padding.

Equivalent to `relu(conv2d(x, weight, bias, stride, padding=T // 2))`.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from googlenet_fast.ops.checks import Check
from googlenet_fast.ops.common import (
    CONVOLUTION_DTYPES,
    autocast,
    below_autograd,
    channels_last,
    convolution_work,
    define_kernels,
    empty_channels_last,
    gradients_or_empty,
    native_supports,
    needs_gradient,
    once_differentiable,
    triton_supports,
    weight_and_bias,
)
from googlenet_fast.ops.concat_bias_relu import concat_bias_relu
from googlenet_fast.registry import Backend, Call, Kernels, Op, Work


def conv_bias_relu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    relu: bool = True,
    stride: int = 1,
    packed: Sequence[Tensor] = (),
) -> Tensor:
    """Return relu(conv(x, weight) + bias), padded by (T - 1) / 2 on each side.

    Activations and weights are cast under autocast; the bias may be fp32 beside half precision.

    Args:
        x: (N, C, H, W); fastest in channels_last.
        weight: (K, C, T, T), T odd.
        bias: (K,), or None.
        relu: apply ReLU.
        stride: of the filter; the kernels take 1 or, of 7x7 on CPUs, 2.
        packed: [`pack_weight` of the weight for images of this size], or nothing. Used by the CPU
            kernels where no gradients are wanted.

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
    arguments = (x, weight, bias, relu, stride, packed)
    return CONV_BIAS_RELU.choose(*arguments).run(*arguments)


def conv_bias_relu_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    relu: bool,
    stride: int = 1,
    packed: Sequence[Tensor] = (),
) -> Tensor:
    """Convolve with PyTorch, then apply ReLU."""
    bias = None if bias is None else bias.to(x.dtype)
    y = F.conv2d(channels_last(x), weight, bias, stride, weight.size(2) // 2)
    return channels_last(F.relu(y) if relu else y)


def _conv_bias_relu_aten(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    relu: bool,
    stride: int,
    packed: Sequence[Tensor],
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
        kernels: Kernels,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        relu: bool,
        stride: int,
    ) -> Tensor:
        y = below_autograd(kernels.training, x, weight, bias, relu, stride, [])
        ctx.kernels, ctx.stride = kernels, stride
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.save_for_backward(x, weight, *([y] if relu else []))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *rest = ctx.saved_tensors
        need_x, *need_parameters = ctx.needs_input_grad[1:4]
        grad_x, grads = ctx.kernels.backward(
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
    kernels: Kernels,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    relu: bool,
    stride: int,
    packed: Sequence[Tensor],
) -> Tensor:
    if needs_gradient((x, weight, bias)):
        return _ConvBiasRelu.apply(kernels, x, weight, bias, relu, stride)
    return below_autograd(kernels.forward, x, weight, bias, relu, stride, packed)


def _triton_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    relu: bool,
    stride: int,
    packed: Sequence[Tensor],
) -> Tensor:
    from googlenet_fast.kernels import conv_bias_relu as kernels

    check = _check_triton("conv_bias_relu_triton", x, weight, stride)
    check.bias("bias", bias, weight.size(0))
    return kernels.forward(x, weight, bias, relu)


def _triton_backward(
    grad_y: Tensor,
    x: Tensor,
    y: Tensor | None,
    weight: Tensor,
    stride: int,
    need_x: bool,
    need_parameters: bool,
) -> tuple[Tensor, Tensor]:
    from googlenet_fast.kernels import conv_bias_relu as kernels

    check = _check_triton("conv_bias_relu_triton_backward", x, weight, stride)
    check.same_pixels("grad_y", grad_y, weight.size(0))
    if y is not None:
        check.same_pixels("y", y, weight.size(0))
    gradients = kernels.backward(grad_y, x, y, weight, need_x, need_parameters)
    return gradients_or_empty(grad_y, *gradients)


def _check_triton(op: str, x: Tensor, weight: Tensor, stride: int) -> Check:
    check = Check(op, x)
    check.image("x")
    check.filter("weight", weight, x.size(1))
    check.that(stride == 1, "stride", f"be 1, not {stride}")
    return check


def _fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    relu: bool,
    stride: int,
    packed: Sequence[Tensor],
) -> Tensor:
    size = [(side + stride - 1) // stride for side in x.shape[2:]]
    return empty_channels_last(x, weight.size(0), size)


def _fake_backward(
    grad_y: Tensor,
    x: Tensor,
    y: Tensor | None,
    weight: Tensor,
    stride: int,
    need_x: bool,
    need_parameters: bool,
) -> tuple[Tensor, Tensor]:
    numel = weight.numel() + weight.size(0) if need_parameters else 0
    grad_x = empty_channels_last(x, x.size(1)) if need_x else grad_y.new_empty(0)
    return grad_x, grad_y.new_empty(numel, dtype=torch.float32)


def _has_stride_one(
    x: Tensor, weight: Tensor, bias: Any, relu: bool, stride: int, packed: Any
) -> bool:
    return stride == 1


def _native_supports(
    x: Tensor, weight: Tensor, bias: Any, relu: bool, stride: int, packed: Any
) -> str | None:
    reason = native_supports("conv_bias_relu", x, CONVOLUTION_DTYPES)
    if reason is not None:
        return reason
    taps = weight.size(2)
    if (taps, stride) in ((1, 1), (3, 1), (5, 1), (7, 2)):
        return None
    return f"a filter of {taps}x{taps} with stride {stride}"


def _work(call: Call) -> Work:
    _, _, (weight, _), _, _, stride, _ = call
    return convolution_work(call, weight, stride)


def _samples() -> Iterator[Call]:
    f32 = torch.float32
    for x, weight, relu, stride in (
        ((2, 64, 14, 14), (64, 64, 1, 1), True, 1),
        ((2, 16, 14, 13), (24, 16, 3, 3), True, 1),
        ((1, 5, 9, 7), (6, 5, 5, 5), False, 1),
        ((2, 3, 29, 30), (64, 3, 7, 7), True, 2),
    ):
        yield True, (x, f32), (weight, f32), (weight[:1], f32), relu, stride, ()


_SCHEMAS: dict[str, Any] = {
    "forward": (
        "(Tensor x, Tensor weight, Tensor? bias, bool relu, int stride, Tensor[] packed) -> Tensor",
        _fake,
    ),
    "backward": (
        "(Tensor grad_y, Tensor x, Tensor? y, Tensor weight, int stride, bool need_x,"
        " bool need_parameters) -> (Tensor, Tensor)",
        _fake_backward,
    ),
    "autograd": _autograd,
}
NATIVE = define_kernels("conv_bias_relu", **_SCHEMAS)
TRITON = define_kernels(
    "conv_bias_relu_triton", **_SCHEMAS, functions=(_triton_forward, _triton_backward)
)
CONV_BIAS_RELU = Op(
    "conv_bias_relu",
    conv_bias_relu_reference,
    (
        Backend(
            *("triton", "cuda", TRITON.run, triton_supports, TRITON),
            check_first=True,
            covers=_has_stride_one,
        ),
        Backend("aten", "cuda", _conv_bias_relu_aten),
        Backend("native", "cpu", NATIVE.run, _native_supports, NATIVE),
        Backend("aten", "cpu", _conv_bias_relu_aten),
        Backend(
            *("triton", "cpu", TRITON.run, triton_supports, TRITON),
            on_request=True,
            covers=_has_stride_one,
        ),
    ),
    samples=_samples,
    work=_work,
)
