"""1x1 convolution: a GEMM over rows of pixels, for convolutions that share their input.

The outputs of the sibling convolutions are columns of one product. In the Inception block the first
C1 of them are branch 1, a slice of the block's output y; the rest are the reductions r, which only
the 3x3 and 5x5 convolutions read.
"""

import triton
import triton.language as tl
from torch import Tensor

from .configs import (
    gemm_tile,
    pipeline_depth,
    precision,
    unpool_tile,
    vector,
    weight_pipeline_depth,
    weight_tile,
)
from .launch import launch
from .layout import row_stride
from .tiles import aligned, inside, load_clipped, relu


@triton.jit
def _conv1x1_forward_kernel(
    x,  # (M, C)
    w,  # (K, C), contiguous
    bias,  # (K,) or None
    y,  # (M, K1)
    r,  # (M, K - K1) or None
    M,
    C,
    K,
    K1,
    stride_x,
    stride_y,
    stride_r,
    RELU_Y: tl.constexpr,
    RELU_R: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
    VECTOR: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """[y | r] = relu(x · wᵀ + bias), a tile of BLOCK_M pixels by BLOCK_K outputs a program."""
    C = aligned(C, VECTOR)
    K = aligned(K, VECTOR)
    K1 = aligned(K1, VECTOR)
    stride_x = aligned(stride_x, VECTOR)
    stride_y = aligned(stride_y, VECTOR)
    stride_r = aligned(stride_r, VECTOR)
    tiles_k = tl.cdiv(K, BLOCK_K)
    start = (tl.program_id(0) // tiles_k) * BLOCK_M
    k = (tl.program_id(0) % tiles_k) * BLOCK_K + tl.arange(0, BLOCK_K)
    m = tl.arange(0, BLOCK_M)
    in_m = (m < M - start)[:, None]
    x += start.to(tl.int64) * stride_x

    acc = tl.zeros((BLOCK_M, BLOCK_K), tl.float32)
    for first in range(0, C, BLOCK_C):
        c = first + tl.arange(0, BLOCK_C)
        x_tile = tl.load(
            x + m[:, None] * stride_x + c[None, :], mask=in_m & (c < C)[None, :], other=0
        )
        w_tile = tl.load(
            w + k[None, :] * C + c[:, None], mask=(k < K)[None, :] & (c < C)[:, None], other=0
        )
        acc = tl.dot(x_tile, w_tile, acc, input_precision=PRECISION)
    if bias is not None:
        acc += tl.load(bias + k, mask=k < K, other=0).to(tl.float32)[None, :]
    if RELU_Y:
        acc = tl.where((k < K1)[None, :], relu(acc), acc)
    if RELU_R:
        acc = tl.where((k < K1)[None, :], acc, relu(acc))

    y += start.to(tl.int64) * stride_y
    y_mask = in_m & (k < K1)[None, :]
    tl.store(y + m[:, None] * stride_y + k[None, :], acc.to(y.dtype.element_ty), mask=y_mask)
    if r is not None:
        r += start.to(tl.int64) * stride_r - K1
        r_mask = in_m & ((k >= K1) & (k < K))[None, :]
        tl.store(r + m[:, None] * stride_r + k[None, :], acc.to(r.dtype.element_ty), mask=r_mask)


@triton.jit
def _conv1x1_input_gradient_kernel(
    grad_y,  # (M, K1)
    y,  # (M, K1) or None
    grad_r,  # (M, K - K1) or None
    w,  # (K, C), contiguous
    grad_pooled,  # (M, C) or None
    index,  # (M, C) or None
    grad_x,  # (M, C)
    M,
    C,
    K,
    K1,
    H,
    W,
    stride_grad_y,
    stride_y,
    stride_grad_r,
    stride_grad_x,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
    VECTOR: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """grad_x = [grad_y · (y > 0) | grad_r] · w + unpool(grad_pooled)."""
    C = aligned(C, VECTOR)
    K = aligned(K, VECTOR)
    K1 = aligned(K1, VECTOR)
    stride_grad_y = aligned(stride_grad_y, VECTOR)
    stride_y = aligned(stride_y, VECTOR)
    stride_grad_r = aligned(stride_grad_r, VECTOR)
    stride_grad_x = aligned(stride_grad_x, VECTOR)
    tiles_c = tl.cdiv(C, BLOCK_C)
    start = (tl.program_id(0) // tiles_c) * BLOCK_M
    c = (tl.program_id(0) % tiles_c) * BLOCK_C + tl.arange(0, BLOCK_C)
    m = tl.arange(0, BLOCK_M)
    in_m = (m < M - start)[:, None]
    in_c = (c < C)[None, :]

    acc = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    grad_y += start.to(tl.int64) * stride_grad_y
    if y is not None:
        y += start.to(tl.int64) * stride_y
    for first in range(0, K1, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        g = load_clipped(
            grad_y,
            y,
            m[:, None] * stride_grad_y + k[None, :],
            m[:, None] * stride_y + k[None, :],
            in_m & (k < K1)[None, :],
        )
        w_tile = tl.load(w + k[:, None] * C + c[None, :], mask=(k < K1)[:, None] & in_c, other=0)
        acc = tl.dot(g, w_tile, acc, input_precision=PRECISION)
    if grad_r is not None:
        grad_r += start.to(tl.int64) * stride_grad_r - K1
        for first in range(K1, K, BLOCK_K):
            k = first + tl.arange(0, BLOCK_K)
            g = tl.load(
                grad_r + m[:, None] * stride_grad_r + k[None, :],
                mask=in_m & (k < K)[None, :],
                other=0,
            )
            w_tile = tl.load(w + k[:, None] * C + c[None, :], mask=(k < K)[:, None] & in_c, other=0)
            acc = tl.dot(g, w_tile, acc, input_precision=PRECISION)
    if grad_pooled is not None:
        acc += unpool(grad_pooled, index, start, m, c, M, C, H, W)

    grad_x += start.to(tl.int64) * stride_grad_x
    tl.store(
        grad_x + m[:, None] * stride_grad_x + c[None, :],
        acc.to(grad_x.dtype.element_ty),
        mask=in_m & in_c,
    )


@triton.jit
def unpool(grad_pooled, index, start, m, c, M, C, H, W):
    """Gradient of a 3x3/1 max pool: each pixel asks the nine windows it lies in for their maximum.

    The window around (h + dh, w + dw) sees the pixel (h, w) at row 1 - dh and column 1 - dw.
    """
    h = ((start + m) // W) % H
    w = (start + m) % W
    grad_pooled += start.to(tl.int64) * C
    index += start.to(tl.int64) * C
    offsets = m[:, None] * C + c[None, :]
    in_tile = (m < M - start)[:, None] & (c < C)[None, :]
    acc = tl.zeros(offsets.shape, tl.float32)
    for dh in tl.static_range(-1, 2):
        for dw in tl.static_range(-1, 2):
            mask = in_tile & inside(h, w, dh, dw, H, W)[:, None]
            shift = (dh * W + dw) * C
            code = tl.load(index + offsets + shift, mask=mask, other=255)
            grad = tl.load(grad_pooled + offsets + shift, mask=mask, other=0)
            acc += tl.where(code == (1 - dh) * 3 + (1 - dw), grad.to(tl.float32), 0)
    return acc


@triton.jit
def _conv1x1_weight_gradient_kernel(
    grad_y,  # (M, K1)
    y,  # (M, K1) or None
    grad_r,  # (M, K - K1) or None
    x,  # (M, C)
    w,  # (K, C), contiguous, or None
    grad_x,  # (M, C) or None
    partial,  # (splits, K * C + K), contiguous
    M,
    C,
    K,
    K1,
    stride_grad_y,
    stride_y,
    stride_grad_r,
    stride_x,
    stride_grad_x,
    pixels_per_split,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_M: tl.constexpr,
    VECTOR: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """partial = [grad_y · (y > 0) | grad_r]ᵀ · [x | 1] over the pixels of a split.

    Given w, which a single tile must then hold, also grad_x = grad_y · (y > 0) · w.
    """
    C = aligned(C, VECTOR)
    K = aligned(K, VECTOR)
    K1 = aligned(K1, VECTOR)
    stride_grad_y = aligned(stride_grad_y, VECTOR)
    stride_y = aligned(stride_y, VECTOR)
    stride_grad_r = aligned(stride_grad_r, VECTOR)
    stride_x = aligned(stride_x, VECTOR)
    stride_grad_x = aligned(stride_grad_x, VECTOR)
    tiles_c = tl.cdiv(C, BLOCK_C)
    k = (tl.program_id(0) // tiles_c) * BLOCK_K + tl.arange(0, BLOCK_K)
    c = (tl.program_id(0) % tiles_c) * BLOCK_C + tl.arange(0, BLOCK_C)
    m = tl.arange(0, BLOCK_M)
    begin = tl.program_id(1) * pixels_per_split
    end = tl.minimum(begin + pixels_per_split, M)
    grad_y += begin.to(tl.int64) * stride_grad_y
    x += begin.to(tl.int64) * stride_x
    if y is not None:
        y += begin.to(tl.int64) * stride_y
    if grad_r is not None:
        grad_r += begin.to(tl.int64) * stride_grad_r - K1
    if grad_x is not None:
        grad_x += begin.to(tl.int64) * stride_grad_x

    acc = tl.zeros((BLOCK_K, BLOCK_C), tl.float32)
    bias_acc = tl.zeros((BLOCK_M, BLOCK_K), tl.float32)
    for first in range(begin, end, BLOCK_M):
        in_m = (m < end - first)[:, None]
        g = load_clipped(
            grad_y,
            y,
            m[:, None] * stride_grad_y + k[None, :],
            m[:, None] * stride_y + k[None, :],
            in_m & (k < K1)[None, :],
        )
        if grad_r is not None:
            g += tl.load(
                grad_r + m[:, None] * stride_grad_r + k[None, :],
                mask=in_m & ((k >= K1) & (k < K))[None, :],
                other=0,
            )
            grad_r += BLOCK_M * stride_grad_r
        x_mask = in_m & (c < C)[None, :]
        x_tile = tl.load(x + m[:, None] * stride_x + c[None, :], mask=x_mask, other=0)
        acc = tl.dot(tl.trans(g), x_tile, acc, input_precision=PRECISION)
        bias_acc += g.to(tl.float32)
        if grad_x is not None:
            w_mask = (k < K)[:, None] & (c < C)[None, :]
            w_tile = tl.load(w + k[:, None] * C + c[None, :], mask=w_mask, other=0)
            product = tl.dot(g, w_tile, input_precision=PRECISION).to(grad_x.dtype.element_ty)
            tl.store(grad_x + m[:, None] * stride_grad_x + c[None, :], product, mask=x_mask)
            grad_x += BLOCK_M * stride_grad_x
        grad_y += BLOCK_M * stride_grad_y
        x += BLOCK_M * stride_x
        if y is not None:
            y += BLOCK_M * stride_y

    partial += tl.program_id(1).to(tl.int64) * (K * C + K)
    tl.store(
        partial + k[:, None] * C + c[None, :],
        acc.to(partial.dtype.element_ty),
        mask=(k < K)[:, None] & (c < C)[None, :],
    )
    bias_sum = tl.sum(bias_acc, 0).to(partial.dtype.element_ty)
    tl.store(partial + K * C + k, bias_sum, mask=(k < K) & (tl.program_id(0) % tiles_c == 0))


def forward(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    y: Tensor,
    r: Tensor | None = None,
    *,
    relu_y: bool,
    relu_r: bool = False,
) -> None:
    """Write relu(x · wᵀ + bias) into `y`, and the columns beyond y's channels into `r`.

    Args:
        x: (N, C, H, W), rows of pixels.
        w: (K, C, 1, 1), dense, in the dtype of `x`.
        bias: (K,), any floating dtype.
        y: (N, K1, H, W), rows of pixels: a slice of channels will do.
        r: (N, K - K1, H, W), rows of pixels; None if y has all K channels.
        relu_y: clip y.
        relu_r: clip r.
    """
    pixels, channels, outputs = x.numel() // x.size(1), x.size(1), w.size(0)
    assert y.size(1) + (0 if r is None else r.size(1)) == outputs
    if pixels == 0:
        return
    strides = {
        "stride_x": row_stride(x),
        "stride_y": row_stride(y),
        "stride_r": 0 if r is None else row_stride(r),
    }
    tile = gemm_tile(pixels, outputs, channels, x)
    launch(
        _conv1x1_forward_kernel,
        (triton.cdiv(pixels, tile.m) * triton.cdiv(outputs, tile.n),),
        {
            **{"x": x, "w": w, "bias": bias, "y": y, "r": r},
            **{"M": pixels, "C": channels, "K": outputs, "K1": y.size(1)},
            **strides,
        },
        {
            **{"RELU_Y": relu_y, "RELU_R": relu_r},
            **{"BLOCK_M": tile.m, "BLOCK_K": tile.n, "BLOCK_C": tile.k},
            "VECTOR": vector(channels, outputs, y.size(1), *strides.values()),
            "PRECISION": precision(x),
        },
        num_stages=tile.num_stages,
    )


def input_gradient(
    grad_y: Tensor,
    y: Tensor | None,
    grad_r: Tensor | None,
    w: Tensor,
    grad_x: Tensor,
    grad_pooled: Tensor | None = None,
    index: Tensor | None = None,
) -> None:
    """Write [grad_y · (y > 0) | grad_r] · w into `grad_x`, plus the pool branch's contribution.

    Args:
        grad_y: (N, K1, H, W), rows of pixels.
        y: what ReLU returned, like `grad_y`; None: there was no ReLU.
        grad_r: (N, K - K1, H, W), rows of pixels, or None.
        w: (K, C, 1, 1), dense.
        grad_x: (N, C, H, W), rows of pixels.
        grad_pooled: (N, C, H, W), channels_last: gradient of the 3x3/1 max pool of x, or None.
        index: uint8, like `grad_pooled`: which of a window's nine pixels is its maximum.
    """
    n, channels, height, width = grad_x.shape
    outputs, pixels = w.size(0), n * height * width
    if pixels == 0:
        return
    strides = {
        "stride_grad_y": row_stride(grad_y),
        "stride_y": 0 if y is None else row_stride(y),
        "stride_grad_r": 0 if grad_r is None else row_stride(grad_r),
        "stride_grad_x": row_stride(grad_x),
    }
    tile = (gemm_tile if index is None else unpool_tile)(pixels, channels, outputs, grad_y)
    launch(
        _conv1x1_input_gradient_kernel,
        (triton.cdiv(pixels, tile.m) * triton.cdiv(channels, tile.n),),
        {
            **{"grad_y": grad_y, "y": y, "grad_r": grad_r, "w": w},
            **{"grad_pooled": grad_pooled, "index": index, "grad_x": grad_x},
            **{"M": pixels, "C": channels, "K": outputs, "K1": grad_y.size(1)},
            **{"H": height, "W": width},
            **strides,
        },
        {
            **{"BLOCK_M": tile.m, "BLOCK_C": tile.n, "BLOCK_K": tile.k},
            "VECTOR": vector(channels, outputs, grad_y.size(1), *strides.values()),
            "PRECISION": precision(grad_y),
        },
        num_stages=tile.num_stages,
    )


def weight_gradient(
    grad_y: Tensor,
    y: Tensor | None,
    grad_r: Tensor | None,
    x: Tensor,
    partial: Tensor,
    w: Tensor | None = None,
    grad_x: Tensor | None = None,
) -> None:
    """Write sums of [grad_y · (y > 0) | grad_r]ᵀ · [x | 1] over shares of the pixels.

    Args:
        grad_y: (N, K1, H, W), rows of pixels.
        y: what ReLU returned, like `grad_y`; None: there was no ReLU.
        grad_r: (N, K - K1, H, W), rows of pixels, or None.
        x: (N, C, H, W), rows of pixels.
        partial: (splits, K * C + K): weight (K, C), then bias (K,).
        w: (K, C, 1, 1), dense; if given, the input gradient is computed from the same reads. K and
            C must not exceed a tile, see `fits_one_tile`.
        grad_x: (N, C, H, W), rows of pixels, given with `w`.
    """
    pixels, channels = x.numel() // x.size(1), x.size(1)
    outputs = grad_y.size(1) + (0 if grad_r is None else grad_r.size(1))
    assert partial.size(1) == outputs * channels + outputs
    assert w is None or (grad_r is None and fits_one_tile(outputs, channels))
    strides = {
        "stride_grad_y": row_stride(grad_y),
        "stride_y": 0 if y is None else row_stride(y),
        "stride_grad_r": 0 if grad_r is None else row_stride(grad_r),
        "stride_x": row_stride(x),
        "stride_grad_x": 0 if grad_x is None else row_stride(grad_x),
    }
    block_k, block_c = weight_tile(outputs, channels)
    launch(
        _conv1x1_weight_gradient_kernel,
        (triton.cdiv(outputs, block_k) * triton.cdiv(channels, block_c), partial.size(0)),
        {
            **{"grad_y": grad_y, "y": y, "grad_r": grad_r, "x": x},
            **{"w": w, "grad_x": grad_x, "partial": partial},
            **{"M": pixels, "C": channels, "K": outputs, "K1": grad_y.size(1)},
            **strides,
            "pixels_per_split": triton.cdiv(pixels, partial.size(0)),
        },
        {
            **{"BLOCK_K": block_k, "BLOCK_C": block_c, "BLOCK_M": 32 if w is None else 16},
            "VECTOR": vector(channels, outputs, grad_y.size(1), *strides.values()),
            "PRECISION": precision(x),
        },
        num_stages=(
            weight_pipeline_depth(x, masked=y is not None)
            if w is None
            else pipeline_depth(x.device)
        ),
    )


def fits_one_tile(outputs: int, channels: int) -> bool:
    """Whether `weight_gradient` can give the input gradient of a convolution of this size too."""
    block_k, block_c = weight_tile(outputs, channels)
    return outputs <= block_k and channels <= block_c
