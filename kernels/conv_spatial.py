"""3x3 and 5x5 convolution, stride 1, "same" padding: an implicit GEMM, one product for each tap.

In rows of pixels, the neighbour (dh, dw) of a pixel is dh * W + dw rows away. Inputs and outputs
are slices of channels: the Inception block's reductions and its output.
"""

import triton
import triton.language as tl
from torch import Tensor

from .configs import (
    gemm_tile,
    masked_tile,
    precision,
    vector,
    weight_pipeline_depth,
    weight_tile,
)
from .launch import launch
from .layout import row_stride
from .tiles import aligned, inside, load_clipped, relu


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

    The input gradient is the same convolution, of the output gradient by the transposed weights
    with flipped taps; then both masks are those of ReLU.
    """
    C = aligned(C, VECTOR)
    K = aligned(K, VECTOR)
    stride_x = aligned(stride_x, VECTOR)
    stride_x_mask = aligned(stride_x_mask, VECTOR)
    stride_y_mask = aligned(stride_y_mask, VECTOR)
    stride_y = aligned(stride_y, VECTOR)
    stride_w_k = aligned(stride_w_k, VECTOR_W_K)
    stride_w_c = aligned(stride_w_c, VECTOR_W_C)
    stride_w_tap = aligned(stride_w_tap, VECTOR)
    tiles_k = tl.cdiv(K, BLOCK_K)
    start = (tl.program_id(0) // tiles_k) * BLOCK_M
    k = (tl.program_id(0) % tiles_k) * BLOCK_K + tl.arange(0, BLOCK_K)
    m = tl.arange(0, BLOCK_M)
    in_m = m < M - start
    h = ((start + m) // W) % H
    w_ = (start + m) % W
    x += start.to(tl.int64) * stride_x
    if x_mask is not None:
        x_mask += start.to(tl.int64) * stride_x_mask

    acc = tl.zeros((BLOCK_M, BLOCK_K), tl.float32)
    for row in range(TAPS):  # unrolled too, 5x5 took ptxas over a minute
        for column in tl.static_range(TAPS):
            dh = row - TAPS // 2
            dw = column - TAPS // 2
            tap = row * TAPS + column
            if FLIP:
                tap = TAPS * TAPS - 1 - tap
            valid = (in_m & inside(h, w_, dh, dw, H, W))[:, None]
            shifted = m + (dh * W + dw)
            for first in range(0, C, BLOCK_C):
                c = first + tl.arange(0, BLOCK_C)
                x_tile = load_clipped(
                    x,
                    x_mask,
                    shifted[:, None] * stride_x + c[None, :],
                    shifted[:, None] * stride_x_mask + c[None, :],
                    valid & (c < C)[None, :],
                )
                w_tile = tl.load(
                    w + tap * stride_w_tap + c[:, None] * stride_w_c + k[None, :] * stride_w_k,
                    mask=(c < C)[:, None] & (k < K)[None, :],
                    other=0,
                )
                acc = tl.dot(x_tile, w_tile, acc, input_precision=PRECISION)
    if bias is not None:
        acc += tl.load(bias + k, mask=k < K, other=0).to(tl.float32)[None, :]
    if RELU:
        acc = relu(acc)

    mask = in_m[:, None] & (k < K)[None, :]
    if y_mask is not None:
        y_mask += start.to(tl.int64) * stride_y_mask
        clipped = tl.load(y_mask + m[:, None] * stride_y_mask + k[None, :], mask=mask, other=0) <= 0
        acc = tl.where(clipped, 0, acc)
    y += start.to(tl.int64) * stride_y
    tl.store(y + m[:, None] * stride_y + k[None, :], acc.to(y.dtype.element_ty), mask=mask)


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
    C = aligned(C, VECTOR)
    K = aligned(K, VECTOR)
    stride_grad_y = aligned(stride_grad_y, VECTOR)
    stride_y = aligned(stride_y, VECTOR)
    stride_x = aligned(stride_x, VECTOR)
    tiles_c = tl.cdiv(C, BLOCK_C)
    tap = (tl.program_id(0) // tiles_c) % (TAPS * TAPS)
    dh = tap // TAPS - TAPS // 2
    dw = tap % TAPS - TAPS // 2
    k = (tl.program_id(0) // (tiles_c * TAPS * TAPS)) * BLOCK_K + tl.arange(0, BLOCK_K)
    c = (tl.program_id(0) % tiles_c) * BLOCK_C + tl.arange(0, BLOCK_C)
    m = tl.arange(0, BLOCK_M)
    begin = tl.program_id(1) * pixels_per_split
    end = tl.minimum(begin + pixels_per_split, M)
    grad_y += begin.to(tl.int64) * stride_grad_y
    x += begin.to(tl.int64) * stride_x
    if y is not None:
        y += begin.to(tl.int64) * stride_y

    acc = tl.zeros((BLOCK_K, BLOCK_C), tl.float32)
    bias_acc = tl.zeros((BLOCK_M, BLOCK_K), tl.float32)
    for first in range(begin, end, BLOCK_M):
        in_m = m < end - first
        g = load_clipped(
            grad_y,
            y,
            m[:, None] * stride_grad_y + k[None, :],
            m[:, None] * stride_y + k[None, :],
            in_m[:, None] & (k < K)[None, :],
        )
        valid = in_m & inside(((first + m) // W) % H, (first + m) % W, dh, dw, H, W)
        x_tile = tl.load(
            x + (m + (dh * W + dw))[:, None] * stride_x + c[None, :],
            mask=valid[:, None] & (c < C)[None, :],
            other=0,
        )
        acc = tl.dot(tl.trans(g), x_tile, acc, input_precision=PRECISION)
        bias_acc += g.to(tl.float32)
        grad_y += BLOCK_M * stride_grad_y
        x += BLOCK_M * stride_x
        if y is not None:
            y += BLOCK_M * stride_y

    partial += tl.program_id(1).to(tl.int64) * (K * TAPS * TAPS * C + K)
    tl.store(
        partial + (k * (TAPS * TAPS) + tap)[:, None] * C + c[None, :],
        acc.to(partial.dtype.element_ty),
        mask=(k < K)[:, None] & (c < C)[None, :],
    )
    bias_sum = tl.sum(bias_acc, 0).to(partial.dtype.element_ty)
    first_tile = tl.program_id(0) % (tiles_c * TAPS * TAPS) == 0
    tl.store(partial + K * TAPS * TAPS * C + k, bias_sum, mask=(k < K) & first_tile)


def forward(x: Tensor, w: Tensor, bias: Tensor | None, y: Tensor, *, relu: bool) -> None:
    """Write relu(conv(x, w) + bias) into `y`.

    Args:
        x: (N, C, H, W), rows of pixels: a slice of channels will do.
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
        y: what ReLU returned, like `grad_y`; None: there was no ReLU.
        w: (K, C, T, T), channels_last.
        x: (N, C, H, W), rows of pixels: what the ReLU before the convolution returned, whose mask
            is applied too; None: there was none.
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
    """Launch the kernel; `w_strides` are those of its outputs, its inputs and its taps."""
    n, channels, height, width = x.shape
    outputs, pixels, taps = y.size(1), n * height * width, w.size(2)
    assert w.size(3) == taps
    assert taps % 2 == 1
    if pixels == 0:
        return
    strides = {
        "stride_x": row_stride(x),
        "stride_x_mask": 0 if x_mask is None else row_stride(x_mask),
        "stride_y_mask": 0 if y_mask is None else row_stride(y_mask),
        "stride_y": row_stride(y),
    }
    w_k, w_c, w_tap = w_strides
    tile = (gemm_tile if x_mask is None else masked_tile)(pixels, outputs, channels, x)
    launch(
        _conv_spatial_kernel,
        (triton.cdiv(pixels, tile.m) * triton.cdiv(outputs, tile.n),),
        {
            **{"x": x, "x_mask": x_mask, "w": w, "bias": bias, "y_mask": y_mask, "y": y},
            **{"M": pixels, "C": channels, "K": outputs, "H": height, "W": width},
            **strides,
            **{"stride_w_k": w_k, "stride_w_c": w_c, "stride_w_tap": w_tap},
        },
        {
            **{"TAPS": taps, "FLIP": flip, "RELU": relu},
            **{"BLOCK_M": tile.m, "BLOCK_K": tile.n, "BLOCK_C": tile.k},
            "VECTOR": vector(channels, outputs, w_tap, *strides.values()),
            **{"VECTOR_W_K": vector(w_k), "VECTOR_W_C": vector(w_c)},
            "PRECISION": precision(x),
        },
        num_stages=tile.num_stages,
    )


def weight_gradient(
    grad_y: Tensor, y: Tensor | None, x: Tensor, partial: Tensor, taps: int
) -> None:
    """Write sums of (grad_y · (y > 0))ᵀ · [x shifted by each tap | 1] over shares of the pixels.

    Args:
        grad_y: (N, K, H, W), rows of pixels.
        y: what ReLU returned, like `grad_y`; None: there was no ReLU.
        x: (N, C, H, W), rows of pixels.
        partial: (splits, K * T * T * C + K): weight (K, T, T, C), then bias (K,).
        taps: T, the kernel's side.
    """
    n, channels, height, width = x.shape
    outputs, pixels = grad_y.size(1), n * height * width
    assert partial.size(1) == outputs * taps * taps * channels + outputs
    strides = {
        "stride_grad_y": row_stride(grad_y),
        "stride_y": 0 if y is None else row_stride(y),
        "stride_x": row_stride(x),
    }
    block_k, block_c = weight_tile(outputs, channels)
    tiles = triton.cdiv(outputs, block_k) * taps * taps * triton.cdiv(channels, block_c)
    launch(
        _conv_spatial_weight_gradient_kernel,
        (tiles, partial.size(0)),
        {
            **{"grad_y": grad_y, "y": y, "x": x, "partial": partial},
            **{"M": pixels, "C": channels, "K": outputs, "H": height, "W": width},
            **strides,
            "pixels_per_split": triton.cdiv(pixels, partial.size(0)),
        },
        {
            **{"TAPS": taps, "BLOCK_K": block_k, "BLOCK_C": block_c, "BLOCK_M": 32},
            "VECTOR": vector(channels, outputs, *strides.values()),
            "PRECISION": precision(x),
        },
        num_stages=weight_pipeline_depth(x, masked=y is not None),
    )
