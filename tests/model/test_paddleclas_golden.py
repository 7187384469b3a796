"""The `paddleclas` preset gives the recorded numbers of the real PaddleClas network.

Weights, input and labels follow the recipe that the recording was made with. Tolerances are a few
times the error measured. Outputs and losses agree to 3e-6. Gradients agree less, because rounding
lets some ReLUs and pools pick another winner: against the recording, this network in float64 is
off by 1.1e-3 in the worst gradient norm (median 6e-5), just as it is in float32.
"""

import json
import math
import statistics
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from googlenet_fast.model import GoogLeNet, GoogLeNetOutputs
from googlenet_fast.model.layers import Dropout
from googlenet_fast.model.weights.paddle import paddle_names

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "golden" / "paddleclas_googlenet.json").read_text()
)


def golden_weight(name: str) -> Tensor:
    """The recipe's weight of this PaddleClas name, in torch's layout."""
    shape = GOLDEN["manifest"][name]
    fan_in = math.prod(shape[1:]) if len(shape) == 4 else shape[0]
    bound = 0.1 if len(shape) == 1 else math.sqrt(3 / fan_in)
    random = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF)
    weight = random.uniform(-bound, bound, shape).astype(np.float32)
    return torch.from_numpy(weight.T.copy() if len(shape) == 2 else weight)


class Run(NamedTuple):
    outputs: GoogLeNetOutputs
    gradients: dict[str, Tensor]
    losses: list[float]


@pytest.fixture(scope="module")
def run(gradients: Callable[[nn.Module], dict[str, Tensor]]) -> Run:
    model = GoogLeNet("paddleclas", 10).train()
    model.load_state_dict({key: golden_weight(name) for key, name in paddle_names().items()})
    for module in model.modules():
        if isinstance(module, Dropout):
            module.eval()
    random = np.random.RandomState(20141409)
    x = torch.from_numpy(random.standard_normal((2, 3, 224, 224)).astype(np.float32))
    labels = torch.tensor([3, 7])
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    outputs, first_gradients, losses = None, {}, []
    for _ in range(8):
        logits, aux1, aux2 = model(x)
        loss, loss1, loss2 = (F.cross_entropy(y, labels) for y in (logits, aux1, aux2))
        total = loss + 0.3 * (loss1 + loss2)
        optimizer.zero_grad()
        total.backward()
        losses.append(total.item())
        if outputs is None:
            outputs = GoogLeNetOutputs(logits.detach(), aux1.detach(), aux2.detach())
            first_gradients = gradients(model)
        optimizer.step()
    assert outputs is not None
    return Run(outputs, first_gradients, losses)


def test_every_parameter_is_in_the_recording() -> None:
    assert sorted(paddle_names().values()) == sorted(GOLDEN["manifest"])
    assert set(GoogLeNet("paddleclas", 10).state_dict()) == set(paddle_names())


@pytest.mark.parametrize("name", ["logits", "aux1", "aux2"])
def test_outputs(run: Run, name: str) -> None:
    expected = torch.tensor(GOLDEN["outputs"][name])
    error = (getattr(run.outputs, name) - expected).abs().max() / expected.abs().max()
    assert error < 1e-5


def test_loss_curve(run: Run) -> None:
    assert run.losses[0] == pytest.approx(GOLDEN["outputs"]["loss"], rel=1e-6)
    assert run.losses == pytest.approx(GOLDEN["losses"], rel=1e-5)


def test_gradient_norms(run: Run) -> None:
    errors = [
        abs(run.gradients[key].norm().item() / GOLDEN["grad_norm"][name] - 1)
        for key, name in paddle_names().items()
    ]
    assert max(errors) < 2e-3
    assert statistics.median(errors) < 2e-4


def test_first_gradient_values(run: Run) -> None:
    """Plain PyTorch's are off by 2e-3 at most, Winograd's by 4e-3, AMX's by 5e-3."""
    for key, name in paddle_names().items():
        gradient = run.gradients[key]
        flat = (gradient.T if gradient.ndim == 2 else gradient).flatten()
        expected = torch.tensor(GOLDEN["grad_first4"][name])
        assert (flat[:4] - expected).abs().max() < 8e-3 * gradient.abs().max(), name
