"""The pool branch: 3x3/1 max pool and 1x1 convolution in one GEMM; no pooled tensor in memory.

The gradient of its input is the 1x1 convolution's own, `conv1x1.input_gradient`, first for the
pooled tensor, then through `unpool` in the epilogue of the one for the block's input.
"""

import triton
import triton.language as tl
from torch import Tensor

from .configs import gemm_tile, power_of_two, precision, vector, weight_tile
from .launch import launch
from .layout import row_stride
from .tiles import aligned, load_clipped, max_pool, relu


@triton.jit
def _pool_project_forward_kernel(
    x,  # (M, C)
    w,  # (K, C), contiguous
    bias,  # (K,) or None
    y,  # (M, K)
    index,  # (M, C), contiguous, uint8, or None
    M,
    C,
    K,
    H,
    W,
    stride_x,
    stride_y,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
    VECTOR: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """y = relu(max_pool(x) · wᵀ + bias); index: which of a window's nine pixels is its maximum."""
    C = aligned(C, VECTOR)
    K = aligned(K, VECTOR)
    stride_x = aligned(stride_x, VECTOR)
    stride_y = aligned(stride_y, VECTOR)
    tiles_k = tl.cdiv(K, BLOCK_K)
    start = (tl.program_id(0) // tiles_k) * BLOCK_M
    k = (tl.program_id(0) % tiles_k) * BLOCK_K + tl.arange(0, BLOCK_K)
    m = tl.arange(0, BLOCK_M)
    in_m = (m < M - start)[:, None]
    x += start.to(tl.int64) * stride_x
    if index is not None:
        index += start.to(tl.int64) * C

    acc = tl.zeros((BLOCK_M, BLOCK_K), tl.float32)
    for first in range(0, C, BLOCK_C):
        c = first + tl.arange(0, BLOCK_C)
        pooled, code = max_pool(x, start, m, c, M, C, H, W, stride_x)
        if index is not None:
            first_tile = tl.program_id(0) % tiles_k == 0
            tl.store(
                index + m[:, None] * C + c[None, :],
                code.to(tl.uint8),
                mask=in_m & (c < C)[None, :] & first_tile,
            )
        w_tile = tl.load(
            w + k[None, :] * C + c[:, None], mask=(k < K)[None, :] & (c < C)[:, None], other=0
        )
        acc = tl.dot(pooled, w_tile, acc, input_precision=PRECISION)
    if bias is not None:
        acc += tl.load(bias + k, mask=k < K, other=0).to(tl.float32)[None, :]

    y += start.to(tl.int64) * stride_y
    tl.store(
        y + m[:, None] * stride_y + k[None, :],
        relu(acc).to(y.dtype.element_ty),
        mask=in_m & (k < K)[None, :],
    )


@triton.jit
def _pool_project_weight_gradient_kernel(
    grad_y,  # (M, K)
    y,  # (M, K)
    x,  # (M, C)
    partial,  # (splits, K * C + K), contiguous
    M,
    C,
    K,
    H,
    W,
    stride_grad_y,
    stride_y,
    stride_x,
    pixels_per_split,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_M: tl.constexpr,
    VECTOR: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """partial = (grad_y · (y > 0))ᵀ · [max_pool(x) | 1] over the pixels of a split."""
    C = aligned(C, VECTOR)
    K = aligned(K, VECTOR)
    stride_grad_y = aligned(stride_grad_y, VECTOR)
    stride_y = aligned(stride_y, VECTOR)
    stride_x = aligned(stride_x, VECTOR)
    tiles_c = tl.cdiv(C, BLOCK_C)
    k = (tl.program_id(0) // tiles_c) * BLOCK_K + tl.arange(0, BLOCK_K)
    c = (tl.program_id(0) % tiles_c) * BLOCK_C + tl.arange(0, BLOCK_C)
    m = tl.arange(0, BLOCK_M)
    begin = tl.program_id(1) * pixels_per_split
    end = tl.minimum(begin + pixels_per_split, M)
    grad_y += begin.to(tl.int64) * stride_grad_y
    y += begin.to(tl.int64) * stride_y
    x += begin.to(tl.int64) * stride_x

    acc = tl.zeros((BLOCK_K, BLOCK_C), tl.float32)
    bias_acc = tl.zeros((BLOCK_M, BLOCK_K), tl.float32)
    for first in range(begin, end, BLOCK_M):
        g = load_clipped(
            grad_y,
            y,
            m[:, None] * stride_grad_y + k[None, :],
            m[:, None] * stride_y + k[None, :],
            (m < end - first)[:, None] & (k < K)[None, :],
        )
        pooled, _ = max_pool(x, first, m, c, end, C, H, W, stride_x)
        acc = tl.dot(tl.trans(g), pooled, acc, input_precision=PRECISION)
        bias_acc += g.to(tl.float32)
        grad_y += BLOCK_M * stride_grad_y
        y += BLOCK_M * stride_y
        x += BLOCK_M * stride_x

    partial += tl.program_id(1).to(tl.int64) * (K * C + K)
    tl.store(
        partial + k[:, None] * C + c[None, :],
        acc.to(partial.dtype.element_ty),
        mask=(k < K)[:, None] & (c < C)[None, :],
    )
    bias_sum = tl.sum(bias_acc, 0).to(partial.dtype.element_ty)
    tl.store(partial + K * C + k, bias_sum, mask=(k < K) & (tl.program_id(0) % tiles_c == 0))


def forward(
    x: Tensor, w: Tensor, bias: Tensor | None, y: Tensor, index: Tensor | None = None
) -> None:
    """Write relu(max_pool(x) · wᵀ + bias) into `y`; windows of 3x3, stride 1, padding 1.

    Args:
        x: (N, C, H, W), rows of pixels.
        w: (K, C, 1, 1), dense, in the dtype of `x`.
        bias: (K,), any floating dtype.
        y: (N, K, H, W), rows of pixels: a slice of channels will do.
        index: (N, C, H, W), channels_last, uint8, to be filled with 3 * row + column of each
            window's first maximum; None if there will be no backward pass.
    """
    n, channels, height, width = x.shape
    outputs, pixels = w.size(0), n * height * width
    if pixels == 0:
        return
    strides = {"stride_x": row_stride(x), "stride_y": row_stride(y)}
    block_k = power_of_two(outputs, 16, 128)  # one tile where possible: windows are read once
    tile = gemm_tile(pixels, outputs, channels, x)
    launch(
        _pool_project_forward_kernel,
        (triton.cdiv(pixels, 64) * triton.cdiv(outputs, block_k),),
        {
            **{"x": x, "w": w, "bias": bias, "y": y, "index": index},
            **{"M": pixels, "C": channels, "K": outputs, "H": height, "W": width},
            **strides,
        },
        {
            **{"BLOCK_M": 64, "BLOCK_K": block_k, "BLOCK_C": min(tile.k, 64 // x.element_size())},
            "VECTOR": vector(channels, outputs, *strides.values()),
            "PRECISION": precision(x),
        },
        num_stages=1,
    )


def weight_gradient(grad_y: Tensor, y: Tensor, x: Tensor, partial: Tensor) -> None:
    """Write sums of (grad_y · (y > 0))ᵀ · [max_pool(x) | 1] over shares of the pixels.

    Args:
        grad_y: (N, K, H, W), rows of pixels.
        y: what ReLU returned, like `grad_y`.
        x: (N, C, H, W), rows of pixels.
        partial: (splits, K * C + K): weight (K, C), then bias (K,).
    """
    n, channels, height, width = x.shape
    outputs, pixels = grad_y.size(1), n * height * width
    assert partial.size(1) == outputs * channels + outputs
    strides = {
        "stride_grad_y": row_stride(grad_y),
        "stride_y": row_stride(y),
        "stride_x": row_stride(x),
    }
    block_k, block_c = weight_tile(outputs, channels)
    launch(
        _pool_project_weight_gradient_kernel,
        (triton.cdiv(outputs, block_k) * triton.cdiv(channels, block_c), partial.size(0)),
        {
            **{"grad_y": grad_y, "y": y, "x": x, "partial": partial},
            **{"M": pixels, "C": channels, "K": outputs, "H": height, "W": width},
            **strides,
            "pixels_per_split": triton.cdiv(pixels, partial.size(0)),
        },
        {
            **{"BLOCK_K": block_k, "BLOCK_C": block_c, "BLOCK_M": 64 // x.element_size()},
            "VECTOR": vector(channels, outputs, *strides.values()),
            "PRECISION": precision(x),
        },
        num_stages=1,
    )
