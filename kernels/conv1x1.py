"""1x1 convolution: one GEMM for all 1x1 convolutions of the same input.

Their outputs are columns of one product. In the Inception block the first C1 columns are branch 1,
a slice of the block's output y. The others are the reductions r, which only the 3x3 and 5x5
convolutions read.
"""

import triton
import triton.language as tl
from torch import Tensor

from .configs import (
    gemm_tile,
    pipeline_depth,
    unpool_tile,
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
    load_transposed,
    output_tile,
    relu,
    store_tile,
)


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
    """[y | r] = relu(x · wᵀ + bias), a tile of BLOCK_M pixels by BLOCK_K outputs per program."""
    C, K, K1 = aligned(C, VECTOR), aligned(K, VECTOR), aligned(K1, VECTOR)
    stride_x, stride_y = aligned(stride_x, VECTOR), aligned(stride_y, VECTOR)
    stride_r = aligned(stride_r, VECTOR)
    start, m, k = output_tile(K, BLOCK_M, BLOCK_K)
    in_m = m < M - start
    x = advance(x, start, stride_x)

    acc = tl.zeros((BLOCK_M, BLOCK_K), tl.float32)
    for first in range(0, C, BLOCK_C):
        c = first + tl.arange(0, BLOCK_C)
        x_tile = load_tile(x, m, c, stride_x, in_m, c < C)
        w_tile = load_transposed(w, k, c, K, C)
        acc = tl.dot(x_tile, w_tile, acc, input_precision=PRECISION)
    acc = add_bias(acc, bias, k, K)
    if RELU_Y:
        acc = tl.where((k < K1)[None, :], relu(acc), acc)
    if RELU_R:
        acc = tl.where((k < K1)[None, :], acc, relu(acc))

    y = advance(y, start, stride_y)
    store_tile(y, acc, m, k, stride_y, in_m, k < K1)
    if r is not None:
        r += start.to(tl.int64) * stride_r - K1
        store_tile(r, acc, m, k, stride_r, in_m, (k >= K1) & (k < K))


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
    C, K, K1 = aligned(C, VECTOR), aligned(K, VECTOR), aligned(K1, VECTOR)
    stride_grad_y, stride_y = aligned(stride_grad_y, VECTOR), aligned(stride_y, VECTOR)
    stride_grad_r, stride_grad_x = aligned(stride_grad_r, VECTOR), aligned(stride_grad_x, VECTOR)
    start, m, c = output_tile(C, BLOCK_M, BLOCK_C)
    in_m, in_c = m < M - start, c < C
    grad_y = advance(grad_y, start, stride_grad_y)
    if y is not None:
        y = advance(y, start, stride_y)

    acc = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    for first in range(0, K1, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        g = load_masked(grad_y, y, m, k, stride_grad_y, stride_y, in_m, k < K1)
        w_tile = load_tile(w, k, c, C, k < K1, in_c)
        acc = tl.dot(g, w_tile, acc, input_precision=PRECISION)
    if grad_r is not None:
        grad_r += start.to(tl.int64) * stride_grad_r - K1
        for first in range(K1, K, BLOCK_K):
            k = first + tl.arange(0, BLOCK_K)
            g = load_tile(grad_r, m, k, stride_grad_r, in_m, k < K)
            w_tile = load_tile(w, k, c, C, k < K, in_c)
            acc = tl.dot(g, w_tile, acc, input_precision=PRECISION)
    if grad_pooled is not None:
        acc += unpool(grad_pooled, index, start, m, c, M, C, H, W)

    grad_x = advance(grad_x, start, stride_grad_x)
    store_tile(grad_x, acc, m, c, stride_grad_x, in_m, in_c)


@triton.jit
def unpool(grad_pooled, index, start, m, c, M, C, H, W):
    """Gradient of a 3x3/1 max pool: a pixel sums over the nine windows that contain it.

    The window around (h + dh, w + dw) has the pixel (h, w) at row 1 - dh and column 1 - dw.
    """
    h = ((start + m) // W) % H
    w = (start + m) % W
    grad_pooled = advance(grad_pooled, start, C)
    index = advance(index, start, C)
    offsets = m[:, None] * C + c[None, :]
    in_tile = (m < M - start)[:, None] & (c < C)[None, :]
    acc = tl.zeros(offsets.shape, tl.float32)
    for dh in tl.static_range(-1, 2):
        for dw in tl.static_range(-1, 2):
            mask = in_tile & in_bounds(h, w, dh, dw, H, W)[:, None]
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

    With w, which must fit one tile, also grad_x = grad_y · (y > 0) · w.
    """
    C, K, K1 = aligned(C, VECTOR), aligned(K, VECTOR), aligned(K1, VECTOR)
    stride_grad_y, stride_y = aligned(stride_grad_y, VECTOR), aligned(stride_y, VECTOR)
    stride_grad_r, stride_x = aligned(stride_grad_r, VECTOR), aligned(stride_x, VECTOR)
    stride_grad_x = aligned(stride_grad_x, VECTOR)
    _tap, k, c = weight_gradient_tile(C, 1, BLOCK_K, BLOCK_C)
    m = tl.arange(0, BLOCK_M)
    begin, end = split_bounds(M, pixels_per_split)
    grad_y = advance(grad_y, begin, stride_grad_y)
    x = advance(x, begin, stride_x)
    if y is not None:
        y = advance(y, begin, stride_y)
    if grad_r is not None:
        # One offset: a second addition to the pointer takes registers that the kernel lacks.
        grad_r += begin.to(tl.int64) * stride_grad_r - K1
    if grad_x is not None:
        grad_x = advance(grad_x, begin, stride_grad_x)

    acc = tl.zeros((BLOCK_K, BLOCK_C), tl.float32)
    bias_acc = tl.zeros((BLOCK_M, BLOCK_K), tl.float32)
    for first in range(begin, end, BLOCK_M):
        in_m = m < end - first
        g = load_masked(grad_y, y, m, k, stride_grad_y, stride_y, in_m, k < K1)
        if grad_r is not None:
            g += load_tile(grad_r, m, k, stride_grad_r, in_m, (k >= K1) & (k < K))
            grad_r += BLOCK_M * stride_grad_r
        x_tile = load_tile(x, m, c, stride_x, in_m, c < C)
        acc = tl.dot(tl.trans(g), x_tile, acc, input_precision=PRECISION)
        bias_acc += g.to(tl.float32)
        if grad_x is not None:
            w_tile = load_tile(w, k, c, C, k < K, c < C)
            product = tl.dot(g, w_tile, input_precision=PRECISION)
            store_tile(grad_x, product, m, c, stride_grad_x, in_m, c < C)
            grad_x += BLOCK_M * stride_grad_x
        grad_y += BLOCK_M * stride_grad_y
        x += BLOCK_M * stride_x
        if y is not None:
            y += BLOCK_M * stride_y
    store_partial(partial, acc, bias_acc, 0, k, c, K, C, 1)


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
        y: (N, K1, H, W), rows of pixels; it may be a slice of channels.
        r: (N, K - K1, H, W), rows of pixels; None if y has all K channels.
        relu_y: clip y.
        relu_r: clip r.
    """
    pixels, channels, outputs = x.numel() // x.size(1), x.size(1), w.size(0)
    assert y.size(1) + (0 if r is None else r.size(1)) == outputs
    if pixels == 0:
        return
    arguments, constants = gemm_arguments(
        {"x": x, "y": y, "r": r},
        {"C": channels, "K": outputs, "K1": y.size(1)},
        {"w": w, "bias": dense(bias), "M": pixels},
    )
    tile = gemm_tile(pixels, outputs, channels, x)
    launch(
        _conv1x1_forward_kernel,
        (triton.cdiv(pixels, tile.m) * triton.cdiv(outputs, tile.n),),
        arguments,
        {
            **constants,
            **{"RELU_Y": relu_y, "RELU_R": relu_r},
            **{"BLOCK_M": tile.m, "BLOCK_K": tile.n, "BLOCK_C": tile.k},
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
        y: the output of ReLU, like `grad_y`; None: there was no ReLU.
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
    arguments, constants = gemm_arguments(
        {"grad_y": grad_y, "y": y, "grad_r": grad_r, "grad_x": grad_x},
        {"C": channels, "K": outputs, "K1": grad_y.size(1)},
        {"w": w, "grad_pooled": grad_pooled, "index": index, "M": pixels, "H": height, "W": width},
    )
    tile = (gemm_tile if index is None else unpool_tile)(pixels, channels, outputs, grad_y)
    launch(
        _conv1x1_input_gradient_kernel,
        (triton.cdiv(pixels, tile.m) * triton.cdiv(channels, tile.n),),
        arguments,
        {**constants, "BLOCK_M": tile.m, "BLOCK_C": tile.n, "BLOCK_K": tile.k},
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
    """Write sums of [grad_y · (y > 0) | grad_r]ᵀ · [x | 1] over each split of pixels.

    Args:
        grad_y: (N, K1, H, W), rows of pixels.
        y: the output of ReLU, like `grad_y`; None: there was no ReLU.
        grad_r: (N, K - K1, H, W), rows of pixels, or None.
        x: (N, C, H, W), rows of pixels.
        partial: (splits, K * C + K): weight (K, C), then bias (K,).
        w: (K, C, 1, 1), dense, or None. With w the kernel also computes the input gradient, from
            the same loads; K and C must fit one tile (`fits_one_tile`).
        grad_x: (N, C, H, W), rows of pixels, given with `w`.
    """
    pixels, channels = x.numel() // x.size(1), x.size(1)
    outputs = grad_y.size(1) + (0 if grad_r is None else grad_r.size(1))
    assert partial.size(1) == outputs * channels + outputs
    assert w is None or (grad_r is None and fits_one_tile(outputs, channels))
    arguments, constants = gemm_arguments(
        {"grad_y": grad_y, "y": y, "grad_r": grad_r, "x": x, "grad_x": grad_x},
        {"C": channels, "K": outputs, "K1": grad_y.size(1)},
        {
            **{"w": w, "partial": partial, "M": pixels},
            "pixels_per_split": triton.cdiv(pixels, partial.size(0)),
        },
    )
    block_k, block_c = weight_tile(outputs, channels)
    launch(
        _conv1x1_weight_gradient_kernel,
        (triton.cdiv(outputs, block_k) * triton.cdiv(channels, block_c), partial.size(0)),
        arguments,
        {
            **constants,
            **{"BLOCK_K": block_k, "BLOCK_C": block_c, "BLOCK_M": 32 if w is None else 16},
        },
        num_stages=(
            weight_pipeline_depth(x, masked=y is not None)
            if w is None
            else pipeline_depth(x.device)
        ),
    )


def fits_one_tile(outputs: int, channels: int) -> bool:
    """Return True if `weight_gradient` can also compute the input gradient."""
    block_k, block_c = weight_tile(outputs, channels)
    return outputs <= block_k and channels <= block_c
