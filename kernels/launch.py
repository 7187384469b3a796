"""The one place where a Triton kernel meets a grid and real tensors.

With `TRITON_INTERPRET=1` in the environment, Triton runs kernels on CPU tensors in its interpreter;
`observe` lets tests and benchmarks count what launches do, or take them without running them.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import triton
from torch import Tensor

INTERPRETED: bool = triton.knobs.runtime.interpret
"""Whether kernels run in Triton's interpreter, on CPU tensors."""

MAX_GRID = (2**31 - 1, 2**16 - 1, 2**16 - 1)
"""Programs along each axis that CUDA allows."""

MAX_REGISTERS = 255
"""Registers a thread may use on NVIDIA GPUs, which is all there are: left to itself, ptxas spills a
few values now and then, in order to run more programs at a time."""


@lru_cache
def compiler_options(device: torch.device) -> dict[str, int]:
    """Options for NVIDIA's compiler; other vendors', whose warps are wider, may not know them."""
    if INTERPRETED or (
        device.type == "cuda" and torch.cuda.get_device_properties(device).warp_size != 32
    ):
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
    """By name: tensors (None for an absent one), sizes and strides."""
    constants: Mapping[str, Any]
    """By name: the `tl.constexpr` arguments."""
    num_warps: int
    num_stages: int


Observer = Callable[[Launch, Callable[[], None]], None]
"""Is called with each launch and what runs it."""

_observer: Observer | None = None


@contextmanager
def observe(observer: Observer) -> Iterator[None]:
    """Hand launches to `observer`, which may run them, inside a `with` block."""
    global _observer
    previous, _observer = _observer, observer
    try:
        yield
    finally:
        _observer = previous


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
        arguments: tensors, sizes and strides by parameter name; None for an absent tensor.
        constants: `tl.constexpr` arguments by parameter name.
        num_warps: warps of a program; at most 4, beyond which convolution loops are known to be
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
