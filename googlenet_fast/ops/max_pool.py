"""The 3x3/1 max pool of an Inception block."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from googlenet_fast.ops.autocast import autocast
from googlenet_fast.ops.compiled import why_not_compiled
from googlenet_fast.ops.dispatch import always, choose, register
from googlenet_fast.ops.library import LIBRARY, TAGS


def max_pool(x: Tensor) -> Tensor:
    """Return the maxima of the 3x3 pixels around each pixel, of those that lie in the image.

    Args:
        x: (N, C, H, W); fp16, bf16, fp32 or fp64, cast under autocast.

    Returns:
        (N, C, H, W) in the dtype of `x`, channels_last.
    """
    (x,) = autocast([x])
    if choose("max_pool", x.device.type, (x,)) == "reference":
        return max_pool_reference(x)
    return torch.ops.googlenet_fast.max_pool.default(x)


def max_pool_reference(x: Tensor) -> Tensor:
    """Pool by PyTorch, which saves the input and an int64 index for backward."""
    y = F.max_pool2d(x.contiguous(memory_format=torch.channels_last), 3, stride=1, padding=1)
    return y.contiguous(memory_format=torch.channels_last)


class _MaxPool(torch.autograd.Function):
    """The pool with its gradient; saves one byte for each output."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            y, index = torch.ops.googlenet_fast.max_pool_training.default(x)
        ctx.save_for_backward(index)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> Tensor:
        return torch.ops.googlenet_fast.max_pool_backward.default(grad_y, *ctx.saved_tensors)


def _autograd(x: Tensor) -> Tensor:
    if torch.is_grad_enabled() and x.requires_grad:
        return _MaxPool.apply(x)
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.googlenet_fast.max_pool.default(x)


def _fake(x: Tensor, *_: Any) -> Tensor:
    """Describe output and gradient, which both are like the input, channels_last."""
    return torch.empty_like(x, memory_format=torch.channels_last)


def _fake_training(x: Tensor) -> tuple[Tensor, Tensor]:
    y = _fake(x)
    return y, y.to(torch.uint8)


def _why_not_compiled(x: Tensor) -> str | None:
    return why_not_compiled("max_pool", x)


for _schema, _describe in (
    ("max_pool(Tensor x) -> Tensor", _fake),
    ("max_pool_training(Tensor x) -> (Tensor, Tensor)", _fake_training),
    ("max_pool_backward(Tensor grad_y, Tensor index) -> Tensor", _fake),
):
    LIBRARY.define(_schema, tags=TAGS)
    torch.library.register_fake(
        f"googlenet_fast::{_schema.partition('(')[0]}", _describe, lib=LIBRARY
    )
LIBRARY.impl("max_pool", _autograd, "Autograd")
register(
    "max_pool",
    {
        "cpu": {"native": _why_not_compiled, "reference": always},
        "cuda": {"cuda": _why_not_compiled, "reference": always},
    },
)
