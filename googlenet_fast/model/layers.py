"""Layers shared by the stem, the Inception blocks and the heads."""

from functools import partial

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn.modules.batchnorm import _BatchNorm

from googlenet_fast.model import folding
from googlenet_fast.model.kept import Kept
from googlenet_fast.model.presets import Preset
from googlenet_fast.ops import bias_relu_pool, bn_relu_concat, conv_bias_relu, prepare_weight
from googlenet_fast.ops.prepared import tile_points


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
        self._folded: Kept[tuple[Tensor, Tensor]] = Kept()
        self._prepared: Kept[Tensor] = Kept()

    @property
    def norm(self) -> _BatchNorm:
        """The layer's batch normalisation, in presets that have one."""
        assert self.bn is not None
        return self.bn

    @property
    def normalizes(self) -> bool:
        """Whether batch statistics are taken; batch norm in inference is part of the weights."""
        return self.bn is not None and self.bn.training

    def parameters_folded(self) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias of the convolution, batch norm in inference included."""
        if self.bn is None:
            return self.conv.weight, self.conv.bias
        sources = [self.conv.weight, *folding.sources_of(self.bn)]
        return self._folded(sources, partial(folding.fold, self.conv.weight, self.bn))

    def train(self, mode: bool = True) -> "Conv":
        """Switch between training and inference."""
        self._folded.forget()
        self._prepared.forget()
        return super().train(mode)

    def raw(self, x: Tensor) -> Tensor:
        """Return the convolution's output, before batch norm and ReLU."""
        return self._convolve(x, self.conv.weight, None, relu=False)

    def unclipped(self, x: Tensor) -> Tensor:
        """Return the output before ReLU, normalised as the mode of the layer's norm says."""
        return self.norm(self.raw(x))

    def forward(self, x: Tensor) -> Tensor:
        """Return the output after ReLU, where the preset has one."""
        if self.normalizes:
            return bn_relu_concat([self.raw(x)], [self.norm], group_of(self.norm))
        return self._convolve(x, *self.parameters_folded(), self.relu)

    def pooled(self, x: Tensor, ceil_mode: bool) -> Tensor:
        """Return the 3x3/2 maxima of `forward(x)`; bias and ReLU are done by the pool's op."""
        if self.normalizes:
            return bias_relu_pool(self(x), relu=False, ceil_mode=ceil_mode)
        weight, bias = self.parameters_folded()
        y = self._convolve(x, weight, None, relu=False)
        return bias_relu_pool(y, bias, relu=self.relu, ceil_mode=ceil_mode)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
        height, width = x.shape[2:]
        prepared = self._prepared.later(
            [weight],
            partial(prepare_weight, weight, height, width),
            partial(tile_points, *weight.shape[1:3], height, width),
        )
        return conv_bias_relu(x, weight, bias, relu, self.conv.stride[0], prepared)


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
