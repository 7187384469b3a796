"""The pool branch: 3x3/1 max pool and 1x1 convolution in one GEMM.

The pooled tensor is not written to memory. Its gradient is computed by `conv1x1.input_gradient`,
and then unpooled in the epilogue of the GEMM for the gradient of the block's input.
"""

import triton
import triton.language as tl
from torch import Tensor

from .configs import gemm_tile, power_of_two, weight_tile
from .launch import gemm_arguments, launch
from .layout import dense
from .split_k import split_bounds, store_partial, weight_gradient_tile
from .tiles import (
    add_bias,
    advance,
    aligned,
    load_masked,
    load_transposed,
    max_pool,
    output_tile,
    relu,
    store_tile,
)


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
    C, K = aligned(C, VECTOR), aligned(K, VECTOR)
    stride_x, stride_y = aligned(stride_x, VECTOR), aligned(stride_y, VECTOR)
    start, m, k = output_tile(K, BLOCK_M, BLOCK_K)
    in_m = m < M - start
    x = advance(x, start, stride_x)
    if index is not None:
        index = advance(index, start, C)
    first_tile = tl.program_id(0) % tl.cdiv(K, BLOCK_K) == 0

    acc = tl.zeros((BLOCK_M, BLOCK_K), tl.float32)
    for first in range(0, C, BLOCK_C):
        c = first + tl.arange(0, BLOCK_C)
        pooled, code = max_pool(x, start, m, c, M, C, H, W, stride_x)
        if index is not None:
            store_tile(index, code, m, c, C, in_m, (c < C) & first_tile)
        acc = tl.dot(pooled, load_transposed(w, k, c, K, C), acc, input_precision=PRECISION)
    acc = relu(add_bias(acc, bias, k, K))

    y = advance(y, start, stride_y)
    store_tile(y, acc, m, k, stride_y, in_m, k < K)


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
    C, K = aligned(C, VECTOR), aligned(K, VECTOR)
    stride_grad_y, stride_y = aligned(stride_grad_y, VECTOR), aligned(stride_y, VECTOR)
    stride_x = aligned(stride_x, VECTOR)
    _tap, k, c = weight_gradient_tile(C, 1, BLOCK_K, BLOCK_C)
    m = tl.arange(0, BLOCK_M)
    begin, end = split_bounds(M, pixels_per_split)
    grad_y = advance(grad_y, begin, stride_grad_y)
    y = advance(y, begin, stride_y)
    x = advance(x, begin, stride_x)

    acc = tl.zeros((BLOCK_K, BLOCK_C), tl.float32)
    bias_acc = tl.zeros((BLOCK_M, BLOCK_K), tl.float32)
    for first in range(begin, end, BLOCK_M):
        in_m = m < end - first
        g = load_masked(grad_y, y, m, k, stride_grad_y, stride_y, in_m, k < K)
        pooled, _ = max_pool(x, first, m, c, end, C, H, W, stride_x)
        acc = tl.dot(tl.trans(g), pooled, acc, input_precision=PRECISION)
        bias_acc += g.to(tl.float32)
        grad_y += BLOCK_M * stride_grad_y
        y += BLOCK_M * stride_y
        x += BLOCK_M * stride_x
    store_partial(partial, acc, bias_acc, 0, k, c, K, C, 1)


def forward(
    x: Tensor, w: Tensor, bias: Tensor | None, y: Tensor, index: Tensor | None = None
) -> None:
    """Write relu(max_pool(x) · wᵀ + bias) into `y`; windows of 3x3, stride 1, padding 1.

    Args:
        x: (N, C, H, W), rows of pixels.
        w: (K, C, 1, 1), dense, in the dtype of `x`.
        bias: (K,), any floating dtype.
        y: (N, K, H, W), rows of pixels; it may be a slice of channels.
        index: (N, C, H, W), channels_last, uint8, the output for 3 * row + column of each window's
            first maximum; None without a backward pass.
    """
    n, channels, height, width = x.shape
    outputs, pixels = w.size(0), n * height * width
    if pixels == 0:
        return
    arguments, constants = gemm_arguments(
        {"x": x, "y": y},
        {"C": channels, "K": outputs},
        {"w": w, "bias": dense(bias), "index": index, "M": pixels, "H": height, "W": width},
    )
    block_k = power_of_two(outputs, 16, 128)  # one tile if possible, so windows are read once
    tile = gemm_tile(pixels, outputs, channels, x)
    launch(
        _pool_project_forward_kernel,
        (triton.cdiv(pixels, 64) * triton.cdiv(outputs, block_k),),
        arguments,
        {
            **constants,
            **{"BLOCK_M": 64, "BLOCK_K": block_k, "BLOCK_C": min(tile.k, 64 // x.element_size())},
        },
        num_stages=1,
    )


def weight_gradient(grad_y: Tensor, y: Tensor, x: Tensor, partial: Tensor) -> None:
    """Write sums of (grad_y · (y > 0))ᵀ · [max_pool(x) | 1] over each split of pixels.

    Args:
        grad_y: (N, K, H, W), rows of pixels.
        y: the output of ReLU, like `grad_y`.
        x: (N, C, H, W), rows of pixels.
        partial: (splits, K * C + K): weight (K, C), then bias (K,).
    """
    n, channels, height, width = x.shape
    outputs, pixels = grad_y.size(1), n * height * width
    assert partial.size(1) == outputs * channels + outputs
    arguments, constants = gemm_arguments(
        {"grad_y": grad_y, "y": y, "x": x},
        {"C": channels, "K": outputs},
        {
            **{"partial": partial, "M": pixels, "H": height, "W": width},
            "pixels_per_split": triton.cdiv(pixels, partial.size(0)),
        },
    )
    block_k, block_c = weight_tile(outputs, channels)
    launch(
        _pool_project_weight_gradient_kernel,
        (triton.cdiv(outputs, block_k) * triton.cdiv(channels, block_c), partial.size(0)),
        arguments,
        {
            **constants,
            **{"BLOCK_K": block_k, "BLOCK_C": block_c, "BLOCK_M": 64 // x.element_size()},
        },
        num_stages=1,
    )
