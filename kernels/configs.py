"""Sizes of the tiles that GEMM kernels work in, by shape: a small committed list, no search.

GoogLeNet's matrices are tall and narrow: up to 800,000 pixels by 16 to 832 channels, many of them
no multiple of 128. Tiles 64 channels wide waste least of them; 32 and 16 serve the few that are
narrower. Every tile below fits 4 warps without spilling; a command lists what each takes.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

PROGRAMS = 264
"""Programs that fill a GPU of unknown size: two for each of the 132 multiprocessors of an H100."""


class Tile(NamedTuple):
    """A tile of a GEMM and how its loop is pipelined."""

    m: int
    """Pixels."""
    n: int
    """Columns of the product."""
    k: int
    """Step along the sum."""
    num_stages: int


def power_of_two(size: int, least: int, most: int) -> int:
    """The smallest power of two that is not below `size`, kept from `least` to `most`."""
    return min(most, max(least, 1 << (size - 1).bit_length()))


def gemm_tile(pixels: int, columns: int, depth: int, x: Tensor) -> Tile:
    """Tile of a product (pixels, depth) x (depth, columns) of tensors like `x`.

    Short tiles for fp32, and where tall ones would leave multiprocessors without work.
    """
    n = power_of_two(columns, 16, 64)
    fill = pixels * columns >= 128 * n * programs(x.device)
    m = 128 if fill and x.element_size() == 2 else 64
    return Tile(m, n, power_of_two(depth, 16, 32), pipeline_depth(x.device))


def masked_tile(pixels: int, columns: int, depth: int, x: Tensor) -> Tile:
    """Tile of a product whose left matrix is masked by another one, which needs registers too."""
    tile = gemm_tile(pixels, columns, depth, x)
    return tile._replace(m=64, k=min(tile.k, 64 // x.element_size()))


def unpool_tile(pixels: int, columns: int, depth: int, x: Tensor) -> Tile:
    """Tile of a product that the gradient of a max pool is added to: its loads need registers."""
    return gemm_tile(pixels, columns, depth, x)._replace(m=64, n=32)


def weight_tile(outputs: int, inputs: int) -> tuple[int, int]:
    """Tile (outputs, inputs) of a weight gradient."""
    return power_of_two(outputs, 16, 64), power_of_two(inputs, 16, 64)


@lru_cache
def programs(device: torch.device) -> int:
    """Programs that keep the device busy."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return PROGRAMS
    return 2 * torch.cuda.get_device_properties(device).multi_processor_count


@lru_cache
def pipeline_depth(device: torch.device) -> int:
    """Depth of software pipelines: 3 where copies to shared memory are asynchronous, else 2."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return 3
    gpu = torch.cuda.get_device_properties(device)
    return 3 if gpu.major >= 8 and gpu.warp_size == 32 else 2


def weight_pipeline_depth(x: Tensor, *, masked: bool) -> int:
    """Depth of a weight gradient's software pipeline; `masked`: its left matrix is.

    Products of fp32 (tf32) take both matrices transposed on some GPUs. An asynchronous copy that
    transposes moves 4 bytes at a time, so without a mask, for which one of them passes through
    registers anyway, both go through registers, 16 bytes at a time.
    """
    if x.dtype == torch.float32 and not masked:
        return 1
    return pipeline_depth(x.device) + 1


def vector(*sizes: int) -> int:
    """Number of elements, 8 or 1, that divides all sizes, strides and offsets.

    8 halves are the 16 bytes of the widest memory access.
    """
    return 1 if any(size % 8 for size in sizes) else 8


def precision(x: Tensor) -> str:
    """Precision of products of fp32 tensors: what PyTorch's own convolutions are allowed."""
    return "tf32" if torch.backends.cudnn.allow_tf32 and x.dtype == torch.float32 else "ieee"
