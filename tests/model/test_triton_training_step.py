"""A whole training step through the Triton kernels equals one through plain PyTorch."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from googlenet_fast.model import GoogLeNet
from googlenet_fast.ops import use_impl
from tests.helpers import relative_error


def training_step(
    model: GoogLeNet, implementation: str, images: Tensor, labels: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss, and the gradient of each parameter."""
    model.zero_grad()
    with use_impl(implementation):
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), gradients


@pytest.mark.slow
@pytest.mark.triton
@pytest.mark.usefixtures("fast_interpreter")
@pytest.mark.parametrize("preset", ["paper", "paddleclas"])
def test_triton_equals_reference(preset: str, device: str) -> None:
    from benchmarks.tools.traffic import wide_tiles  # imports triton; too wide for a GPU

    torch.manual_seed(0)
    model = GoogLeNet(preset, 5, aux=False, dropout=0.0).to(device).train()
    images, labels = torch.randn(1, 3, 64, 64, device=device), torch.tensor([3], device=device)
    expected_loss, expected = training_step(model, "reference", images, labels)
    with wide_tiles() if device == "cpu" else nullcontext():
        loss, gradients = training_step(model, "triton", images, labels)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-6)
    assert set(gradients) == set(expected) == {name for name, _ in model.named_parameters()}
    for name, gradient in gradients.items():
        assert relative_error(gradient, expected[name]) < 1e-4, name
        assert gradient.stride() == model.get_parameter(name).stride()
