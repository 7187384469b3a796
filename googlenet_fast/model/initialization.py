"""Random weights as each system customarily starts training with."""

import math

import torch
from torch import nn

from googlenet_fast.model.presets import Scheme


@torch.no_grad()
def initialize_layer(layer: nn.Conv2d | nn.Linear, scheme: Scheme, *, classifier: bool) -> None:
    """Give `layer` fresh random weights.

    `caffe`: uniform Xavier by fan-in, bias 0.2, but 0 for classifiers (BVLC's train_val.prototxt).
    `paddle`: He normal for convolutions (Paddle's default), Xavier for fully connected layers,
    bias 0. `torchvision`: normal of std 0.01 (truncating it at 2, as torchvision does, changes
    nothing), bias uniform as torch's layers start.
    """
    fan_in = layer.weight[0].numel()
    if scheme == "torchvision":
        nn.init.normal_(layer.weight, std=0.01)
    elif scheme == "paddle" and isinstance(layer, nn.Conv2d):
        nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_in))
    else:
        bound = math.sqrt(3 / fan_in)
        nn.init.uniform_(layer.weight, -bound, bound)
    if layer.bias is None:
        return
    if scheme == "torchvision":
        nn.init.uniform_(layer.bias, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))
    else:
        nn.init.constant_(layer.bias, 0.2 if scheme == "caffe" and not classifier else 0.0)
