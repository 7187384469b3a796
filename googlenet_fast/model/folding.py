"""Batch normalisation in inference, folded into the convolution before it.

It is then a constant scale and shift of each channel: conv(x, w) * s + (b - mean * s) with
s = gamma / sqrt(var + eps), which is a convolution with weight w * s and bias b - mean * s.
"""

import torch
from torch import Tensor, nn


class Folding:
    """The folded weight and bias of one layer, computed again when what they come from changed.

    Tensors' versions tell of changes, but not of those by fused optimizers: `forget` at every
    switch between training and inference.
    """

    def __init__(self) -> None:
        self._sources: list[Tensor] = []
        self._versions: list[int] = []
        self._folded: tuple[Tensor, Tensor] | None = None

    def __call__(self, conv: nn.Conv2d, bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
        """Return weight and bias, in the weight's dtype; gradients flow through them."""
        sources = [conv.weight, *_parameters(bn)]
        if bn.num_batches_tracked is not None:
            sources.append(bn.num_batches_tracked)  # tells of changes of the running statistics
        if not _may_keep(sources):
            self.forget()
            return fold(conv.weight, bn)
        versions = [source._version for source in sources]
        unchanged = versions == self._versions and all(
            kept.data_ptr() == source.data_ptr()
            for kept, source in zip(self._sources, sources, strict=True)
        )
        if self._folded is None or not unchanged:
            self._folded = fold(conv.weight, bn)
            self._versions = versions
            self._sources = [source.detach() for source in sources]  # keeps their memory theirs
        return self._folded

    def forget(self) -> None:
        """Compute anew next time."""
        self._sources, self._versions, self._folded = [], [], None


def fold(weight: Tensor, bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the convolution that does `bn`, in inference, too."""
    gamma, beta, mean, variance = _parameters(bn)
    dtype = torch.promote_types(weight.dtype, torch.float32)
    scale = gamma.to(dtype) * (variance.to(dtype) + bn.eps).rsqrt()
    folded = (weight.to(dtype) * scale.view(-1, 1, 1, 1)).to(weight.dtype)
    return folded, (beta.to(dtype) - mean.to(dtype) * scale).to(weight.dtype)


def _parameters(bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    assert bn.running_mean is not None
    assert bn.running_var is not None
    return bn.weight, bn.bias, bn.running_mean, bn.running_var


def _may_keep(sources: list[Tensor]) -> bool:
    """Whether a change of the tensors shows, and nobody asks for gradients or traces the call."""
    if torch.compiler.is_compiling():
        return False
    if torch.is_grad_enabled() and any(source.requires_grad for source in sources):
        return False
    return all(
        type(source) in (Tensor, nn.Parameter) and not source.is_inference() for source in sources
    )
