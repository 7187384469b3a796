"""Concatenation with bias and ReLU against the same in plain PyTorch."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from benchmarks.harness import interleave, relative_error
from benchmarks.layers import print_reached
from googlenet_fast.ops import concat_bias_relu, use_impl
from googlenet_fast.ops.concat_bias_relu import concat_bias_relu_reference
from googlenet_fast.ops.work import Work

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FUSED = "cuda" if torch.cuda.is_available() else "native"
WIDTHS = {
    "3a": ((64, 128, 32, 32), 28),
    "4c": ((128, 256, 64, 64), 14),
    "5b": ((384, 384, 128, 128), 7),
}


def make_tensors(
    widths: tuple[int, ...], size: int, batch: int, dtype: torch.dtype
) -> tuple[list[Tensor], list[Tensor]]:
    """Branches and biases that require gradients."""
    branches = [
        torch.randn(batch, channels, size, size, dtype=dtype, device=DEVICE)
        .to(memory_format=torch.channels_last)
        .requires_grad_()
        for channels in widths
    ]
    biases = [torch.randn(c, device=DEVICE, requires_grad=True) for c in widths]
    return branches, biases


def eager(branches: list[Tensor], biases: list[Tensor]) -> Tensor:
    return concat_bias_relu_reference(branches, biases, relu=True)


PROVIDERS: dict[str, Callable[[list[Tensor], list[Tensor]], Tensor]] = {
    "eager": eager,
    "fused": concat_bias_relu,
}


def step(
    function: Callable[[list[Tensor], list[Tensor]], Tensor],
    tensors: tuple[list[Tensor], list[Tensor]],
    grad: Tensor,
) -> tuple[Tensor, ...]:
    """Forward and backward."""
    y = function(*tensors)
    return (y, *torch.autograd.grad(y, [*tensors[0], *tensors[1]], grad))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("block", WIDTHS)
def bench_block(block: str, dtype: torch.dtype) -> None:
    widths, size = WIDTHS[block]
    tensors = make_tensors(widths, size, 16, dtype)
    grad = torch.randn(16, sum(widths), size, size, device=DEVICE).to(
        dtype, memory_format=torch.channels_last
    )
    wide = ([branch.detach().double().requires_grad_() for branch in tensors[0]], tensors[1])
    exact = step(eager, wide, grad.double())
    with use_impl(FUSED):
        errors = {
            name: relative_error(step(function, tensors, grad), exact)
            for name, function in PROVIDERS.items()
        }
        # Forward reads and writes once; backward reads grad and y, ReLU's mask, and writes.
        for mode, passes, work in (
            ("forward", 2, {name: partial(f, *tensors) for name, f in PROVIDERS.items()}),
            ("both", 5, {name: partial(step, f, tensors, grad) for name, f in PROVIDERS.items()}),
        ):
            title = f"concat_bias_relu {block} {dtype} {mode}"
            measured = interleave(title, work, repeats=21, errors=errors)
            print_reached(measured, Work(0, passes * grad.nbytes))
