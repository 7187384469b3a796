"""Launch Triton kernels: every launch goes through `launch`.

With `TRITON_INTERPRET=1` in the environment, Triton runs kernels on CPU tensors in its interpreter.
`observe` lets tests and benchmarks see launches, and run them or not.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .configs import INTERPRETED, precision, vector, warp_lanes
from .layout import row_stride

MAX_GRID = (2**31 - 1, 2**16 - 1, 2**16 - 1)
"""Most programs that CUDA allows along each axis."""

MAX_REGISTERS = 255
"""Registers per thread on NVIDIA GPUs: all of them. By default ptxas sometimes spills a few values,
in order to run more programs at a time."""


@lru_cache
def compiler_options(device: torch.device) -> dict[str, int]:
    """Return options for NVIDIA's compiler; those of vendors with wider warps may not know them."""
    if INTERPRETED or (device.type == "cuda" and warp_lanes(device) != 32):
        return {}
    return {"maxnreg": MAX_REGISTERS}


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel."""

    kernel: Any
    """The `triton.jit` function."""
    grid: tuple[int, ...]
    """Programs along each axis."""
    arguments: Mapping[str, Any]
    """By name: tensors or None, sizes and strides."""
    constants: Mapping[str, Any]
    """By name: the `tl.constexpr` arguments."""
    num_warps: int
    num_stages: int


Observer = Callable[[Launch, Callable[[], None]], None]
"""Called with each launch and a function that runs it."""

_observer: Observer | None = None


@contextmanager
def observe(observer: Observer) -> Iterator[None]:
    """Pass each launch in a `with` block to `observer`, which may run it."""
    global _observer
    previous, _observer = _observer, observer
    try:
        yield
    finally:
        _observer = previous


def gemm_arguments(
    rows: Mapping[str, Tensor | None], columns: Mapping[str, int], others: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments of a GEMM kernel, and the constants VECTOR and PRECISION.

    Args:
        rows: matrices with a row of channels per pixel, or None. The first one has the dtype of the
            product. The kernel takes the row stride of NAME as `stride_NAME`.
        columns: numbers of columns. VECTOR divides these and the row strides.
        others: what else the kernel takes.
    """
    strides = {
        f"stride_{name}": 0 if matrix is None else row_stride(matrix)
        for name, matrix in rows.items()
    }
    (first, *_) = rows.values()
    assert first is not None
    constants = {
        "VECTOR": vector(*columns.values(), *strides.values()),
        "PRECISION": precision(first),
    }
    return {**rows, **columns, **strides, **others}, constants


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    arguments: Mapping[str, Any],
    constants: Mapping[str, Any],
    *,
    num_warps: int = 4,
    num_stages: int = 2,
) -> None:
    """Run a kernel on the device of its tensors.

    Args:
        kernel: a `triton.jit` function.
        grid: programs along each axis, 1 or more each.
        arguments: tensors or None, sizes and strides by parameter name.
        constants: `tl.constexpr` arguments by parameter name.
        num_warps: warps per program, at most 4. With 8, convolution loops are known to be
            miscompiled (pytorch#173068, triton#5630).
        num_stages: depth of the software pipeline.
    """
    tensors = [value for value in arguments.values() if isinstance(value, Tensor)]
    devices = {tensor.device for tensor in tensors}
    assert len(devices) == 1, f"tensors on {devices}"
    assert num_warps <= 4, num_warps
    assert len(grid) <= 3, grid
    assert all(0 < size <= limit for size, limit in zip(grid, MAX_GRID, strict=False)), grid

    def run() -> None:
        device = tensors[0].device
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            kernel[grid](
                **arguments,
                **constants,
                num_warps=num_warps,
                num_stages=num_stages,
                **compiler_options(device),
            )

    if _observer is None:
        run()
    else:
        _observer(Launch(kernel, grid, arguments, constants, num_warps, num_stages), run)
