"""Every registered op, called as exported graphs call it: without the public functions' checks.

It returns what the reference does, or raises an error that names the argument. The sanitizers' and
the CUDA emulator's tests run this too, with more examples.
"""

import copy
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

import googlenet_fast.ops  # noqa: F401  (defines the registered ops)
from googlenet_fast import extension
from tests.ops.registered_calls import (
    FLOATS,
    OPS,
    Arguments,
    Maker,
    compare,
    inside_wider,
    spoil,
)

EXAMPLES = int(os.environ.get("GOOGLENET_FAST_EXAMPLES", "30"))
"""Calls of each op."""
EMULATES_CUDA = extension.BUILD_INFO.get("emulates") == "cuda"

ops = torch.ops.googlenet_fast

pytestmark = pytest.mark.skipif(
    extension.UNAVAILABLE is not None, reason="the compiled extension is absent"
)


def registered(of_triton: bool) -> list[str]:
    """Ops with a kernel for CPU tensors here; Triton's are interpreted."""
    names = torch._C._dispatch_get_all_op_names()
    found = torch._C._dispatch_has_kernel_for_dispatch_key
    own = {name for name in names if name.startswith("googlenet_fast::") and found(name, "CPU")}
    ops = sorted(name.partition("::")[2] for name in own)
    return [op for op in ops if ("triton" in op) == of_triton]


def dtypes_of(op: str) -> tuple[torch.dtype, ...]:
    if "triton" in op:
        return (torch.float16, torch.float32)  # the interpreter's product of bf16 is wrong
    if EMULATES_CUDA:
        return FLOATS[:3]
    return FLOATS if OPS[op].any_dtype else FLOATS[1:3]


def examples(count: int, phases: Sequence[Phase] = tuple(Phase)) -> Callable[[Any], Any]:
    return settings(
        max_examples=count,
        phases=phases,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.parametrize("op", registered(of_triton=False))
@examples(EXAMPLES)
@given(data=st.data())
def test_right_or_refused_by_name(op: str, data: st.DataObject) -> None:
    check(op, data)


@pytest.mark.slow
@pytest.mark.triton
@pytest.mark.parametrize("op", registered(of_triton=True))
@examples(20, phases=(Phase.generate,))  # to shrink takes the interpreter minutes
@given(data=st.data())
@pytest.mark.usefixtures("fast_interpreter")
def test_triton_right_or_refused_by_name(op: str, data: st.DataObject) -> None:
    check(op, data)


def check(op: str, data: st.DataObject) -> None:
    name = op.replace("_triton", "")
    assert name in OPS, f"registered_calls.py makes no calls of {name}"
    make = Maker(data.draw, dtypes_of(op))
    arguments = OPS[name].make(make)
    if "triton" in op:
        assume(arguments.get("stride", 1) == 1)
        assume(all(0 not in x.shape[:2] for x in flat(list(arguments.values()))))
    function = getattr(ops, op).default
    assert list(arguments) == [argument.name for argument in function._schema.arguments]
    spoilt = make.choose(0, 1, 2)
    for _ in range(spoilt):
        arguments = spoil(make, arguments)
    written = OPS[name].written
    before = copy.deepcopy(arguments) if written else arguments
    try:
        results = function(*arguments.values())
    except RuntimeError as error:
        check_refusal(op, arguments, str(error), spoilt > 0)
        return
    if written:
        results = [arguments[each] for each in written]
    expected = OPS[name].expected(before)
    if callable(expected):
        expected(results)
    elif isinstance(expected, int):
        assert results == expected
    else:
        for actual, wanted in zip(flat(results), expected, strict=True):
            if wanted is not None:
                compare(actual, wanted)


def check_refusal(op: str, arguments: Arguments, message: str, spoilt: bool) -> None:
    assert spoilt, message
    if "no tensor arguments" in message:  # of torch, which has no device to choose a kernel by
        return
    named = re.match(rf"{op}: (\w+)(?: and \w+)? must ", message)
    assert named, message
    assert named[1] in arguments


def flat(values: object) -> list[Tensor]:
    """Tensors among values, tuples and lists of them included."""
    if isinstance(values, tuple | list):
        return [tensor for value in values for tensor in flat(value)]
    return [values] if isinstance(values, Tensor) else []


def test_a_branch_without_channels_leaves_the_others_their_biases() -> None:
    branches, biases = [image(1, 0, 1, 2), torch.zeros(1, 1, 1, 2)], [torch.ones(0), torch.ones(1)]
    assert torch.equal(ops.concat_bias_relu(branches, biases, False), torch.ones(1, 1, 1, 2))


def image(*size: int) -> Tensor:
    return torch.randn(size)


def block(**changed: Any) -> list[Any]:
    """Arguments of inception, of 4 channels, without packed weights."""
    arguments: Arguments = {"x": image(1, 4, 5, 6), "w_in": image(7, 4, 1, 1), "b_in": image(7)}
    arguments |= {"w3": image(3, 2, 3, 3), "b3": image(3), "w5": image(2, 1, 5, 5), "b5": image(2)}
    arguments |= {"wp": image(3, 4, 1, 1), "bp": image(3), "reduce_relu": True}
    assert changed.keys() <= arguments.keys()
    return list({**arguments, **changed}.values())


def block_backward(index: Tensor) -> tuple[Tensor, Tensor]:
    x, w_in, _, w3, _, w5, _, wp, _, reduce_relu = block()
    y, r = image(1, 12, 5, 6), image(1, 3, 5, 6)
    return ops.inception_backward(y, x, r, y, index, w_in, w3, w5, wp, reduce_relu, True, True)


def conv_backward(x: Tensor, grad_y: Tensor) -> tuple[Tensor, Tensor]:
    return ops.conv_bias_relu_backward(grad_y, x, None, image(3, 4, 3, 3), 1, True, True)


def zeros(*size: int) -> Tensor:
    return torch.zeros(size, dtype=torch.uint8)


@pytest.mark.triton
@pytest.mark.parametrize("taps", [1, 3])
def test_triton_reads_biases_of_any_stride(taps: int) -> None:
    x, weight, bias = image(1, 4, 5, 6), image(3, 4, taps, taps), image(3)
    expected = ops.conv_bias_relu_triton(x, weight, bias, True, 1, [])
    actual = ops.conv_bias_relu_triton(x, weight, inside_wider(bias), True, 1, [])
    assert torch.equal(actual, expected)


@pytest.mark.triton
def test_triton_reads_a_blocks_biases_of_any_stride() -> None:
    given = block()
    strided = [inside_wider(value) if i in (2, 4, 6, 8) else value for i, value in enumerate(given)]
    assert torch.equal(ops.inception_triton(*strided, []), ops.inception_triton(*given, []))


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: ops.max_pool(image(8, 64, 33, 33).double()), "max_pool: x must be of "),
    (lambda: ops.max_pool_training(image(8, 4, 33, 33).long()), "max_pool_training: x must be of "),
    (
        lambda: ops.bias_relu_pool_backward(image(1, 4, 2, 2), zeros(1, 4, 2, 2), 9, 5, False),
        "bias_relu_pool_backward: height and width must",
    ),
    (
        lambda: ops.bias_relu_pool_backward(image(1, 4, 2, 2), zeros(1, 4, 2, 2), -5, -5, True),
        "bias_relu_pool_backward: height and width must",
    ),
    (
        lambda: ops.bias_relu_pool(image(1, 4, 5, 5), torch.ones(4, 0), True, True),
        r"bias_relu_pool: bias must be \(4\), not \(4, 0\)",
    ),
    (
        lambda: ops.concat_bias_relu_backward(image(1, 4, 2, 2), None, [2**62, 2**62, 4], True),
        "concat_bias_relu_backward: channels must",
    ),
    (
        lambda: ops.concat_bias_relu_backward(image(1, 4, 2, 2), None, [5, -1], True),
        "concat_bias_relu_backward: channels must",
    ),
]
REFUSED_ON_CPU: list[tuple[Callable[[], Any], str]] = [
    (lambda: ops.max_pool(image(8, 64, 33, 33).half()), "max_pool: x must be of "),
    (lambda: block_backward(zeros(1, 4, 1, 1)), "inception_backward: index must be"),
    (lambda: block_backward(zeros(0, 4, 5, 6)), "inception_backward: index must be"),
    (lambda: block_backward(image(1, 4, 5, 6)), "inception_backward: index must be of Byte"),
    (
        lambda: conv_backward(image(1, 4, 5, 6), image(1, 3, 5, 6).half()),
        "conv_bias_relu_backward: grad_y must be of Float, not Half",
    ),
    (
        lambda: conv_backward(image(1, 4, 5, 6).half(), image(1, 3, 5, 6).half()),
        "conv_bias_relu_backward: x must be of ",
    ),
    (
        lambda: ops.conv_bias_relu(
            image(1, 4, 5, 6), image(3, 4, 3, 3), torch.ones(3, 0), True, 1, []
        ),
        r"conv_bias_relu: bias must be \(3\), not \(3, 0\)",
    ),
    (
        lambda: ops.conv_bias_relu(image(1, 4, 5, 6), image(3, 4, 3, 1), None, True, 1, []),
        "conv_bias_relu: weight and stride must be .* not 3x1 with 1",
    ),
    (
        lambda: ops.inception(*block(b5=torch.ones(2, 0)), []),
        r"inception: b5 must be \(2\), not \(2, 0\)",
    ),
    (lambda: ops.inception(*block(b_in=None), []), "inception: b3 must be given if b_in is"),
    (lambda: ops.inception(*block(), [image(9)] * 4), "inception: packed must be five weights"),
    (lambda: ops.inception(*block(), [image(9)] * 5), "inception: packed must be what"),
    (lambda: ops.inception_training(*block(bp=None)), "inception_training: bp must be given"),
    (lambda: ops.pack_weight(image(3, 4, 3, 3), -1, 4), "pack_weight: height and width must"),
    (lambda: ops.pack_weight(image(3, 4, 3, 3), 2**40, 2**40), "pack_weight: height and width"),
]


@pytest.mark.parametrize(
    ("call", "message"), REFUSED if EMULATES_CUDA else [*REFUSED, *REFUSED_ON_CPU]
)
def test_what_corrupted_memory_is_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(RuntimeError, match=f"^{message}"):
        call()
