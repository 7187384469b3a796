"""Activations as kernels see them: a matrix with one row of channels per pixel."""

import torch
from torch import Tensor


def pixel_stride(x: Tensor) -> int | None:
    """Return the stride between the rows of consecutive pixels, or None if there is no single one.

    Channels_last tensors (N, C, H, W) and slices of their channels have one, and stride 1 between
    the channels of a pixel.
    """
    n, c, h, w = x.shape
    if c > 1 and x.stride(1) != 1:
        return None
    pixels = 1
    stride = None
    for size, step in ((w, x.stride(3)), (h, x.stride(2)), (n, x.stride(0))):
        if size == 1:
            continue
        if stride is None:
            if step % pixels:
                return None
            stride = step // pixels
        if step != stride * pixels:
            return None
        pixels *= size
    return c if stride is None else stride


def row_stride(x: Tensor) -> int:
    """Return `pixel_stride` of a tensor that must have one."""
    stride = pixel_stride(x)
    assert stride is not None, f"strides {x.stride()} of {tuple(x.shape)}"
    return stride


def rows(x: Tensor) -> Tensor:
    """Return `x` itself if its pixels are rows, else a channels_last copy."""
    return x if pixel_stride(x) is not None else x.contiguous(memory_format=torch.channels_last)


def empty_rows(like: Tensor, channels: int, dtype: torch.dtype | None = None) -> Tensor:
    """Return an uninitialised channels_last tensor (N, channels, H, W) on the device of `like`."""
    return torch.empty(
        (like.size(0), channels, like.size(2), like.size(3)),
        dtype=dtype or like.dtype,
        device=like.device,
        memory_format=torch.channels_last,
    )


def dense(vector: Tensor | None) -> Tensor | None:
    """Return `vector`, if it is there, with its values adjacent."""
    return None if vector is None else vector.contiguous()
