"""Check raw kernels at awkward shapes, strides and dtypes, in a process without torch.

The module of kernels is that of RAW_KERNELS; RAW_KERNELS_CASES is the folder that cases.py wrote.
Outputs are slices of arrays of NaN, in the layout of the inputs.
"""

import math
import mmap
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.raw_kernels.load import load

Array = np.ndarray[Any, Any]

kernels = load(Path(os.environ["RAW_KERNELS"]))
CASES = sorted(Path(os.environ["RAW_KERNELS_CASES"]).glob("*.npz"))
ON_CPU = hasattr(kernels, "use_threads")

BFLOAT16 = np.uint16
"""NumPy's stand-in: an array of the bits."""

TOLERANCES = {np.float64: 1e-10, np.float32: 1e-3, np.float16: 5e-3, BFLOAT16: 2e-2}
"""Of the relative error, in norm. A wrong read or write exceeds it by far."""

POINTWISE = ("concat_bias_relu", "bn_relu_concat", "bn_relu_pool")
"""On CPUs, the others compute in float32."""


def encode(x: Array, dtype: Any) -> Array:
    """Round to a dtype."""
    if dtype is not BFLOAT16:
        return x.astype(dtype)
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(BFLOAT16)


def decode(x: Array) -> Array:
    """Return the values in float64."""
    if x.dtype == BFLOAT16:
        x = (x.astype(np.uint32) << 16).view(np.float32)
    return x.astype(np.float64)


def inside_wider(x: Array, before: int, after: int) -> Array:
    """The same values between columns of NaN."""
    n, height, width, channels = x.shape
    nan = encode(np.full(1, np.nan), x.dtype.type)
    wide = np.tile(nan, (n, height, width, before + channels + after))
    view = wide[..., before : before + channels]
    view[...] = x
    return view


def far_apart(x: Array) -> Array:
    """The same values with pixels so far apart that offsets take more than 32 bits."""
    n, height, width, channels = x.shape
    pixels = max(1, n * height * width)
    stride = 2**32 // pixels + channels
    no_reserve = 0x4000  # MAP_NORESERVE, which Python has no name for
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
    memory = mmap.mmap(-1, pixels * stride * x.itemsize, flags)
    step = stride * x.itemsize
    strides = (height * width * step, width * step, step, x.itemsize)
    view: Array = np.ndarray(x.shape, x.dtype, memory, strides=strides)
    view[...] = x
    return view


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "dense": np.ascontiguousarray,
    "last channels": lambda x: inside_wider(x, 3, 0),
    "between channels": lambda x: inside_wider(x, 8, 5),
    "far apart": far_apart,
}


class Call:
    """The arrays of a case in a layout and a dtype, and the results to compare."""

    def __init__(self, case: Path, layout: str, dtype: Any) -> None:
        with np.load(case) as arrays:
            self._arrays = dict(arrays)
        self._layout, self._dtype = LAYOUTS[layout], dtype
        self._sums = np.float64 if dtype is np.float64 else np.float32
        self._results: list[tuple[str, Array]] = []
        self._surroundings: list[tuple[Array, Array]] = []

    def has(self, name: str) -> bool:
        return name in self._arrays

    def shape(self, name: str) -> tuple[int, ...]:
        return self._arrays[name].shape

    def read(self, name: str) -> Array:
        """Return an activation; the kernel must leave it as it is."""
        placed = self._layout(encode(self._arrays[name], self._dtype))
        placed.flags.writeable = False
        return placed

    def values(self, name: str) -> Array:
        """Return values per channel or a weight."""
        return np.ascontiguousarray(self._arrays[name], self._sums)

    def write(self, name: str, channels: int | None = None) -> Array:
        """Return room for an activation that the case has, or for one of other channels."""
        nan = encode(np.full(1, np.nan), self._dtype)
        shape = self.shape(name)[: 3 if channels else None]
        y = self._layout(np.tile(nan, (*shape, channels) if channels else shape))
        if channels is None:
            self._results.append((name, y))
        if isinstance(y.base, np.ndarray) and y.base.ndim == 4:
            outside = np.ones(y.base.shape[3], bool)
            begin = (y.ctypes.data - y.base.ctypes.data) // y.itemsize
            outside[begin : begin + y.shape[3]] = False
            around = y.base[..., outside]
            self._surroundings.append((y.base, outside))
            assert np.isnan(decode(around)).all()
        return y

    def sums(self, name: str) -> Array:
        """Return room for sums of the case."""
        room = np.full(self.shape(name), np.nan, self._sums)
        self._results.append((name, room))
        return room

    def index(self, name: str) -> Array:
        return np.full(self.shape(name), 255, np.uint8)

    def partial(self, columns: int, kinds: int = 1) -> Array:
        pixels = math.prod(self.shape("x")[:3])
        return np.full(kernels.partial_size(pixels, columns, kinds), np.nan, self._sums)

    def finish(self) -> None:
        """Compare all results with what the case expects."""
        for name, result in self._results:
            expected = self._arrays[name]
            error = np.linalg.norm(decode(result) - expected)
            assert error <= TOLERANCES[self._dtype] * np.linalg.norm(expected), name
        for wide, outside in self._surroundings:
            assert np.isnan(decode(wide[..., outside])).all()


def conv_bias_relu(c: Call) -> None:
    x, weight, y = c.read("x"), c.values("weight"), c.write("y")
    relu, bias = bool(c.values("relu")), c.values("bias") if c.has("bias") else None
    kernels.conv_bias_relu(x, weight, bias, relu, y)
    packed = kernels.pack_weight(weight, *x.shape[1:3])
    kernels.conv_bias_relu(x, weight, bias, relu, c.write("y"), packed)
    rest = c.read("grad_y"), x, y if relu else None, weight
    kernels.conv_bias_relu_backward(*rest, c.write("grad_x"), c.sums("grads"))
    kernels.conv_bias_relu_backward(*rest, c.write("grad_x"))
    kernels.conv_bias_relu_backward(*rest, grads=c.sums("grads"))


def inception(c: Call) -> None:
    x, index = c.read("x"), c.index("x")
    weights, biases = ([c.values(f"{k}{i}") for i in range(4)] for k in ("weight", "bias"))
    w_in, *others = weights
    parts = [np.ascontiguousarray(w) for w in (w_in[:13], w_in[13:], *others)]
    packed = [kernels.pack_weight(w, *x.shape[1:3]) for w in parts]
    r, y = c.write("x", 11), c.write("y")
    kernels.inception(x, weights, biases, True, r, y, index)
    kernels.inception(x, weights, biases, True, c.write("x", 11), c.write("y"), None, packed)
    rest = c.read("grad_y"), x, r, y, index, weights, True
    kernels.inception_backward(*rest, c.write("grad_x"), c.sums("grads"))
    kernels.inception_backward(*rest, c.write("grad_x"))
    kernels.inception_backward(*rest, grads=c.sums("grads"))


def bias_relu_pool(c: Call) -> None:
    x, index, bias = c.read("x"), c.index("y"), c.values("bias") if c.has("bias") else None
    relu = bias is not None
    kernels.bias_relu_pool(x, bias, relu, c.write("y"))
    kernels.bias_relu_pool(x, bias, relu, c.write("y"), index)
    grad_y = c.read("grad_y")
    kernels.bias_relu_pool_backward(grad_y, index, c.write("grad_x"))
    if relu:
        rest = c.partial(x.shape[3]), c.sums("grad_bias")
        kernels.bias_relu_pool_backward(grad_y, index, c.write("grad_x"), *rest)


def max_pool(c: Call) -> None:
    x, index = c.read("x"), c.index("y")
    kernels.max_pool(x, c.write("y"))
    kernels.max_pool(x, c.write("y"), index)
    grad_x = c.write("grad_x")
    kernels.max_pool_backward(c.read("grad_y"), index, c.read("add_to"), grad_x)


def local_response_norm(c: Call) -> None:
    x, parameters = c.read("x"), (5, 0.1, 0.75, 1.5)
    kernels.local_response_norm(x, *parameters, c.write("y"))
    kernels.local_response_norm_backward(c.read("grad_y"), x, *parameters, c.write("grad_x"))


def concat_bias_relu(c: Call) -> None:
    branches, y, grad_y = [c.read("x"), c.read("x2")], c.write("y"), c.read("grad_y")
    width = branches[0].shape[3]
    bias = c.values("bias")
    kernels.concat_bias_relu(branches, [bias[:width], bias[width:]], True, split(y, width))
    for sums in ((), (c.partial(len(bias)), c.sums("grad_bias"))):
        outs = [c.write("grad_x"), c.write("grad_x2")]
        grads, outputs = split(grad_y, width), split(y, width)
        kernels.concat_bias_relu_backward(grads, outputs, outs, *sums)


def bn_relu_concat(c: Call) -> None:
    branches, y, grad_y = [c.read("x"), c.read("x2")], c.write("y"), c.read("grad_y")
    width, columns = branches[0].shape[3], y.shape[3]
    statistics, sums = c.sums("statistics"), c.sums("sums")
    kernels.bn_relu_concat_statistics(branches, c.partial(columns, 2), statistics)
    norm = statistics, c.values("weight"), c.values("bias"), 1e-5
    kernels.bn_relu_concat(branches, *norm, split(y, width))
    grads = split(grad_y, width)
    kernels.bn_relu_concat_sums(grads, branches, *norm, c.partial(columns, 2), sums)
    outs = [c.write("grad_x"), c.write("grad_x2")]
    pixels = math.prod(y.shape[:3])
    kernels.bn_relu_concat_backward(grads, branches, *norm, sums, pixels, outs)


def bn_relu_pool(c: Call) -> None:
    x, index, grad_y = c.read("x"), c.index("y"), c.read("grad_y")
    weight, statistics, sums = c.values("weight"), c.values("statistics"), c.sums("sums")
    kernels.bn_relu_pool(x, statistics, weight, c.values("bias"), 1e-5, c.write("y"), index)
    partial = c.partial(x.shape[3], 2)
    kernels.bn_relu_pool_sums(grad_y, index, x, statistics, 1e-5, partial, sums)
    rest = 1e-5, sums, math.prod(x.shape[:3]), c.write("grad_x")
    kernels.bn_relu_pool_backward(grad_y, index, x, statistics, weight, *rest)


def split(x: Array, width: int) -> list[Array]:
    return [x[..., :width], x[..., width:]]


def dtypes_of(op: str) -> Sequence[Any]:
    if not ON_CPU:
        return (np.float32, np.float16, BFLOAT16)
    return tuple(TOLERANCES) if op in POINTWISE else (np.float32,)


OPS: dict[str, Callable[[Call], None]] = {
    function.__name__: function
    for function in (
        *(max_pool, bias_relu_pool, local_response_norm),
        *(concat_bias_relu, bn_relu_concat, bn_relu_pool),
        *((conv_bias_relu, inception) if ON_CPU else ()),
    )
}
CALLS = [
    pytest.param(case, dtype, id=f"{case.stem} {np.dtype(dtype)}")
    for case in CASES
    if case.stem.split()[0] in OPS
    for dtype in dtypes_of(case.stem.split()[0])
]


@pytest.fixture(autouse=True)
def two_threads() -> None:
    if ON_CPU:
        kernels.use_threads(2)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("case", "dtype"), CALLS)
def test_equals_the_reference(case: Path, dtype: Any, layout: str) -> None:
    call = Call(case, layout, dtype)
    OPS[case.stem.split()[0]](call)
    call.finish()


def test_no_channels() -> None:
    x, pooled = np.empty((2, 5, 4, 0), np.float32), np.empty((2, 2, 2, 0), np.float32)
    index, pooled_index = x.astype(np.uint8), pooled.astype(np.uint8)
    sums, none = np.empty((2, 0), np.float32), np.empty(0, np.float32)
    partial = np.empty(kernels.partial_size(40, 0, 2), np.float32)
    kernels.max_pool(x, x.copy(), index)
    kernels.max_pool_backward(x, index, None, x.copy())
    kernels.bias_relu_pool(x, none, True, pooled, pooled_index)
    kernels.bias_relu_pool_backward(pooled, pooled_index, x.copy(), partial, none)
    kernels.local_response_norm(x, 5, 0.1, 0.75, 1.0, x.copy())
    kernels.local_response_norm_backward(x, x, 5, 0.1, 0.75, 1.0, x.copy())
    kernels.concat_bias_relu([x], [], True, [x.copy()])
    kernels.concat_bias_relu_backward([x], [x], [x.copy()], partial, none)
    kernels.bn_relu_concat_statistics([x], partial, sums)
    kernels.bn_relu_concat([x], sums, none, none, 1e-5, [x.copy()])
    kernels.bn_relu_pool(x, sums, none, none, 1e-5, pooled, pooled_index)


@pytest.mark.skipif(not ON_CPU, reason="convolutions are kernels of CPUs")
@pytest.mark.parametrize("outputs", [0, 3])
def test_a_convolution_of_no_channels(outputs: int) -> None:
    x, y = np.empty((2, 5, 4, 0), np.float32), np.full((2, 5, 4, outputs), np.nan, np.float32)
    weight, bias = np.empty((outputs, 3, 3, 0), np.float32), np.ones(outputs, np.float32)
    kernels.conv_bias_relu(x, weight, bias, True, y)
    assert (y == 1).all()
    grads = np.full(outputs, np.nan, np.float32)
    kernels.conv_bias_relu_backward(y, x, y, weight, x.copy(), grads)
    assert (grads == 40).all()


@pytest.mark.skipif(not ON_CPU, reason="the block is a kernel of CPUs")
def test_a_block_of_no_channels_is_its_biases() -> None:
    x, r = np.empty((2, 5, 4, 0), np.float32), np.empty((2, 5, 4, 4), np.float32)
    shapes = ((7, 1, 1, 0), (6, 3, 3, 2), (9, 3, 3, 2), (2, 1, 1, 0))
    weights = [np.ones(shape, np.float32) for shape in shapes]
    biases = [np.zeros(7, np.float32), *(np.ones(n, np.float32) for n in (6, 9, 2))]
    y, index = np.full((2, 5, 4, 20), np.nan, np.float32), np.empty(x.shape, np.uint8)
    kernels.inception(x, weights, biases, True, r, y, index)
    assert (y == np.repeat([0, 1], [3, 17])).all()
    grads = np.full(sum(w.size + len(w) for w in weights), np.nan, np.float32)
    kernels.inception_backward(y, x, r, y, index, weights, True, x.copy(), grads)
    assert np.isfinite(grads).all()


def test_this_process_has_no_torch() -> None:
    assert "torch" not in sys.modules


@pytest.mark.skipif(ON_CPU, reason="streams are of GPUs")
def test_launches_beyond_the_slots_of_counters_bring_their_own() -> None:
    x = np.random.default_rng(0).standard_normal((1, 1, 70, 16), np.float32)
    for stream in [*range(140), *range(120, 140)]:
        kernels.use_stream(stream)
        out, sums = np.empty_like(x), np.full(16, np.nan, np.float32)
        partial = np.full(kernels.partial_size(70, 16), np.nan, np.float32)
        kernels.concat_bias_relu_backward([x], [], [out], partial, sums)
        np.testing.assert_allclose(sums, x.sum((0, 1, 2)), atol=1e-4, rtol=1e-5)
    kernels.use_stream(0)
