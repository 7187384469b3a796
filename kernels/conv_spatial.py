"""3x3 and 5x5 convolution, stride 1, "same" padding: an implicit GEMM with one product per tap.

Pixels are rows: (h + dh, w + dw) is dh * W + dw rows after (h, w). Inputs and outputs may be slices
of channels, as in the Inception block.
"""

import triton
import triton.language as tl
from torch import Tensor

from .configs import (
    gemm_tile,
    masked_tile,
    vector,
    weight_pipeline_depth,
    weight_tile,
)
from .launch import gemm_arguments, launch
from .layout import dense
from .split_k import split_bounds, store_partial, weight_gradient_tile
from .tiles import (
    add_bias,
    advance,
    aligned,
    in_bounds,
    load_masked,
    load_tile,
    output_tile,
    relu,
    store_tile,
)


@triton.jit
def _conv_spatial_kernel(
    x,  # (M, C)
    x_mask,  # (M, C) or None
    w,  # TAPS x TAPS matrices (C, K), by strides
    bias,  # (K,) or None
    y_mask,  # (M, K) or None
    y,  # (M, K)
    M,
    C,
    K,
    H,
    W,
    stride_x,
    stride_x_mask,
    stride_y_mask,
    stride_y,
    stride_w_k,
    stride_w_c,
    stride_w_tap,
    TAPS: tl.constexpr,
    FLIP: tl.constexpr,
    RELU: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
    VECTOR: tl.constexpr,
    VECTOR_W_K: tl.constexpr,
    VECTOR_W_C: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """y = relu(bias + sum over taps of (x · (x_mask > 0))[shifted] · w[tap]) · (y_mask > 0).

    The input gradient is the same convolution: of the output gradient, with transposed weights and
    flipped taps. Both masks are then outputs of ReLU.
    """
    C, K = aligned(C, VECTOR), aligned(K, VECTOR)
    stride_x, stride_x_mask = aligned(stride_x, VECTOR), aligned(stride_x_mask, VECTOR)
    stride_y_mask, stride_y = aligned(stride_y_mask, VECTOR), aligned(stride_y, VECTOR)
    stride_w_k = aligned(stride_w_k, VECTOR_W_K)
    stride_w_c = aligned(stride_w_c, VECTOR_W_C)
    stride_w_tap = aligned(stride_w_tap, VECTOR)
    start, m, k = output_tile(K, BLOCK_M, BLOCK_K)
    in_m, in_k = m < M - start, k < K
    h = ((start + m) // W) % H
    w_ = (start + m) % W
    x = advance(x, start, stride_x)
    if x_mask is not None:
        x_mask = advance(x_mask, start, stride_x_mask)

    acc = tl.zeros((BLOCK_M, BLOCK_K), tl.float32)
    for row in range(TAPS):  # with this loop unrolled, ptxas takes over a minute for 5x5
        for column in tl.static_range(TAPS):
            dh = row - TAPS // 2
            dw = column - TAPS // 2
            tap = row * TAPS + column
            if FLIP:
                tap = TAPS * TAPS - 1 - tap
            valid = in_m & in_bounds(h, w_, dh, dw, H, W)
            shifted = m + (dh * W + dw)
            for first in range(0, C, BLOCK_C):
                c = first + tl.arange(0, BLOCK_C)
                x_tile = load_masked(x, x_mask, shifted, c, stride_x, stride_x_mask, valid, c < C)
                w_tile = tl.load(
                    w + tap * stride_w_tap + c[:, None] * stride_w_c + k[None, :] * stride_w_k,
                    mask=(c < C)[:, None] & in_k[None, :],
                    other=0,
                )
                acc = tl.dot(x_tile, w_tile, acc, input_precision=PRECISION)
    acc = add_bias(acc, bias, k, K)
    if RELU:
        acc = relu(acc)
    if y_mask is not None:
        y_mask = advance(y_mask, start, stride_y_mask)
        acc = tl.where(load_tile(y_mask, m, k, stride_y_mask, in_m, in_k) <= 0, 0, acc)
    y = advance(y, start, stride_y)
    store_tile(y, acc, m, k, stride_y, in_m, in_k)


@triton.jit
def _conv_spatial_weight_gradient_kernel(
    grad_y,  # (M, K)
    y,  # (M, K) or None
    x,  # (M, C)
    partial,  # (splits, K * TAPS * TAPS * C + K), contiguous
    M,
    C,
    K,
    H,
    W,
    stride_grad_y,
    stride_y,
    stride_x,
    pixels_per_split,
    TAPS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_M: tl.constexpr,
    VECTOR: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """partial = (grad_y · (y > 0))ᵀ · [x shifted by a tap | 1] over the pixels of a split."""
    C, K = aligned(C, VECTOR), aligned(K, VECTOR)
    stride_grad_y, stride_y = aligned(stride_grad_y, VECTOR), aligned(stride_y, VECTOR)
    stride_x = aligned(stride_x, VECTOR)
    tap, k, c = weight_gradient_tile(C, TAPS * TAPS, BLOCK_K, BLOCK_C)
    dh = tap // TAPS - TAPS // 2
    dw = tap % TAPS - TAPS // 2
    m = tl.arange(0, BLOCK_M)
    begin, end = split_bounds(M, pixels_per_split)
    grad_y = advance(grad_y, begin, stride_grad_y)
    x = advance(x, begin, stride_x)
    if y is not None:
        y = advance(y, begin, stride_y)

    acc = tl.zeros((BLOCK_K, BLOCK_C), tl.float32)
    bias_acc = tl.zeros((BLOCK_M, BLOCK_K), tl.float32)
    for first in range(begin, end, BLOCK_M):
        in_m = m < end - first
        g = load_masked(grad_y, y, m, k, stride_grad_y, stride_y, in_m, k < K)
        valid = in_m & in_bounds(((first + m) // W) % H, (first + m) % W, dh, dw, H, W)
        x_tile = load_tile(x, m + (dh * W + dw), c, stride_x, valid, c < C)
        acc = tl.dot(tl.trans(g), x_tile, acc, input_precision=PRECISION)
        bias_acc += g.to(tl.float32)
        grad_y += BLOCK_M * stride_grad_y
        x += BLOCK_M * stride_x
        if y is not None:
            y += BLOCK_M * stride_y
    store_partial(partial, acc, bias_acc, tap, k, c, K, C, TAPS * TAPS)


def forward(x: Tensor, w: Tensor, bias: Tensor | None, y: Tensor, *, relu: bool) -> None:
    """Write relu(conv(x, w) + bias) into `y`.

    Args:
        x: (N, C, H, W), rows of pixels; it may be a slice of channels.
        w: (K, C, T, T), channels_last, in the dtype of `x`; T is odd.
        bias: (K,), any floating dtype.
        y: (N, K, H, W), rows of pixels.
        relu: clip y.
    """
    taps, channels = w.size(2), w.size(1)
    strides = (taps * taps * channels, 1, channels)
    _convolve(x, None, w, strides, bias, None, y, flip=False, relu=relu)


def input_gradient(
    grad_y: Tensor, y: Tensor | None, w: Tensor, x: Tensor | None, grad_x: Tensor
) -> None:
    """Write the gradient of conv(x, w) into `grad_x`.

    Args:
        grad_y: (N, K, H, W), rows of pixels.
        y: the output of ReLU, like `grad_y`; None: there was no ReLU.
        w: (K, C, T, T), channels_last.
        x: (N, C, H, W), rows of pixels: the output of the ReLU before the convolution, whose mask
            is applied as well; None: there was no ReLU.
        grad_x: (N, C, H, W), rows of pixels.
    """
    taps, channels = w.size(2), w.size(1)
    strides = (1, taps * taps * channels, channels)
    _convolve(grad_y, y, w, strides, None, x, grad_x, flip=True, relu=False)


def _convolve(
    x: Tensor,
    x_mask: Tensor | None,
    w: Tensor,
    w_strides: tuple[int, int, int],
    bias: Tensor | None,
    y_mask: Tensor | None,
    y: Tensor,
    *,
    flip: bool,
    relu: bool,
) -> None:
    """Launch the kernel; `w_strides` are the strides of w along outputs, inputs and taps."""
    n, channels, height, width = x.shape
    outputs, pixels, taps = y.size(1), n * height * width, w.size(2)
    assert w.size(3) == taps
    assert taps % 2 == 1
    if pixels == 0:
        return
    w_k, w_c, w_tap = w_strides
    arguments, constants = gemm_arguments(
        {"x": x, "x_mask": x_mask, "y_mask": y_mask, "y": y},
        {"C": channels, "K": outputs},
        {
            **{"w": w, "bias": dense(bias), "M": pixels, "H": height, "W": width},
            **{"stride_w_k": w_k, "stride_w_c": w_c, "stride_w_tap": w_tap},
        },
    )
    tile = (gemm_tile if x_mask is None else masked_tile)(pixels, outputs, channels, x)
    launch(
        _conv_spatial_kernel,
        (triton.cdiv(pixels, tile.m) * triton.cdiv(outputs, tile.n),),
        arguments,
        {
            **constants,
            **{"TAPS": taps, "FLIP": flip, "RELU": relu},
            **{"BLOCK_M": tile.m, "BLOCK_K": tile.n, "BLOCK_C": tile.k},
            **{"VECTOR_W_K": vector(w_k), "VECTOR_W_C": vector(w_c)},
        },
        num_stages=tile.num_stages,
    )


def weight_gradient(
    grad_y: Tensor, y: Tensor | None, x: Tensor, partial: Tensor, taps: int
) -> None:
    """Write sums of (grad_y · (y > 0))ᵀ · [x shifted by each tap | 1] over each split.

    Args:
        grad_y: (N, K, H, W), rows of pixels.
        y: the output of ReLU, like `grad_y`; None: there was no ReLU.
        x: (N, C, H, W), rows of pixels.
        partial: (splits, K * T * T * C + K): weight (K, T, T, C), then bias (K,).
        taps: T, the kernel's side.
    """
    n, channels, height, width = x.shape
    outputs, pixels = grad_y.size(1), n * height * width
    assert partial.size(1) == outputs * taps * taps * channels + outputs
    arguments, constants = gemm_arguments(
        {"grad_y": grad_y, "y": y, "x": x},
        {"C": channels, "K": outputs},
        {
            **{"partial": partial, "M": pixels, "H": height, "W": width},
            "pixels_per_split": triton.cdiv(pixels, partial.size(0)),
        },
    )
    block_k, block_c = weight_tile(outputs, channels)
    tiles = triton.cdiv(outputs, block_k) * taps * taps * triton.cdiv(channels, block_c)
    launch(
        _conv_spatial_weight_gradient_kernel,
        (tiles, partial.size(0)),
        arguments,
        {
            **constants,
            **{"TAPS": taps, "BLOCK_K": block_k, "BLOCK_C": block_c, "BLOCK_M": 32},
        },
        num_stages=weight_pipeline_depth(x, masked=y is not None),
    )
