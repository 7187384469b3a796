"""Average pools as products with a constant matrix, on GPUs.

The matrix has a row per window and a column per pixel. PyTorch's own gradient of these pools takes
many times as long in channels_last as the bytes that it moves; a batched product moves each once.
"""

from functools import lru_cache
from math import lcm, prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from googlenet_fast.ops.common import once_differentiable
from googlenet_fast.registry import transforms_active

Windows = tuple[range, ...]
"""The pixels of each window along an axis."""


def avg_pool2d(x: Tensor, kernel_size: int, stride: int) -> Tensor:
    """Compute `F.avg_pool2d` of (N, C, H, W), without padding."""
    if product_pays(x):
        windows = [_windows(size, kernel_size, stride) for size in x.shape[2:]]
        matrix = _matrix(*windows, x.size(2), x.size(3), x.dtype, x.device)
        if matrix is not None:
            return _AveragePool.apply(x, *matrix, *map(len, windows))
    return F.avg_pool2d(x, kernel_size, stride)


def adaptive_avg_pool2d(x: Tensor, grid: int) -> Tensor:
    """Compute `F.adaptive_avg_pool2d` of (N, C, H, W), to (N, C, grid, grid)."""
    if product_pays(x):
        windows = [_adaptive_windows(size, grid) for size in x.shape[2:]]
        matrix = _matrix(*windows, x.size(2), x.size(3), x.dtype, x.device)
        if matrix is not None:
            return _AveragePool.apply(x, *matrix, grid, grid)
    return F.adaptive_avg_pool2d(x, grid)


def product_pays(x: Tensor) -> bool:
    """Return True on a GPU, for plain tensors: `torch.compile` has its own kernels for pools."""
    return (
        type(x) is Tensor
        and x.is_cuda
        and not torch.compiler.is_compiling()
        and not (transforms_active())
    )


def _windows(size: int, kernel_size: int, stride: int) -> Windows:
    starts = range(0, size - kernel_size + 1, stride)
    return tuple(range(start, start + kernel_size) for start in starts)


def _adaptive_windows(size: int, grid: int) -> Windows:
    return tuple(range(i * size // grid, -(-(i + 1) * size // grid)) for i in range(grid))


@lru_cache
def _matrix(
    rows: Windows, columns: Windows, height: int, width: int, dtype: torch.dtype, device: Any
) -> tuple[Tensor, float] | None:
    """Return the (windows, pixels) matrix and the factor that make a product the means, or None.

    The matrix is exact in `dtype`, and its rows sum to at most 1, so that no sum overflows. Windows
    of several sizes may have no such matrix.
    """
    along = []
    for windows, size in ((rows, height), (columns, width)):
        common = lcm(*map(len, windows)) if windows else 1
        matrix = torch.zeros(len(windows), size, dtype=torch.float64)
        for i, window in enumerate(windows):
            matrix[i, window.start : window.stop] = common / len(window)
        along.append((matrix, common))
    total = prod(common for _, common in along)
    power = 2.0 ** (total - 1).bit_length()
    wide = torch.kron(*(matrix for matrix, _ in along)) / power
    narrow = wide.to(dtype)
    return (narrow.to(device), power / total) if torch.equal(narrow.double(), wide) else None


class _AveragePool(torch.autograd.Function):
    """Means of windows and their gradient, one batched product each."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, matrix: Tensor, factor: float, height: int, width: int
    ) -> Tensor:
        ctx.save_for_backward(matrix)
        ctx.factor, ctx.size = factor, x.shape[2:]
        return _multiply(matrix, x, factor, height, width)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        (matrix,) = ctx.saved_tensors
        return _multiply(matrix.t(), grad_y, ctx.factor, *ctx.size), None, None, None, None


def _multiply(matrix: Tensor, x: Tensor, factor: float, height: int, width: int) -> Tensor:
    """Return factor * (matrix @ pixels of x) as (N, C, height, width), channels_last."""
    pixels = x.permute(0, 2, 3, 1).flatten(1, 2)
    with torch.autocast(x.device.type, enabled=False):  # as for PyTorch's pools
        result = torch.baddbmm(
            x.new_empty(1), matrix.expand(len(x), -1, -1), pixels, beta=0, alpha=factor
        )
    return result.unflatten(1, (height, width)).permute(0, 3, 1, 2)
