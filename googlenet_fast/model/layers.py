"""Layers shared by the stem, the Inception blocks and the heads."""

from collections.abc import Sequence
from enum import Enum
from types import NoneType
from typing import Any

import torch
import torch.distributed as dist
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn.modules import module as nn_module
from torch.nn.modules.batchnorm import _BatchNorm

from googlenet_fast import extension
from googlenet_fast.model import folding
from googlenet_fast.model.presets import Preset
from googlenet_fast.ops import (
    bias_relu_pool,
    bn_relu_concat,
    bn_relu_pool,
    conv_bias_relu,
    pack_weight,
)
from googlenet_fast.ops.packed_weights import PackedWeights, can_pack

Weights = tuple[Tensor, Tensor | None, Sequence[Tensor]]
"""Weight and bias of a convolution, batch norm in inference included, and the packed weight."""

Packed = tuple[Sequence[Tensor], list[Tensor]]
"""Weights and biases in turn with batch norm folded in, nothing without one; packed weights."""


torch.fx.wrap("bias_relu_pool")  # a node of its own in a symbolic trace

NORMS = (NoneType, nn.BatchNorm2d, nn.SyncBatchNorm)
"""Types of a layer's norm that the fused ops know."""


class Path(Enum):
    """How a layer or a block computes its output."""

    WEIGHTS = 1
    """By a fused op that reads the weights; batch norm in inference is folded into them."""
    BATCH_STATS = 2
    """By a fused op that normalises with the statistics of the batch."""
    COMPOSED = 3
    """By calling each child."""


class Conv(nn.Module):
    """ "Same" convolution with the batch normalisation and ReLU its preset gives it.

    Input (N, in_channels, H, W), output (N, out_channels, H / stride, W / stride) rounded up.
    """

    def __init__(
        self, preset: Preset, in_channels: int, out_channels: int, kernel: int, stride: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride, kernel // 2, bias=preset.conv_bias
        )
        weight = self.conv.weight.detach().contiguous(memory_format=torch.channels_last)
        self.conv.weight = nn.Parameter(weight)
        self.bn = nn.BatchNorm2d(out_channels, eps=1e-3) if preset.batch_norm else None
        self.relu = preset.conv_relu
        self.geometry = geometry(self.conv)
        self._packed: PackedWeights[Packed] = PackedWeights()

    def forward(self, x: Tensor) -> Tensor:
        """Return the output after ReLU, where the preset has one."""
        path = path_of((self,), x)
        if path is Path.COMPOSED:
            x = self.conv(x)
            x = x if self.bn is None else self.bn(x)
            return F.relu(x) if self.relu else x
        if path is Path.BATCH_STATS and self.bn is not None:
            y = conv_bias_relu(x, self.conv.weight, None, False, self.conv.stride[0])
            return bn_relu_concat([y], [self.bn], group_of(self.bn))
        weight, bias, packed = self._inference_weights(x)
        return conv_bias_relu(x, weight, bias, self.relu, self.conv.stride[0], packed)

    def pooled(self, x: Tensor, ceil_mode: bool) -> Tensor:
        """Return the 3x3/2 maxima of `forward(x)`; the pool's op applies bias and ReLU."""
        path = path_of((self,), x)
        if path is Path.BATCH_STATS and self.bn is not None and self.relu:
            y = conv_bias_relu(x, self.conv.weight, None, False, self.conv.stride[0])
            return bn_relu_pool(y, self.bn, ceil_mode, group_of(self.bn))
        if path is not Path.WEIGHTS:
            return bias_relu_pool(self(x), relu=False, ceil_mode=ceil_mode)
        weight, bias, packed = self._inference_weights(x)
        y = conv_bias_relu(x, weight, None, False, self.conv.stride[0], packed)
        return bias_relu_pool(y, bias, relu=self.relu, ceil_mode=ceil_mode)

    def folded(self) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias of the convolution, batch norm in inference folded in."""
        if self.bn is None:
            return self.conv.weight, self.conv.bias
        return folding.fold((self.conv.weight, *folding.sources(self.bn)), self.bn.eps)

    def _inference_weights(self, x: Tensor) -> Weights:
        height, width = x.shape[2:]
        sources, eps = [self.conv.weight], None
        if self.bn is not None:
            sources, eps = [self.conv.weight, *folding.sources(self.bn)], self.bn.eps
        if not can_pack(sources):
            return *self.folded(), ()
        tile = extension.tile_points(height, width, self.conv.weight.size(2), x.size(1))

        def pack(copies: Sequence[Tensor]) -> Packed:
            if eps is None:
                return (), [pack_weight(copies[0], height, width)]
            folded = folding.fold(copies, eps)
            return folded, [pack_weight(folded[0], height, width)]

        folded, packed = self._packed.get(sources, (tile, eps), pack)
        weight, bias = folded or (self.conv.weight, self.conv.bias)
        return weight, bias, packed


def geometry(conv: nn.Conv2d) -> tuple[Any, ...]:
    """Return what of a convolution the fused ops take as given by its preset."""
    return conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode


def has_hooks(module: nn.Module) -> bool:
    """Return True if calling the module runs more than the forward of its class."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
    )


def path_of(convs: Sequence[nn.Module], x: Any) -> Path:
    """Return how a fused op may compute convolutions of `x`, if at all.

    Where a child has hooks, a parametrization, another type or another geometry, or the layers
    treat batch norm differently, each child must be called. So it is where torch.fx traces symbols
    in place of tensors: the graph has PyTorch's own layers.
    """
    if (
        not isinstance(x, Tensor)
        or nn_module._global_forward_hooks
        or nn_module._global_forward_pre_hooks
        or nn_module._global_backward_hooks
        or nn_module._global_backward_pre_hooks
    ):
        return Path.COMPOSED
    uses_batch_stats = False
    kinds: set[Any] = set()
    for conv in convs:
        if type(conv) is not Conv:
            return Path.COMPOSED
        inner, bn = conv.conv, conv.bn
        if type(inner) is not nn.Conv2d or type(bn) not in NORMS:
            return Path.COMPOSED
        # The loop spells out has_hooks() and geometry(): it runs in every forward.
        for layer in (conv, inner) if bn is None else (conv, inner, bn):
            if (
                layer._forward_hooks
                or layer._forward_pre_hooks
                or layer._backward_hooks
                or layer._backward_pre_hooks
                or "forward" in layer.__dict__
            ):
                return Path.COMPOSED
        given = inner.stride, inner.padding, inner.dilation, inner.groups, inner.padding_mode
        if given != conv.geometry:
            return Path.COMPOSED
        if bn is None:
            kinds.add(None)
        elif (
            bn.weight is None
            or bn.running_mean is None
            or bn.num_batches_tracked is None
            or inner.bias is not None
        ):
            return Path.COMPOSED
        elif bn.training:
            uses_batch_stats = True
            group = getattr(bn, "process_group", None)
            kinds.add((type(bn), group, bn.eps, bn.momentum, bn.track_running_stats))
        else:
            kinds.add(type(bn))
    if len(kinds) > 1:
        return Path.COMPOSED
    return Path.BATCH_STATS if uses_batch_stats else Path.WEIGHTS


def group_of(norm: _BatchNorm) -> ProcessGroup | None:
    """Return the processes that a `torch.nn.SyncBatchNorm` takes its statistics over, if several.

    None: this process alone, as for any other norm.
    """
    if not isinstance(norm, nn.SyncBatchNorm) or not dist.is_initialized():
        return None
    group = norm.process_group or dist.group.WORLD
    return group if dist.get_world_size(group) > 1 else None


class Dropout(nn.Module):
    """Dropout that scales kept values up in training, or all values down in inference.

    With `downscale_in_infer` training only masks, and inference multiplies by 1 - p (PaddlePaddle's
    mode of that name).
    """

    def __init__(self, p: float, downscale_in_infer: bool) -> None:
        super().__init__()
        self.p = p
        self.downscale_in_infer = downscale_in_infer

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` with dropout applied, of the same shape."""
        x = F.dropout(x, self.p, self.training)
        return x * (1 - self.p) if self.downscale_in_infer else x
