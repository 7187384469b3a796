"""Finds on a CPU what a CUDA graph could not hold, or would replay wrongly."""

import gc
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

READS = {
    "_local_scalar_dense", "item", "is_nonzero", "nonzero", "nonzero_static", "equal", "allclose",
    "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount",
}  # fmt: skip
"""Operations for which the host waits for values on the device."""
UPLOADS = {"lift_fresh", "lift", "pin_memory"}
"""Operations that make a tensor of numbers on the host."""


class Lint(TorchDispatchMode):
    """Notes what a captured call must not do.

    Known are the tensors of `owners`, which a call may use and write to, and what the call computes
    from them. A tensor that is not known lies on the host or is lost to a replay, which reads the
    address of the capture.

    Args:
        owners: objects with tensors, such as a training step and its static inputs.
    """

    def __init__(self, *owners: object) -> None:
        super().__init__()
        self.problems: list[str] = []
        self._owners = owners
        self._made: list[tuple[str, StorageWeakRef]] = []

    def check(self, function: Callable[[], object]) -> list[str]:
        """Call a function, and return what is wrong with it, one line each."""
        before = dict(self._places())
        self._known = {tensor.untyped_storage().data_ptr() for tensor in self._tensors()}
        with self:
            function()
        gc.collect()
        after = dict(self._places())
        for path in sorted(before.keys() | after.keys()):
            if before.get(path) != after.get(path):
                self.problems.append(f"{path} is another tensor than before")
        for operation, storage in self._made:
            if not storage.expired():
                self.problems.append(f"{operation}: its result outlives the call")
        return self.problems

    def _tensors(self) -> Iterator[Tensor]:
        for index, owner in enumerate(self._owners):
            for _, tensor in tensors_of(owner, str(index)):
                yield tensor

    def _places(self) -> Iterator[tuple[str, tuple[int, int]]]:
        for index, owner in enumerate(self._owners):
            for path, tensor in tensors_of(owner, f"{type(owner).__name__}{index}"):
                yield path, (id(tensor), tensor.data_ptr())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = str(func).split(".")[1]
        masks = any(isinstance(x, Tensor) and x.dtype == torch.bool for x in tree_leaves(args[1:]))
        if name in READS or (name in ("index", "index_put_") and masks):
            self.problems.append(f"{func}: the host reads a value")
        if name in UPLOADS:
            self.problems.append(f"{func}: copies from the host")
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        for tensor in inputs:
            if tensor.untyped_storage().data_ptr() not in self._known:
                self.problems.append(f"{func}: reads a tensor that the step does not hold")
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self._known or not inputs:
                    self._made.append((str(func), StorageWeakRef(storage)))
                self._known.add(storage.data_ptr())
        return result


def tensors_of(thing: object, path: str, seen: set[int] | None = None) -> Iterator[Any]:
    """Yield the tensors that an object holds, and their gradients, each with its path."""
    seen = set() if seen is None else seen
    if id(thing) in seen:
        return
    seen.add(id(thing))
    parts: dict[str, object] = {}
    if isinstance(thing, Tensor):
        yield path, thing
        if thing.is_leaf and thing.grad is not None:
            yield f"{path}.grad", thing.grad
    elif isinstance(thing, dict):
        parts = {
            f"[{key if isinstance(key, str) else index}]": value
            for index, (key, value) in enumerate(thing.items())
        }
    elif isinstance(thing, list | tuple):
        parts = {f"[{index}]": value for index, value in enumerate(thing)}
    elif isinstance(thing, nn.Module | torch.optim.Optimizer | torch.amp.GradScaler) or type(
        thing
    ).__module__.startswith("googlenet_fast"):
        parts = {f".{name}": value for name, value in getattr(thing, "__dict__", {}).items()}
    for name, part in parts.items():
        yield from tensors_of(part, path + name, seen)
