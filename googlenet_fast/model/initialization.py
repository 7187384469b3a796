"""Random initial weights by the rules of each system."""

import math

import torch
from torch import nn

from googlenet_fast.choices import Initialization


@torch.no_grad()
def initialize_layer(
    layer: nn.Conv2d | nn.Linear, scheme: Initialization, *, classifier: bool
) -> None:
    """Initialise `layer` randomly.

    `caffe`: uniform Xavier by fan-in, bias 0.2, or 0 for classifiers (BVLC's train_val.prototxt).
    `he`: normal for convolutions (He et al. 2015, by fan-in), uniform Xavier for linear layers,
    bias 0, as PaddlePaddle's defaults. `torchvision`: normal with std 0.01 (its truncation at 2 has
    no effect), bias uniform as in torch's own layers.
    """
    fan_in = layer.weight[0].numel()
    if scheme == "torchvision":
        nn.init.normal_(layer.weight, std=0.01)
    elif scheme == "he" and isinstance(layer, nn.Conv2d):
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
