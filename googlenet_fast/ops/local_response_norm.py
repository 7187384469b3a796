"""Local response normalisation across channels, Krizhevsky et al. 2012, section 3.3.

Equivalent to `torch.nn.functional.local_response_norm(x, size, alpha, beta, k)`.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from googlenet_fast.ops.checks import Check
from googlenet_fast.ops.common import (
    CONVOLUTION_DTYPES,
    autocast,
    below_autograd,
    channels_last,
    define_kernels,
    empty_channels_last,
    native_supports,
    needs_gradient,
    no_autocast,
    once_differentiable,
    sum_dtype,
    triton_supports,
)
from googlenet_fast.registry import Backend, Call, Kernels, Op, Work

NATIVE_SIZE = 5
"""Window of the C++ and CUDA kernels: that of every published network."""

WIDEST = 64
"""Widest window of the Triton kernels, whose loops over it are unrolled."""


def local_response_norm(
    x: Tensor, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """Return x / (k + alpha / size * (sum of squares of the `size` channels around))^beta.

    Channels beyond the first and last count as zero. Defaults and the division by `size` are
    those of Caffe and PyTorch.

    Args:
        x: (N, C, H, W); fp16, bf16, fp32 or fp64, cast under autocast. Squares are
            computed and summed in fp32 or, of fp64, in fp64.
        size: channels in the window; of an even number, one more lies before than after.
        alpha: weight of the mean square.
        beta: exponent.
        k: constant that keeps the divisor from zero.

    Returns:
        (N, C, H, W) in the dtype of `x`, channels_last.

    Raises:
        ValueError: `size` is not positive.
    """
    if size < 1:
        raise ValueError(f"local_response_norm: size {size}; give a window of one channel or more")
    (x,) = autocast([x])
    arguments = (x, size, alpha, beta, k)
    return LOCAL_RESPONSE_NORM.choose(*arguments).run(*arguments)


def local_response_norm_reference(
    x: Tensor, size: int, alpha: float, beta: float, k: float
) -> Tensor:
    """Sum the windows as one product with a band matrix, which no autocast may round."""
    dtype = sum_dtype(x)
    channel = torch.arange(x.size(1), device=x.device)
    offset = channel[:, None] - channel
    band = ((offset >= -(size // 2)) & (offset <= (size - 1) // 2)).to(dtype) * (alpha / size)
    with no_autocast(x):
        square = x.permute(0, 2, 3, 1).to(dtype).square()
        scale = (square @ band + k) ** -beta
        return channels_last((x * scale.permute(0, 3, 1, 2)).to(x.dtype))


class _LocalResponseNorm(torch.autograd.Function):
    """The fused pass with its gradient; saves the input alone and recomputes divisors."""

    @staticmethod
    def forward(ctx: Any, kernels: Kernels, x: Tensor, *parameters: Any) -> Tensor:
        ctx.kernels, ctx.parameters = kernels, parameters
        ctx.save_for_backward(x)
        return below_autograd(kernels.training, x, *parameters)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        grad_x = ctx.kernels.backward(grad_y, *ctx.saved_tensors, *ctx.parameters)
        return None, grad_x, *(None for _ in ctx.parameters)


def _autograd(kernels: Kernels, x: Tensor, *parameters: Any) -> Tensor:
    if needs_gradient((x,)):
        return _LocalResponseNorm.apply(kernels, x, *parameters)
    return below_autograd(kernels.forward, x, *parameters)


def _triton_forward(x: Tensor, *parameters: Any) -> Tensor:
    from googlenet_fast.kernels import local_response_norm as kernels

    _check_triton("local_response_norm_triton", x, *parameters)
    return kernels.forward(x, *parameters)


def _triton_backward(grad_y: Tensor, x: Tensor, *parameters: Any) -> Tensor:
    from googlenet_fast.kernels import local_response_norm as kernels

    check = _check_triton("local_response_norm_triton_backward", x, *parameters)
    check.same_pixels("grad_y", grad_y, x.size(1))
    return kernels.backward(grad_y, x, *parameters)


def _check_triton(op: str, x: Tensor, size: int, alpha: float, beta: float, k: float) -> Check:
    check = Check(op, x)
    check.image("x")
    check.that(0 < size <= WIDEST, "size", f"be a window of 1 to {WIDEST} channels, not {size}")
    return check


def _fake(x: Tensor, *arguments: Any) -> Tensor:
    """Return the output, or the gradient, which is like it."""
    return empty_channels_last(x, x.size(1))


def _native_supports(x: Tensor, size: int, *arguments: Any) -> str | None:
    if size != NATIVE_SIZE:
        return f"it takes windows of {NATIVE_SIZE} channels, not {size}"
    return native_supports("local_response_norm", x, CONVOLUTION_DTYPES)


def _triton_supports(x: Tensor, size: int, *arguments: Any) -> str | None:
    if size > WIDEST:
        return f"it takes windows of up to {WIDEST} channels, not {size}"
    return triton_supports(x)


def _work(call: Call) -> Work:
    training, ((n, channels, height, width), dtype), *_ = call
    x = n * channels * height * width * dtype.itemsize
    return Work(0, 5 * x if training else 2 * x)


def _samples() -> Iterator[Call]:
    for shape in ((2, 64, 14, 14), (1, 7, 5, 3)):
        yield True, (shape, torch.float32), 5, 1e-4, 0.75, 1.0


_PARAMETERS = "int size, float alpha, float beta, float k"
_SCHEMAS: dict[str, Any] = {
    "forward": (f"(Tensor x, {_PARAMETERS}) -> Tensor", _fake),
    "backward": (f"(Tensor grad_y, Tensor x, {_PARAMETERS}) -> Tensor", _fake),
    "autograd": _autograd,
}
NATIVE = define_kernels("local_response_norm", **_SCHEMAS)
TRITON = define_kernels(
    "local_response_norm_triton", **_SCHEMAS, functions=(_triton_forward, _triton_backward)
)
LOCAL_RESPONSE_NORM = Op(
    "local_response_norm",
    local_response_norm_reference,
    (
        Backend("cuda", "cuda", NATIVE.run, _native_supports, NATIVE),
        Backend("triton", "cuda", TRITON.run, _triton_supports, TRITON, check_first=True),
        Backend("native", "cpu", NATIVE.run, _native_supports, NATIVE),
        Backend("triton", "cpu", TRITON.run, _triton_supports, TRITON, on_request=True),
    ),
    samples=_samples,
    work=_work,
)
