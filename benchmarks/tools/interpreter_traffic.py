"""Count the bytes that Triton kernels move, while they run in Triton's interpreter."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from torch import Tensor
from triton.runtime import interpreter

from googlenet_fast.kernels.launch import Launch, observe


class LaunchTraffic(NamedTuple):
    """Distinct bytes of global memory that a launch touched."""

    launch: Launch
    loaded: int
    stored: int

    @property
    def kernel(self) -> str:
        """Name of the kernel."""
        return self.launch.kernel.fn.__name__


@contextmanager
def count_traffic() -> Iterator[list[LaunchTraffic]]:
    """Count the traffic of the kernels in a `with` block; each launch is appended to the list.

    A byte counts once as loaded and once as stored, however often a launch touches it. Masked lanes
    touch nothing.

    Raises:
        InterpreterError: a kernel accessed memory outside its tensors.
    """
    counted: list[LaunchTraffic] = []

    def observer(launch: Launch, run: Callable[[], None]) -> None:
        tensors = [value for value in launch.arguments.values() if isinstance(value, Tensor)]
        loaded, stored = _Touched(tensors), _Touched(tensors)
        with _watch(loaded, stored), np.errstate(all="ignore"):
            run()
        counted.append(LaunchTraffic(launch, loaded.count(), stored.count()))

    with observe(observer), without_overflow_checks():
        yield counted


class _Touched:
    """The bytes of several tensors that were touched."""

    def __init__(self, tensors: list[Tensor]) -> None:
        storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}
        self.starts = np.array(sorted(storages), dtype=np.uint64)
        self.sizes = [storages[start] for start in self.starts.tolist()]
        self.marks = [np.zeros(-(-size // 8) * 8, dtype=np.uint8) for size in self.sizes]

    def touch(self, pointers: Any, mask: Any = None) -> None:
        """Mark what the pointers of active lanes point to; all point into one tensor."""
        addresses = pointers.data if mask is None else pointers.data[mask.data.astype(bool)]
        if addresses.size == 0:
            return
        size = pointers.get_element_ty().primitive_bitwidth // 8
        first, last = addresses.min(), addresses.max()
        tensor = int(np.searchsorted(self.starts, first, side="right")) - 1
        assert tensor >= 0, "before the tensors"
        start = self.starts[tensor]
        assert last + size <= start + self.sizes[tensor], "beyond a tensor"
        elements = (addresses - start) // np.uint64(size)
        self.marks[tensor].view(f"u{size}")[elements] = np.iinfo(f"u{size}").max

    def count(self) -> int:
        """Return the number of touched bytes."""
        return sum(int(np.count_nonzero(marks)) for marks in self.marks)


@contextmanager
def _watch(loaded: _Touched, stored: _Touched) -> Iterator[None]:
    """Mark what the interpreter's memory operations touch. Plain ones call the masked ones."""
    builder = interpreter.InterpreterBuilder
    load, store = builder.create_masked_load, builder.create_masked_store
    update, exchange = builder.create_atomic_rmw, builder.create_atomic_cas

    def watched_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        loaded.touch(pointers, mask)
        return load(self, pointers, mask, *rest)

    def watched_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        stored.touch(pointers, mask)
        return store(self, pointers, value, mask, *rest)

    def watched_update(self: Any, op: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        loaded.touch(pointers, mask)
        stored.touch(pointers, mask)
        return update(self, op, pointers, value, mask, *rest)

    def watched_exchange(self: Any, pointers: Any, *rest: Any) -> Any:
        loaded.touch(pointers)
        stored.touch(pointers)
        return exchange(self, pointers, *rest)

    with ExitStack() as stack:
        for name, watched in (
            ("create_masked_load", watched_load),
            ("create_masked_store", watched_store),
            ("create_atomic_rmw", watched_update),
            ("create_atomic_cas", watched_exchange),
        ):
            stack.enter_context(mock.patch.object(builder, name, watched))
        yield


@contextmanager
def without_overflow_checks() -> Iterator[None]:
    """Turn off the interpreter's checks of integer overflow, half of its time."""
    builder = interpreter.interpreter_builder
    if not hasattr(builder.options, "sanitize_overflow"):  # Triton 3.1 has none
        yield
        return
    options = replace(builder.options, sanitize_overflow=False)
    with mock.patch.object(builder, "options", options):
        yield
