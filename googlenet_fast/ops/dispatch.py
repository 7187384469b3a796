"""Which implementation of a fused op runs.

Each op registers, per type of device, the implementations written for it, best first; `reference`
is the pure-PyTorch one that every op has. `GOOGLENET_FAST_IMPL` (read once, at import) or
`use_impl` asks for one of them by name:

- `auto`: the first that can take the call; on a GPU, the fastest (`selection`). Passing over a
  better one warns once, with the reason. Triton kernels on a GPU must first pass `verification`;
  without a GPU they are passed over.
- any other name: that implementation wherever an op has it, an error where it cannot run. An op
  that has none of that name is left to `auto`.
"""

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from googlenet_fast.errors import UserError
from googlenet_fast.ops.selection import by_speed, note
from googlenet_fast.ops.verification import can_verify, signature, why_not_verified

VARIABLE = "GOOGLENET_FAST_IMPL"
"""Environment variable that names the wanted implementation."""

IMPLEMENTATIONS = ("auto", "reference", "native", "triton", "cuda", "aten")
"""Names that `GOOGLENET_FAST_IMPL` and `use_impl` take."""

CanUse = Callable[..., str | None]
"""Predicate on an op's arguments: None, or why the implementation cannot take the call."""

_registry: dict[str, Mapping[str, Mapping[str, CanUse]]] = {}
_requested = os.environ.get(VARIABLE) or "auto"
_warned: set[tuple[str, str, str]] = set()


def register(op: str, implementations: Mapping[str, Mapping[str, CanUse]]) -> None:
    """Enter an op: for each type of device its implementations, best first, and when they serve.

    Types of device that are not named have the reference alone.
    """
    _registry[op] = implementations


def always(*arguments: object) -> None:
    """Predicate of an implementation that takes every call."""


def implementations(op: str, device_type: str) -> Mapping[str, CanUse]:
    """Return an op's implementations on a type of device, best first, and their predicates."""
    return _registry[op].get(device_type, {"reference": always})


def can_use(op: str, device_type: str, arguments: tuple[Any, ...]) -> dict[str, str | None]:
    """Return the same names, each with None or why it cannot take the call."""
    return {name: why(*arguments) for name, why in implementations(op, device_type).items()}


@contextmanager
def use_impl(name: str) -> Iterator[None]:
    """Ask for an implementation inside a `with` block, in all threads of the process.

    Raises:
        UserError: there is no such implementation of any op.
    """
    global _requested
    _check_name("use_impl", name)
    previous, _requested = _requested, name
    try:
        yield
    finally:
        _requested = previous


def choose(op: str, device_type: str, arguments: tuple[Any, ...]) -> str:
    """Return the name of the implementation that takes this call of an op.

    Raises:
        UserError: the implementation asked for cannot take the call; lists those that can.
    """
    if is_contested(op):
        note(op, arguments)
    if _requested != "auto":
        _check_name(VARIABLE, _requested)
        if any(_requested in names for names in _registry[op].values()):
            return _require(op, device_type, arguments)
    for name, reason in candidates(op, device_type, arguments):
        if reason is None:
            return name
        _warn(op, name, reason)
    return "reference"


def candidates(
    op: str, device_type: str, arguments: tuple[Any, ...]
) -> Iterator[tuple[str, str | None]]:
    """Yield an op's implementations as `auto` goes through them, with why it passes one over.

    The reason is None where the implementation can take the call.
    """
    able = implementations(op, device_type)
    names: Sequence[str] = list(able)
    if device_type == "cuda" and is_contested(op):
        names = by_speed(op, names, arguments)
    for name in names:
        reason = able[name](*arguments)
        if reason is None and (device_type, name) == ("cuda", "triton"):
            device = f"cuda:{arguments[0].device.index}"
            question = op, name, device, signature(arguments)
            if not can_verify(*question):
                continue
            reason = why_not_verified(*question)
        yield name, reason


def is_contested(op: str) -> bool:
    """Whether an op has several implementations on a GPU besides the reference."""
    return len(implementations(op, "cuda")) > 2


def _require(op: str, device_type: str, arguments: tuple[Any, ...]) -> str:
    why = implementations(op, device_type).get(_requested)
    reason = f"it does not run on {device_type}" if why is None else why(*arguments)
    if reason is None:
        return _requested
    reasons = can_use(op, device_type, arguments)
    able = ", ".join(name for name, why_not in reasons.items() if why_not is None)
    raise UserError(f"{op} cannot run as {_requested}: {reason}; available: {able}")


def _check_name(source: str, name: str) -> None:
    written = {name for op in _registry.values() for names in op.values() for name in names}
    usable = [known for known in IMPLEMENTATIONS if known == "auto" or known in written]
    if name not in usable:
        raise UserError(f"{source}: no implementation {name!r}; choose from {', '.join(usable)}")


@torch._dynamo.assume_constant_result
def _warn(op: str, name: str, reason: str) -> None:
    """Warn, once per process and reason; under torch.compile this runs while tracing."""
    if (op, name, reason) not in _warned:
        _warned.add((op, name, reason))
        warnings.warn(f"{op} falls back from {name}: {reason}", RuntimeWarning, stacklevel=2)
