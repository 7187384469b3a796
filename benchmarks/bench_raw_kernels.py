"""Time CPU kernels called on NumPy arrays, and the same ops through torch's dispatcher.

The difference is what the dispatcher, the checks and the allocation of results cost: `registered
op` is `torch.ops.googlenet_fast`, `function` the public one. All run in inference, on one thread,
on the same memory. The first run compiles the kernels without torch, in one to two minutes.
"""

from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.harness import interleave, relative_error
from googlenet_fast import extension, ops
from tests.compiler import has_compiler

registered = torch.ops.googlenet_fast

Array = np.ndarray[Any, Any]


class Size(NamedTuple):
    """A layer of one image, and how many calls are timed together."""

    side: int
    channels: int
    widths: tuple[int, ...]
    """Of the Inception block: branch 1, reduction and 3x3, reduction and 5x5, projection."""
    calls: int


SIZES = {
    "tiny": Size(3, 4, (4, 4, 4, 4, 4, 4), 200),
    "4a": Size(14, 480, (192, 96, 208, 16, 48, 64), 4),
}


class Case(NamedTuple):
    """Three ways to call an op, and the array that the raw kernel writes."""

    function: Callable[[], Tensor]
    registered: Callable[[], Tensor]
    raw: Callable[[], None]
    y: Array


@pytest.fixture(scope="module")
def kernels() -> Iterator[ModuleType]:
    """Return the raw kernels; they and torch have one thread."""
    pytest.importorskip("pybind11")
    pytest.importorskip("ninja")
    if extension.UNAVAILABLE is not None:
        pytest.skip(extension.UNAVAILABLE)
    if not has_compiler():
        pytest.skip("no C++ compiler")
    from tests.raw_kernels.build import build_cpu
    from tests.raw_kernels.load import load

    module = load(build_cpu())
    module.use_threads(1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield module
    torch.set_num_threads(threads)


def activation(side: int, channels: int) -> Tensor:
    return torch.randn(1, channels, side, side).contiguous(memory_format=torch.channels_last)


def weight(outputs: int, inputs: int, taps: int) -> Tensor:
    values = torch.randn(outputs, inputs, taps, taps) / (inputs * taps**2) ** 0.5
    return values.contiguous(memory_format=torch.channels_last)


def array(t: Tensor) -> Array:
    """Return the same memory, (N, H, W, C)."""
    return (t.permute(0, 2, 3, 1) if t.dim() == 4 else t).numpy()


def room(side: int, channels: int) -> Array:
    return np.full((1, side, side, channels), np.nan, np.float32)


def inception(kernels: ModuleType, size: Size) -> Case:
    c1, r3, c3, r5, c5, project = size.widths
    x = activation(size.side, size.channels)
    shapes = ((c1 + r3 + r5, size.channels, 1), (c3, r3, 3), (c5, r5, 5))
    weights = [weight(*s) for s in (*shapes, (project, size.channels, 1))]
    biases = [torch.randn(w.size(0)) for w in weights]
    given: list[Any] = [x, *(t for pair in zip(weights, biases, strict=True) for t in pair), True]
    r, y = room(size.side, r3 + r5), room(size.side, c1 + c3 + c5 + project)
    arrays = [array(w) for w in weights], [array(b) for b in biases]
    return Case(
        partial(ops.inception, *given),
        partial(registered.inception.default, *given, []),
        partial(kernels.inception, array(x), *arrays, True, r, y),
        y,
    )


def conv_bias_relu(kernels: ModuleType, size: Size) -> Case:
    x, w = activation(size.side, size.channels), weight(size.channels // 2, size.channels, 3)
    bias, y = torch.randn(w.size(0)), room(size.side, w.size(0))
    return Case(
        partial(ops.conv_bias_relu, x, w, bias),
        partial(registered.conv_bias_relu.default, x, w, bias, True, 1, []),
        partial(kernels.conv_bias_relu, array(x), array(w), array(bias), True, y),
        y,
    )


def bias_relu_pool(kernels: ModuleType, size: Size) -> Case:
    x, bias = activation(size.side, size.channels), torch.randn(size.channels)
    y = room(size.side // 2, size.channels)
    return Case(
        partial(ops.bias_relu_pool, x, bias, True, True),
        partial(registered.bias_relu_pool.default, x, bias, True, True),
        partial(kernels.bias_relu_pool, array(x), array(bias), True, y),
        y,
    )


def max_pool(kernels: ModuleType, size: Size) -> Case:
    x, y = activation(size.side, size.channels), room(size.side, size.channels)
    return Case(
        partial(ops.max_pool, x),
        partial(registered.max_pool.default, x),
        partial(kernels.max_pool, array(x), y),
        y,
    )


def local_response_norm(kernels: ModuleType, size: Size) -> Case:
    x, y = activation(size.side, size.channels), room(size.side, size.channels)
    parameters = 5, 1e-4, 0.75, 1.0
    return Case(
        partial(ops.local_response_norm, x, *parameters),
        partial(registered.local_response_norm.default, x, *parameters),
        partial(kernels.local_response_norm, array(x), *parameters, y),
        y,
    )


def concat_bias_relu(kernels: ModuleType, size: Size) -> Case:
    width = size.channels // 4
    branches = [activation(size.side, width) for _ in range(4)]
    biases, y = [torch.randn(width) for _ in range(4)], room(size.side, 4 * width)
    outs = np.split(y, 4, axis=3)
    arrays = [array(x) for x in branches], [array(b) for b in biases]
    return Case(
        partial(ops.concat_bias_relu, branches, biases),
        partial(registered.concat_bias_relu.default, branches, biases, True),
        partial(kernels.concat_bias_relu, *arrays, True, outs),
        y,
    )


CASES = (
    *(inception, conv_bias_relu, bias_relu_pool, max_pool),
    *(local_response_norm, concat_bias_relu),
)


def repeated(function: Callable[[], object], calls: int) -> None:
    with torch.no_grad():
        for _ in range(calls):
            function()


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def bench_raw_kernel(
    kernels: ModuleType, case: Callable[[ModuleType, Size], Case], name: str
) -> None:
    size = SIZES[name]
    function, op, raw, y = case(kernels, size)
    with torch.no_grad(), ops.use_impl("reference"):
        exact = [function().permute(0, 2, 3, 1).double()]
    raw()
    errors = {"raw kernel": relative_error([torch.from_numpy(y)], exact)}
    with torch.no_grad():
        for provider, call in (("function", function), ("registered op", op)):
            errors[provider] = relative_error([call().permute(0, 2, 3, 1)], exact)
    calls = {"function": function, "registered op": op, "raw kernel": raw}
    interleave(
        f"dispatch of {case.__name__} {name}, {size.calls} calls",
        {provider: partial(repeated, call, size.calls) for provider, call in calls.items()},
        repeats=21,
        errors=errors,
        rate=lambda seconds: f"{1e6 * seconds / size.calls:.1f} us a call",
    )
