"""Concatenation of branch outputs along the channels, with bias and ReLU, in one pass."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from googlenet_fast import extension
from googlenet_fast.ops.autocast import autocast
from googlenet_fast.ops.compiled import why_not_compiled
from googlenet_fast.ops.dispatch import always, choose, register
from googlenet_fast.ops.library import LIBRARY, TAGS

MAX_BRANCHES = 4
"""Branches that the compiled kernels take."""


def concat_bias_relu(
    branches: Sequence[Tensor], biases: Sequence[Tensor] | None = None, relu: bool = True
) -> Tensor:
    """Return relu(concatenate(branch + bias for each branch)).

    Args:
        branches: each (N, C_i, H, W), all of one dtype: fp16, bf16, fp32 or fp64, cast under
            autocast. Fastest in channels_last, slices of channels included.
        biases: each (C_i,), of any of these dtypes, or None.
        relu: clip at zero.

    Returns:
        (N, sum of C_i, H, W) in the dtype of the branches, channels_last.

    Raises:
        ValueError: there are no branches, or not as many biases as branches.
    """
    if not branches or (biases is not None and len(biases) != len(branches)):
        raise ValueError(
            f"concat_bias_relu: {len(branches)} branches and {len(biases or ())} biases; give one"
            " branch or more, and a bias for each or for none"
        )
    arguments = (autocast(branches), [] if biases is None else list(biases), relu)
    if choose("concat_bias_relu", branches[0].device.type, arguments) == "reference":
        return concat_bias_relu_reference(*arguments)
    return torch.ops.googlenet_fast.concat_bias_relu.default(*arguments)


def concat_bias_relu_reference(
    branches: Sequence[Tensor], biases: Sequence[Tensor], relu: bool
) -> Tensor:
    """Add, concatenate and clip, each on its own; no biases are an empty sequence."""
    if biases:
        branches = [
            (branch + bias.view(-1, 1, 1)).to(branch.dtype)
            for branch, bias in zip(branches, biases, strict=True)
        ]
    y = torch.cat(list(branches), dim=1)
    return (F.relu(y) if relu else y).contiguous(memory_format=torch.channels_last)


class _ConcatBiasRelu(torch.autograd.Function):
    """The op with its gradient; saves the output where ReLU needs a mask, and nothing else."""

    @staticmethod
    def forward(ctx: Any, count: int, relu: bool, *tensors: Tensor) -> Tensor:
        branches, biases = list(tensors[:count]), list(tensors[count:])
        with torch._C._AutoDispatchBelowAutograd():
            y = torch.ops.googlenet_fast.concat_bias_relu.default(branches, biases, relu)
        ctx.channels = [branch.size(1) for branch in branches]
        ctx.bias_dtypes = [bias.dtype for bias in biases]
        ctx.save_for_backward(*([y] if relu else []))
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        y = ctx.saved_tensors[0] if ctx.saved_tensors else None
        grads, grad_bias = torch.ops.googlenet_fast.concat_bias_relu_backward.default(
            grad_y, y, ctx.channels, bool(ctx.bias_dtypes)
        )
        parts = grad_bias.split(ctx.channels) if ctx.bias_dtypes else ()
        grad_biases = [part.to(dtype) for part, dtype in zip(parts, ctx.bias_dtypes, strict=True)]
        return (None, None, *grads, *grad_biases)


class _ConcatBiasReluBackward(torch.autograd.Function):
    """The gradient op with its own gradient: it is linear in `grad_y`."""

    @staticmethod
    def forward(
        ctx: Any, grad_y: Tensor, y: Tensor | None, channels: list[int], bias: bool
    ) -> tuple[Tensor, ...]:
        ctx.channels, ctx.bias = channels, bias
        ctx.save_for_backward(*([] if y is None else [y]))
        with torch._C._AutoDispatchBelowAutograd():
            grads, grad_bias = torch.ops.googlenet_fast.concat_bias_relu_backward.default(
                grad_y, y, channels, bias
            )
        return (*grads, grad_bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        biases = grads[-1].split(ctx.channels) if ctx.bias else ()
        grad = concat_bias_relu_reference(grads[:-1], biases, relu=False)
        if ctx.saved_tensors:
            grad = torch.where(ctx.saved_tensors[0] <= 0, 0, grad)
        return grad, None, None, None


def _autograd(branches: list[Tensor], biases: list[Tensor], relu: bool) -> Tensor:
    if torch.is_grad_enabled() and any(x.requires_grad for x in (*branches, *biases)):
        return _ConcatBiasRelu.apply(len(branches), relu, *branches, *biases)
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.googlenet_fast.concat_bias_relu.default(branches, biases, relu)


def _backward_autograd(
    grad_y: Tensor, y: Tensor | None, channels: list[int], bias: bool
) -> tuple[list[Tensor], Tensor]:
    if torch.is_grad_enabled() and grad_y.requires_grad:
        *grads, grad_bias = _ConcatBiasReluBackward.apply(grad_y, y, channels, bias)
        return grads, grad_bias
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.googlenet_fast.concat_bias_relu_backward.default(grad_y, y, channels, bias)


def _backward_reference(
    grad_y: Tensor, y: Tensor | None, channels: list[int], bias: bool
) -> tuple[list[Tensor], Tensor]:
    """Compute what the compiled kernel of the gradient does, in the same layout and dtypes."""
    grad = grad_y if y is None else torch.where(y <= 0, 0, grad_y)
    dtype = _accumulator(grad)
    grad_bias = grad.sum((0, 2, 3), dtype=dtype) if bias else grad.new_empty(0, dtype=dtype)
    grads = grad.split(channels, dim=1)
    return [part.clone(memory_format=torch.channels_last) for part in grads], grad_bias


def _fake(branches: list[Tensor], biases: list[Tensor], relu: bool) -> Tensor:
    return _empty(branches[0], sum(branch.size(1) for branch in branches))


def _backward_fake(
    grad_y: Tensor, y: Tensor | None, channels: list[int], bias: bool
) -> tuple[list[Tensor], Tensor]:
    grad_bias = grad_y.new_empty(sum(channels) if bias else 0, dtype=_accumulator(grad_y))
    return [_empty(grad_y, count) for count in channels], grad_bias


def _accumulator(x: Tensor) -> torch.dtype:
    """Dtype in which bias gradients are summed."""
    return torch.promote_types(x.dtype, torch.float32)


def _empty(like: Tensor, channels: int) -> Tensor:
    size = (like.size(0), channels, like.size(2), like.size(3))
    return torch.empty(
        size, dtype=like.dtype, device=like.device, memory_format=torch.channels_last
    )


def _can_use_compiled(branches: Sequence[Tensor], *_: Any) -> str | None:
    """Say why the compiled kernel of the branches' device cannot take them, or None."""
    if len(branches) > MAX_BRANCHES:
        return f"{len(branches)} branches; it takes up to {MAX_BRANCHES}"
    return why_not_compiled("concat_bias_relu", branches[0])


LIBRARY.define(
    "concat_bias_relu(Tensor[] branches, Tensor[] biases, bool relu) -> Tensor", tags=TAGS
)
LIBRARY.define(
    "concat_bias_relu_backward(Tensor grad_y, Tensor? y, int[] channels, bool bias)"
    " -> (Tensor[], Tensor)",
    tags=TAGS,
)
LIBRARY.impl("concat_bias_relu", _autograd, "Autograd")
LIBRARY.impl("concat_bias_relu_backward", _backward_autograd, "Autograd")
if extension.UNAVAILABLE is not None:
    LIBRARY.impl("concat_bias_relu", concat_bias_relu_reference, "CPU")
    LIBRARY.impl("concat_bias_relu_backward", _backward_reference, "CPU")
torch.library.register_fake("googlenet_fast::concat_bias_relu", _fake, lib=LIBRARY)
torch.library.register_fake(
    "googlenet_fast::concat_bias_relu_backward", _backward_fake, lib=LIBRARY
)
register(
    "concat_bias_relu",
    {
        "cpu": {"native": _can_use_compiled, "reference": always},
        "cuda": {"cuda": _can_use_compiled, "reference": always},
    },
)
