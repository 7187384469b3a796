"""Local response normalisation across channels and its gradient: each tensor moves once.

Adjacent channels are loaded again at shifted addresses, which hit the L1 cache.
"""

import triton
import triton.language as tl
from torch import Tensor

from .configs import power_of_two, vector
from .launch import launch
from .layout import empty_rows, row_stride, rows
from .tiles import aligned, output_tile

TILE = 1024
"""Elements of a tile: 8 per thread of 4 warps, which is one 16-byte access in half precision."""


@triton.jit
def _load_channels(x, c, shift: tl.constexpr, in_m, C):
    """Load channels c + shift of a tile in fp32; zero outside the C channels."""
    mask = in_m[:, None] & ((c + shift >= 0) & (c + shift < C))[None, :]
    return tl.load(x + shift, mask=mask, other=0).to(tl.float32)


@triton.jit
def _divisor(
    x, c, shift: tl.constexpr, in_m, C, SIZE: tl.constexpr, ALPHA: tl.constexpr, K: tl.constexpr
):
    """s = K + ALPHA / SIZE * (sum of squares of the SIZE channels around c + shift)."""
    total = tl.zeros(x.shape, tl.float32)
    for i in tl.static_range(SIZE):
        value = _load_channels(x, c, shift + i - SIZE // 2, in_m, C)
        total += value * value
    return K + ALPHA / SIZE * total


@triton.jit
def _inverse_power(s, BETA: tl.constexpr):
    """s^-BETA of a positive s.

    3/4 is the exponent of every published network: s^-1/2 * s^-1/4, by reciprocal roots.
    """
    if BETA == 0.75:
        root = tl.rsqrt(s)
        return root * (root * tl.rsqrt(tl.maximum(root, 1e-30)))  # 0 of an infinite s
    return tl.exp2(-BETA * tl.log2(s))


@triton.jit
def _local_response_norm_forward_kernel(
    x,  # (M, C)
    y,  # (M, C), contiguous
    M,
    C,
    stride_x,
    SIZE: tl.constexpr,
    ALPHA: tl.constexpr,
    BETA: tl.constexpr,
    K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """y = x * s^-BETA, s as in `_divisor`."""
    C, stride_x = aligned(C, VECTOR), aligned(stride_x, VECTOR)
    start, m, c = output_tile(C, BLOCK_M, BLOCK_C)
    in_m = m < M - start
    x += start.to(tl.int64) * stride_x + m[:, None] * stride_x + c[None, :]
    y += start.to(tl.int64) * C + m[:, None] * C + c[None, :]
    value = _load_channels(x, c, 0, in_m, C)
    value *= _inverse_power(_divisor(x, c, 0, in_m, C, SIZE, ALPHA, K), BETA)
    tl.store(y, value.to(y.dtype.element_ty), mask=in_m[:, None] & (c < C)[None, :])


@triton.jit
def _local_response_norm_backward_kernel(
    grad_y,  # (M, C)
    x,  # (M, C)
    grad_x,  # (M, C), contiguous
    M,
    C,
    stride_grad_y,
    stride_x,
    SIZE: tl.constexpr,
    ALPHA: tl.constexpr,
    BETA: tl.constexpr,
    K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """grad_x = grad_y * s^-BETA - 2 ALPHA BETA / SIZE * x * sum of grad_y * x * s^(-BETA - 1).

    The sum runs over the channels whose windows contain this one: SIZE // 2 after it, the rest
    before it.
    """
    C = aligned(C, VECTOR)
    stride_grad_y, stride_x = aligned(stride_grad_y, VECTOR), aligned(stride_x, VECTOR)
    start, m, c = output_tile(C, BLOCK_M, BLOCK_C)
    in_m = m < M - start
    grad_y += start.to(tl.int64) * stride_grad_y + m[:, None] * stride_grad_y + c[None, :]
    x += start.to(tl.int64) * stride_x + m[:, None] * stride_x + c[None, :]
    grad_x += start.to(tl.int64) * C + m[:, None] * C + c[None, :]

    total = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    for i in tl.static_range(SIZE):
        s = _divisor(x, c, SIZE // 2 - i, in_m, C, SIZE, ALPHA, K)
        product = _load_channels(grad_y, c, SIZE // 2 - i, in_m, C)
        product *= _load_channels(x, c, SIZE // 2 - i, in_m, C)
        total += product * _inverse_power(s, BETA) / s
    value = _load_channels(grad_y, c, 0, in_m, C)
    value *= _inverse_power(_divisor(x, c, 0, in_m, C, SIZE, ALPHA, K), BETA)
    value -= 2 * ALPHA * BETA / SIZE * total * _load_channels(x, c, 0, in_m, C)
    tl.store(grad_x, value.to(grad_x.dtype.element_ty), mask=in_m[:, None] & (c < C)[None, :])


def forward(x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    """Return x / (k + alpha / size * (sum of squares of the `size` channels around))^beta.

    Args:
        x: (N, C, H, W).
        size: channels in the window; if it is even, one more before the channel than after it.
        alpha: weight of the mean square.
        beta: exponent.
        k: constant that keeps the divisor from zero.

    Returns:
        (N, C, H, W) in the dtype of `x`, channels_last.
    """
    x = rows(x)
    y = empty_rows(x, x.size(1))
    strides = {"stride_x": row_stride(x)}
    _launch(_local_response_norm_forward_kernel, {"x": x, "y": y}, strides, size, alpha, beta, k)
    return y


def backward(grad_y: Tensor, x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    """Return the gradient of x, (N, C, H, W), channels_last; arguments are those of `forward`."""
    grad_y, x = rows(grad_y), rows(x)
    grad_x = empty_rows(x, x.size(1))
    strides = {"stride_grad_y": row_stride(grad_y), "stride_x": row_stride(x)}
    tensors = {"grad_y": grad_y, "x": x, "grad_x": grad_x}
    _launch(_local_response_norm_backward_kernel, tensors, strides, size, alpha, beta, k)
    return grad_x


def _launch(
    kernel: object,
    tensors: dict[str, Tensor],
    strides: dict[str, int],
    size: int,
    alpha: float,
    beta: float,
    k: float,
) -> None:
    n, channels, height, width = tensors["x"].shape
    pixels = n * height * width
    if pixels == 0:
        return
    block_c = power_of_two(channels, 1, 64)
    block_m = TILE // block_c
    launch(
        kernel,
        (triton.cdiv(pixels, block_m) * triton.cdiv(channels, block_c),),
        {**tensors, "M": pixels, "C": channels, **strides},
        {
            **{"SIZE": size, "ALPHA": alpha, "BETA": beta, "K": k},
            **{"BLOCK_M": block_m, "BLOCK_C": block_c},
            "VECTOR": vector(channels, *strides.values()),
        },
    )
