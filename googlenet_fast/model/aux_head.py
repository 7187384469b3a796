"""Auxiliary classifiers on the middle blocks, used in training only."""

import torch.nn.functional as F
from torch import Tensor, nn

from googlenet_fast.model.average_pool import adaptive_avg_pool2d, avg_pool2d
from googlenet_fast.model.layers import Conv, Dropout
from googlenet_fast.model.presets import Preset


class AuxHead(nn.Module):
    """Auxiliary classifier on a block's output: (N, in_channels, H, W) -> (N, num_classes)."""

    def __init__(self, preset: Preset, in_channels: int, num_classes: int, fc_relu: bool) -> None:
        super().__init__()
        self.grid = preset.aux_grid
        self.adaptive = preset.aux_adaptive
        self.fc_relu = fc_relu
        self.conv = Conv(preset, in_channels, 128, 1)
        self.fc1 = nn.Linear(128 * self.grid**2, 1024)
        self.fc2 = nn.Linear(1024, num_classes)
        self.dropout = Dropout(preset.aux_dropout, preset.downscale_in_infer)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, num_classes)."""
        if self.adaptive:
            x = adaptive_avg_pool2d(x, self.grid)
        else:
            x = avg_pool2d(x, kernel_size=5, stride=3)
        x = self.fc1(self.conv(x).flatten(1))
        if self.fc_relu:
            x = F.relu(x, inplace=True)
        return self.fc2(self.dropout(x))
