"""Layers and blocks computed by their children alone, to compare with."""

import torch
import torch.nn.functional as F
from torch import Tensor

from googlenet_fast.model.inception import Inception
from googlenet_fast.model.layers import Conv


def composed_layer(conv: Conv, x: Tensor) -> Tensor:
    x = conv.conv(x)
    x = x if conv.bn is None else conv.bn(x)
    return F.relu(x) if conv.relu else x


def composed_block(block: Inception, x: Tensor) -> Tensor:
    y1, r3, r5 = composed_layer(block.conv_in, x).split(block.stacked, dim=1)
    y3, y5 = composed_layer(block.conv3, r3), composed_layer(block.conv5, r5)
    yp = composed_layer(block.project, F.max_pool2d(x, 3, 1, 1))
    return F.relu(torch.cat([y1, y3, y5, yp], 1))
