"""Predict the time of a launch from what it moves and how it is shaped.

A launch takes `LAUNCH` and the longest of: bytes through L2, bytes of memory, products of matrices,
and latency that nothing hides. The constants are those of an H100 or H200 (SXM); no GPU is needed,
and a prediction is no measurement.
"""

from collections.abc import Callable, Iterator
from functools import partial
from math import prod
from typing import Any, NamedTuple

from torch import Tensor

from googlenet_fast.kernels.launch import Launch

MULTIPROCESSORS = 132
"""NVIDIA H100 Tensor Core GPU Architecture, H100 SXM5; an H200 has as many."""

L2 = 5.5e12
"""Bytes a second from L2 to the multiprocessors, as the third convolution of docs/gpu-runs.md used
them."""

MEMORY = 4.3e12
"""Bytes a second of an H200's memory that a copy reaches, of 4.8e12."""

TENSOR_CORES = 790e12
"""Operations a second that large products in half precision reach, of 989e12."""

LAUNCH = 2.5e-6
"""Seconds from the end of a kernel to the start of the next one in a CUDA graph, and its ramps."""

LATENCY = 0.75e-6
"""Seconds of a step of a loop whose loads nothing hides."""

HIDING = 3
"""Programs a multiprocessor up to which the latency of each step is exposed."""


class Prediction(NamedTuple):
    """What a launch does, and the time that this predicts."""

    kernel: str
    l2_bytes: int
    """Through L2: loads of all programs and what is stored."""
    memory_bytes: int
    """Of its tensors, each once."""
    operations: int
    """Of products, two per multiplication; tiles count whole."""
    programs: float
    """Per multiprocessor."""
    exposed_steps: int
    """Steps one after the other, of loops or of sums over blocks, whose latency nothing hides."""

    @property
    def microseconds(self) -> float:
        """The predicted time."""
        seconds = max(
            self.l2_bytes / L2,
            self.memory_bytes / MEMORY,
            self.operations / TENSOR_CORES,
            self.exposed_steps * LATENCY,
        )
        return 1e6 * (LAUNCH + seconds)


class Loop(NamedTuple):
    """The loop of a program over tiles."""

    steps: int
    loaded: int
    """Bytes that a program loads, in all steps and after them."""
    operations: int
    """Of a program's products."""


def predict(launch: Launch) -> Prediction:
    """Predict a launch of a Triton kernel."""
    kernel = launch.kernel.fn.__name__.strip("_").removesuffix("_kernel")
    programs = prod(launch.grid)
    places = {(x.untyped_storage()._cdata, x.storage_offset()): x for x in _tensors(launch)}
    memory = sum(map(_bytes, places.values()))
    if kernel not in LOOPS:
        return Prediction(kernel, memory, memory, 0, programs / MULTIPROCESSORS, 0)
    of_program, names = LOOPS[kernel]
    values = {**launch.arguments, **launch.constants}
    loop = of_program(values, next(_tensors(launch)).element_size())
    written = sum(_bytes(launch.arguments[name]) for name in names)
    per_multiprocessor = programs / MULTIPROCESSORS
    return Prediction(
        kernel,
        programs * loop.loaded + written,
        memory,
        programs * loop.operations,
        per_multiprocessor,
        loop.steps if per_multiprocessor <= HIDING else 0,
    )


def _bytes(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.numel() * tensor.element_size()


def _tensors(launch: Launch) -> Iterator[Tensor]:
    return (value for value in launch.arguments.values() if isinstance(value, Tensor))


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)


def _given(v: dict[str, Any], *names: str) -> int:
    return sum(v[name] is not None for name in names)


def _conv1x1_forward(v: dict[str, Any], size: int) -> Loop:
    m, n, k = v["BLOCK_M"], v["BLOCK_K"], v["BLOCK_C"]
    steps = _cdiv(v["C"], k)
    return Loop(steps, steps * (m + n) * k * size, steps * 2 * m * n * k)


def _conv1x1_input_gradient(v: dict[str, Any], size: int) -> Loop:
    m, n, k = v["BLOCK_M"], v["BLOCK_C"], v["BLOCK_K"]
    masked = _cdiv(v["K1"], k)
    others = _cdiv(v["K"] - v["K1"], k) * _given(v, "grad_r")
    steps = masked + others
    unpooled = 9 * m * n * (size + 1) * _given(v, "index")
    loaded = (steps * (m + n) + masked * m * _given(v, "y")) * k * size + unpooled
    return Loop(steps, loaded, steps * 2 * m * n * k)


def _weight_gradient(v: dict[str, Any], size: int, reads_of_x: int = 1) -> Loop:
    m, n, k = v["BLOCK_K"], v["BLOCK_C"], v["BLOCK_M"]
    steps = _cdiv(v["pixels_per_split"], k)
    left = 1 + _given(v, *(name for name in ("y", "grad_r") if name in v))
    products = 1 + ("w" in v and v["w"] is not None)
    loaded = steps * (left * m + reads_of_x * n) * k * size
    return Loop(steps, loaded, products * steps * 2 * m * n * k)


def _conv_spatial(v: dict[str, Any], size: int) -> Loop:
    m, n, k = v["BLOCK_M"], v["BLOCK_K"], v["BLOCK_C"]
    steps = v["TAPS"] ** 2 * _cdiv(v["C"], k)
    step = ((1 + _given(v, "x_mask")) * m + n) * k * size
    return Loop(steps, steps * step + m * n * size * _given(v, "y_mask"), steps * 2 * m * n * k)


def _pool_project_forward(v: dict[str, Any], size: int) -> Loop:
    m, n, k = v["BLOCK_M"], v["BLOCK_K"], v["BLOCK_C"]
    steps = _cdiv(v["C"], k)
    return Loop(steps, steps * (9 * m + n) * k * size, steps * 2 * m * n * k)


LOOPS: dict[str, tuple[Callable[[dict[str, Any], int], Loop], tuple[str, ...]]] = {
    "conv1x1_forward": (_conv1x1_forward, ("y", "r")),
    "conv1x1_input_gradient": (_conv1x1_input_gradient, ("grad_x",)),
    "conv1x1_weight_gradient": (_weight_gradient, ("partial", "grad_x")),
    "conv_spatial": (_conv_spatial, ("y",)),
    "conv_spatial_weight_gradient": (_weight_gradient, ("partial",)),
    "pool_project_forward": (_pool_project_forward, ("y", "index")),
    "pool_project_weight_gradient": (partial(_weight_gradient, reads_of_x=9), ("partial",)),
}
"""By kernel, what its loop does, given the arguments and the bytes of an element, and the names of
the arguments that it writes."""
