"""The module of raw kernels refuses what the kernels cannot read."""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.compiler import has_compiler
from tests.raw_kernels.build import build_cpu
from tests.raw_kernels.load import load

pytestmark = [pytest.mark.emulator, pytest.mark.slow]


@pytest.fixture(scope="module")
def kernels() -> ModuleType:
    if sys.platform != "linux" or not has_compiler():
        pytest.skip("needs Linux and a C++ compiler")
    return load(build_cpu(sanitized=False))


def zeros(*shape: int, dtype: Any = np.float32) -> Any:
    return np.zeros(shape, dtype)


def read_only() -> Any:
    y = zeros(1, 3, 3, 2)
    y.flags.writeable = False
    return y


X = zeros(1, 3, 3, 2)
W = zeros(4, 3, 3, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.max_pool(zeros(3, 3), X), r"x must be \(N, H, W, C\), not \(3, 3\)"),
        (lambda m: m.max_pool(X.astype(np.float64), X), "x must be of float32 on a CPU"),
        (lambda m: m.max_pool(X.astype(np.int32), X), "x must be of float16.*, not int32"),
        (lambda m: m.max_pool(X.astype(">f4"), X), "x must be of float16"),
        (lambda m: m.max_pool(X, X.astype(np.float16)), "y must be of the dtype of the first"),
        (lambda m: m.max_pool(X, zeros(1, 3, 3, 3)), "y must be as large as x"),
        (lambda m: m.max_pool(X, read_only()), "y must be writeable"),
        (lambda m: m.max_pool(X, zeros(1, 3, 3, 4)[..., ::2]), "y must have evenly spaced pixels"),
        (lambda m: m.max_pool(X, zeros(1, 3, 5, 2)[:, :, 2:]), "y must have evenly spaced pixels"),
        (lambda m: m.max_pool(X, X.copy(), X), "index must be of uint8"),
        (
            lambda m: m.bias_relu_pool(X, None, True, zeros(1, 2, 1, 2)),
            "y must have one pixel for each window",
        ),
        (
            lambda m: m.bias_relu_pool(X, zeros(3), True, zeros(1, 1, 1, 2)),
            r"bias must be \(2\), not \(3\)",
        ),
        (
            lambda m: m.bias_relu_pool(X, zeros(4)[::2], True, zeros(1, 1, 1, 2)),
            "bias must be contiguous",
        ),
        (lambda m: m.concat_bias_relu([], [], True, []), "branches must be 1 to 4"),
        (lambda m: m.concat_bias_relu([X], [], True, []), "outs must be 1, one each, not 0"),
        (lambda m: m.local_response_norm(X, 0, 1, 1, 1, X.copy()), "size must be positive"),
        (
            lambda m: m.conv_bias_relu(X, zeros(4, 3, 3, 5), None, True, zeros(1, 3, 3, 4)),
            r"weight must be \(4, 3, 3, 2\), not \(4, 3, 3, 5\)",
        ),
        (
            lambda m: m.conv_bias_relu(X, W, None, True, zeros(1, 3, 3, 4), zeros(1)),
            r"packed must be \(",
        ),
    ],
)
def test_arguments_are_checked(
    kernels: ModuleType, call: Callable[[ModuleType], None], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        call(kernels)


def test_a_second_build_compiles_nothing(kernels: ModuleType) -> None:
    path = build_cpu()
    before = path.stat().st_mtime_ns
    assert build_cpu() == path
    assert path.stat().st_mtime_ns == before
