"""The network in PyTorch's own ops computes the same, and updates the same weights."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from googlenet_fast.model import GoogLeNet
from googlenet_fast.model.plain import Plain
from googlenet_fast.ops import use_impl


def small(preset: str, **options: Any) -> GoogLeNet:
    torch.manual_seed(3)
    network = GoogLeNet(preset, 10, aux=preset == "torchvision", dropout=0.0, **options).double()
    for head in (network.aux1, network.aux2):
        if head is not None:
            head.dropout.p = 0.0
    return network


def results(network: nn.Module, images: Tensor) -> list[Tensor]:
    logits = network(images)
    logits = list(logits) if isinstance(logits, tuple) else [logits]
    loss = sum((value.square().mean() for value in logits), torch.zeros(()))
    gradients = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
    return [*logits, *(g for g in gradients if g is not None)]  # heads are for training


@pytest.mark.parametrize(
    ("preset", "options"),
    [
        ("paper", {}),
        ("paper", {"lrn": False, "transform_input": True}),
        ("paddleclas", {}),
        ("torchvision", {}),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_it_computes_what_the_network_does(
    preset: str, options: dict[str, bool], training: bool
) -> None:
    network = small(preset, **options).train(training)
    copy = deepcopy(network)
    images = torch.randn(2, 3, 68, 64, dtype=torch.float64)
    with use_impl("reference"):
        expected = results(network, images)
    found = results(Plain(copy), images)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(list(copy.buffers()), list(network.buffers()), rtol=1e-9, atol=0)


def test_no_op_of_this_package_runs() -> None:
    class Refuse(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            assert func.namespace != "googlenet_fast"
            return func(*args, **(kwargs or {}))

    with Refuse():
        results(Plain(small("torchvision")), torch.randn(2, 3, 64, 64, dtype=torch.float64))


def test_statistics_of_several_processes_are_refused() -> None:
    network = nn.SyncBatchNorm.convert_sync_batchnorm(small("torchvision"))
    with pytest.raises(TypeError, match="synchronised batch norms"):
        Plain(network)
