"""What stands for CUDA graphs on a CPU."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

T = TypeVar("T")


class CallsAgain:
    """Replays by calling the recorded function on its static tensors."""

    def __init__(self) -> None:
        self.captures = 0
        self.replays = 0

    def run(self, function: Callable[[], T]) -> T:
        return function()

    def close(self) -> None:
        self.closed = True

    def capture(self, function: Callable[[], T]) -> Callable[[], T]:
        self.captures += 1

        def replay() -> T:
            self.replays += 1
            return function()

        return replay


class Tape(CallsAgain):
    """Replays the operations of one call on the same tensors, without its Python, as a graph does.

    To record is to run them, so the first replay does nothing.
    """

    def capture(self, function: Callable[[], T]) -> Callable[[], T]:
        self.captures += 1
        with _Recording() as recording:
            result = function()
        recorded = True

        def replay() -> T:
            nonlocal recorded
            self.replays += 1
            if not recorded:
                recording.replay()
            recorded = False
            return result

        return replay


class _Recording(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        assert "_local_scalar_dense" not in str(func), "a value was read on the host"
        self._calls.append((func, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        below_autograd = torch._C._AutoDispatchBelowAutograd()
        try:
            with torch.no_grad(), torch.autocast("cpu", enabled=False):
                for func, args, kwargs, result in self._calls:
                    again = func(*args, **kwargs)
                    for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                        if isinstance(old, Tensor) and not _share(old, new):
                            old.copy_(new)
        finally:
            del below_autograd


def _share(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
