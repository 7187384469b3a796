"""Pieces of Triton kernels: activations read with ReLU masks, and 3x3 windows of pixels.

A tile holds BLOCK_M consecutive pixels (rows) by some channels (columns). Pixels are numbered
through a batch: (n * H + h) * W + w.
"""

import triton
import triton.language as tl


@triton.jit
def aligned(size, VECTOR: tl.constexpr):
    """`size`, a multiple of VECTOR, in a form from which the compiler sees that it is one.

    Accesses are as wide as sizes in masks, strides and offsets are known to allow.
    """
    return size // VECTOR * VECTOR


@triton.jit
def relu(value):
    """max(value, 0), and NaN for NaN."""
    return tl.where(value < 0, 0, value)


@triton.jit
def load_clipped(grad, output, offsets, output_offsets, mask):
    """Load a gradient, zero where ReLU clipped the output; `output` None: there was no ReLU."""
    value = tl.load(grad + offsets, mask=mask, other=0)
    if output is not None:
        value = tl.where(tl.load(output + output_offsets, mask=mask, other=0) <= 0, 0, value)
    return value


@triton.jit
def inside(h, w, dh, dw, H, W):
    """Whether the pixels at (h + dh, w + dw) lie in the image."""
    return (h + dh >= 0) & (h + dh < H) & (w + dw >= 0) & (w + dw < W)


@triton.jit
def max_pool(x, start, m, c, M, C, H, W, stride_x):
    """Maxima of the 3x3 windows around the pixels of a tile, and which of the nine each one is.

    `x` points to the row of pixel `start`. The first of equal maxima counts, and any NaN, as in
    PyTorch. Beyond the tile's pixels and channels, maxima are zero.
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
                mask=in_tile & inside(h, w, row - 1, column - 1, H, W)[:, None],
                other=float("-inf"),
            )
            better = (value > best) | (value != value)
            best = tl.where(better, value, best)
            index = tl.where(better, row * 3 + column, index)
    return tl.where(in_tile, best, 0), index
