"""Layers shared by the stem, the Inception blocks and the heads."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from googlenet_fast.model.folding import Folding
from googlenet_fast.model.presets import Preset
from googlenet_fast.ops import bias_relu_pool, conv_bias_relu


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
        self._folding = Folding()

    @property
    def normalizes(self) -> bool:
        """Whether batch statistics are taken; batch norm in inference is part of the weights."""
        return self.bn is not None and self.bn.training

    def parameters_folded(self) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias of the convolution, batch norm in inference included."""
        if self.bn is None:
            return self.conv.weight, self.conv.bias
        return self._folding(self.conv, self.bn)

    def unclipped(self, x: Tensor) -> Tensor:
        """Return the output before ReLU, where batch statistics are taken."""
        assert self.bn is not None
        return self.bn(self.conv(x))

    def forward(self, x: Tensor) -> Tensor:
        """Return the output after ReLU, where the preset has one."""
        if not self.normalizes:
            return self._convolve(x, *self.parameters_folded(), self.relu)
        y = self.unclipped(x)
        return F.relu(y, inplace=True) if self.relu else y

    def pooled(self, x: Tensor, ceil_mode: bool) -> Tensor:
        """Return the 3x3/2 maxima of `forward(x)`; bias and ReLU are done by the pool's op."""
        if self.normalizes:
            return bias_relu_pool(self.unclipped(x), None, relu=self.relu, ceil_mode=ceil_mode)
        weight, bias = self.parameters_folded()
        y = self._convolve(x, weight, None, relu=False)
        return bias_relu_pool(y, bias, relu=self.relu, ceil_mode=ceil_mode)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
        if self.conv.stride == (1, 1):
            return conv_bias_relu(x, weight, bias, relu)
        y = F.conv2d(x, weight, bias, self.conv.stride, self.conv.padding)
        return F.relu_(y) if relu else y


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
