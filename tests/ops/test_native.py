"""The kernels for CPUs, of every instruction set of this machine, against the reference in fp64."""

import math
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from googlenet_fast import extension, ops
from googlenet_fast.extension import tile_points
from googlenet_fast.registry import OPS, Backend, Call, Op
from googlenet_fast.selfcheck.cases import OpCall, make_arguments

pytestmark = pytest.mark.skipif(
    extension.missing_part("cpu") is not None, reason="the extension has no CPU part"
)

FORWARD, GRADIENTS = 1e-5, 1e-4
"""Relative error, in norm, allowed to Winograd's convolutions in fp32, and to AMX's."""

OF_3X3, OF_5X5 = {6: 7, 7: 15, 8: 24, 9: 28}, {6: 2, 7: 3, 8: 12, 9: 14}
POINTS = {(taps, n): side for taps, of in ((3, OF_3X3), (5, OF_5X5)) for n, side in of.items()}
"""A side of images for filters and points of Winograd's tiles."""


def block(c: int, c1: int, r3: int, c3: int, r5: int, c5: int, cp: int, bias: bool) -> list[Any]:
    shapes: list[tuple[int, ...]] = [(c1 + r3 + r5, c, 1, 1), (c3, r3, 3, 3), (c5, r5, 5, 5)]
    arguments: list[Any] = []
    for shape in [*shapes, (cp, c, 1, 1)]:
        vector = ((shape[0],), torch.float32) if bias else None
        arguments += [(shape, torch.float32), vector]
    return arguments


Case = tuple[str, tuple[int, ...], list[Any]]
"""An op, the shape of its activations, and its other arguments."""

CASES: dict[str, Case] = {
    "block of odd sizes": ("inception", (2, 7, 9, 5), [*block(7, 3, 5, 6, 1, 9, 2, True), True]),
    "block 4c": (
        "inception",
        (1, 512, 14, 14),
        [*block(512, 128, 128, 256, 24, 64, 64, True), True],
    ),
    "paddleclas": ("inception", (3, 40, 13, 7), [*block(40, 33, 17, 20, 8, 4, 12, False), False]),
    "few pixels": ("inception", (1, 40, 3, 3), [*block(40, 33, 17, 20, 8, 4, 12, True), True]),
    "one pixel": ("inception", (1, 5, 1, 1), [*block(5, 2, 3, 4, 2, 3, 1, True), True]),
    "no images": ("inception", (0, 5, 6, 6), [*block(5, 2, 3, 4, 2, 3, 1, True), True]),
    "1x1": ("conv_bias_relu", (2, 21, 7, 5), [((50, 21, 1, 1), torch.float32), None, False]),
    "3x3": (
        "conv_bias_relu",
        (2, 21, 7, 5),
        [((50, 21, 3, 3), torch.float32), ((50,), torch.float32), True],
    ),
    "5x5": (
        "conv_bias_relu",
        (1, 3, 2, 11),
        [((35, 3, 5, 5), torch.float32), ((35,), torch.float32), True],
    ),
    **{
        f"{taps}x{taps} of {points} points": (
            "conv_bias_relu",
            (2, 24, side, side),
            [((19, 24, taps, taps), torch.float32), ((19,), torch.float32), True],
        )
        for (taps, points), side in POINTS.items()
    },
    "3x3 of many parts": (
        "conv_bias_relu",
        (4, 7, 40, 70),
        [((17, 7, 3, 3), torch.float32), ((17,), torch.float32), False],
    ),
    "5x5 of many parts": (
        "conv_bias_relu",
        (1, 33, 3, 1500),
        [((16, 33, 5, 5), torch.float32), None, False],
    ),
    "block of many parts": (
        "inception",
        (1, 35, 31, 29),
        [*block(35, 3, 33, 6, 17, 9, 33, True), True],
    ),
    "the longest sums of 9 points": (
        "conv_bias_relu",
        (2, 160, 14, 14),
        [((320, 160, 3, 3), torch.float32), ((320,), torch.float32), False],
    ),
    "stem": (
        "conv_bias_relu",
        (2, 3, 37, 18),
        [((40, 3, 7, 7), torch.float32), ((40,), torch.float32), True, 2],
    ),
    "wide stem": (
        "conv_bias_relu",
        (1, 2, 3, 515),
        [((5, 2, 7, 7), torch.float32), None, False, 2],
    ),
    "stem of one pixel": (
        "conv_bias_relu",
        (1, 3, 1, 1),
        [((4, 3, 7, 7), torch.float32), ((4,), torch.float32), True, 2],
    ),
    "stem of no images": (
        "conv_bias_relu",
        (0, 3, 9, 9),
        [((4, 3, 7, 7), torch.float32), ((4,), torch.float32), True, 2],
    ),
    "pool": ("bias_relu_pool", (2, 37, 9, 12), [((37,), torch.float32), True, True]),
    "max pool": ("max_pool", (2, 37, 9, 12), []),
    "normalisation": ("local_response_norm", (2, 37, 3, 5), [5, 0.1, 0.75, 1.0]),
    "of any exponent": ("local_response_norm", (2, 3, 3, 5), [5, 0.1, 0.5, 2.0]),
}


def call_of(case: Case, dtype: torch.dtype = torch.float32) -> tuple[Op, Call]:
    """Complete a case: convolutions have a stride, and no packed weights."""
    name, shape, others = case
    if name == "conv_bias_relu":
        others = [*others, *([1] if len(others) == 3 else []), ()]
    elif name == "inception":
        others = [*others, ()]
    return OPS[name], (True, (shape, dtype), *others)


def native(op: Op) -> Backend:
    (backend,) = (backend for backend in op.on("cpu") if backend.name == "native")
    return backend


@pytest.mark.parametrize("case", CASES)
def test_native_kernels(case: str) -> None:
    """They are right, to the same bits each time and with any number of threads."""
    op, call = call_of(CASES[case])
    op_call = OpCall.of(op, call, "cpu")
    expected = op_call.double().run(op.fallback)
    before = torch.get_num_threads()
    try:
        found, *others_found = (on_threads(n, op_call) for n in (1, 2, 2, 5))
    finally:
        torch.set_num_threads(before)
    for index, (actual, wanted) in enumerate(zip(found, expected, strict=True)):
        error = (actual.double() - wanted).norm().item()
        allowed = (FORWARD if index == 0 else GRADIENTS) * wanted.norm().item()
        assert error <= allowed, index
        assert all(torch.equal(actual, other[index]) for other in others_found), index


def on_threads(threads: int, op_call: OpCall) -> list[torch.Tensor]:
    torch.set_num_threads(threads)
    return op_call.run(native(op_call.op))


@pytest.mark.skipif(
    extension.instruction_set() == "amx", reason="AMX has no use for Winograd's convolutions"
)
def test_tiles_by_filter_and_size() -> None:
    """Those of the network among them: 56, 28, 14 and 7 pixels a side."""
    sizes = [*POINTS.items(), ((3, 9), 56), ((3, 9), 14), ((5, 9), 28), ((5, 8), 7)]
    for (taps, points), side in sizes:
        assert tile_points(side, side, taps, 160) == points
    assert tile_points(28, 28, 3, 161) == 8
    assert tile_points(28, 28, 1, 64) == tile_points(224, 224, 7, 3) == 0


@pytest.mark.parametrize("case", CASES)
def test_inference_gives_the_values_of_training(case: str) -> None:
    op, call = call_of(CASES[case])
    arguments = make_arguments(call, "cpu")
    if arguments[0].numel() > 1:
        arguments[0].permute(0, 2, 3, 1).view(-1)[1::97] = torch.nan
    trained, *_ = OpCall(op, arguments).run(native(op))
    (inferred,) = OpCall(op, arguments, training=False).run(native(op))
    assert torch.equal(inferred.nan_to_num(12345), trained.nan_to_num(12345))


@pytest.mark.parametrize("case", CASES)
def test_bfloat16_is_computed_in_fp32(case: str) -> None:
    """At most twice the error of PyTorch's own bf16, under autocast as in training."""
    op, call = call_of(CASES[case], torch.bfloat16)
    op_call = OpCall.of(op, call, "cpu")
    expected = op_call.double().run(op.fallback)
    results = [op_call.run(backend) for backend in (native(op), op.fallback)]
    for actual, eager, wanted in zip(*results, expected, strict=True):
        assert actual.dtype == eager.dtype
        error, allowed = ((x.double() - wanted).norm().item() for x in (actual, eager))
        assert math.isfinite(error)
        # PyTorch's own can be NaN for a 7x7 filter on one pixel.
        assert not error > 2 * allowed + 1e-3 * wanted.norm().item()


LARGE: dict[str, Case] = {
    "block": ("inception", (24, 24, 28, 28), [*block(24, 32, 48, 64, 16, 16, 48, True), True]),
    "1x1": ("conv_bias_relu", (24, 16, 63, 65), [((32, 16, 1, 1), torch.float32), None, True]),
    "3x3": ("conv_bias_relu", (24, 16, 63, 65), [((32, 16, 3, 3), torch.float32), None, True]),
    "stem": ("conv_bias_relu", (12, 3, 125, 128), [((64, 3, 7, 7), torch.float32), None, True, 2]),
    "pool": ("bias_relu_pool", (12, 48, 63, 65), [((48,), torch.float32), True, True]),
}
"""Twelve megabytes of output or of its input's gradient."""


@pytest.mark.parametrize("case", LARGE)
def test_large_results_are_those_of_small_ones(case: str) -> None:
    """Only large ones are written past the caches."""
    op, call = call_of(LARGE[case])
    x, *rest = make_arguments(call, "cpu")

    def run(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        leaf = x.clone().requires_grad_()
        y = native(op).run(leaf, *rest)
        return y.detach(), torch.autograd.grad(y, leaf, y.detach().cos())[0]

    whole = run(x)
    for found, *halves in zip(whole, *(run(half) for half in x.chunk(2)), strict=True):
        assert torch.equal(found, torch.cat(halves))


def test_1x1_is_as_exact_as_products_of_floats() -> None:
    """Forward and backward; though AMX multiplies parts of them."""
    weight = ((96, 480, 1, 1), torch.float32)
    op, call = call_of(("conv_bias_relu", (2, 480, 14, 14), [weight, None, False]))
    op_call = OpCall.of(op, call, "cpu")
    runs = [op_call.run(native(op)), op_call.run(op.fallback), op_call.double().run(op.fallback)]
    for actual, eager, wanted in zip(*runs, strict=True):
        error, allowed = ((x.double() - wanted).norm().item() for x in (actual, eager))
        assert error <= 2 * allowed + 1e-7 * wanted.norm().item()


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7F800001, 0x7FFFFFFF, -1])
@pytest.mark.parametrize("taps", [1, 3, 5])
def test_nan_of_any_bits_reaches_its_windows(taps: int, bits: int) -> None:
    if taps > 1 and extension.instruction_set() != "amx":
        pytest.skip("a tile of Winograd's convolutions shares its pixels")
    x, weight = torch.randn(1, 40, 9, 9), torch.randn(20, 40, taps, taps)
    x[0, 33, 4, 4] = torch.tensor([bits], dtype=torch.int32).view(torch.float32)[0]
    with ops.use_impl("native"):
        y = ops.conv_bias_relu(x, weight, None, True)
    expected = torch.zeros(9, 9, dtype=torch.bool)
    near = slice(4 - taps // 2, 5 + taps // 2)
    expected[near, near] = True
    assert torch.equal(y.isnan(), expected.expand_as(y))


def test_images_without_width() -> None:
    """PyTorch's convolutions refuse them."""
    arguments = [*block(5, 2, 3, 4, 2, 3, 1, True), True]
    x, *rest = make_arguments((True, ((2, 5, 4, 0), torch.float32), *arguments), "cpu")
    leaves = [v.requires_grad_() for v in (x, *rest) if isinstance(v, torch.Tensor)]
    with ops.use_impl("native"):
        y = ops.inception(x, *rest)
    assert y.shape == (2, 10, 4, 0)
    assert all(not g.any() for g in torch.autograd.grad(y.sum(), leaves))


@pytest.mark.skipif("GOOGLENET_FAST_ISA" not in os.environ, reason="none was asked for")
def test_the_instruction_set_asked_for() -> None:
    assert extension.instruction_set() == os.environ["GOOGLENET_FAST_ISA"]


@pytest.mark.slow
@pytest.mark.skipif("GOOGLENET_FAST_ISA" in os.environ, reason="this is the child")
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_other_instruction_sets(isa: str) -> None:
    if isa == "avx512" and torch.backends.cpu.get_cpu_capability() != "AVX512":
        pytest.skip("this machine has no AVX-512")
    child = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-k", "native_kernels or tiles or asked", __file__],
        env={**os.environ, "GOOGLENET_FAST_ISA": isa},
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stdout
