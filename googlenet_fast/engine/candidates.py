"""Ways to compute one network: by this package's ops or plain PyTorch, compiled or not."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from googlenet_fast.model import GoogLeNet, GoogLeNetOutputs
from googlenet_fast.model.plain import Plain
from googlenet_fast.registry import use_impl

Compile = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Compiles a network: `torch.compile`, in its default mode."""


@dataclass(frozen=True)
class Candidate:
    """A way to compute a network. It has the network's weights and keeps none of its own."""

    name: str
    plain: bool = False
    """PyTorch's own ops instead of this package's."""
    compiled: bool = False
    """Through `torch.compile`."""

    def for_training(
        self, network: GoogLeNet, compile: Compile = torch.compile
    ) -> Callable[[Tensor], Tensor | GoogLeNetOutputs]:
        """Return what computes the network's outputs, with gradients.

        Raises:
            TypeError: plain PyTorch cannot compute it with these weights.
        """
        computed: nn.Module = Plain(network) if self.plain else network
        return compile(computed) if self.compiled else computed

    def for_inference(
        self, network: Callable[[Tensor], Tensor], compile: Compile = torch.compile
    ) -> Callable[[Tensor], Tensor]:
        """Return what computes a frozen network's logits.

        Plain are the ops' references, a convolution for each branch: without batch norm, which is
        folded into the weights, that is all a plain network does.
        """
        call = compile(network) if self.compiled else network
        if not self.plain:
            return call

        def compute(images: Tensor) -> Tensor:
            with use_impl("reference"):
                return call(images)

        return compute


OURS = Candidate("ours")
PLAIN = Candidate("plain", plain=True)
COMPILED = Candidate("compiled ours", compiled=True)
COMPILED_PLAIN = Candidate("compiled plain", plain=True, compiled=True)

CANDIDATES = {candidate.name: candidate for candidate in (OURS, PLAIN, COMPILED_PLAIN, COMPILED)}
"""By name, in the order in which they are tried; of equal ones the first is taken."""


class Switch(nn.Module):
    """A network whose way of computing can be changed between two steps.

    Args:
        network: its weights are this module's, under `network.`.
        candidate: how it computes at first.
    """

    def __init__(self, network: GoogLeNet, candidate: Candidate = OURS) -> None:
        super().__init__()
        self.network = network
        self.use(candidate)

    def use(self, candidate: Candidate, compile: Compile = torch.compile) -> None:
        """Compute as a candidate does from now on.

        Raises:
            TypeError: it cannot compute this network.
        """
        self.candidate = candidate
        # In a tuple, or the network would be a submodule twice.
        self._computed = (candidate.for_training(self.network, compile),)

    def forward(self, images: Tensor) -> Tensor | GoogLeNetOutputs:
        """Return what the network returns for images (N, 3, H, W)."""
        return self._computed[0](images)
