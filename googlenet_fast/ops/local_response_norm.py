"""Local response normalisation across channels, Krizhevsky et al. 2012, section 3.3."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from googlenet_fast.ops.autocast import autocast, no_autocast
from googlenet_fast.ops.compiled import why_not_compiled
from googlenet_fast.ops.dispatch import always, choose, register
from googlenet_fast.ops.library import define, overload_of
from googlenet_fast.ops.triton_support import why_not_triton

COMPILED_SIZE = 5
"""Window of the compiled kernels: that of every published network."""


def local_response_norm(
    x: Tensor, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """Return x / (k + alpha / size * (sum of squares of the `size` channels around))^beta.

    Channels beyond the first and last count as zero. Defaults and the division by `size` are
    those of Caffe and PyTorch.

    Args:
        x: (N, C, H, W); fp16, bf16, fp32 or fp64, cast under autocast. Squares of halves are
            computed and summed in fp32.
        size: channels in the window; of an even number, one more lies before than after.
        alpha: weight of the mean square.
        beta: exponent.
        k: constant that keeps the divisor from zero.

    Returns:
        (N, C, H, W) in the dtype of `x`, channels_last.
    """
    (x,) = autocast([x])
    arguments = (x, size, alpha, beta, k)
    implementation = choose("local_response_norm", x.device.type, arguments)
    if implementation == "reference":
        return local_response_norm_reference(*arguments)
    if implementation == "triton":
        return torch.ops.googlenet_fast.local_response_norm.triton(*arguments)
    return torch.ops.googlenet_fast.local_response_norm.default(*arguments)


def local_response_norm_reference(
    x: Tensor, size: int, alpha: float, beta: float, k: float
) -> Tensor:
    """Sum the windows as one product with a band matrix, which no autocast may round."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    channel = torch.arange(x.size(1), device=x.device)
    offset = channel[:, None] - channel
    band = ((offset >= -(size // 2)) & (offset <= (size - 1) // 2)).to(dtype) * (alpha / size)
    with no_autocast(x):
        square = x.permute(0, 2, 3, 1).to(dtype).square()
        scale = (square @ band + k) ** -beta
        return (x * scale.permute(0, 3, 1, 2)).to(x.dtype, memory_format=torch.channels_last)


class _LocalResponseNorm(torch.autograd.Function):
    """The fused pass with its gradient; saves the input alone and computes divisors again."""

    @staticmethod
    def forward(ctx: Any, overload: str, x: Tensor, *parameters: Any) -> Tensor:
        ctx.overload, ctx.parameters = overload, parameters
        ctx.save_for_backward(x)
        with torch._C._AutoDispatchBelowAutograd():
            return overload_of("local_response_norm", overload)(x, *parameters)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        grad_x = overload_of("local_response_norm_backward", ctx.overload)(
            grad_y, *ctx.saved_tensors, *ctx.parameters
        )
        return None, grad_x, *(None for _ in ctx.parameters)


def _autograd(overload: str, x: Tensor, *parameters: Any) -> Tensor:
    if torch.is_grad_enabled() and x.requires_grad:
        return _LocalResponseNorm.apply(overload, x, *parameters)
    with torch._C._AutoDispatchBelowAutograd():
        return overload_of("local_response_norm", overload)(x, *parameters)


def _forward(x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    from googlenet_fast.kernels import local_response_norm as kernels

    return kernels.forward(x, size, alpha, beta, k)


def _backward(grad_y: Tensor, x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    from googlenet_fast.kernels import local_response_norm as kernels

    return kernels.backward(grad_y, x, size, alpha, beta, k)


def _fake(x: Tensor, *arguments: Any) -> Tensor:
    """Describe output and gradient, which both are like the input, channels_last."""
    return torch.empty_like(x, memory_format=torch.channels_last)


def _why_not_triton(x: Tensor, *arguments: Any) -> str | None:
    return why_not_triton(x)


def _why_not_compiled(x: Tensor, size: int, *arguments: Any) -> str | None:
    if size != COMPILED_SIZE:
        return f"it takes windows of {COMPILED_SIZE} channels, not {size}"
    return why_not_compiled("local_response_norm", x)


_PARAMETERS = "int size, float alpha, float beta, float k"
define("local_response_norm", f"(Tensor x, {_PARAMETERS}) -> Tensor", _fake, _forward, _autograd)
define(
    "local_response_norm_backward",
    f"(Tensor grad_y, Tensor x, {_PARAMETERS}) -> Tensor",
    _fake,
    _backward,
)
register(
    "local_response_norm",
    {
        "cpu": {"native": _why_not_compiled, "reference": always, "triton": _why_not_triton},
        "cuda": {"cuda": _why_not_compiled, "triton": _why_not_triton, "reference": always},
    },
)
