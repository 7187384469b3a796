"""What inference computes from weights once and keeps until they change."""

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


class Kept(Generic[T]):
    """A value computed from tensors, or one for each of some variants; again when they changed.

    Tensors' versions tell of changes, but not of those by fused optimizers: `forget` at every
    switch between training and inference.
    """

    def __init__(self) -> None:
        self._sources: list[Tensor] = []
        self._versions: list[int] = []
        self._values: dict[Hashable, T] = {}

    def __call__(self, sources: Sequence[Tensor], compute: Callable[[], T]) -> T:
        """Return the value, computed now unless it was before from these tensors as they are.

        Where changes would not show or gradients are wanted it is not kept.
        """
        if not _may_keep(sources):
            self.forget()
            return compute()
        return self._current(sources, compute, lambda: None)

    def _current(
        self, sources: Sequence[Tensor], compute: Callable[[], T], variant: Callable[[], Hashable]
    ) -> T:
        versions = [source._version for source in sources]
        unchanged = versions == self._versions and all(
            kept.data_ptr() == source.data_ptr()
            for kept, source in zip(self._sources, sources, strict=True)
        )
        if not unchanged:
            self._values = {}
            self._versions = versions
            self._sources = [source.detach() for source in sources]  # keeps their memory theirs
        key = variant()
        if key not in self._values:
            self._values[key] = compute()
        return self._values[key]

    def later(
        self, sources: Sequence[Tensor], compute: Callable[[], T], variant: Callable[[], Hashable]
    ) -> Callable[[], T] | None:
        """Return what gives the value of a variant when called, or None where it is not kept."""
        if _may_keep(sources):
            return partial(self._current, sources, compute, variant)
        self.forget()
        return None

    def forget(self) -> None:
        """Compute anew next time."""
        self._sources, self._versions, self._values = [], [], {}


def _may_keep(sources: Sequence[Tensor]) -> bool:
    """Whether a change of the tensors shows, and nobody asks for gradients or traces the call."""
    if torch.compiler.is_compiling():
        return False
    if torch.is_grad_enabled() and any(source.requires_grad for source in sources):
        return False
    return all(
        type(source) in (Tensor, nn.Parameter) and not source.is_inference() for source in sources
    )
