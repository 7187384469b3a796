"""The training step against the same step written out."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from googlenet_fast.engine.config import OptimizerConfig
from googlenet_fast.engine.optimizer import build_optimizer, set_lr
from googlenet_fast.engine.step import TrainStep, googlenet_loss
from googlenet_fast.engine.weight_average import WeightAverage
from googlenet_fast.model import GoogLeNet, GoogLeNetOutputs


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x).relu().mean((2, 3)))


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)


def test_loss_weighs_the_auxiliary_heads() -> None:
    logits = torch.randn(3, 4, 5)
    labels = torch.randint(5, (4,))
    loss, main = googlenet_loss(GoogLeNetOutputs(*logits), labels, 0.1)
    losses = [F.cross_entropy(part, labels, label_smoothing=0.1) for part in logits]
    torch.testing.assert_close(loss, losses[0] + 0.3 * losses[1] + 0.3 * losses[2])
    assert main is not None
    assert torch.equal(main, logits[0])
    assert torch.equal(googlenet_loss(logits[0], labels)[0], F.cross_entropy(logits[0], labels))


def test_accumulated_batches_equal_a_large_one() -> None:
    model = Tiny()
    other = copy.deepcopy(model)
    whole, parts = TrainStep(model, sgd(model)), TrainStep(other, sgd(other), accumulate=2)
    for _ in range(3):
        images, labels = torch.randn(6, 3, 8, 8), torch.randint(5, (6,))
        whole(images, labels)
        parts(images[:3], labels[:3], update=False)
        parts(images[3:], labels[3:], update=True)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(whole.totals, parts.totals)
    assert whole.totals[2] == 18


def test_totals_count_what_was_right() -> None:
    model = Tiny()
    step = TrainStep(model, sgd(model))
    images, labels = torch.randn(10, 3, 8, 8), torch.randint(5, (10,))
    with torch.no_grad():
        logits = model(images)
    step(images, labels)
    loss, correct, count = step.totals.tolist()
    assert loss == pytest.approx(10 * F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert correct == (logits.argmax(1) == labels).sum()
    assert count == 10


def test_averaged_weights_follow() -> None:
    model = Tiny()
    ema = WeightAverage(model, 0.5)
    step = TrainStep(model, sgd(model), ema=ema)
    images, labels = torch.randn(6, 3, 8, 8), torch.randint(5, (6,))
    step(images, labels)  # the first update copies
    before = model.fc.weight.detach().clone()
    step(images, labels)
    average = ema.module.state_dict()["fc.weight"]
    expected = before.lerp(model.fc.weight.detach(), 9 / 11)
    torch.testing.assert_close(average, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mixed_precision_learns_and_keeps_fp32_weights(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = Tiny()
    step = TrainStep(model, sgd(model), amp_dtype=dtype)
    assert step.scaler.is_enabled() == (dtype == torch.float16)
    images, labels = torch.randn(8, 3, 8, 8), torch.randint(5, (8,))
    losses = []
    for _ in range(30):
        step(images, labels)
        losses.append(step.totals[0].item())
        step.totals.zero_()
    assert losses[-1] < 0.8 * losses[0]
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_a_gradient_that_overflows_is_skipped() -> None:
    model = Tiny()
    step = TrainStep(model, sgd(model), amp_dtype=torch.float16)
    before = copy.deepcopy(model.state_dict())
    step(torch.full((2, 3, 8, 8), 1e30), torch.tensor([0, 1]))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert step.scaler.get_scale() < 128


def test_a_first_step_that_is_skipped_leaves_no_momentum() -> None:
    """PyTorch's fused SGD took what lay in memory for the momentum of the step after it."""
    model = Tiny()
    optimizer = build_optimizer(model, OptimizerConfig(weight_decay=0.0))
    scaler = torch.amp.GradScaler("cpu")
    torch.use_deterministic_algorithms(True)  # fills what is not initialised with NaN
    try:
        for gradient in (math.inf, 0.0):
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, gradient)
            scaler.scale(torch.zeros(1))
            scaler.step(optimizer)
            scaler.update()
    finally:
        torch.use_deterministic_algorithms(False)
    for state in optimizer.state.values():
        assert not state["momentum_buffer"].any()


def test_nonfinite_steps_are_counted_with_and_without_scaling() -> None:
    bad, good = torch.full((2, 3, 8, 8), 1e30), torch.randn(2, 3, 8, 8)
    bad[0] = math.inf
    labels = torch.tensor([0, 1])
    for amp_dtype in (torch.float16, torch.bfloat16, None):
        model = Tiny()
        step = TrainStep(model, sgd(model), amp_dtype=amp_dtype)
        step(good, labels)
        for _ in range(3):
            step(bad, labels)
        if amp_dtype == torch.float16:  # the others have lost their weights
            step(good, labels)
            assert step.totals[2] == 4
        assert step.totals.isfinite().all()
        assert step.pop_nonfinite_steps().tolist() == [3, 3]
        step(bad, labels)  # goes on with the row, unless a good step was between
        row = 1 if amp_dtype == torch.float16 else 4
        assert step.pop_nonfinite_steps().tolist() == [1, row]


def test_a_bad_batch_among_good_ones_makes_the_step_bad() -> None:
    model = Tiny()
    step = TrainStep(model, sgd(model), accumulate=2)
    labels = torch.tensor([0, 1])
    step(torch.full((2, 3, 8, 8), math.inf), labels, update=False)
    step(torch.randn(2, 3, 8, 8), labels)
    assert step.pop_nonfinite_steps().tolist() == [1, 1]


def test_optimizer_groups() -> None:
    model = GoogLeNet("torchvision", 7)
    config = OptimizerConfig(
        lr=0.2, weight_decay=0.01, decay_bias_and_norm=False, classifier_lr_scale=10
    )
    optimizer = build_optimizer(model, config)
    set_lr(optimizer, 0.5)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    seen = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            seen[names[id(parameter)]] = group["weight_decay"], group["lr"].item()
    assert len(seen) == len(names)
    assert seen["conv1.conv.weight"] == (0.01, 0.5)
    assert seen["conv1.bn.weight"] == (0.0, 0.5)
    assert seen["fc.weight"] == seen["aux1.fc2.weight"] == (0.01, 5.0)
    assert seen["fc.bias"] == seen["aux2.fc2.bias"] == (0.0, 5.0)
    assert seen["aux1.fc1.weight"] == (0.01, 0.5)


@pytest.mark.parametrize(("dynamic", "expected"), [(True, 32.0), (False, 64.0)])
def test_the_loss_scale_halves_after_an_overflow_unless_it_is_fixed(
    dynamic: bool, expected: float
) -> None:
    model = Tiny()
    step = TrainStep(
        model,
        sgd(model),
        amp_dtype=torch.float16,
        loss_scale=64.0,
        dynamic_loss_scale=dynamic,
    )
    step(torch.full((2, 3, 8, 8), math.inf), torch.tensor([0, 1]))
    assert step.scaler.get_scale() == expected
