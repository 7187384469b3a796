"""Compare every CUDA kernel with the reference, in a process whose extension is the emulator.

There, backend `native` runs the CUDA kernels on CPU tensors.
"""

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from googlenet_fast import extension
from googlenet_fast.ops import (
    bias_relu_pool,
    concat_bias_relu,
    inception,
    local_response_norm,
    max_pool,
    use_impl,
)
from tests.cuda_emulator.calls import CALLS, Function, results
from tests.ops.test_inception import make_arguments, plain_block

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
WIDTHS = {
    "3a": ((64, 128, 32, 32), (14, 28)),
    "5b": ((384, 384, 128, 128), (7, 7)),
    "some odd": ((8, 3, 16, 1), (5, 9)),
    "one pixel": ((9, 4), (1, 1)),
}
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "dense": lambda x: x.contiguous(memory_format=torch.channels_last),
    "aligned slice": lambda x: inside_wider(x, 8, 16),
    "misaligned slice": lambda x: inside_wider(x, 1, 2),
    "odd rows": lambda x: inside_wider(x, 8, 3),
    "NCHW": lambda x: x.contiguous(),
}
KINDS = [
    *((torch.float32, layout) for layout in LAYOUTS),
    *((torch.float16, layout) for layout in ("dense", "aligned slice", "misaligned slice")),
    *((torch.bfloat16, layout) for layout in ("dense", "aligned slice")),
]
"""Dtypes with layouts of inputs and gradients."""


def inside_wider(x: Tensor, before: int, after: int) -> Tensor:
    """The same values as a slice of channels between others, which are NaN."""
    n, channels, height, width = x.shape
    wide = x.new_full((n, height, width, before + channels + after), float("nan"))
    view = wide.permute(0, 3, 1, 2)[:, before : before + channels]
    view.copy_(x)
    return view


def eighths(*shape: int) -> Tensor:
    """Random multiples of 1/8, which stay apart from each other when a bias is added."""
    return (torch.randn(shape) * 8).round() / 8


def check(function: Function, tensors: Sequence[Tensor], grad: Tensor) -> None:
    """Check that errors are at most twice those of plain PyTorch in the same dtype."""
    with use_impl("reference"):
        exact = results(function, [tensor.double() for tensor in tensors], grad)
        plain = results(function, tensors, grad)
    with use_impl("native"):
        actual = results(function, tensors, grad)
        with torch.no_grad():
            assert torch.equal(function(*tensors), actual[0])
    assert actual[0].is_contiguous(memory_format=torch.channels_last)
    for ours, theirs, truth in zip(actual, plain, exact, strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        if truth.numel() == 0:
            continue
        floor = 1e-6 * max(1.0, truth.abs().max().item())
        allowed = 2 * (theirs.double() - truth).abs().max().item() + floor
        assert (ours.double() - truth).abs().max().item() <= allowed


@pytest.mark.parametrize(("dtype", "layout"), KINDS, ids=str)
@pytest.mark.parametrize("case", WIDTHS)
def test_concat_bias_relu(case: str, dtype: torch.dtype, layout: str) -> None:
    widths, size = WIDTHS[case]
    arrange = LAYOUTS[layout]
    branches = [arrange(eighths(1, width, *size).to(dtype)) for width in widths]
    biases = [eighths(width) + 1 / 16 for width in widths]
    grad = arrange(torch.randn(1, sum(widths), *size).to(dtype))
    count = len(widths)

    def function(*tensors: Tensor) -> Tensor:
        return concat_bias_relu(tensors[:count], tensors[count:])

    check(function, [*branches, *biases], grad)


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("with_bias", [True, False])
def test_concat_bias_relu_of_optional_parts(with_bias: bool, relu: bool) -> None:
    branches = [eighths(2, width, 6, 5) for width in (8, 4)]
    biases = [eighths(width) for width in (8, 4)] if with_bias else []

    def function(*tensors: Tensor) -> Tensor:
        return concat_bias_relu(tensors[:2], tensors[2:] or None, relu)

    check(function, [*branches, *biases], torch.randn(2, 12, 6, 5))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("widths", [(8, 16, 8, 24, 8, 8, 16), (7, 3, 5, 9, 1, 2, 1)], ids=str)
@pytest.mark.parametrize(("bias", "reduce_relu"), [(True, True), (False, False), (True, False)])
def test_inception_on_library_convolutions(
    bias: bool, reduce_relu: bool, widths: tuple[int, ...], dtype: torch.dtype
) -> None:
    channels, *others = widths
    made = make_arguments((channels, 5, *others), bias=bias)
    given = [None if t is None else (2 * t).round().clamp(-1, 1) for t in made]  # exact sums
    given = [t.to(dtype) if t is not None and t.dim() == 4 else t for t in given]
    rest = [t for t in given if t is not None]

    def filled(tensors: Sequence[Tensor]) -> list[Any]:
        each = iter(tensors)
        return [None if t is None else next(each) for t in given]

    grad = torch.randint(-1, 2, plain_block(given, reduce_relu).shape)
    expected = results(lambda *t: plain_block(filled(t), reduce_relu), rest, grad)
    with use_impl("aten"):
        actual = results(lambda *t: inception(*[*filled(t), reduce_relu]), rest, grad)
    for ours, theirs in zip(actual, expected, strict=True):
        scale = theirs.abs().max().item()
        torch.testing.assert_close(ours, theirs, rtol=0, atol=4 * torch.finfo(dtype).eps * scale)


@pytest.mark.parametrize(("dtype", "layout"), KINDS, ids=str)
@pytest.mark.parametrize("channels", [3, 72])
@pytest.mark.parametrize("ceil_mode", [True, False])
def test_bias_relu_pool(ceil_mode: bool, channels: int, dtype: torch.dtype, layout: str) -> None:
    arrange = LAYOUTS[layout]
    x, bias = arrange(eighths(2, channels, 13, 10).to(dtype)), eighths(channels) + 1 / 16
    size = (6, 5) if ceil_mode else (6, 4)
    grad = arrange(torch.randn(2, channels, *size).to(dtype))
    check(lambda x, bias: bias_relu_pool(x, bias, ceil_mode=ceil_mode), [x, bias], grad)


@pytest.mark.parametrize("size", [(28, 28), (2, 9), (4, 3)], ids=str)
@pytest.mark.parametrize("relu", [True, False])
def test_bias_relu_pool_without_bias(relu: bool, size: tuple[int, int]) -> None:
    x = eighths(1, 12, *size)
    grad = torch.randn(1, 12, size[0] // 2, size[1] // 2)
    check(lambda x: bias_relu_pool(x, None, relu, ceil_mode=True), [x], grad)


@pytest.mark.parametrize(("dtype", "layout"), KINDS, ids=str)
@pytest.mark.parametrize("shape", [(1, 64, 14, 14), (2, 3, 5, 1), (1, 24, 2, 9)], ids=str)
def test_max_pool(shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> None:
    arrange = LAYOUTS[layout]
    check(max_pool, [arrange(eighths(*shape).to(dtype))], arrange(torch.randn(shape).to(dtype)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("pool", ["bias_relu_pool", "max_pool"])
def test_pools_choose_among_ties_as_pytorch_does(pool: str, dtype: torch.dtype) -> None:
    function = {"bias_relu_pool": lambda x: bias_relu_pool(x, relu=False), "max_pool": max_pool}
    x = torch.randint(-2, 2, (3, 8, 11, 14)).to(dtype)
    x[0, 3, 2:4, 2:4] = float("nan")
    x[1, 4] = float("-inf")
    x[2, 5, 3:8] = float("inf")
    with use_impl("reference"):
        grad = torch.randint(1, 9, function[pool](x).shape).to(dtype)
        expected = results(function[pool], [x], grad)
    with use_impl("native"):
        actual = results(function[pool], [x], grad)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(("dtype", "layout"), KINDS, ids=str)
@pytest.mark.parametrize("channels", [1, 64, 100])
@pytest.mark.parametrize("beta", [0.6, 0.75])
def test_local_response_norm(beta: float, channels: int, dtype: torch.dtype, layout: str) -> None:
    arrange, shape = LAYOUTS[layout], (2, channels, 5, 7)
    x, grad = (arrange((scale * torch.randn(shape)).to(dtype)) for scale in (10, 1))
    check(lambda x: local_response_norm(x, alpha=0.1, beta=beta, k=1.5), [x], grad)


@pytest.mark.parametrize("largest", [1e-20, 1e4, 1e18, float("nan")])
@pytest.mark.parametrize("beta", [0.6, 0.75])
def test_local_response_norm_of_extreme_values(beta: float, largest: float) -> None:
    x, grad = largest * torch.rand(1, 16, 3, 3), torch.randn(1, 16, 3, 3)
    with use_impl("reference"):
        expected = results(lambda x: local_response_norm(x, beta=beta), [x], grad)
    with use_impl("native"):
        actual = results(lambda x: local_response_norm(x, beta=beta), [x], grad)
    torch.testing.assert_close(actual, expected, equal_nan=True)


@pytest.mark.parametrize("beta", [0.6, 0.75])
def test_local_response_norm_of_squares_that_overflow(beta: float) -> None:
    with use_impl("native"):
        y = local_response_norm(torch.full((1, 16, 3, 3), 1e30), beta=beta)
    assert torch.equal(y, torch.zeros_like(y))


@pytest.mark.parametrize("op", CALLS)
def test_vectorized_scalar_and_repeated_calls_give_the_same_bits(op: str) -> None:
    function, tensors = CALLS[op]
    x, *rest = tensors
    with use_impl("native"):
        grad = torch.randn(function(*tensors).shape)
        first, second, scalar = (
            results(function, [LAYOUTS[layout](x), *rest], grad)
            for layout in ("dense", "dense", "misaligned slice")
        )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(first[0], scalar[0])
    assert torch.equal(first[1], scalar[1])


@pytest.mark.parametrize("op", CALLS)
@pytest.mark.parametrize("empty", [(0, 1, 1), (1, 0, 1)], ids=["batch", "channels"])
def test_empty_tensors(op: str, empty: tuple[int, ...]) -> None:
    function, tensors = CALLS[op]
    batch, channels, _ = empty
    tensors = [t[:batch, : t.size(1) * channels] if t.dim() == 4 else t for t in tensors]
    tensors = [t[: len(t) * channels] if t.dim() == 1 else t for t in tensors]
    with use_impl("native"):
        y, *grads = results(function, tensors, torch.ones(()).expand(function(*tensors).shape))
    assert y.numel() == 0
    assert all(torch.equal(grad, torch.zeros_like(grad)) for grad in grads)


def column_sums(branches: list[Tensor], y: Tensor, grad: Tensor) -> list[Tensor]:
    """What the kernels sum over all pixels: of biases, statistics and gradients of batch norm."""
    ops = torch.ops.googlenet_fast
    widths = [x.size(1) for x in branches]
    statistics = ops.bn_relu_concat_statistics.default(branches)
    parts, ones = statistics.split(widths, dim=1), [torch.ones(width) for width in widths]
    norms = (branches, list(parts), ones, ones, 1e-3)
    grads = list(grad.split(widths, dim=1))
    pooled, index = ops.bias_relu_pool_training.default(y, None, True, True)
    return [
        ops.concat_bias_relu_backward.default(grad, y, widths, True)[1],
        ops.bias_relu_pool_backward.default(pooled, index, *y.shape[2:], True)[1],
        statistics,
        ops.bn_relu_concat_sums.default(grads, *norms),
    ]


@pytest.mark.parametrize("widths", [(16, 8), (5, 3), (144, 8)], ids=str)
@pytest.mark.parametrize("size", [(5, 6), (20, 10), (37, 29)], ids=str)
def test_sums_have_the_same_bits_in_any_order_of_blocks(
    size: tuple[int, int], widths: tuple[int, ...]
) -> None:
    # One part of 32 pixels, one group of parts, and several groups.
    branches = [LAYOUTS["dense"](torch.randn(1, width, *size)) for width in widths]
    y, grad = (LAYOUTS["dense"](torch.randn(1, sum(widths), *size)) for _ in range(2))
    exact = grad.double().where(y > 0, 0).sum((0, 2, 3))
    shuffle = ctypes.CDLL(str(extension.PATH)).cuda_emulator_shuffle_blocks
    try:
        expected = column_sums(branches, y, grad)
        torch.testing.assert_close(expected[0].double(), exact, atol=1e-4, rtol=1e-5)
        for seed in range(1, 5):
            shuffle(seed)
            actual = column_sums(branches, y, grad)
            assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True)), seed
    finally:
        shuffle(0)


@pytest.mark.parametrize("kind", ["mean far from zero", "drift", "outlier first"])
def test_statistics_in_one_pass_are_as_exact_as_in_two(kind: str) -> None:
    x = LAYOUTS["dense"](torch.randn(2, 8, 37, 29))
    if kind == "mean far from zero":
        x = 1000 + x / 100
    elif kind == "drift":
        x += torch.linspace(-1e4, 1e4, 37).view(-1, 1)
    else:
        x[0, :, 0, 0] = 1e4
    pixels = x.permute(1, 0, 2, 3).flatten(1)
    variance = pixels.double().var(1, correction=0)
    two_passes = (pixels - pixels.mean(1, keepdim=True)).square().mean(1)
    actual = torch.ops.googlenet_fast.bn_relu_concat_statistics.default([x])
    mean_error = (actual[0] - pixels.double().mean(1)).abs().max()
    assert mean_error <= 2e-7 * pixels.abs().max()
    allowed = 2 * (two_passes - variance).abs().max() + 1e-6 * variance.max()
    assert (actual[1] - variance).abs().max() <= allowed
