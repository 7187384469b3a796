"""Tile sizes of GEMM kernels by shape: a small committed list, not a search.

GoogLeNet's matrices are tall and narrow: up to 800,000 pixels by 16 to 832 channels, often not a
multiple of 128. Tiles of 64 channels waste the least; 32 and 16 serve the few narrower matrices.
Every tile below fits 4 warps without spilling; `benchmarks.kernel_resources` lists its resources.
"""

import os
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")
"""True if Triton runs kernels in its interpreter, on CPU tensors. It reads the same variable; its
`triton.knobs` has the answer only since 3.4."""

PROGRAMS = 264
"""Programs that fill a GPU of unknown size: two per multiprocessor of an H100, which has 132."""


class Tile(NamedTuple):
    """A tile of a GEMM, and the depth of its software pipeline."""

    m: int
    """Pixels."""
    n: int
    """Columns of the product."""
    k: int
    """Step along the summed dimension."""
    num_stages: int


def power_of_two(size: int, least: int, most: int) -> int:
    """Return the smallest power of two >= `size`, clamped to [`least`, `most`]."""
    return min(most, max(least, 1 << (size - 1).bit_length()))


def gemm_tile(pixels: int, columns: int, depth: int, x: Tensor) -> Tile:
    """Return the tile of a product (pixels, depth) x (depth, columns) of tensors like `x`.

    It is 64 pixels tall for fp32, and where 128 would leave multiprocessors without work.
    """
    n = power_of_two(columns, 16, 64)
    fill = pixels * columns >= 128 * n * programs(x.device)
    m = 128 if fill and x.element_size() == 2 else 64
    return Tile(m, n, power_of_two(depth, 16, 32), pipeline_depth(x.device))


def masked_tile(pixels: int, columns: int, depth: int, x: Tensor) -> Tile:
    """Return the tile of a product whose left matrix is masked by a third, held in registers."""
    tile = gemm_tile(pixels, columns, depth, x)
    return tile._replace(m=64, k=min(tile.k, 64 // x.element_size()))


def unpool_tile(pixels: int, columns: int, depth: int, x: Tensor) -> Tile:
    """Return the tile of a product plus the gradient of a max pool, whose loads need registers."""
    return gemm_tile(pixels, columns, depth, x)._replace(m=64, n=32)


def weight_tile(outputs: int, inputs: int) -> tuple[int, int]:
    """Return the tile (outputs, inputs) of a weight gradient."""
    return power_of_two(outputs, 16, 64), power_of_two(inputs, 16, 64)


@lru_cache
def programs(device: torch.device) -> int:
    """Return the number of programs that keep the device busy."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return PROGRAMS
    return 2 * torch.cuda.get_device_properties(device).multi_processor_count


def warp_lanes(device: torch.device) -> int | None:
    """Return the lanes of a GPU's warps; None if torch does not say, which 2.4 does not."""
    return getattr(torch.cuda.get_device_properties(device), "warp_size", None)


@lru_cache
def pipeline_depth(device: torch.device) -> int:
    """Return the depth of software pipelines: 3 where copies to shared memory are async, else 2."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return 3
    gpu = torch.cuda.get_device_properties(device)
    return 3 if gpu.major >= 8 and warp_lanes(device) == 32 else 2


def weight_pipeline_depth(x: Tensor, *, masked: bool) -> int:
    """Return the depth of a weight gradient's software pipeline.

    On some GPUs a tf32 product needs both matrices transposed, and an asynchronous copy that
    transposes moves 4 bytes at a time. So fp32 matrices are loaded through registers, 16 bytes at a
    time, without a pipeline. With a mask (`masked`) the left matrix is in registers anyway.
    """
    if x.dtype == torch.float32 and not masked:
        return 1
    return pipeline_depth(x.device) + 1


def vector(*sizes: int) -> int:
    """Return 8 if it divides all sizes, strides and offsets, else 1.

    8 elements in half precision are 16 bytes, the widest memory access.
    """
    return 1 if any(size % 8 for size in sizes) else 8


def precision(x: Tensor) -> str:
    """Return `input_precision` of `tl.dot`: tf32 where PyTorch's convolutions may use it."""
    return "tf32" if x.dtype == torch.float32 and tf32_allowed() else "ieee"


def tf32_allowed() -> bool:
    """Return True if PyTorch's convolutions may use tf32, by its older or its newer setting."""
    try:
        return torch.backends.cudnn.allow_tf32
    except RuntimeError:  # the newer one was used: reading the older one is refused
        return torch.backends.cudnn.conv.fp32_precision == "tf32"  # type: ignore[attr-defined]
