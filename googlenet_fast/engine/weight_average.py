"""Exponential moving average of a network's weights."""

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from googlenet_fast.engine.fused_sgd import FusedSGD
from googlenet_fast.ops.sgd_step import sgd_step

Network = TypeVar("Network", bound=nn.Module)


class WeightAverage(Generic[Network]):
    """A copy of a network whose parameters and buffers follow those of the network.

    The first update copies them. Update t (from 0) moves each by 1 - d of its distance, where
    d = min(decay, (1 + t) / (10 + t)), as in TensorFlow's `ExponentialMovingAverage(decay,
    num_updates)` and timm's `ModelEmaV3(use_warmup=True)`: with a constant decay, a short run's
    average would still be near the weights that it began with. Whole numbers, which batch norm
    counts its batches with, are copied.

    Args:
        model: what to average; its tensors must stay the same objects.
        decay: share of the average that an update keeps at most.
    """

    def __init__(self, model: Network, decay: float) -> None:
        self.module = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay
        self._updates = 0
        self._weight = torch.ones((), device=next(model.parameters()).device)
        """Of the network in the next update, on the device: a captured update reads it."""
        self._none = self._weight.new_empty(0)
        self._of_parameters = dict(zip(model.parameters(), self.module.parameters(), strict=True))
        pairs = list(zip(_tensors(self.module), _tensors(model), strict=True))
        self._moved = [pair for pair in pairs if pair[0].is_floating_point()]
        self._copied = [pair for pair in pairs if not pair[0].is_floating_point()]

    @property
    def updates(self) -> int:
        """Number of updates so far.

        Whoever calls `update` counts: the replay of a CUDA graph runs the kernels of an update, but
        no Python.
        """
        return self._updates

    @updates.setter
    def updates(self, count: int) -> None:
        weight = self._weight_of(count)
        if weight != self._weight_of(self._updates):
            self._weight.fill_(weight)
        self._updates = count

    def _weight_of(self, update: int) -> float:
        return 1.0 if update == 0 else 1 - min(self.decay, (1 + update) / (10 + update))

    def leave_parameters_to(self, optimizer: FusedSGD) -> None:
        """Have the optimizer's step move the averages of the parameters, in its own launch."""
        optimizer.average(self._of_parameters, self._weight)
        del self._moved[: len(self._of_parameters)]  # buffers come after them

    @torch.no_grad()
    def update(self) -> None:
        """Move the average, in place and without waiting for the device."""
        if self._moved:
            averages, weights = map(list, zip(*self._moved, strict=True))
            count = len(averages)
            sgd_step(  # without gradients only the averages move, on a GPU in one launch
                weights,
                [self._none] * count,
                [],
                [],
                averages,
                [self._weight] * count,
                [0.0] * count,
                momentum=0.0,
                average_weight=self._weight,
            )
        if self._copied:
            averages, weights = map(list, zip(*self._copied, strict=True))
            torch._foreach_copy_(averages, weights)


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*(p.detach() for p in model.parameters()), *model.buffers()]
