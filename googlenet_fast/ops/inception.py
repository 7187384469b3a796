"""The Inception block: 1x1, 3x3, 5x5 and pool-project branches, concatenated, then ReLU.

Equivalent to, with w_in = [w1; w3r; w5r] and biases stacked likewise:

    r3, r5 = relu(conv2d(x, w3r, b3r)), relu(conv2d(x, w5r, b5r))
    pooled = max_pool2d(x, 3, stride=1, padding=1)
    branches = [conv2d(x, w1, b1), conv2d(r3, w3, b3, padding=1),
                conv2d(r5, w5, b5, padding=2), conv2d(pooled, wp, bp)]
    y = relu(cat(branches, 1))
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from googlenet_fast.ops.checks import Check
from googlenet_fast.ops.common import (
    CONVOLUTION_DTYPES,
    POINTWISE_DTYPES,
    autocast,
    below_autograd,
    channels_last,
    convolution_backward,
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
from googlenet_fast.ops.concat_bias_relu import bias_relu, bias_relu_backward, concat_bias_relu
from googlenet_fast.ops.max_pool import max_pool, pool, unpool
from googlenet_fast.registry import Backend, Call, Kernels, Op, Work


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
    packed: Sequence[Tensor] = (),
) -> Tensor:
    """Return relu([conv1(x), conv3(reduce3(x)), conv5(reduce5(x)), project(max_pool(x))]).

    Weights are in (out, in, kernel, kernel) order, their convolutions "same" padded with stride 1.
    Activations and weights are cast under autocast; biases may be fp32 beside half precision.

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
        reduce_relu: apply ReLU to the reductions too.
        packed: `pack_inception` of these weights for images of this size, or nothing. Used by the
            CPU kernels where no gradients are wanted.

    Returns:
        (N, C1 + C3 + C5 + Cp, H, W) in the dtype of `x`, channels_last.

    Raises:
        ValueError: some biases are given and others are not, or the weights do not fit together.
    """
    if not (b_in is None) == (b3 is None) == (b5 is None) == (bp is None):
        raise ValueError("inception: give all four biases or none")
    if w_in.size(0) <= w3.size(1) + w5.size(1) or w_in.size(1) != wp.size(1):
        raise ValueError(
            f"inception: weights {', '.join(str(tuple(w.shape)) for w in (w_in, w3, w5, wp))}"
            " do not fit together"
        )
    (x,) = autocast([x])
    arguments = (x, w_in, b_in, w3, b3, w5, b5, wp, bp, reduce_relu, packed)
    return INCEPTION.choose(*arguments).run(*arguments)


def inception_reference(x: Tensor, *arguments: Any) -> Tensor:
    """Compute each convolution on its own, then concatenate, then apply ReLU."""
    w_in, b_in, w3, b3, w5, b5, wp, bp, reduce_relu, _ = arguments
    x = channels_last(x)
    channels = _stacked_channels(w_in, w3, w5)
    w1, w3_reduce, w5_reduce = w_in.split(channels)
    b1, b3_reduce, b5_reduce = (None,) * 3 if b_in is None else b_in.split(channels)
    r3, r5 = _conv(x, w3_reduce, b3_reduce), _conv(x, w5_reduce, b5_reduce)
    if reduce_relu:
        r3, r5 = F.relu(r3), F.relu(r5)
    pooled = F.max_pool2d(x, 3, stride=1, padding=1)
    branches = [_conv(x, w1, b1), _conv(r3, w3, b3), _conv(r5, w5, b5), _conv(pooled, wp, bp)]
    return channels_last(F.relu(torch.cat(branches, dim=1)))


def _inception_aten(x: Tensor, *arguments: Any) -> Tensor:
    """Run the stacked convolutions as one, and with the extension the block as one node."""
    *parameters, reduce_relu, _ = arguments
    x = channels_last(x)
    if native_supports("bias_relu", x, POINTWISE_DTYPES) is not None:
        return _composed(x, parameters, reduce_relu)
    weights, biases = autocast(parameters[::2]), parameters[1::2]
    if needs_gradient((x, *weights, *biases)):
        return _LibraryInception.apply(reduce_relu, x, *weights, *biases)
    return _on_library(x, max_pool(x), weights, biases, reduce_relu)[0]


def _composed(x: Tensor, parameters: Sequence[Any], reduce_relu: bool) -> Tensor:
    """Call ops that have their own gradients; what the extension's kernels do, PyTorch does."""
    w_in, b_in, w3, b3, w5, b5, wp, bp = parameters
    channels = _stacked_channels(w_in, w3, w5)
    y1, *reductions = _conv(x, w_in, None).split(channels, dim=1)
    b1, *reduction_biases = (None,) * 3 if b_in is None else b_in.split(channels)
    r3, r5 = (
        concat_bias_relu([r], _given(bias), reduce_relu)
        for r, bias in zip(reductions, reduction_biases, strict=True)
    )
    branches = [y1, _conv(r3, w3, None), _conv(r5, w5, None), _conv(max_pool(x), wp, None)]
    return concat_bias_relu(branches, _given(b1, b3, b5, bp))


def _on_library(
    x: Tensor,
    pooled: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    reduce_relu: bool,
) -> list[Tensor]:
    """Return the output and both reductions, dense as the library's convolutions want them."""
    w_in, w3, w5, wp = weights
    b_in, *others = biases
    channels = _stacked_channels(w_in, w3, w5)
    y1, *reductions = _conv(x, w_in, None).split(channels, dim=1)
    b1, *reduction_biases = (None,) * 3 if b_in is None else b_in.split(channels)
    r3, r5 = bias_relu(reductions, _given(*reduction_biases) or (), reduce_relu)
    branches = [y1, _conv(r3, w3, None), _conv(r5, w5, None), _conv(pooled, wp, None)]
    return [concat_bias_relu(branches, _given(b1, *others)), r3, r5]


class _LibraryInception(torch.autograd.Function):
    """The block on the library's convolutions; saves their inputs, the output and an index.

    The gradients of the stacked convolutions' outputs are written into one tensor, and the pool's
    backward adds to the gradient of `x`: nothing is concatenated or added on its own.
    """

    @staticmethod
    def forward(ctx: Any, reduce_relu: bool, x: Tensor, *parameters: Tensor | None) -> Tensor:
        weights: Any = parameters[:4]
        biases = parameters[4:]
        pooled, index = pool(x)
        y, r3, r5 = _on_library(x, pooled, weights, biases, reduce_relu)
        ctx.reduce_relu = reduce_relu
        ctx.bias_dtypes = [None if bias is None else bias.dtype for bias in biases]
        ctx.save_for_backward(x, pooled, index, r3, r5, y, *weights)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, pooled, index, r3, r5, y, w_in, w3, w5, wp = ctx.saved_tensors
        _, need_x, need_w_in, need_w3, need_w5, need_wp, *need_biases = ctx.needs_input_grad
        need_in = need_x or need_w_in or need_biases[0]
        sizes = [y.size(1) - w3.size(0) - w5.size(0) - wp.size(0), *map(len, (w3, w5, wp))]
        g1, *grads = channels_last(grad_y).split(sizes, dim=1)
        y1, *outputs = y.split(sizes, dim=1)

        (g3, g5, gp), sums = bias_relu_backward(grads, outputs, any(need_biases[1:]), False)
        grad_r3, grad_w3 = convolution_backward(g3, r3, w3, need_in, need_w3)
        grad_r5, grad_w5 = convolution_backward(g5, r5, w5, need_in, need_w5)
        grad_pooled, grad_wp = convolution_backward(gp, pooled, wp, need_x, need_wp)
        grad_x = grad_w_in = sums_in = None
        if grad_r3 is not None and grad_r5 is not None:
            clipped = [y1, r3, r5] if ctx.reduce_relu else [y1]
            (g_in,), sums_in = bias_relu_backward(
                [g1, grad_r3, grad_r5], clipped, need_biases[0], True
            )
            grad_x, grad_w_in = convolution_backward(g_in, x, w_in, need_x, need_w_in)
        if grad_x is not None and grad_pooled is not None:
            grad_x = unpool(grad_pooled, index, x, grad_x)
        parts = sums.split(sizes[1:]) if any(need_biases[1:]) else (None,) * 3
        grad_biases = [
            None if part is None or not needed else part.to(dtype)
            for part, needed, dtype in zip(
                (sums_in, *parts), need_biases, ctx.bias_dtypes, strict=True
            )
        ]
        return None, grad_x, grad_w_in, grad_w3, grad_w5, grad_wp, *grad_biases


def _given(*biases: Tensor | None) -> list[Tensor] | None:
    """Return the biases as a list, or None where there are none."""
    return [bias for bias in biases if bias is not None] or None


def _stacked_channels(w_in: Tensor, w3: Tensor, w5: Tensor) -> tuple[int, int, int]:
    """Return the output channels of branch 1 and of the two reductions."""
    return w_in.size(0) - w3.size(1) - w5.size(1), w3.size(1), w5.size(1)


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve with "same" padding; a bias of another dtype is cast to that of `x`."""
    bias = None if bias is None else bias.to(x.dtype)
    return F.conv2d(x, weight, bias, padding=weight.size(-1) // 2)


class _Inception(torch.autograd.Function):
    """The fused block with its gradient; saves the input, the reductions and the output.

    Also one byte per element of the input: the position of the maximum in its window.
    """

    @staticmethod
    def forward(
        ctx: Any, kernels: Kernels, reduce_relu: bool, x: Tensor, *parameters: Tensor | None
    ) -> Tensor:
        y, r, index = below_autograd(kernels.training, x, *parameters, reduce_relu)
        ctx.kernels, ctx.reduce_relu = kernels, reduce_relu
        ctx.bias_dtypes = [None if bias is None else bias.dtype for bias in parameters[1::2]]
        ctx.save_for_backward(x, r, y, index, *parameters[::2])
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        _, _, need_x, *need_parameters = ctx.needs_input_grad
        grad_x, grads = ctx.kernels.backward(
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
    """View a row of gradients as weights and biases in turn, in their dtypes."""
    result: list[Tensor | None] = []
    start = 0
    for w, bias_dtype in zip(weights, bias_dtypes, strict=True):
        weight, bias = weight_and_bias(grads, start, w)
        result += [weight.to(w.dtype), None if bias_dtype is None else bias.to(bias_dtype)]
        start += w.numel() + w.size(0)
    return result


def _autograd(kernels: Kernels, x: Tensor, *arguments: Any) -> Tensor:
    *parameters, reduce_relu, _ = arguments
    if needs_gradient((x, *parameters)):
        return _Inception.apply(kernels, reduce_relu, x, *parameters)
    return below_autograd(kernels.forward, x, *arguments)


def _triton_forward(x: Tensor, *arguments: Any) -> Tensor:
    from googlenet_fast.kernels import inception as kernels

    _check_triton("inception_triton", x, arguments[:8])
    return kernels.forward(x, *arguments[:-1], training=False)[0]


def _triton_training(x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor | None]:
    from googlenet_fast.kernels import inception as kernels

    _check_triton("inception_triton_training", x, arguments[:8])
    return kernels.forward(x, *arguments, training=True)


def _triton_backward(grad_y: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    from googlenet_fast.kernels import inception as kernels

    x, r, y, index, *weights = arguments[:8]
    check = _check_filters("inception_triton_backward", x, weights)
    _, w3, w5, _ = weights
    outputs = _output_channels(*weights)
    check.same_pixels("grad_y", grad_y, outputs)
    check.same_pixels("r", r, w3.size(1) + w5.size(1))
    check.same_pixels("y", y, outputs)
    index = check.index("index", index, x.shape)
    return gradients_or_empty(
        grad_y, *kernels.backward(grad_y, x, r, y, index, *weights, *arguments[8:])
    )


def _check_triton(op: str, x: Tensor, parameters: Sequence[Tensor | None]) -> None:
    w_in, b_in, w3, b3, w5, b5, wp, bp = parameters
    assert w_in is not None
    assert w3 is not None
    assert w5 is not None
    assert wp is not None
    check = _check_filters(op, x, (w_in, w3, w5, wp))
    for name, bias, weight in (
        ("b_in", b_in, w_in),
        ("b3", b3, w3),
        ("b5", b5, w5),
        ("bp", bp, wp),
    ):
        check.bias(name, bias, weight.size(0))


def _check_filters(op: str, x: Tensor, weights: Sequence[Tensor]) -> Check:
    w_in, w3, w5, wp = weights
    check = Check(op, x)
    check.image("x")
    check.filter("w_in", w_in, x.size(1), 1)
    check.filter("w3", w3, None)
    check.filter("w5", w5, None)
    check.filter("wp", wp, x.size(1), 1)
    reductions = w3.size(1) + w5.size(1)
    check.that(
        w_in.size(0) > reductions,
        "w_in",
        f"have more outputs than {reductions}, not {w_in.size(0)}",
    )
    return check


def _fake(x: Tensor, *arguments: Any) -> Tensor:
    return empty_channels_last(x, _output_channels(*arguments[:8:2]))


def _output_channels(w_in: Tensor, w3: Tensor, w5: Tensor, wp: Tensor) -> int:
    return _stacked_channels(w_in, w3, w5)[0] + w3.size(0) + w5.size(0) + wp.size(0)


def _fake_training(x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    _, _, w3, _, w5, *_ = arguments
    r = empty_channels_last(x, w3.size(1) + w5.size(1))
    return _fake(x, *arguments), r, empty_channels_last(x, x.size(1), dtype=torch.uint8)


def _fake_backward(grad_y: Tensor, x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    _, _, _, *weights, _, need_x, need_parameters = arguments
    numel = sum(w.numel() + w.size(0) for w in weights) if need_parameters else 0
    grad_x = empty_channels_last(x, x.size(1)) if need_x else grad_y.new_empty(0)
    return grad_x, grad_y.new_empty(numel, dtype=torch.float32)


def _native_supports(x: Tensor, *arguments: Any) -> str | None:
    reason = native_supports("inception", x, CONVOLUTION_DTYPES)
    if reason is not None:
        return reason
    _, _, w3, _, w5, _, wp, *_ = arguments
    if wp.size(0) == 0:
        return "no outputs of the pool's projection"
    taps = max(w3.size(2), w5.size(2))
    return None if {w3.size(2), w5.size(2)} <= {3, 5} else f"filters of {taps}x{taps}"


def _work(call: Call) -> Work:
    training, ((n, channels, height, width), _), *others = call
    parts = [convolution_work(call, weight) for weight, _ in others[:8:2]]
    index = 2 * n * height * width * channels if training else 0
    return Work(sum(p.operations for p in parts), sum(p.bytes for p in parts) + index)


def _samples() -> Iterator[Call]:
    for taps, (n, side, other), (c, c1, c3r, c3, c5r, c5, cp) in (
        (5, (2, 14, 14), (192, 64, 96, 128, 16, 32, 32)),
        (3, (1, 7, 5), (24, 5, 3, 9, 2, 4, 7)),
    ):
        shapes = [(c1 + c3r + c5r, c, 1, 1), (c3, c3r, 3, 3), (c5, c5r, taps, taps), (cp, c, 1, 1)]
        f32 = torch.float32
        parameters = [each for s in shapes for each in ((s, f32), (s[:1], f32))]
        yield True, ((n, c, side, other), f32), *parameters, True, ()


_ARGUMENTS = (
    "Tensor x, Tensor w_in, Tensor? b_in, Tensor w3, Tensor? b3, Tensor w5, Tensor? b5, Tensor wp,"
    " Tensor? bp, bool reduce_relu"
)
_SCHEMAS: dict[str, Any] = {
    "forward": (f"({_ARGUMENTS}, Tensor[] packed) -> Tensor", _fake),
    "training": (f"({_ARGUMENTS}) -> (Tensor, Tensor, Tensor)", _fake_training),
    "backward": (
        "(Tensor grad_y, Tensor x, Tensor r, Tensor y, Tensor index, Tensor w_in, Tensor w3,"
        " Tensor w5, Tensor wp, bool reduce_relu, bool need_x, bool need_parameters)"
        " -> (Tensor, Tensor)",
        _fake_backward,
    ),
    "autograd": _autograd,
}
NATIVE = define_kernels("inception", **_SCHEMAS)
TRITON = define_kernels(
    "inception_triton",
    **_SCHEMAS,
    functions=(_triton_forward, _triton_training, _triton_backward),
)
INCEPTION = Op(
    "inception",
    inception_reference,
    (
        Backend("triton", "cuda", TRITON.run, triton_supports, TRITON, check_first=True),
        Backend("aten", "cuda", _inception_aten),
        Backend("native", "cpu", NATIVE.run, _native_supports, NATIVE),
        Backend("aten", "cpu", _inception_aten),
        Backend("triton", "cpu", TRITON.run, triton_supports, TRITON, on_request=True),
    ),
    samples=_samples,
    work=_work,
)
