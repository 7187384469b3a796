"""Time the ops that concatenate the branches of an Inception block, beside plain PyTorch."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness import interleave, relative_error
from benchmarks.layers import DEVICE, GPU, reached
from googlenet_fast.ops import use_impl
from googlenet_fast.registry import Work

BATCH = 16
BLOCKS = {
    "3a": ((64, 128, 32, 32), 28),
    "4c": ((128, 256, 64, 64), 14),
    "5b": ((384, 384, 128, 128), 7),
}
"""Output channels of each branch, and height and width."""

DTYPES = (torch.float32, torch.bfloat16)

Function = Callable[[list[Tensor], list[Any]], Tensor]
"""Takes the branches, and one bias or batch norm per branch."""


def time_block(
    op: str,
    block: str,
    dtype: torch.dtype,
    functions: Mapping[str, Function],
    make: Callable[[int], Any],
    passes: Mapping[str, int],
) -> None:
    """Time an op on the branches of a block with each function.

    Args:
        op: its name.
        block: of `BLOCKS`.
        dtype: of the branches.
        functions: by name; plain PyTorch first.
        make: returns a bias or batch norm for a number of channels.
        passes: compulsory passes over all branches in memory, by mode: "forward", "both".
    """
    channels, side = BLOCKS[block]
    branches = [_activation(count, side, dtype).requires_grad_() for count in channels]
    others = [make(count).to(DEVICE).requires_grad_() for count in channels]
    grad = _activation(sum(channels), side, dtype)
    eager = next(iter(functions.values()))
    wide, wide_others = ([deepcopy(v).double() for v in values] for values in (branches, others))
    exact = _both(eager, wide, wide_others, grad.double())
    with use_impl("cuda" if GPU else "native"):
        errors = {
            name: relative_error(_both(function, branches, others, grad), exact)
            for name, function in functions.items()
        }
        for mode, count in passes.items():
            run = _forward if mode == "forward" else _both
            work = {name: partial(run, f, branches, others, grad) for name, f in functions.items()}
            rate = partial(reached, Work(0, count * grad.nbytes))
            title = f"{op} {block} {dtype} {mode}"
            interleave(title, work, repeats=21, errors=errors, rate=rate)


def _activation(channels: int, side: int, dtype: torch.dtype) -> Tensor:
    x = torch.randn(BATCH, channels, side, side, device=DEVICE)
    return x.to(dtype, memory_format=torch.channels_last)


def _forward(
    function: Function, branches: list[Tensor], others: list[Any], grad: Tensor
) -> Sequence[Tensor]:
    return [function(branches, others)]


def _both(
    function: Function, branches: list[Tensor], others: list[Any], grad: Tensor
) -> Sequence[Tensor]:
    """Return the output and all gradients."""
    y = function(branches, others)
    leaves = list(branches)
    for other in others:
        leaves += other.parameters() if isinstance(other, nn.Module) else [other]
    return (y, *torch.autograd.grad(y, leaves, grad))
