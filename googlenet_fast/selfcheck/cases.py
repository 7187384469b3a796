"""Arguments of an op made from the description of a call, and a call run with its gradients."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from googlenet_fast.registry import Backend, Call, Op

SEED = 0
"""Of the arguments; that of the output's gradient is another."""


def make_arguments(call: Call, device: str, seed: int = SEED) -> list[Any]:
    """Return random arguments as a call describes them, the same every time.

    Tensors of four dimensions are channels_last; weights are scaled so that outputs are of order
    1. Other values stay as they are, but for objects of which the call has the type: None. The
    global random state is not used.
    """
    generator = torch.Generator(device).manual_seed(seed)
    images, _, *size = activations(call)[0]

    def make(value: Any) -> Any:
        if is_tensor(value):
            shape, dtype = value
            x = torch.randn(shape, generator=generator, device=device)
            if len(shape) == 4:
                if [shape[0], *shape[2:]] != [images, *size]:  # a weight
                    x /= max(1, prod(shape[1:])) ** 0.5
                x = x.contiguous(memory_format=torch.channels_last)
            return x.to(dtype)
        if isinstance(value, tuple):
            return [make(item) for item in value]
        return None if isinstance(value, type) else value

    return [make(value) for value in call[1:]]


def is_tensor(value: Any) -> bool:
    """Return True if a value in a call describes a tensor: (shape, dtype)."""
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], torch.dtype)


def activations(call: Call) -> tuple[tuple[int, ...], torch.dtype]:
    """Return the shape and the dtype of the first argument, or of the first tensor of a list."""
    return call[1] if is_tensor(call[1]) else call[1][0]


def resized(call: Call, batch: int, size: tuple[int, int] | None = None) -> Call:
    """Return a call or a layer as a call of other images.

    Args:
        call: its first argument is the activations, a tensor.
        batch: images.
        size: height and width; None: the same.
    """
    training, (shape, dtype), *others = call
    channels, *own_size = shape[-3:]
    return training, ((batch, channels, *(size or own_size)), dtype), *others


def with_dtype(call: Call, dtype: torch.dtype) -> Call:
    """Return a call in another dtype; tensors of one dimension, such as biases, keep theirs."""

    def convert(value: Any) -> Any:
        if is_tensor(value):
            return (value[0], dtype) if len(value[0]) == 4 else value
        return tuple(map(convert, value)) if isinstance(value, tuple) else value

    return convert(call)


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors in nested lists and tuples, in order."""
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in tensors_in(item)]
    return [value] if isinstance(value, Tensor) else []


class OpCall:
    """A call of an op, to be run by one backend after the other.

    Args:
        op: the op.
        arguments: of its backends; lists may hold tensors.
        autocast: dtype of convolutions whose weights are in a wider one; None turns autocast off.
        training: compute gradients too.
    """

    def __init__(
        self,
        op: Op,
        arguments: Sequence[Any],
        autocast: torch.dtype | None = None,
        training: bool = True,
    ) -> None:
        self.op, self.autocast, self.training = op, autocast, training
        self.arguments: list[Any] = [self._leaf(value) for value in arguments]
        self.leaves = tensors_in(self.arguments)
        self._grad: Tensor | None = None

    @classmethod
    def of(cls, op: Op, call: Call, device: str, seed: int = SEED) -> "OpCall":
        """Make the arguments of a call; mixed precision where weights are wider than activations.

        Args:
            op: the op.
            call: as `registry.call_of` returns it.
            device: such as "cuda:0".
            seed: of the arguments.
        """
        dtype = activations(call)[1]
        weights = [value[1] for value in call[2:] if is_tensor(value) and len(value[0]) == 4]
        mixed = any(weight != dtype for weight in weights)
        return cls(op, make_arguments(call, device, seed), dtype if mixed else None, call[0])

    def double(self) -> "OpCall":
        """Return the same call in float64."""
        arguments = [_double(value) for value in self.arguments]
        return OpCall(self.op, arguments, None, self.training)

    def run(self, backend: Backend) -> list[Tensor]:
        """Return the results that are tensors and, in training, the gradients of all tensors.

        The first result has a random gradient, the same every time; others, such as batch
        statistics, have none.
        """
        device = self.leaves[0].device.type
        on = self.autocast is not None
        with (
            torch.autocast(device, self.autocast, enabled=on, cache_enabled=False),
            torch.set_grad_enabled(self.training),
        ):
            y, *others = tensors_in(backend.run(*self.arguments))
        if not self.training:
            return [y, *others]
        gradients = torch.autograd.grad(y, self.leaves, self._grad_of(y))
        return [y.detach(), *others, *gradients]

    def _leaf(self, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [self._leaf(item) for item in value]
        if isinstance(value, Tensor):
            return value.detach().requires_grad_(self.training)
        return value

    def _grad_of(self, y: Tensor) -> Tensor:
        if self._grad is None:
            generator = torch.Generator(y.device).manual_seed(SEED + 1)
            grad = torch.randn(y.shape, generator=generator, device=y.device)
            self._grad = grad.to(y.dtype, memory_format=torch.channels_last)
        return self._grad


def _double(value: Any) -> Any:
    if isinstance(value, list):
        return [_double(item) for item in value]
    return value.double() if isinstance(value, Tensor) else value
