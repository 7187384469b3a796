"""What a step takes besides the ops: the same step, with ops that compute nothing."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from googlenet_fast.registry import OPS, Backend, Op, call_of, invalidate, use_impl
from googlenet_fast.selfcheck.cases import tensors_in


@contextmanager
def without_ops() -> Iterator[None]:
    """Have every op return zeros of the right shapes, and zero gradients, in a `with` block.

    The zeros are made in the first of equal calls, so later ones launch nothing.
    """
    references = {op: op.fallback for op in OPS.values()}
    for op in references:
        op.fallback = Backend("nothing", "any", _nothing(op))
    invalidate()
    try:
        with use_impl("reference"):
            yield
    finally:
        for op, reference in references.items():
            op.fallback = reference
        invalidate()


def _nothing(op: Op) -> Callable[..., Any]:
    reference = op.fallback.run
    known: dict[Any, tuple[Any, list[Tensor]]] = {}

    def run(*arguments: Any) -> Any:
        tensors = tensors_in(arguments)
        call = call_of(arguments)
        if call not in known:
            with torch.no_grad():
                results = reference(*_on_meta(arguments))
                known[call] = (
                    _zeros(results, tensors[0].device),
                    [torch.zeros_like(tensor) for tensor in tensors],
                )
        results, gradients = known[call]
        first, others = (results[0], results[1:]) if isinstance(results, tuple) else (results, None)
        y = _Zeros.apply(first, gradients, *tensors)
        return y if others is None else (y, *others)

    return run


class _Zeros(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, gradients: Sequence[Tensor], *tensors: Tensor) -> Tensor:
        ctx.gradients = gradients
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return None, None, *ctx.gradients


def _on_meta(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_on_meta(item) for item in value)
    return value.to("meta") if isinstance(value, Tensor) else value


def _zeros(value: Any, device: torch.device) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_zeros(item, device) for item in value)
    return torch.zeros_like(value, device=device) if isinstance(value, Tensor) else value
