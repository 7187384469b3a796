"""Half-precision copies of weights that the forward of mixed-precision training reads."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


class HalfWeights(nn.Module):
    """A network whose forward reads half-precision leaf copies of what autocast would cast.

    These are the weights of convolutions, and weights and biases of linear layers. The parameters
    stay fp32; the copies are leaves, which backward gives half-precision gradients. Autocast casts
    the parameters in each forward instead, and their gradients, which are computed in half
    precision too, back to fp32. So the numbers are the same without those casts.

    Gradients of several batches would be summed in half precision, where autocast sums them in
    fp32. One backward per step.

    Args:
        module: the network; all its writes in place are seen, but for those through `.data` and
            those of captured steps: `refresh` after them.
        dtype: of the copies, that of autocast.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module = module
        self._names, self._masters = zip(*_cast_by_autocast(module), strict=True)
        with torch.no_grad():
            copies = [p.detach().to(dtype) for p in self._masters]
        self._copies = [copy.requires_grad_() for copy in copies]
        self.copies = dict(zip(self._masters, self._copies, strict=True))
        """Parameter -> its copy, a leaf with the gradient."""
        self._seen: list[int] = []
        self.mark_fresh()

    @property
    def leaves(self) -> list[Tensor]:
        """The tensors that backward gives gradients, in the order of the parameters."""
        return [self.copies.get(p, p) for p in self.module.parameters()]

    def forward(self, *inputs: Any) -> Any:
        """Return the network's outputs."""
        if self._seen != self._versions():
            self.refresh()
        copies = dict(zip(self._names, self._copies, strict=True))
        return functional_call(self.module, copies, inputs)

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the parameters as they are now."""
        torch._foreach_copy_(self._copies, self._masters)
        self.mark_fresh()

    def mark_fresh(self) -> None:
        """Note that the copies equal the parameters, as after a step that writes both."""
        self._seen = self._versions()

    def _versions(self) -> list[int]:
        return [p._version for p in self._masters]


def _cast_by_autocast(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield names and parameters that autocast casts in a forward, each parameter once."""
    types = {nn.Conv2d: ("weight",), nn.Linear: ("weight", "bias")}
    seen = set()
    for prefix, layer in module.named_modules():
        for name in types.get(type(layer), ()):
            parameter = layer._parameters.get(name)
            if parameter is not None and parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                yield f"{prefix}.{name}" if prefix else name, parameter
