"""Count the bytes saved for the backward pass, in eager PyTorch and in the fused ops."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from benchmarks.network import Block, Stage, fused_call, has_fused_op, stages


class Saved(NamedTuple):
    """Bytes saved for the backward pass, per image."""

    name: str
    eager: int
    ours: int


def saved_rows() -> list[Saved]:
    """Return each block alone, then all nine in a row with the pools between them."""
    first = next(i for i, stage in enumerate(stages()) if isinstance(stage, Block))
    body = [stage for stage in stages()[first:] if has_fused_op(stage)]
    rows = [
        Saved(stage.name, saved_bytes([stage], fused=False), saved_bytes([stage], fused=True))
        for stage in body
        if isinstance(stage, Block)
    ]
    return [*rows, Saved("3a to 5b", saved_bytes(body, fused=False), saved_bytes(body, fused=True))]


def saved_bytes(chain: Sequence[Stage], *, fused: bool) -> int:
    """Return the bytes that a chain of stages saves in fp16, without parameters.

    Tensors are fake GPU tensors: shapes and strides without data.
    """
    saved: dict[int, torch.UntypedStorage] = {}

    def keep(x: Tensor) -> Tensor:
        saved[x.untyped_storage()._cdata] = x.untyped_storage()
        return x

    make = partial(torch.empty, device="cuda")
    with FakeTensorMode(), saved_tensors_hooks(keep, lambda x: x):
        calls = [
            fused_call(stage, 1, stage.side_in, torch.float16, training=True, make=make)
            for stage in chain
        ]
        y = calls[0].arguments[0]
        for call in calls:
            call.arguments[0] = y
            y = call.fused() if fused else call.reference()
    for call in calls:
        for parameter in call.arguments[1:]:
            if isinstance(parameter, Tensor):
                saved.pop(parameter.untyped_storage()._cdata, None)
    return sum(storage.nbytes() for storage in saved.values())
