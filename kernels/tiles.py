"""Device functions that kernels share: tiles of matrices, ReLU masks, 3x3 windows of pixels.

A tile holds BLOCK_M consecutive pixels (rows) by some channels (columns). Pixels are numbered
through a batch: (n * H + h) * W + w.
"""

import triton
import triton.language as tl


@triton.jit
def aligned(size, VECTOR: tl.constexpr):
    """Return `size`, a multiple of VECTOR, in a form that shows the compiler that it is one.

    The width of an access depends on what is known of sizes in masks, strides and offsets.
    """
    return size // VECTOR * VECTOR


@triton.jit
def relu(value):
    """Return max(value, 0); NaN stays NaN."""
    return tl.where(value < 0, 0, value)


@triton.jit
def output_tile(columns, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """Return a program's tile: its first pixel, its pixels from there on, and its columns."""
    tiles = tl.cdiv(columns, BLOCK_N)
    start = (tl.program_id(0) // tiles) * BLOCK_M
    n = (tl.program_id(0) % tiles) * BLOCK_N + tl.arange(0, BLOCK_N)
    return start, tl.arange(0, BLOCK_M), n


@triton.jit
def advance(x, pixels, stride):
    """Return the pointer to the row `pixels` after x; the offset may exceed 32 bits."""
    return x + pixels.to(tl.int64) * stride


@triton.jit
def load_tile(x, m, c, stride, in_m, in_c):
    """Load rows m and columns c of a matrix; zero outside `in_m` and `in_c`."""
    mask = in_m[:, None] & in_c[None, :]
    return tl.load(x + m[:, None] * stride + c[None, :], mask=mask, other=0)


@triton.jit
def load_masked(x, output, m, c, stride_x, stride_output, in_m, in_c):
    """Load a tile of x, zero where ReLU's `output` is zero; None: there was no ReLU."""
    mask = in_m[:, None] & in_c[None, :]
    value = tl.load(x + (m[:, None] * stride_x + c[None, :]), mask=mask, other=0)
    if output is not None:
        offsets = m[:, None] * stride_output + c[None, :]
        value = tl.where(tl.load(output + offsets, mask=mask, other=0) <= 0, 0, value)
    return value


@triton.jit
def load_transposed(w, k, c, K, C):
    """Load columns k and rows c of wᵀ, where w is (K, C) and contiguous."""
    mask = (k < K)[None, :] & (c < C)[:, None]
    return tl.load(w + k[None, :] * C + c[:, None], mask=mask, other=0)


@triton.jit
def store_tile(y, value, m, c, stride, in_m, in_c):
    """Store a tile as rows m and columns c of a matrix, in its dtype."""
    mask = in_m[:, None] & in_c[None, :]
    tl.store(y + m[:, None] * stride + c[None, :], value.to(y.dtype.element_ty), mask=mask)


@triton.jit
def add_bias(acc, bias, k, K):
    """Return acc + bias, a value per column; `bias` may be None."""
    if bias is not None:
        acc += tl.load(bias + k, mask=k < K, other=0).to(tl.float32)[None, :]
    return acc


@triton.jit
def in_bounds(h, w, dh, dw, H, W):
    """Return True where the pixel (h + dh, w + dw) is in the image."""
    return (h + dh >= 0) & (h + dh < H) & (w + dw >= 0) & (w + dw < W)


@triton.jit
def max_pool(x, start, m, c, M, C, H, W, stride_x):
    """Return the maxima of the 3x3 windows around a tile's pixels, and their indices, 0 to 8.

    `x` points to the row of pixel `start`. The index is that of the first maximum, or of the last
    NaN, as in PyTorch. Outside the M pixels and C channels, maxima are zero.
    """
    h = ((start + m) // W) % H
    w = (start + m) % W
    offsets = m[:, None] * stride_x + c[None, :]
    in_tile = (m < M - start)[:, None] & (c < C)[None, :]
    best = tl.full(offsets.shape, float("-inf"), x.dtype.element_ty)
    first_valid = tl.where(h == 0, 3, 0) + tl.where(w == 0, 1, 0)
    index = tl.zeros(offsets.shape, tl.int32) + first_valid[:, None]
    for row in tl.static_range(3):
        for column in tl.static_range(3):
            value = tl.load(
                x + offsets + ((row - 1) * W + (column - 1)) * stride_x,
                mask=in_tile & in_bounds(h, w, row - 1, column - 1, H, W)[:, None],
                other=float("-inf"),
            )
            better = (value > best) | (value != value)
            best = tl.where(better, value, best)
            index = tl.where(better, row * 3 + column, index)
    return tl.where(in_tile, best, 0), index
