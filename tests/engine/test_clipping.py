"""Clipping the norm of gradients inside the optimizer's step."""

import copy

import pytest
import torch
from torch import nn, optim

from googlenet_fast.engine.clipping import clip_gradients
from googlenet_fast.engine.config import OptimizerConfig
from googlenet_fast.engine.fused_sgd import FusedSGD
from googlenet_fast.engine.half_weights import HalfWeights
from googlenet_fast.engine.optimizer import build_optimizer
from googlenet_fast.engine.step import TrainStep
from tests.helpers import relative_error


def make_network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(36, 5))


@pytest.mark.parametrize("kind", [optim.SGD, FusedSGD])
@pytest.mark.parametrize("largest", [1e-2, 0.5, 1e4])
@pytest.mark.parametrize("loss_scale", [None, 1024.0])
def test_steps_are_those_of_clip_grad_norm(
    kind: type[optim.SGD], largest: float, loss_scale: float | None
) -> None:
    network = make_network()
    plain = copy.deepcopy(network)
    ours = (
        kind(network.parameters(), 0.1, momentum=0.9, fused=True)
        if kind is optim.SGD
        else (FusedSGD(network.parameters(), 0.1, momentum=0.9))
    )
    theirs = optim.SGD(plain.parameters(), 0.1, momentum=0.9)
    clip_gradients(ours, largest)
    scaler = torch.amp.GradScaler("cpu", loss_scale or 1.0, enabled=loss_scale is not None)
    for _ in range(4):
        x, y = torch.randn(8, 3, 5, 5), torch.randint(5, (8,))
        for model, optimizer in ((network, ours), (plain, theirs)):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            (scaler.scale(loss) if model is network else loss).backward()
        nn.utils.clip_grad_norm_(plain.parameters(), largest)
        theirs.step()
        scaler.step(ours)
        scaler.update()
    for p, q in zip(network.parameters(), plain.parameters(), strict=True):
        assert relative_error(p, q) < 1e-5


def test_a_norm_beyond_fp16() -> None:
    """Of the loss times a scale, in half-precision gradients: 65504 is the largest number."""
    network = nn.Linear(100, 100, bias=False)
    half = HalfWeights(network, torch.float16)
    optimizer = FusedSGD(network.parameters(), 1.0, half=half)
    clip_gradients(optimizer, 1e5)
    before = network.weight.detach().clone()
    (leaf,) = half.leaves
    leaf.grad = torch.full_like(leaf, 6e4)  # of norm 6e6
    optimizer.step()
    moved = before - network.weight.detach()
    assert relative_error(moved, torch.full_like(moved, 1e3)) < 1e-3


def test_gradients_that_are_not_finite_move_nothing_under_a_loss_scale() -> None:
    network = make_network()
    before = copy.deepcopy(network.state_dict())
    optimizer = build_optimizer(network, OptimizerConfig())
    clip_gradients(optimizer, 1.0)
    scaler = torch.amp.GradScaler("cpu", 1024.0)
    scaler.scale(network(torch.full((2, 3, 5, 5), float("inf"))).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


def test_the_training_step_clips() -> None:
    network = make_network()
    before = nn.utils.parameters_to_vector(network.parameters()).detach().clone()
    optimizer = build_optimizer(network, OptimizerConfig(lr=1.0, momentum=0.0, weight_decay=0.0))
    step = TrainStep(network, optimizer, clip_grad_norm=1e-3)
    step(torch.randn(4, 3, 5, 5), torch.randint(5, (4,)))
    after = nn.utils.parameters_to_vector(network.parameters())
    assert abs((after - before).norm().item() / 1e-3 - 1) < 1e-2
