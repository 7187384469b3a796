"""An op on random tensors, to be run by one implementation after the other: a check, a timing."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

Signature = tuple[Any, ...]
"""An op's arguments as constants: shape and dtype of its activations, then (shape, dtype) of each
other tensor and anything else as it is."""


Call = tuple[Any, ...]
"""The shape of a call, of any batch: whether gradients are on, dtype and (C, H, W) of the
activations, then the shape of each other tensor and anything else as it is."""


def signature_of(call: Call, batch: int) -> Signature:
    """Describe the arguments of a call of so many images, with parameters in fp32."""
    _, dtype, shape, *others = call
    described = [(o, torch.float32) if isinstance(o, tuple) else o for o in others]
    return (batch, *shape), dtype, *described


def random_arguments(call: Signature, device: str) -> list[Any]:
    """Tensors as described, channels_last, of a scale that keeps outputs of order 1.

    They are the same each time, and the caller's seed stays.
    """
    generator = torch.Generator(device).manual_seed(0)
    shape, dtype, *rest = call
    values: list[Any] = []
    for value in ((shape, dtype), *rest):
        if not isinstance(value, tuple):
            values.append(value)
            continue
        size, of = value
        tensor = torch.randn(size, generator=generator, device=device)
        if len(size) == 4:
            if values:  # a weight
                tensor /= tensor[0].numel() ** 0.5
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        values.append(tensor.to(of))
    return values


class Trial:
    """A call of an op with its gradient.

    Args:
        op: its name, and that of its public function.
        arguments: of that function.
        autocast: dtype of products, where weights are kept in another; None turns it off.
        training: compute gradients too.
    """

    def __init__(
        self,
        op: str,
        arguments: Sequence[Any],
        autocast: torch.dtype | None,
        training: bool = True,
    ) -> None:
        self.op = op
        self.autocast = autocast
        self.training = training
        self.arguments = tuple(
            value.detach().requires_grad_(training) if isinstance(value, Tensor) else value
            for value in arguments
        )
        self._leaves = [value for value in self.arguments if isinstance(value, Tensor)]
        self._grad: Tensor | None = None

    @classmethod
    def of_call(cls, op: str, call: Call, batch: int, device: str) -> "Trial":
        """A trial of what `selection.call_of` describes, with parameters in fp32 as in training."""
        training, dtype, *_ = call
        arguments = random_arguments(signature_of(call, batch), device)
        return cls(op, arguments, dtype if dtype != torch.float32 else None, training)

    def run(
        self, implementation: str, function: Callable[..., Tensor] | None = None
    ) -> list[Tensor]:
        """Return the output and, in training, the gradients of all tensors.

        The gradient of the output is random, and the same each time. `function`: the op's public
        one, or what was made of it.
        """
        ops = import_module("googlenet_fast.ops")  # which imports this module
        function = function or getattr(ops, self.op)
        context = torch.autocast(
            self._leaves[0].device.type,
            self.autocast,
            enabled=self.autocast is not None,
            cache_enabled=False,
        )
        with ops.use_impl(implementation), context, torch.set_grad_enabled(self.training):
            y = function(*self.arguments)
        if not self.training:
            return [y]
        if self._grad is None:
            grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
            self._grad = grad.to(y.device, y.dtype)
        return [y.detach(), *torch.autograd.grad(y, self._leaves, self._grad)]
