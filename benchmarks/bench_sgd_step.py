"""Time an update of GoogLeNet's parameters in fp16 on a GPU, against PyTorch's fused SGD.

PyTorch's side includes the casts of weights and gradients that autocast makes in each step, which
half-precision copies of the weights spare.
"""

from collections.abc import Callable

import pytest
import torch

from benchmarks.harness import interleave
from googlenet_fast.engine.config import OptimizerConfig
from googlenet_fast.engine.fused_sgd import FusedSGD, LossScaler
from googlenet_fast.engine.half_weights import HalfWeights
from googlenet_fast.model import GoogLeNet

DEVICE = "cuda"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CPUs use PyTorch's fused SGD")
@pytest.mark.parametrize("preset", ["paper", "torchvision"])
def bench_sgd_step(preset: str) -> None:
    updates = {"torch.optim.SGD": pytorch_update(preset), "FusedSGD": fused_update(preset)}
    interleave(f"update of preset {preset} in fp16", updates, repeats=20)


def pytorch_update(preset: str) -> Callable[[], None]:
    """Casts to fp16 and back, `GradScaler`, `torch.optim.SGD`."""
    half = HalfWeights(GoogLeNet(preset).to(DEVICE), torch.float16)
    parameters = list(half.module.parameters())
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    momentum, weight_decay = OptimizerConfig.momentum, OptimizerConfig.weight_decay
    optimizer = torch.optim.SGD(
        parameters, 1e-3, momentum=momentum, weight_decay=weight_decay, fused=True
    )
    scaler = torch.amp.GradScaler(DEVICE)
    scaler.scale(torch.ones((), device=DEVICE))

    def update() -> None:
        for parameter, copy in half.copies.items():
            copy.data = parameter.detach().to(torch.float16)
            parameter.grad = copy.data.float()
        scaler.step(optimizer)
        scaler.update()

    return update


def fused_update(preset: str) -> Callable[[], None]:
    """`LossScaler` and `FusedSGD`, with gradients of the copies."""
    half = HalfWeights(GoogLeNet(preset).to(DEVICE), torch.float16)
    for leaf in half.leaves:
        leaf.grad = torch.randn_like(leaf)
    momentum, weight_decay = OptimizerConfig.momentum, OptimizerConfig.weight_decay
    optimizer = FusedSGD(
        half.module.parameters(), 1e-3, momentum=momentum, weight_decay=weight_decay, half=half
    )
    scaler = LossScaler(DEVICE)
    scaler.scale(torch.ones((), device=DEVICE))

    def update() -> None:
        scaler.step(optimizer)
        scaler.update()

    return update
