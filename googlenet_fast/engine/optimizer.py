"""Stochastic gradient descent over the network's parameter groups."""

from functools import partial
from typing import Any

import torch
from torch import nn, optim

from googlenet_fast.engine.config import OptimizerConfig
from googlenet_fast.engine.fused_sgd import FusedSGD
from googlenet_fast.engine.half_weights import HalfWeights
from googlenet_fast.engine.parts import DEPTHS, part_of
from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.ops.sgd_step import why_not_fused

CLASSIFIERS = ("fc.", "aux1.fc2.", "aux2.fc2.")
"""Prefixes of the layers whose size is the number of classes."""


def build_optimizer(
    model: nn.Module, config: OptimizerConfig, half: HalfWeights | None = None
) -> optim.SGD:
    """Build SGD with one group for each pair of L2 penalty and learning-rate scale.

    Frozen parameters, which require no gradient, are in none.

    `set_lr` multiplies the scheduled learning rate by the `lr_scale` of a group. The `lr` of a
    group is a scalar on the device, fp32, which a CUDA graph reads anew in every replay;
    `scheduled_lr` is the same number on the host. The step is this package's own where it has a
    kernel for the device or there are half-precision copies of the weights, else PyTorch's fused
    one.

    Args:
        model: the network.
        config: its options.
        half: the network with half-precision copies; they are updated in each step.
    """
    device = next(model.parameters()).device
    fused = half is not None or why_not_fused(device) is None
    make = partial(FusedSGD, half=half) if fused else partial(optim.SGD, fused=True)
    groups: dict[tuple[float, float], list[tuple[str, nn.Parameter]]] = {}
    biases = _biases(model)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decayed = parameter.ndim > 1 or config.decay_bias_and_norm
        weight_decay = config.weight_decay if decayed else 0.0
        lr_scale = _lr_scale(config, name, is_bias=name in biases)
        groups.setdefault((weight_decay, lr_scale), []).append((name, parameter))
    optimizer = make(
        [
            {
                "params": [parameter for _, parameter in named],
                "param_names": [name for name, _ in named],  # pairs need torch 2.6
                "weight_decay": weight_decay,
                "lr": torch.zeros((), device=device),
                "lr_scale": lr_scale,
            }
            for (weight_decay, lr_scale), named in groups.items()
        ],
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
    )
    set_lr(optimizer, config.lr)
    if config.momentum > 0:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                # PyTorch does not initialise it if gradient scaling skips the first step.
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def _biases(model: nn.Module) -> set[str]:
    """Return the names of the biases of convolutions and linear layers."""
    return {
        f"{name}.bias"
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None
    }


def _lr_scale(config: OptimizerConfig, name: str, *, is_bias: bool) -> float:
    """Return the factor of a parameter's learning rate."""
    part = part_of(name)
    scale = config.lr_scale.get(part, 1.0) * config.layer_lr_decay ** DEPTHS.get(part, 0)
    if name.startswith(CLASSIFIERS):
        scale *= config.classifier_lr_scale
    return scale * config.bias_lr_scale if is_bias else scale


def optimizer_state(optimizer: optim.Optimizer) -> dict[str, Any]:
    """Return the state for a checkpoint, with learning rates as numbers."""
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        group["lr"] = group["scheduled_lr"]
    return state


def load_momentum(optimizer: optim.Optimizer, saved: dict[str, Any]) -> None:
    """Load the momenta of a saved optimizer by the names of the parameters.

    The groups and their settings stay those of `optimizer`.

    Raises:
        GoogLeNetError: a checkpoint of an older version, which has no names, with other groups.
    """
    groups = [group["param_names"] for group in optimizer.param_groups]
    if all("param_names" in group for group in saved["param_groups"]):
        saved_groups = [group["param_names"] for group in saved["param_groups"]]
    elif [len(g) for g in groups] == [len(group["params"]) for group in saved["param_groups"]]:
        saved_groups = groups
    else:
        raise GoogLeNetError(
            "--resume: the checkpoint is of an older version and of a run with other "
            "--optimizer.classifier_lr_scale or --optimizer.decay_bias_and_norm; set them as there"
        )
    indices = [index for group in saved["param_groups"] for index in group["params"]]
    names = [name for group in saved_groups for name in group]
    states = {
        name: saved["state"].get(index, {}) for name, index in zip(names, indices, strict=True)
    }
    for group in optimizer.param_groups:
        for name, parameter in zip(group["param_names"], group["params"], strict=True):
            own = optimizer.state.get(parameter, {}).get("momentum_buffer")
            momentum = states.get(name, {}).get("momentum_buffer")  # none if it was frozen
            if own is not None and momentum is not None:
                own.copy_(momentum)


def set_lr(optimizer: optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group to `lr` times its scale.

    The scalar on the device is filled where it is, without a copy from the host.
    """
    for group in optimizer.param_groups:
        group["scheduled_lr"] = lr * group["lr_scale"]
        group["lr"].fill_(group["scheduled_lr"])
