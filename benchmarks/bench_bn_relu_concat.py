"""Batch norm in training with ReLU and concatenation, against the same in plain PyTorch."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from benchmarks.bench_concat_bias_relu import DEVICE, FUSED, WIDTHS
from benchmarks.harness import interleave, relative_error
from benchmarks.layers import print_reached
from googlenet_fast.ops import bn_relu_concat, use_impl
from googlenet_fast.ops.bn_relu_concat import bn_relu_concat_reference
from googlenet_fast.ops.work import Work

Function = Callable[[list[Tensor], list[nn.BatchNorm2d]], Tensor]

PROVIDERS: dict[str, Function] = {"eager": bn_relu_concat_reference, "fused": bn_relu_concat}


def make_branches(
    widths: tuple[int, ...], size: int, batch: int, dtype: torch.dtype
) -> tuple[list[Tensor], list[nn.BatchNorm2d]]:
    """Branches and their norms."""
    branches = [
        torch.randn(batch, channels, size, size, dtype=dtype, device=DEVICE)
        .to(memory_format=torch.channels_last)
        .requires_grad_()
        for channels in widths
    ]
    return branches, [nn.BatchNorm2d(channels, eps=1e-3).to(DEVICE) for channels in widths]


def step(
    function: Function, branches: list[Tensor], norms: list[nn.BatchNorm2d], grad: Tensor
) -> tuple[Tensor, ...]:
    """Forward and backward."""
    parameters = [p for norm in norms for p in norm.parameters()]
    y = function(branches, norms)
    return (y, *torch.autograd.grad(y, [*branches, *parameters], grad))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("block", WIDTHS)
def bench_block(block: str, dtype: torch.dtype) -> None:
    widths, size = WIDTHS[block]
    branches, norms = make_branches(widths, size, 16, dtype)
    grad = torch.randn(16, sum(widths), size, size, device=DEVICE).to(
        dtype, memory_format=torch.channels_last
    )
    wide = [branch.detach().double().requires_grad_() for branch in branches]
    doubles = [nn.BatchNorm2d(channels, eps=1e-3).double().to(DEVICE) for channels in widths]
    exact = step(bn_relu_concat_reference, wide, doubles, grad.double())
    with use_impl(FUSED):
        errors = {
            name: relative_error(step(function, branches, norms, grad), exact)
            for name, function in PROVIDERS.items()
        }
        work = {name: partial(step, f, branches, norms, grad) for name, f in PROVIDERS.items()}
        measured = interleave(f"bn_relu_concat {block} {dtype}", work, repeats=21, errors=errors)
        # Forward reads for the statistics and again to normalise, and writes; backward reads grad
        # and x for their sums and again for the gradient, which it writes.
        print_reached(measured, Work(0, 8 * grad.nbytes))
