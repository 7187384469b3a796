"""The operator library `torch.ops.googlenet_fast`; each op defines itself in it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

LIBRARY = torch.library.Library("googlenet_fast", "FRAGMENT")
"""Schemas, fakes and Triton kernels are entered here, compiled ones by the extension."""

TAGS = (torch.Tag.needs_fixed_stride_order, torch.Tag.pt2_compliant_tag)
"""Of every op: under torch.compile its arguments keep their strides."""


def define(
    name: str,
    schema: str,
    fake: Callable[..., Any],
    triton: Callable[..., Any],
    autograd: Callable[..., Any] | None = None,
) -> None:
    """Define an op of two backends: `name` for compiled kernels, overload `name.triton` for Triton.

    Args:
        name: of the op.
        schema: its arguments and results, "(Tensor x) -> Tensor".
        fake: describes the results.
        triton: launches the Triton kernels.
        autograd: called with the overload's name, "default" or "triton", and the arguments.
    """
    for overload in ("default", "triton"):
        qualified = name if overload == "default" else f"{name}.{overload}"
        LIBRARY.define(qualified + schema, tags=TAGS)
        torch.library.register_fake(f"googlenet_fast::{qualified}", fake, lib=LIBRARY)
        if autograd is not None:
            LIBRARY.impl(qualified, partial(autograd, overload), "Autograd")
    for key in ("CPU", "CUDA"):
        LIBRARY.impl(f"{name}.triton", triton, key)


def overload_of(name: str, overload: str) -> torch._ops.OpOverload:
    """Return an op's overload, "default" or "triton"."""
    return getattr(getattr(torch.ops.googlenet_fast, name), overload)
