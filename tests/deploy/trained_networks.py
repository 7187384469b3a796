"""Small trained networks for tests of deployment."""

from pathlib import Path

import torch
from torch import nn

from googlenet_fast import GoogLeNet, save_weights
from googlenet_fast.deploy.trained import Trained

NAMES = ["cat", "dög", "=1+1", "horse", "ship"]
SIZE = 64


def random_network(preset: str, *, lrn: bool | None = None) -> GoogLeNet:
    """A network whose batch norms shift and scale, and whose logits differ."""
    torch.manual_seed(0)
    model = GoogLeNet(preset, len(NAMES), aux=True, lrn=lrn).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 2)
                module.bias.normal_(0, 0.3)
        model.fc.weight.normal_(0, 0.1)
    return model


def weights_of(preset: str, folder: Path) -> Path:
    """The weight file of a random network with auxiliary heads and class names."""
    path = folder / f"{preset}.safetensors"
    save_weights(random_network(preset), path, class_names=NAMES, image_size=SIZE)
    return path


def trained(preset: str, folder: Path, with_preprocessing: bool) -> Trained:
    return Trained.load(weights_of(preset, folder), None, with_preprocessing)
