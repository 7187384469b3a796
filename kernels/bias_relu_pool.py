"""relu(max_pool(x) + bias) and its gradient; windows of 3x3, stride 2, no padding.

The input is read once and its gradient is written once. One byte per output element is saved.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .configs import power_of_two, programs, vector
from .launch import launch
from .layout import dense, empty_rows, row_stride, rows
from .split_k import add_rows
from .tiles import add_bias, aligned, relu

CLIPPED = tl.constexpr(9)
"""Index of a window whose output was clipped by ReLU: its nine pixels get no gradient."""

TILE = 1024
"""Elements of a tile: 8 per thread of 4 warps, which is one 16-byte access in half precision."""

WAVES = 4
"""Programs of the backward pass, in multiples of `programs`: more loads in flight hide latency."""


@triton.jit
def _bias_relu_pool_forward_kernel(
    x,  # (N, H, W, C)
    bias,  # (C,) or None
    y,  # (N, OUT_H, OUT_W, C), contiguous
    index,  # (N, OUT_H, OUT_W, C), contiguous, uint8, or None
    M,
    C,
    H,
    W,
    OUT_H,
    OUT_W,
    stride_x,
    RELU: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """y = relu(max_pool(x) + bias); index: 3 * row + column of the first maximum, or CLIPPED."""
    C = aligned(C, VECTOR)
    stride_x = aligned(stride_x, VECTOR)
    tiles_c = tl.cdiv(C, BLOCK_C)
    c = (tl.program_id(0) % tiles_c) * BLOCK_C + tl.arange(0, BLOCK_C)
    start = (tl.program_id(0) // tiles_c) * BLOCK_M
    m = tl.arange(0, BLOCK_M)
    h = ((start + m) // OUT_W) % OUT_H * 2
    w = (start + m) % OUT_W * 2
    pixel = (start + m) // (OUT_W * OUT_H) * (H * W) + h * W + w
    in_m = m < M - start
    in_c = (c < C)[None, :]
    x += (pixel.to(tl.int64) * stride_x)[:, None] + c[None, :]

    best = tl.full((BLOCK_M, BLOCK_C), float("-inf"), tl.float32)
    code = tl.zeros((BLOCK_M, BLOCK_C), tl.int32)
    for row in tl.static_range(3):
        for column in tl.static_range(3):
            valid = in_m & (h + row < H) & (w + column < W)
            value = tl.load(
                x + (row * W + column) * stride_x, mask=valid[:, None] & in_c, other=float("-inf")
            ).to(tl.float32)
            better = (value > best) | (value != value)
            best = tl.where(better, value, best)
            code = tl.where(better, row * 3 + column, code)

    best = add_bias(best, bias, c, C)
    if RELU:
        best = relu(best)
    output = best.to(y.dtype.element_ty)
    mask = in_m[:, None] & in_c
    offsets = m[:, None] * C + c[None, :]
    tl.store(y + start.to(tl.int64) * C + offsets, output, mask=mask)
    if index is not None:
        if RELU:
            code = tl.where(output <= 0, CLIPPED, code)
        tl.store(index + start.to(tl.int64) * C + offsets, code.to(tl.uint8), mask=mask)


@triton.jit
def _load_windows(grad, index, pixel, c, valid, C, stride_grad):
    """Load a window's gradient and index for each pixel of a tile; CLIPPED if not `valid`."""
    mask = valid[:, None] & (c < C)[None, :]
    pixel = pixel.to(tl.int64)
    g = tl.load(grad + (pixel * stride_grad)[:, None] + c[None, :], mask=mask, other=0)
    code = tl.load(index + (pixel * C)[:, None] + c[None, :], mask=mask, other=CLIPPED)
    return g.to(tl.float32), code


@triton.jit
def _bias_relu_pool_backward_kernel(
    grad_y,  # (N, OUT_H, OUT_W, C)
    index,  # (N, OUT_H, OUT_W, C), contiguous, uint8
    grad_x,  # (N, H, W, C), contiguous
    partial,  # (splits, C), contiguous, fp32, or None
    M,
    C,
    H,
    W,
    OUT_H,
    OUT_W,
    stride_grad_y,
    splits,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """grad_x: per pixel, the sum over the windows with that maximum; partial: sums for the bias.

    The M rows of a tile are squares of four pixels, (2i, 2j) to (2i + 1, 2j + 1). A square overlaps
    four windows: (i, j) and those above, to the left, and above to the left. Window (i, j) covers
    its square and one more row and column, so each window belongs to exactly one square.
    """
    C = aligned(C, VECTOR)
    stride_grad_y = aligned(stride_grad_y, VECTOR)
    tiles_c = tl.cdiv(C, BLOCK_C)
    split = tl.program_id(0) // tiles_c
    c = (tl.program_id(0) % tiles_c) * BLOCK_C + tl.arange(0, BLOCK_C)
    squares_h = (H + 1) // 2
    squares_w = (W + 1) // 2
    acc = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)

    for tile in range(split, tl.cdiv(M, BLOCK_M), splits):
        m = tile * BLOCK_M + tl.arange(0, BLOCK_M)
        in_m = m < M
        j = m % squares_w
        i = m // squares_w % squares_h
        n = m // (squares_w * squares_h)
        window = (n * OUT_H + i) * OUT_W + j
        here_i = in_m & (i < OUT_H)
        above_i = in_m & (i > 0)
        here_j = j < OUT_W
        left_j = j > 0
        g, code = _load_windows(grad_y, index, window, c, here_i & here_j, C, stride_grad_y)
        g_left, code_left = _load_windows(
            grad_y, index, window - 1, c, here_i & left_j, C, stride_grad_y
        )
        g_above, code_above = _load_windows(
            grad_y, index, window - OUT_W, c, above_i & here_j, C, stride_grad_y
        )
        g_corner, code_corner = _load_windows(
            grad_y, index, window - OUT_W - 1, c, above_i & left_j, C, stride_grad_y
        )
        if partial is not None:
            acc += tl.where(code == CLIPPED, 0, g)

        pixel = (n * H + 2 * i) * W + 2 * j
        x = grad_x + (pixel.to(tl.int64) * C)[:, None] + c[None, :]
        dtype = grad_x.dtype.element_ty
        mask = in_m[:, None] & (c < C)[None, :]
        right = mask & (2 * j + 1 < W)[:, None]
        below = mask & (2 * i + 1 < H)[:, None]
        value = tl.where(code == 0, g, 0) + tl.where(code_left == 2, g_left, 0)
        value += tl.where(code_above == 6, g_above, 0) + tl.where(code_corner == 8, g_corner, 0)
        tl.store(x, value.to(dtype), mask=mask)
        value = tl.where(code == 1, g, 0) + tl.where(code_above == 7, g_above, 0)
        tl.store(x + C, value.to(dtype), mask=right)
        value = tl.where(code == 3, g, 0) + tl.where(code_left == 5, g_left, 0)
        tl.store(x + W * C, value.to(dtype), mask=below)
        tl.store(x + (W + 1) * C, tl.where(code == 4, g, 0).to(dtype), mask=right & below)

    if partial is not None:
        tl.store(partial + split * C + c, tl.sum(acc, 0), mask=c < C)


def pooled_size(size: int, ceil_mode: bool) -> int:
    """Return the number of windows along an axis of `size` pixels; each starts in the image."""
    return size // 2 if ceil_mode else (size - 1) // 2


def forward(
    x: Tensor, bias: Tensor | None, relu: bool, ceil_mode: bool, training: bool
) -> tuple[Tensor, Tensor | None]:
    """Return relu(max_pool(x) + bias) and, if `training`, the index that `backward` needs.

    Args:
        x: (N, C, H, W).
        bias: (C,), any floating dtype, or None.
        relu: clip at zero.
        ceil_mode: keep the windows that are cut by the bottom and right edges.
        training: also return the index: like the output, uint8; 3 * row + column of a window's
            first maximum, as in PyTorch; 9 where ReLU clipped the output.
    """
    x = rows(x)
    n, channels, height, width = x.shape
    out_h, out_w = pooled_size(height, ceil_mode), pooled_size(width, ceil_mode)
    y = empty_rows(x[:, :, :out_h, :out_w], channels)
    index = torch.empty_like(y, dtype=torch.uint8) if training else None
    pixels = n * out_h * out_w
    if pixels == 0:
        return y, index
    block_m, block_c = _tile(channels)
    launch(
        _bias_relu_pool_forward_kernel,
        (triton.cdiv(pixels, block_m) * triton.cdiv(channels, block_c),),
        {
            "x": x,
            "bias": dense(bias),
            **{"y": y, "index": index, "M": pixels, "C": channels, "H": height, "W": width},
            **{"OUT_H": out_h, "OUT_W": out_w, "stride_x": row_stride(x)},
        },
        {
            **{"RELU": relu, "BLOCK_M": block_m, "BLOCK_C": block_c},
            "VECTOR": vector(channels, row_stride(x)),
        },
    )
    return y, index


def backward(
    grad_y: Tensor, index: Tensor, height: int, width: int, bias: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the gradients of x (N, C, height, width) and, if `bias`, of the bias: (C,), fp32.

    Args:
        grad_y: (N, C, H', W').
        index: what `forward` returned.
        height: of the input.
        width: of the input.
        bias: True if the gradient of the bias is needed.
    """
    grad_y = rows(grad_y)
    n, channels, out_h, out_w = grad_y.shape
    grad_x = torch.empty(
        (n, channels, height, width),
        dtype=grad_y.dtype,
        device=grad_y.device,
        memory_format=torch.channels_last,
    )
    if grad_x.numel() == 0:
        return grad_x, grad_y.new_zeros(channels, dtype=torch.float32) if bias else None
    squares = n * triton.cdiv(height, 2) * triton.cdiv(width, 2)
    block_m, block_c = _tile(channels)
    tiles_c = triton.cdiv(channels, block_c)
    splits = min(triton.cdiv(squares, block_m), max(1, WAVES * programs(grad_y.device) // tiles_c))
    partial = grad_y.new_empty((splits, channels), dtype=torch.float32) if bias else None
    launch(
        _bias_relu_pool_backward_kernel,
        (splits * tiles_c,),
        {
            **{"grad_y": grad_y, "index": index, "grad_x": grad_x, "partial": partial},
            **{"M": squares, "C": channels, "H": height, "W": width},
            **{"OUT_H": out_h, "OUT_W": out_w, "stride_grad_y": row_stride(grad_y)},
            "splits": splits,
        },
        {
            **{"BLOCK_M": block_m, "BLOCK_C": block_c},
            "VECTOR": vector(channels, row_stride(grad_y)),
        },
        num_stages=1,
    )
    return grad_x, None if partial is None else add_rows(partial)


def _tile(channels: int) -> tuple[int, int]:
    """Return the pixels and channels of a tile."""
    block_c = power_of_two(channels, 1, 64)
    return TILE // block_c, block_c
