"""The Inception block: 1x1, 3x3, 5x5 and pool-project branches, concatenated, then ReLU."""

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
from googlenet_fast.ops.library import LIBRARY, TAGS, define, overload_of
from googlenet_fast.ops.max_pool import max_pool
from googlenet_fast.ops.parameter_gradients import weight_and_bias
from googlenet_fast.ops.prepared import prepare_weight
from googlenet_fast.ops.triton_support import why_not_triton


def inception(
    x: Tensor,
    w_in: Tensor,
    b_in: Tensor | None,
    w3: Tensor,
    b3: Tensor | None,
    w5: Tensor,
    b5: Tensor | None,
    wp: Tensor,
    bp: Tensor | None,
    reduce_relu: bool = True,
    prepared: Callable[[], list[Tensor]] | None = None,
) -> Tensor:
    """Return relu([conv1(x), conv3(reduce3(x)), conv5(reduce5(x)), project(max_pool(x))]).

    Weights are in (out, in, kernel, kernel) order, their convolutions "same" padded with stride 1.
    Activations and weights are cast under autocast; biases may be fp32 beside halves.

    Args:
        x: (N, C, H, W); fastest in channels_last.
        w_in: (C1 + C3r + C5r, C, 1, 1), the weights of branch 1 and of both reductions, stacked.
        b_in: (C1 + C3r + C5r,).
        w3: (C3, C3r, 3, 3).
        b3: (C3,).
        w5: (C5, C5r, 5, 5), or 3x3 as torchvision has it.
        b5: (C5,).
        wp: (Cp, C, 1, 1), applied to the 3x3 maxima of `x` at stride 1, padded.
        bp: (Cp,).
        reduce_relu: clip the reductions too.
        prepared: gives `prepare_inception` of the weights for such images; called where the
            compiled kernels for CPUs run without gradients.

    Returns:
        (N, C1 + C3 + C5 + Cp, H, W) in the dtype of `x`, channels_last.

    Raises:
        ValueError: some biases are given and others are not, or the weights do not fit together.
    """
    biases = (b_in, b3, b5, bp)
    if len({bias is None for bias in biases}) > 1:
        raise ValueError("inception: give all four biases or none")
    if w_in.size(0) <= w3.size(1) + w5.size(1) or w_in.size(1) != wp.size(1):
        raise ValueError(
            f"inception: weights {', '.join(str(tuple(w.shape)) for w in (w_in, w3, w5, wp))}"
            " do not fit together"
        )
    (x,) = autocast([x])
    arguments = (x, w_in, b_in, w3, b3, w5, b5, wp, bp, reduce_relu)
    implementation = choose("inception", x.device.type, arguments)
    if implementation == "triton":
        return torch.ops.googlenet_fast.inception.triton(*arguments)
    if implementation == "native":
        if prepared is not None and not torch.is_grad_enabled():
            return torch.ops.googlenet_fast.inception_prepared.default(*arguments, prepared())
        return torch.ops.googlenet_fast.inception.default(*arguments)
    if implementation == "aten":
        return _inception_aten(*arguments)
    return inception_reference(*arguments)


def prepare_inception(
    w_in: Tensor, w3: Tensor, w5: Tensor, wp: Tensor, height: int, width: int
) -> list[Tensor]:
    """Return the weights of an Inception block as `prepare_weight` does each."""
    w1, *reductions = w_in.split(_sibling_widths(w_in, w3, w5))
    return [prepare_weight(w, height, width) for w in (w1, torch.cat(reductions), w3, w5, wp)]


def inception_reference(
    x: Tensor,
    w_in: Tensor,
    b_in: Tensor | None,
    w3: Tensor,
    b3: Tensor | None,
    w5: Tensor,
    b5: Tensor | None,
    wp: Tensor,
    bp: Tensor | None,
    reduce_relu: bool,
) -> Tensor:
    """Compute each convolution on its own, then concatenate, then clip."""
    x = x.contiguous(memory_format=torch.channels_last)
    widths = _sibling_widths(w_in, w3, w5)
    w1, w3_reduce, w5_reduce = w_in.split(widths)
    b1, b3_reduce, b5_reduce = (None,) * 3 if b_in is None else b_in.split(widths)
    r3, r5 = _conv(x, w3_reduce, b3_reduce), _conv(x, w5_reduce, b5_reduce)
    if reduce_relu:
        r3, r5 = F.relu(r3), F.relu(r5)
    pooled = F.max_pool2d(x, 3, stride=1, padding=1)
    branches = [_conv(x, w1, b1), _conv(r3, w3, b3), _conv(r5, w5, b5), _conv(pooled, wp, bp)]
    return F.relu(torch.cat(branches, dim=1)).contiguous(memory_format=torch.channels_last)


def _inception_aten(
    x: Tensor,
    w_in: Tensor,
    b_in: Tensor | None,
    w3: Tensor,
    b3: Tensor | None,
    w5: Tensor,
    b5: Tensor | None,
    wp: Tensor,
    bp: Tensor | None,
    reduce_relu: bool,
) -> Tensor:
    """Run the siblings as one convolution; bias, ReLU and concatenation are one pass."""
    x = x.contiguous(memory_format=torch.channels_last)
    widths = _sibling_widths(w_in, w3, w5)
    y1, r3, r5 = _conv(x, w_in, None).split(widths, dim=1)
    b1, b3_reduce, b5_reduce = (None,) * 3 if b_in is None else b_in.split(widths)
    if b_in is not None or reduce_relu:
        r3 = concat_bias_relu([r3], _given(b3_reduce), reduce_relu)
        r5 = concat_bias_relu([r5], _given(b5_reduce), reduce_relu)
    branches = [y1, _conv(r3, w3, None), _conv(r5, w5, None), _conv(max_pool(x), wp, None)]
    return concat_bias_relu(branches, _given(b1, b3, b5, bp))


def _given(*biases: Tensor | None) -> list[Tensor] | None:
    """The biases as a list, or None where there are none."""
    return [bias for bias in biases if bias is not None] or None


def _sibling_widths(w_in: Tensor, w3: Tensor, w5: Tensor) -> tuple[int, int, int]:
    """Output channels of branch 1 and of the two reductions."""
    return w_in.size(0) - w3.size(1) - w5.size(1), w3.size(1), w5.size(1)


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve with "same" padding; a bias of another dtype is cast to that of `x`."""
    bias = None if bias is None else bias.to(x.dtype)
    return F.conv2d(x, weight, bias, padding=weight.size(-1) // 2)


class _Inception(torch.autograd.Function):
    """The fused block with its gradient; saves the input, the reductions and the output.

    Besides them, one byte for each value of the input: where in its window the maximum is.
    """

    @staticmethod
    def forward(
        ctx: Any, overload: str, reduce_relu: bool, x: Tensor, *parameters: Tensor | None
    ) -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            op = overload_of("inception_training", overload)
            y, r, index = op(x, *parameters, reduce_relu)
        ctx.overload = overload
        ctx.reduce_relu = reduce_relu
        ctx.bias_dtypes = [None if bias is None else bias.dtype for bias in parameters[1::2]]
        ctx.save_for_backward(x, r, y, index, *parameters[::2])
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        _, _, need_x, *need_parameters = ctx.needs_input_grad
        grad_x, grads = overload_of("inception_backward", ctx.overload)(
            grad_y, *ctx.saved_tensors, ctx.reduce_relu, need_x, any(need_parameters)
        )
        if not any(need_parameters):
            return None, None, grad_x, *(None for _ in need_parameters)
        weights = ctx.saved_tensors[4:]
        grad_parameters = _split_gradients(grads, weights, ctx.bias_dtypes)
        return None, None, grad_x if need_x else None, *grad_parameters


def _split_gradients(
    grads: Tensor, weights: tuple[Tensor, ...], bias_dtypes: list[torch.dtype | None]
) -> list[Tensor | None]:
    """Views of a row of gradients, as weights and biases alternate, in their dtypes."""
    result: list[Tensor | None] = []
    start = 0
    for w, bias_dtype in zip(weights, bias_dtypes, strict=True):
        weight, bias = weight_and_bias(grads, start, w)
        result += [weight.to(w.dtype), None if bias_dtype is None else bias.to(bias_dtype)]
        start += w.numel() + w.size(0)
    return result


def _autograd(overload: str, x: Tensor, *arguments: Any) -> Tensor:
    *parameters, reduce_relu = arguments
    if torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (x, *parameters)
    ):
        return _Inception.apply(overload, reduce_relu, x, *parameters)
    with torch._C._AutoDispatchBelowAutograd():
        return overload_of("inception", overload)(x, *parameters, reduce_relu)


def _forward(*arguments: Any) -> Tensor:
    from googlenet_fast.kernels import inception as kernels

    return kernels.forward(*arguments, training=False)[0]


def _forward_training(*arguments: Any) -> tuple[Tensor, Tensor, Tensor | None]:
    from googlenet_fast.kernels import inception as kernels

    return kernels.forward(*arguments, training=True)


def _backward(grad_y: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    from googlenet_fast.kernels import inception as kernels

    grad_x, grads = kernels.backward(grad_y, *arguments)
    return (
        grad_y.new_empty(0) if grad_x is None else grad_x,
        grad_y.new_empty(0, dtype=torch.float32) if grads is None else grads,
    )


def _fake(
    x: Tensor, w_in: Tensor, b_in: Any, w3: Tensor, b3: Any, w5: Tensor, *rest: Any
) -> Tensor:
    _, wp, *_ = rest
    return _empty(x, sum(_branch_widths(w_in, w3, w5, wp)))


def _fake_training(
    x: Tensor, w_in: Tensor, b_in: Any, w3: Tensor, b3: Any, w5: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    y = _fake(x, w_in, b_in, w3, b3, w5, *rest)
    return y, _empty(x, w3.size(1) + w5.size(1)), _empty(x, x.size(1)).to(torch.uint8)


def _fake_backward(
    grad_y: Tensor,
    x: Tensor,
    r: Tensor,
    y: Tensor,
    index: Tensor,
    w_in: Tensor,
    w3: Tensor,
    w5: Tensor,
    wp: Tensor,
    reduce_relu: bool,
    need_x: bool,
    need_parameters: bool,
) -> tuple[Tensor, Tensor]:
    numel = sum(w.numel() + w.size(0) for w in (w_in, w3, w5, wp)) if need_parameters else 0
    grad_x = _empty(x, x.size(1)) if need_x else grad_y.new_empty(0)
    return grad_x, grad_y.new_empty(numel, dtype=torch.float32)


def _branch_widths(w_in: Tensor, w3: Tensor, w5: Tensor, wp: Tensor) -> tuple[int, int, int, int]:
    return _sibling_widths(w_in, w3, w5)[0], w3.size(0), w5.size(0), wp.size(0)


def _empty(x: Tensor, channels: int) -> Tensor:
    size = (x.size(0), channels, x.size(2), x.size(3))
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _why_not_triton(x: Tensor, *arguments: Any) -> str | None:
    return why_not_triton(x)


def _why_not_native(x: Tensor, w_in: Tensor, b_in: Any, w3: Tensor, *rest: Any) -> str | None:
    reason = why_not_compiled("inception", x)
    if reason is not None:
        return reason
    taps = {w3.size(2), rest[1].size(2)}
    return None if taps <= {3, 5} else f"filters of {max(taps)}x{max(taps)}"


_ARGUMENTS = (
    "Tensor x, Tensor w_in, Tensor? b_in, Tensor w3, Tensor? b3, Tensor w5, Tensor? b5, Tensor wp,"
    " Tensor? bp, bool reduce_relu"
)
define("inception", f"({_ARGUMENTS}) -> Tensor", _fake, _forward, _autograd)
LIBRARY.define(f"inception_prepared({_ARGUMENTS}, Tensor[] prepared) -> Tensor", tags=TAGS)
torch.library.register_fake("googlenet_fast::inception_prepared", _fake, lib=LIBRARY)
define(
    "inception_training",
    f"({_ARGUMENTS}) -> (Tensor, Tensor, Tensor)",
    _fake_training,
    _forward_training,
)
define(
    "inception_backward",
    "(Tensor grad_y, Tensor x, Tensor r, Tensor y, Tensor index, Tensor w_in, Tensor w3,"
    " Tensor w5, Tensor wp, bool reduce_relu, bool need_x, bool need_parameters)"
    " -> (Tensor, Tensor)",
    _fake_backward,
    _backward,
)
register(
    "inception",
    {
        "cpu": {
            "native": _why_not_native,
            "aten": always,
            "reference": always,
            "triton": _why_not_triton,
        },
        "cuda": {"triton": _why_not_triton, "aten": always, "reference": always},
    },
)
