"""Stochastic gradient descent over the network's parameter groups."""

import torch
from torch import nn, optim

from googlenet_fast.engine.config import OptimizerConfig

CLASSIFIERS = ("fc.", "aux1.fc2.", "aux2.fc2.")
"""Prefixes of the layers whose size is the number of classes."""


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> optim.SGD:
    """Build SGD with one group for each pair of L2 penalty and learning-rate scale.

    `set_lr` multiplies the scheduled learning rate by the `lr_scale` of a group.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        decayed = parameter.ndim > 1 or config.decay_bias_and_norm
        weight_decay = config.weight_decay if decayed else 0.0
        lr_scale = config.classifier_lr_scale if name.startswith(CLASSIFIERS) else 1.0
        groups.setdefault((weight_decay, lr_scale), []).append(parameter)
    optimizer = optim.SGD(
        [
            {"params": parameters, "weight_decay": weight_decay, "lr_scale": lr_scale}
            for (weight_decay, lr_scale), parameters in groups.items()
        ],
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
        fused=True,
    )
    if config.momentum > 0:
        for parameter in model.parameters():
            # PyTorch does not initialise it if gradient scaling skips the first step.
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def set_lr(optimizer: optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group to `lr` times its scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
