"""Split-K: sums over all pixels, split among programs and added in a fixed order, without atomics.

The gradient of a weight is a small matrix, and each element sums over the whole batch. `Sums` gives
each weight enough splits to fill the GPU. Kernels write one partial sum per split, and one launch
adds the partial sums of up to four weights.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .configs import power_of_two, programs, vector, weight_tile
from .launch import launch
from .tiles import aligned

MIN_PIXELS = 512
"""A split has at least this many pixels."""

MAX_SEGMENTS = 4
"""Weights whose partial sums one launch adds."""

BLOCK_S, BLOCK_E = 8, 512


class WeightShape(NamedTuple):
    """Sizes of a convolution's weight in memory order; its bias follows the weight."""

    outputs: int
    taps: int
    inputs: int

    @classmethod
    def of(cls, weight: Tensor) -> "WeightShape":
        """Return the sizes of a convolution's weight (outputs, inputs, T, T)."""
        return cls(weight.size(0), weight.size(2) * weight.size(3), weight.size(1))

    @property
    def numel(self) -> int:
        """Number of elements of weight and bias."""
        return self.outputs * self.taps * self.inputs + self.outputs


def splits(shape: WeightShape, pixels: int, device: torch.device) -> int:
    """Return the number of splits that fills the GPU, each of MIN_PIXELS pixels or more."""
    block_k, block_c = weight_tile(shape.outputs, shape.inputs)
    tiles = triton.cdiv(shape.outputs, block_k) * shape.taps * triton.cdiv(shape.inputs, block_c)
    return max(1, min(programs(device) // tiles, pixels // MIN_PIXELS))


class Sums:
    """Partial sums of the gradients of up to four weights and their biases.

    Attributes:
        result: (sum of numel,), fp32: the sums, each weight followed by its bias.
        partial: (splits, numel) per weight, filled by its kernel. With one split this is a view of
            `result`.
    """

    def __init__(self, shapes: Sequence[WeightShape], pixels: int, device: torch.device) -> None:
        assert len(shapes) <= MAX_SEGMENTS
        self.shapes = shapes
        sizes = [shape.numel for shape in shapes]
        counts = [splits(shape, pixels, device) for shape in shapes]
        self.result = torch.empty(sum(sizes), dtype=torch.float32, device=device)
        needed = [
            size * count if count > 1 else 0 for size, count in zip(sizes, counts, strict=True)
        ]
        self.buffer = torch.empty(sum(needed), dtype=torch.float32, device=device)
        self.partial = [
            scratch.view(count, size) if count > 1 else result.view(1, size)
            for result, scratch, size, count in zip(
                self.result.split(sizes), self.buffer.split(needed), sizes, counts, strict=True
            )
        ]

    def reduce(self) -> Tensor:
        """Add the partial sums in one launch, and return `result`."""
        split = [partial.size(0) > 1 for partial in self.partial]
        if not any(split):
            return self.result
        shapes = [
            (partial.size(0) if several else 0, partial.size(1))
            for partial, several in zip(self.partial, split, strict=True)
        ]
        _reduce(self.buffer, self.result, shapes)
        return self.result


def add_rows(partial: Tensor) -> Tensor:
    """Sum the rows of one matrix (S, E), fp32 and contiguous, in one launch: (E,)."""
    result = partial.new_empty(partial.size(1))
    _reduce(partial, result, [(partial.size(0), partial.size(1))])
    return result


def _reduce(partial: Tensor, result: Tensor, shapes: Sequence[tuple[int, int]]) -> None:
    """Sum the rows of each of up to four consecutive matrices (S, E); S = 0 skips a matrix."""
    arguments: dict[str, Tensor | int] = {"partial": partial, "result": result}
    for i in range(MAX_SEGMENTS):
        rows, columns = shapes[i] if i < len(shapes) else (0, 0)
        arguments |= {f"S{i}": rows, f"E{i}": columns}
    longest = max(columns for rows, columns in shapes if rows)
    block_e = power_of_two(longest, 16, BLOCK_E)
    launch(
        _reduce_kernel,
        (triton.cdiv(longest, block_e), len(shapes)),
        arguments,
        {
            "BLOCK_S": BLOCK_S * BLOCK_E // block_e,
            "BLOCK_E": block_e,
            "VECTOR": vector(*(columns for _, columns in shapes)),
        },
    )


@triton.jit
def weight_gradient_tile(C, TAPS: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr):
    """Return a program's tap of TAPS, and its tile of that tap's weights: outputs and inputs."""
    tiles_c = tl.cdiv(C, BLOCK_C)
    tap = (tl.program_id(0) // tiles_c) % TAPS
    k = (tl.program_id(0) // (tiles_c * TAPS)) * BLOCK_K + tl.arange(0, BLOCK_K)
    c = (tl.program_id(0) % tiles_c) * BLOCK_C + tl.arange(0, BLOCK_C)
    return tap, k, c


@triton.jit
def split_bounds(M, pixels_per_split):
    """Return the range of pixels of a program's split, [begin, end)."""
    begin = tl.program_id(1) * pixels_per_split
    return begin, tl.minimum(begin + pixels_per_split, M)


@triton.jit
def store_partial(partial, acc, bias_acc, tap, k, c, K, C, TAPS: tl.constexpr):
    """Store a program's sums: `acc` of weights (K, TAPS, C), column sums of `bias_acc` of biases.

    Several programs have the same outputs k; the first one stores the bias sums.
    """
    partial += tl.program_id(1).to(tl.int64) * (K * TAPS * C + K)
    tl.store(
        partial + (k * TAPS + tap)[:, None] * C + c[None, :],
        acc.to(partial.dtype.element_ty),
        mask=(k < K)[:, None] & (c < C)[None, :],
    )
    bias_sum = tl.sum(bias_acc, 0).to(partial.dtype.element_ty)
    first = tl.program_id(0) % (tl.cdiv(C, acc.shape[1]) * TAPS) == 0
    tl.store(partial + K * TAPS * C + k, bias_sum, mask=(k < K) & first)


@triton.jit
def _reduce_kernel(
    partial,  # S0 x E0, then S1 x E1, ...; fp32
    result,  # E0 + E1 + ...
    E0,
    E1,
    E2,
    E3,
    S0,
    S1,
    S2,
    S3,
    BLOCK_S: tl.constexpr,
    BLOCK_E: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """Sum the S_i rows of matrix i, the second index of the grid; S_i = 0 skips the matrix."""
    i = tl.program_id(1)
    E = tl.where(i == 0, E0, tl.where(i == 1, E1, tl.where(i == 2, E2, E3)))
    S = tl.where(i == 0, S0, tl.where(i == 1, S1, tl.where(i == 2, S2, S3)))
    skipped = tl.where(i > 0, E0, 0) + tl.where(i > 1, E1, 0) + tl.where(i > 2, E2, 0)
    rows_skipped = (
        tl.where(i > 0, S0 * E0, 0) + tl.where(i > 1, S1 * E1, 0) + tl.where(i > 2, S2 * E2, 0)
    )
    E = aligned(E, VECTOR)
    partial += aligned(rows_skipped, VECTOR)
    result += aligned(skipped, VECTOR)

    e = tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E)
    acc = tl.zeros((BLOCK_S, BLOCK_E), tl.float32)
    for first in range(0, S, BLOCK_S):
        s = first + tl.arange(0, BLOCK_S)
        mask = (s < S)[:, None] & (e < E)[None, :]
        acc += tl.load(partial + s[:, None] * E + e[None, :], mask=mask, other=0)
    total = tl.sum(acc, 0).to(result.dtype.element_ty)
    tl.store(result + e, total, mask=(e < E) & (S > 0))
